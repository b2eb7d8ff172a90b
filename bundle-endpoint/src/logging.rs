//! Logs to stderr as text or JSON.

use clap::ValueEnum;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// An error and all of its causes, on one line: what goes into lines, answers and status.
pub(crate) use entente_bundle::causes::chain;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// Starts logging for the process. `RUST_LOG` wins over `level`, which is in the same words.
///
/// # Errors
/// The text of a level that is none.
pub fn start(level: Option<&str>, format: LogFormat) -> Result<(), String> {
    let from_environment = std::env::var("RUST_LOG").ok().filter(|value| !value.trim().is_empty());
    let wanted = from_environment.as_deref().or(level).unwrap_or("info");
    let filter = EnvFilter::try_new(wanted).map_err(|error| format!("log level {wanted:?}: {error}"))?;
    // Whoever read stderr may have gone. A line that cannot be written is lost; to complain about it there would panic.
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .log_internal_errors(false);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).init(),
        LogFormat::Text => builder.init(),
    }
    Ok(())
}
