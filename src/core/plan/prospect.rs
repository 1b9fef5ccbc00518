//! What there is to choose from, in the order in which it is looked at.

use super::View;
use super::place::{Pair, Place};
use super::prefix::Prefix;
use crate::core::catalog::VariantId;
use crate::units::Ppm;
use smallvec::SmallVec;
use std::cmp::Ordering;

/// A variant on a unit for a batch, before it is looked at closely.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prospect {
    /// Index of the batch's prefix.
    pub(super) prefix: usize,
    /// Index of the unit.
    pub(super) place: usize,
    pub(super) variant: VariantId,
    pub(super) accuracy: Ppm,
    /// Whether the variant meets the batch's accuracy target.
    pub(super) accurate: bool,
    /// What it costs per item at least, microjoules.
    pub(super) least: f64,
    /// The operating point that costs the least, whether it is fast enough or not.
    pub(super) cheapest: usize,
}

impl Prospect {
    fn cheaper(&self, other: &Self) -> Ordering {
        let place = |one: &Self| (one.prefix, one.place, one.variant);
        self.least.total_cmp(&other.least).then_with(|| place(self).cmp(&place(other)))
    }
}

/// All that the batches accept and that is loaded.
#[derive(Debug, Default)]
pub(super) struct Prospects {
    /// Those on target, the cheapest first, for the first that holds rules out all that cannot cost less.
    pub(super) on_target: SmallVec<[Prospect; 96]>,
    /// The others, in no order.
    pub(super) others: SmallVec<[Prospect; 96]>,
}

impl Prospects {
    pub(super) fn find(
        view: &View<'_>,
        prefixes: &[Prefix],
        places: &[Place<'_>],
        variants: &[VariantId],
    ) -> Self {
        let mut found = Self::default();
        let there =
            |&(variant, place): &(VariantId, &Place<'_>)| view.residency.is_available(variant, place.unit);
        let everywhere =
            places.iter().flat_map(|place| variants.iter().map(move |&variant| (variant, place)));
        for (variant, place) in everywhere.filter(there) {
            let accuracy = view.catalog.variants[variant.index()].accuracy;
            let accepts = |prefix: &Prefix| {
                accuracy >= prefix.floor && prefix.variant.is_none_or(|only| only == variant)
            };
            if !prefixes.iter().any(accepts) {
                continue;
            }
            let Some(alone) = Pair::new(view, variant, place, 1) else { continue };
            let ladder = alone.ladder();
            let prices = alone.prices(&ladder);
            for (index, prefix) in prefixes.iter().enumerate().filter(|(_, prefix)| accepts(prefix)) {
                let pair = alone.of(prefix.items);
                let Some((cheapest, least)) = pair.cheapest(&ladder, &prices) else { continue };
                let (place, accurate) = (place.unit.index(), accuracy >= prefix.target);
                let prospect =
                    Prospect { prefix: index, place, variant, accuracy, accurate, least, cheapest };
                if accurate { &mut found.on_target } else { &mut found.others }.push(prospect);
            }
        }
        found.on_target.sort_unstable_by(Prospect::cheaper);
        found
    }

    pub(super) fn is_empty(&self) -> bool {
        self.on_target.is_empty() && self.others.is_empty()
    }

    /// Sorts the others: the most accurate first, of these the cheapest.
    pub(super) fn sort_others(&mut self) {
        self.others.sort_unstable_by(|a, b| b.accuracy.cmp(&a.accuracy).then_with(|| a.cheaper(b)));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Prospect> {
        self.on_target.iter().chain(&self.others)
    }
}
