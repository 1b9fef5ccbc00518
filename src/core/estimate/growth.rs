//! Models that come while the core runs.

use super::{Estimates, Pair};
use crate::core::catalog::Catalog;

impl Estimates {
    /// Takes in the models and variants that a catalogue has beyond those that are known here.
    pub(in crate::core) fn extend(&mut self, catalog: &Catalog) {
        let (points, tuning) = (&self.points, self.tuning);
        let new = catalog.variants[self.pairs.len()..].iter().map(|variant| {
            let profiles = variant.profiles.iter().zip(points);
            profiles.map(|(profile, points)| Pair::new(profile.as_ref(), points, tuning)).collect()
        });
        self.pairs.extend(new);
        self.arrivals.extend(catalog.models.len());
    }
}
