//! What a run came to: the table that compares runs, and the timeline picture.

pub(in crate::ctl) mod canvas;
mod chart;
mod headline;
pub mod png;
pub(in crate::ctl) mod series;
pub(in crate::ctl) mod style;
pub mod table;
pub mod tally;

pub use canvas::DrawError;
pub use chart::svg;

use crate::ctl::record::Run;
use tally::Tally;

/// A run with its sums.
#[derive(Debug, Clone)]
pub struct Compared {
    /// The record.
    pub run: Run,
    /// Its sums.
    pub tally: Tally,
}

impl Compared {
    /// Adds a record up.
    #[must_use]
    pub fn new(run: Run) -> Self {
        let tally = Tally::of(&run);
        Self { run, tally }
    }
}

#[cfg(test)]
mod tests;
