//! Logs to stderr as text or JSON, and the brake on lines that a stranger could provoke without end.

use std::error::Error;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use entente_bundle::causes::causes;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

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

/// An error and all of its causes, on one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    causes(error).map(ToString::to_string).fold(String::new(), |text, next| {
        // Some errors tell their cause themselves.
        match text.is_empty() {
            true => next,
            false if text.ends_with(&next) => text,
            false => format!("{text}: {next}"),
        }
    })
}

/// Lets one line through per interval, so that a port scan cannot fill a disk; metrics count the rest.
#[derive(Debug)]
pub(crate) struct Throttle {
    interval: Duration,
    state: Mutex<ThrottleState>,
}

#[derive(Debug, Default)]
struct ThrottleState {
    last: Option<Instant>,
    suppressed: u64,
}

impl Throttle {
    pub(crate) const fn new(interval: Duration) -> Self {
        Self { interval, state: Mutex::new(ThrottleState { last: None, suppressed: 0 }) }
    }

    /// `Some` when this line may be written, with how many were held back since the one before.
    pub(crate) fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = crate::lock(&self.state);
        if state.last.is_some_and(|last| now.duration_since(last) < self.interval) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_passes_per_interval_and_says_how_many_were_held_back() {
        let throttle = Throttle::new(Duration::from_secs(10));
        let start = Instant::now();
        assert_eq!(throttle.pass_at(start), Some(0));
        assert_eq!(throttle.pass_at(start + Duration::from_secs(1)), None);
        assert_eq!(throttle.pass_at(start + Duration::from_secs(2)), None);
        assert_eq!(throttle.pass_at(start + Duration::from_secs(10)), Some(2));
        assert_eq!(throttle.pass_at(start + Duration::from_secs(20)), Some(0));
    }
}
