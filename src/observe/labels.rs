//! Names behind the ids, for labels and logs.

use crate::core::catalog::{Catalog, UnitId, VariantId};
use crate::core::event::ClassId;
use crate::core::rollout::Addition;

/// Names behind the ids, for labels and logs.
#[derive(Debug, Clone)]
pub struct Names {
    /// Models with their versions.
    pub models: Vec<(String, String)>,
    /// Variants, each with the index of its model.
    pub variants: Vec<(String, usize)>,
    /// Units.
    pub units: Vec<String>,
    /// Clock domains.
    pub domains: Vec<String>,
    /// Thermal zones.
    pub zones: Vec<String>,
    /// Power rails.
    pub rails: Vec<String>,
    /// Classes.
    pub classes: Vec<String>,
    /// The board.
    pub board: String,
}

impl Names {
    /// The names in a catalogue; `versions` by model, `classes` by class.
    #[must_use]
    pub fn new(catalog: &Catalog, versions: &[String], classes: &[String]) -> Self {
        let version = |i: usize| versions.get(i).cloned().unwrap_or_default();
        let models = catalog.models.iter().enumerate();
        Self {
            models: models.map(|(i, model)| (model.name.clone(), version(i))).collect(),
            variants: catalog.variants.iter().map(|v| (v.name.clone(), v.model.index())).collect(),
            units: catalog.board.units.iter().map(|unit| unit.name.clone()).collect(),
            domains: catalog.board.domains.iter().map(|domain| domain.name.clone()).collect(),
            zones: catalog.board.zones.iter().map(|zone| zone.name.clone()).collect(),
            rails: catalog.board.rails.iter().map(|rail| rail.name.clone()).collect(),
            classes: classes.to_vec(),
            board: catalog.board.name.clone(),
        }
    }

    /// Takes in a model that came.
    pub fn extend(&mut self, addition: &Addition) {
        let model = self.models.len();
        self.models.push((addition.model.name.clone(), addition.version.clone()));
        self.variants.extend(addition.variants.iter().map(|variant| (variant.name.clone(), model)));
    }

    pub(super) fn at(list: &[String], index: usize) -> &str {
        list.get(index).map_or("unknown", String::as_str)
    }

    /// Name of a model.
    #[must_use]
    pub fn model(&self, index: usize) -> &str {
        self.models.get(index).map_or("unknown", |(name, _)| name)
    }

    /// Name and version of a model.
    #[must_use]
    pub fn versioned(&self, index: usize) -> (&str, &str) {
        self.models.get(index).map_or(("unknown", ""), |(name, version)| (name, version))
    }

    /// Names of a variant's model, of the variant and of a unit.
    #[must_use]
    pub fn run(&self, variant: VariantId, unit: UnitId) -> [&str; 3] {
        let (name, model) =
            self.variants.get(variant.index()).map_or(("unknown", usize::MAX), |(n, m)| (n, *m));
        [self.model(model), name, Self::at(&self.units, unit.index())]
    }

    /// Name of a class.
    #[must_use]
    pub fn class(&self, class: ClassId) -> &str {
        Self::at(&self.classes, usize::from(class.0))
    }

    /// Name of a clock domain.
    #[must_use]
    pub fn domain(&self, index: usize) -> &str {
        Self::at(&self.domains, index)
    }

    /// Name of a thermal zone.
    #[must_use]
    pub fn zone(&self, index: usize) -> &str {
        Self::at(&self.zones, index)
    }

    /// Name of a power rail.
    #[must_use]
    pub fn rail(&self, index: usize) -> &str {
        Self::at(&self.rails, index)
    }
}
