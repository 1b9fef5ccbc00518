//! What experiments in virtual time came to: a table for people, and a page with pictures. (The JSON and the
//! schedule are [`crate::sim::experiment::Document`] and [`crate::sim::experiment::write_schedule`].)

mod chart;
mod html;
mod summary;
mod table;
mod timeline;

pub use html::page;
pub use summary::{Estimate, Group, PolicyRow, groups};
pub use table::tables;
pub use timeline::{PictureError, picture};
