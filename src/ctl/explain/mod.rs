//! `wattctl explain`: what was decided about a request and why, and what came of it.
//!
//! A journal holds every event, so the explanation is a replay up to the decisions about the request, with what the
//! planner prices on the very state in which it chose ([`crate::core::explain`]). A journal of another build that
//! decides otherwise is refused, not explained.

mod document;
mod figures;
mod story;
mod text;
mod verdict;
mod why;
mod write;

pub use document::{
    Admission, Asked, Decision, Ended, Explained, Fastest, Free, Offer, Out, RaisedAt, Ran, RescuedAt, Row,
    Waited,
};
pub use text::text;

use crate::core::event::RequestId;
use crate::journal::JournalError;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Which request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one with the id that its response gave as `request_id`.
    Id(u64),
    /// The one that was answered or turned away last.
    Last,
    /// The last one that was answered late or turned away.
    Late,
}

impl std::str::FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "last" => Ok(Self::Last),
            "late" => Ok(Self::Late),
            id => id.parse().map(Self::Id).map_err(|_| {
                format!("{text:?}: the request_id of a response is right, such as 12, or `last`, or `late`")
            }),
        }
    }
}

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// No request of that id.
    #[error("{}: no request {id}; {range}{}", path.display(), cut(*torn))]
    Unknown {
        /// The journal.
        path: PathBuf,
        /// What was asked for.
        id: u64,
        /// The ids that there are, for people.
        range: String,
        /// Whether the last line was cut off.
        torn: bool,
    },
    /// No request of that kind.
    #[error("{}: no request was {what} yet; {range}", path.display())]
    None {
        /// The journal.
        path: PathBuf,
        /// What they should have been.
        what: &'static str,
        /// The ids that there are, for people.
        range: String,
    },
}

const fn cut(torn: bool) -> &'static str {
    if torn { ", and its last line is cut off" } else { "" }
}

/// Where a daemon records, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Place {
    /// The file; none if it records nothing.
    pub path: Option<PathBuf>,
    /// Whether it records still.
    pub recording: bool,
    /// Whether all that it recorded so far is in the file.
    pub complete: bool,
}

/// Explains a request by a journal; with `all` every candidate that was priced.
///
/// # Errors
/// If the journal cannot be read or replayed, or has no such request.
pub fn explain(journal: &Path, which: Which, all: bool) -> Result<Explained, ExplainError> {
    let id = match which {
        Which::Id(id) => RequestId(id),
        Which::Last | Which::Late => {
            let seen = story::survey(journal)?;
            let (found, what) = match which {
                Which::Late => (seen.late, "late or turned away"),
                _ => (seen.answered, "answered or turned away"),
            };
            let (path, range) = (journal.to_owned(), seen.range());
            found.ok_or(ExplainError::None { path, what, range })?
        }
    };
    Ok(write::document(journal, &story::follow(journal, id)?, all))
}

#[cfg(test)]
mod tests;
