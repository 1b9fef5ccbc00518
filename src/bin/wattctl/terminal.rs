//! What all commands show on the terminal in the same way.

use crate::Done;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::Write as _;

/// Prints, also into a pipe whose reader has gone.
pub(crate) fn print(text: &str) -> Done {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints a document, indented.
pub(crate) fn print_json(value: &impl Serialize) -> Done {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// A progress bar on a terminal, nothing elsewhere nor if it is `hidden`. `template` is that of `indicatif`.
pub(crate) fn progress(length: u64, template: &str, hidden: bool) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if hidden {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}
