//! Real labelled inputs of the models.

use super::root;
use wattd::ctl::load::target::{Ask, NamedTensor};
use wattd::model::ModelStore;
use wattd::model::sample::Sample;
use wattd::units::{Nanos, Ppm};

/// The sample of a model.
#[derive(Debug)]
pub struct Inputs {
    model: String,
    names: Vec<String>,
    sample: Sample,
}

/// The sample of a model that is in a folder of the package.
pub fn inputs(folder: &str, model: &str) -> Inputs {
    let (models, problems) = ModelStore::default().open(&[root().join(folder)]);
    assert_eq!(problems, []);
    let loaded = models.iter().find(|loaded| loaded.name == model).expect("the model");
    let names = loaded.manifest.as_ref().unwrap().inputs.iter().map(|spec| spec.name.clone()).collect();
    Inputs { model: model.to_owned(), names, sample: Sample::read(loaded).unwrap().expect("a sample") }
}

impl Inputs {
    /// A request with some items.
    pub fn ask(&self, first: usize, items: usize) -> Ask {
        let tensors = self.sample.items(first..first + items);
        let named = self.names.iter().cloned().zip(tensors);
        Ask {
            model: self.model.clone(),
            inputs: named.map(|(name, tensor)| NamedTensor { name, tensor }).collect(),
            ..Ask::default()
        }
    }

    /// How many of the answers are right.
    pub fn right(&self, answer: &super::Answer, first: usize, items: usize) -> usize {
        let outputs: Vec<_> = answer.outputs.iter().map(|output| output.tensor.clone()).collect();
        self.sample.correct(&outputs, first, items).unwrap().into_iter().filter(|right| *right).count()
    }
}

/// A request of one item with one wish or several: `variant`, `class`, `min_accuracy_ppm`, `deadline_us`,
/// `max_energy_uj`.
pub fn nothing_but(inputs: &Inputs, wishes: &[(&str, &str)]) -> Ask {
    let mut ask = inputs.ask(0, 1);
    for (name, value) in wishes {
        match *name {
            "variant" => ask.variant = Some((*value).to_owned()),
            "class" => ask.class = Some((*value).to_owned()),
            "min_accuracy_ppm" => ask.min_accuracy = Some(Ppm(value.parse().unwrap())),
            "deadline_us" => ask.deadline = Some(Nanos::from_micros(value.parse().unwrap())),
            "max_energy_uj" => ask.max_energy_uj = Some(value.parse().unwrap()),
            other => panic!("no wish {other}"),
        }
    }
    ask
}
