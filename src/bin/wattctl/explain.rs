//! `wattctl explain`: where the journal is, and the explanation on the terminal.

use crate::Failure;
use crate::args::ExplainArgs;
use crate::terminal::{print, print_json};
use anyhow::{Context as _, anyhow};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use wattd::ctl::ask;
use wattd::ctl::explain::{self, ExplainError, Place, Which};
use wattd::journal::{self, JournalError};

/// Explains a request by a journal, that of the running daemon unless another is named.
pub(crate) async fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let journal = match &args.journal {
        Some(file) => file.clone(),
        None => live(&args.ask.at.socket).await?,
    };
    let (which, all) = (args.which, args.all);
    let file = journal.clone();
    let explained = tokio::task::spawn_blocking(move || explain::explain(&file, which, all)).await;
    let explained = explained.context("replaying the journal")?;
    let explained = explained.map_err(|error| with_advice(error, &journal, which))?;
    if args.ask.json { print_json(&explained) } else { print(&explain::text(&explained)) }
}

/// The journal of the running daemon, with everything so far in the file.
async fn live(socket: &Path) -> Result<PathBuf, Failure> {
    let place: Place = ask::get(socket, ask::JOURNAL).await?;
    let Some(path) = place.path else {
        let message = "wattd keeps no journal: set enabled = true in [journal] of its configuration and restart it; \
                       or name one with --journal";
        return Err(anyhow!(message).into());
    };
    if !place.recording {
        eprintln!(
            "wattctl: {}: recording has ended, since the disk failed or could not keep up: later requests are not in it",
            path.display()
        );
    } else if !place.complete {
        eprintln!("wattctl: {}: the disk is slow: the last requests may not be in it yet", path.display());
    }
    Ok(path)
}

/// What can be done about it.
fn with_advice(error: ExplainError, journal: &Path, which: Which) -> Failure {
    match error {
        ExplainError::Journal(JournalError::Io { source, .. })
            if source.kind() == ErrorKind::PermissionDenied =>
        {
            Failure::Failed(anyhow!(
                "{}: not allowed to read it: run this as root or as the user that wattd runs as",
                journal.display()
            ))
        }
        ExplainError::Unknown { .. } if matches!(which, Which::Id(_)) => {
            let before = journal::previous(journal);
            if before.exists() && !journal::resumes(journal).unwrap_or(false) {
                let hint =
                    format!("the daemon's run before is in {}: name it with --journal", before.display());
                Failure::Input(anyhow!("{error} ({hint})"))
            } else {
                Failure::Input(error.into())
            }
        }
        ExplainError::Unknown { .. } | ExplainError::None { .. } => Failure::Input(error.into()),
        ExplainError::Journal(_) => Failure::Failed(error.into()),
    }
}
