//! What there is to choose from, in the order in which it is looked at.

use super::View;
use super::place::{Pair, Place};
use super::prefix::Prefix;
use crate::core::catalog::VariantId;
use crate::units::Ppm;
use smallvec::SmallVec;

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

/// All that the batches accept and that is loaded: those on target first, the cheapest of them first, for the first that
/// holds rules out all that cannot cost less; then the others, the most accurate first.
pub(super) fn prospects(
    view: &View<'_>,
    prefixes: &[Prefix],
    places: &[Place<'_>],
    variants: &[VariantId],
) -> SmallVec<[Prospect; 96]> {
    let mut all = SmallVec::<[Prospect; 96]>::new();
    let there =
        |&(variant, place): &(VariantId, &Place<'_>)| view.residency.is_available(variant, place.unit);
    let everywhere = places.iter().flat_map(|place| variants.iter().map(move |&variant| (variant, place)));
    for (variant, place) in everywhere.filter(there) {
        let accuracy = view.catalog.variants[variant.index()].accuracy;
        let accepts =
            |prefix: &Prefix| accuracy >= prefix.floor && prefix.variant.is_none_or(|only| only == variant);
        if !prefixes.iter().any(accepts) {
            continue;
        }
        let Some(alone) = Pair::new(view, variant, place, 1) else { continue };
        let ladder = alone.ladder();
        for (index, prefix) in prefixes.iter().enumerate().filter(|(_, prefix)| accepts(prefix)) {
            let pair = alone.of(prefix.items);
            let Some((cheapest, least)) = pair.cheapest(&ladder) else { continue };
            let (place, accurate) = (place.unit.index(), accuracy >= prefix.target);
            all.push(Prospect { prefix: index, place, variant, accuracy, accurate, least, cheapest });
        }
    }
    all.sort_unstable_by(|a, b| {
        let by_accuracy = if a.accurate { std::cmp::Ordering::Equal } else { b.accuracy.cmp(&a.accuracy) };
        let place = |one: &Prospect| (one.prefix, one.place, one.variant);
        (b.accurate.cmp(&a.accurate).then(by_accuracy).then(a.least.total_cmp(&b.least)))
            .then_with(|| place(a).cmp(&place(b)))
    });
    all
}
