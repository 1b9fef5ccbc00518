//! Which variant a policy serves with when choosing one is not what it is about.

use super::queue::Waiting;
use super::view::{Configuration, View};
use crate::core::catalog::VariantId;

/// A rule for the variant, among those that are loaded and accurate enough ([`View::choices`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pick {
    /// The most accurate; of equals the first in the manifest.
    #[default]
    Largest,
    /// The one with the least profiled latency on its fastest unit, load apart.
    Smallest,
}

impl Pick {
    /// The variant, on the unit where it ends first at the highest clock.
    #[must_use]
    pub fn choose(self, view: &View<'_>, head: &Waiting) -> Option<Configuration> {
        let costs = &view.state.costs;
        let variant = match self {
            Self::Largest => {
                let accuracy = |variant: VariantId| view.state.catalog.variants[variant.index()].accuracy;
                let best = view.choices(head).map(|(variant, _)| accuracy(variant)).max()?;
                view.choices(head).map(|(variant, _)| variant).find(|&variant| accuracy(variant) == best)?
            }
            Self::Smallest => {
                let items = head.request.items;
                let latency =
                    |&(variant, unit): &(VariantId, _)| costs.latency(variant, unit, costs.top(unit), items);
                view.choices(head).min_by_key(latency)?.0
            }
        };
        let unit = view.fastest(variant, head.request.items)?;
        Some(Configuration { variant, unit, point: costs.top(unit) })
    }
}
