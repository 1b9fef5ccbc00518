//! Logs on standard error: for a terminal, for the journal, or as JSON.
//!
//! Under systemd the journal keeps time and origin of a line itself; what it needs is the priority, as
//! `<N>` in front (sd-daemon(3)). A message of several lines gets it on each, so that text out of a request
//! cannot pose as a line of its own.

use crate::config::{LogConfig, LogFormat};
use std::fmt;
use std::io::{IsTerminal as _, Write};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("log.level = \"{filter}\": {source}")]
    Filter {
        /// The directives.
        filter: String,
        /// What is wrong with them.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before.
    #[error("logging is set up already")]
    AlreadySet,
    /// The subscriber is gone.
    #[error("the log filter cannot be changed any more")]
    Gone,
}

/// Changes the filter of running logging.
#[derive(Debug, Clone)]
pub struct LogHandle(reload::Handle<EnvFilter, Registry>);

impl LogHandle {
    /// Replaces the filter.
    ///
    /// # Errors
    /// If it does not parse.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        self.0.reload(parse(filter)?).map_err(|_| LogError::Gone)
    }
}

/// A plain level leaves out the runtime's own chatter: it warns at every load of what is as it should be.
fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let fault = |source| LogError::Filter { filter: filter.to_owned(), source };
    let is_level = !filter.contains(['=', ',']) && matches!(filter, "info" | "warn");
    let directives = if is_level { format!("{filter},ort=error") } else { filter.to_owned() };
    EnvFilter::builder().parse(directives).map_err(fault)
}

/// Sets up logging of the whole process, on standard error.
///
/// # Errors
/// If the filter does not parse, or logging was set up before.
pub fn init(config: &LogConfig) -> Result<LogHandle, LogError> {
    let format = match config.format {
        LogFormat::Auto if journal_reads_stderr() => LogFormat::Journal,
        LogFormat::Auto => LogFormat::Text,
        other => other,
    };
    let (subscriber, handle) = subscriber(&config.filter, format, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadySet)?;
    Ok(handle)
}

fn subscriber<W>(
    filter: &str,
    format: LogFormat,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync, LogHandle), LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let layer = match format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Journal => layer.with_ansi(false).event_format(JournalFormat::new()).boxed(),
        LogFormat::Auto | LogFormat::Text => layer.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    Ok((tracing_subscriber::registry().with(filter).with(layer), LogHandle(handle)))
}

/// Whether standard error goes to the journal: `JOURNAL_STREAM` holds the device and inode of its socket, but
/// a child with another standard error inherits the variable too.
fn journal_reads_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = nix::sys::stat::fstat(std::io::stderr()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// `<N>target: message key=value`.
struct JournalFormat(format::Format<format::Full, ()>);

impl JournalFormat {
    fn new() -> Self {
        Self(format::format().without_time().with_level(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for JournalFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(ctx, Writer::new(&mut text), event)?;
        let priority = priority(*event.metadata().level());
        text.trim_end().lines().try_for_each(|line| writeln!(out, "<{priority}>{line}"))
    }
}

/// Level of syslog(3).
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// A last line on standard error for when logging could not be set up.
pub fn say_plainly(message: &dyn fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{message}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, format: LogFormat, act: impl FnOnce(&LogHandle)) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let (subscriber, handle) = subscriber(filter, format, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || act(&handle));
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn journal_lines_have_a_priority_and_no_time() {
        let text = logged("debug", LogFormat::Journal, |_| {
            tracing::error!(zone = "cpu", "hot");
            tracing::warn!("warm");
            tracing::info!("mild");
            tracing::debug!("cool");
        });
        let here = module_path!();
        assert_eq!(
            text,
            format!("<3>{here}: hot zone=\"cpu\"\n<4>{here}: warm\n<6>{here}: mild\n<7>{here}: cool\n")
        );
    }

    #[test]
    fn a_line_break_out_of_a_request_cannot_forge_a_line() {
        let text = logged("info", LogFormat::Journal, |_| tracing::info!("model x\n<0>all is lost"));
        assert!(text.lines().all(|line| line.starts_with("<6>")), "{text}");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged("info", LogFormat::Json, |_| tracing::info!(answer = 42, "found"));
        let value: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!((&value["answer"], &value["message"]), (&42.into(), &"found".into()));
    }

    #[test]
    fn the_filter_changes_while_running() {
        let text = logged("warn", LogFormat::Journal, |handle| {
            tracing::info!("before");
            handle.set_filter("info").unwrap();
            tracing::info!("after");
            assert!(handle.set_filter("info,=").is_err());
        });
        assert!(!text.contains("before") && text.contains("after"), "{text}");
    }
}
