//! Waiting with a deadline, and failures that say which log to look at.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::log_file::{LogFile, Mark};
use crate::process::Ended;

/// How often a probe is repeated.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// Repeats `probe` until it succeeds; its last error is the reason when `deadline` passes first. A process that has ended
/// ends the waiting at once.
pub async fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    let mut earlier = None;
    loop {
        let left = deadline.saturating_sub(start.elapsed());
        let reason = match tokio::time::timeout(left.max(PROBE_INTERVAL), probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => reason,
            // A probe that the deadline cuts short says less than the one before.
            Err(_) => earlier.take().unwrap_or_else(|| anyhow!("no answer")),
        };
        if reason.chain().any(|cause| cause.is::<Ended>()) {
            return Err(reason.context(what.to_owned()));
        }
        if start.elapsed() >= deadline {
            return Err(reason.context(format!("{what}: not within {} s", deadline.as_secs())));
        }
        earlier = Some(reason);
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

/// Waits for a line with every one of `needles` in `log`, written after `mark`.
pub async fn line_in(
    log: &LogFile,
    mark: Mark,
    needles: &[&str],
    deadline: Duration,
) -> anyhow::Result<String> {
    let what = format!("a line with {} in {}", needles.join(" and "), log.path().display());
    let found = eventually(&what, deadline, async || {
        log.find_since(mark, needles).ok_or_else(|| anyhow!("no such line was written"))
    });
    found.await.map_err(|error| see(error, log.path()))
}

/// Fails with `reason` unless `holds`.
pub fn ensure(holds: bool, reason: impl FnOnce() -> String) -> anyhow::Result<()> {
    if holds { Ok(()) } else { Err(anyhow!(reason())) }
}

/// Points at the log that tells more about a failure.
#[derive(Clone, Debug)]
pub struct SeeLog(pub PathBuf);

impl fmt::Display for SeeLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "see {}", self.0.display())
    }
}

/// Adds the log to look at to an error.
pub fn see(error: anyhow::Error, log: &Path) -> anyhow::Error {
    if error.downcast_ref::<SeeLog>().is_some() {
        return error;
    }
    error.context(SeeLog(log.to_owned()))
}

/// The log to look at, if the error names one.
pub fn log_of(error: &anyhow::Error) -> Option<LogFile> {
    error.downcast_ref::<SeeLog>().map(|SeeLog(path)| LogFile::new(path))
}

/// The error and its causes in one line.
pub fn reason_of(error: &anyhow::Error) -> String {
    let parts = error.chain().map(ToString::to_string).filter(|part| !part.starts_with("see /"));
    let mut line = String::new();
    for part in parts {
        // Some errors already repeat what caused them.
        if line.ends_with(&part) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&part);
    }
    line
}

/// `1.2 s`, for people.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// `12.3 MiB`, for people.
pub fn mebibytes(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "memory sizes are far below 2^52")]
    let mebibytes = bytes as f64 / (1024.0 * 1024.0);
    format!("{mebibytes:.1} MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_probe_that_never_succeeds_fails_with_its_last_reason() {
        let mut tries = 0;
        let probe = async || {
            tries += 1;
            Err::<(), _>(anyhow!("try {}", tries.min(2)))
        };
        let error =
            eventually("the thing", Duration::from_millis(120), probe).await.expect_err("it never succeeds");
        assert_eq!(reason_of(&error), "the thing: not within 0 s: try 2");
    }

    #[tokio::test]
    async fn a_probe_that_hangs_is_given_up() {
        let probe = async || std::future::pending::<anyhow::Result<()>>().await;
        let error = eventually("the thing", Duration::from_millis(60), probe).await.expect_err("it hangs");
        assert!(reason_of(&error).ends_with("no answer"));
    }

    #[tokio::test]
    async fn an_ended_process_ends_the_waiting() {
        let ended = Ended { name: "the endpoint".to_owned(), pid: 1, status: None };
        let probe = async || Err::<(), _>(ended.clone().into());
        let error = eventually("the thing", Duration::from_secs(600), probe).await.expect_err("it has ended");
        assert_eq!(reason_of(&error), "the thing: the endpoint (pid 1) has ended");
    }

    #[test]
    fn the_innermost_log_is_the_one_to_look_at() {
        let error = see(anyhow!("no"), Path::new("/tmp/inner.log"));
        let error = see(error.context("outer"), Path::new("/tmp/outer.log"));
        assert_eq!(log_of(&error).expect("a log").path(), Path::new("/tmp/inner.log"));
        assert_eq!(reason_of(&error), "outer: no");
    }
}
