//! Models: folders with a `model.toml`, ONNX files and a labelled sample.
//!
//! [`ModelStore`] reads and verifies the folders, [`catalog::assemble`] lays out the tables that the core, the
//! lanes and the API share, [`Sample`] holds labelled inputs and tells which outputs are right.

pub mod catalog;
pub mod manifest;
pub mod npy;
pub mod sample;
pub mod score;
pub mod signature;
pub mod store;
pub mod versions;

pub use catalog::{Known, Tables, assemble};
pub use sample::Sample;
pub use score::Score;
pub use store::{LoadedModel, ModelProblem, ModelStore, Rules};
pub use versions::Versions;
