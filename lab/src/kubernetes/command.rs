//! Programs of the machine, run to their end: what they print is the answer, and their complaint the reason of a failure.

use std::ffi::OsStr;
use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::AsyncWriteExt;

/// No program of the lab takes longer, or it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program and its arguments.
#[derive(Debug)]
pub(super) struct Run {
    command: tokio::process::Command,
    input: Option<Vec<u8>>,
    patience: Duration,
}

impl Run {
    /// Neither input nor terminal.
    pub(super) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = tokio::process::Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // Ctrl-C is for the lab.
        command.process_group(0);
        Self { command, input: None, patience: PATIENCE }
    }
    /// More arguments.
    pub(super) fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.command.args(args);
        self
    }
    /// One environment variable.
    pub(super) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }
    /// Where it runs.
    pub(super) fn folder(mut self, folder: &std::path::Path) -> Self {
        self.command.current_dir(folder);
        self
    }
    /// What it reads.
    pub(super) fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.command.stdin(Stdio::piped());
        self.input = Some(input.into());
        self
    }
    /// How long it may take.
    pub(super) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
    /// What it printed. Fails with its complaint when it fails.
    pub(super) async fn output(self) -> anyhow::Result<String> {
        let name = self.to_string();
        let answer = self.answer().await?;
        if !answer.ok {
            bail!("{name}: {}", answer.complaint());
        }
        Ok(answer.stdout)
    }
    /// Everything, also of one that fails.
    pub(super) async fn answer(mut self) -> anyhow::Result<Answer> {
        let name = self.to_string();
        let mut child = self.command.spawn().with_context(|| format!("cannot run {name}"))?;
        let (stdin, input) = (child.stdin.take(), self.input.take());
        let feed = async {
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                // One that does not read to the end says itself why.
                let _ = stdin.write_all(&input).await;
            }
        };
        let run = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::time::timeout(self.patience, run).await;
        let output =
            output.with_context(|| format!("{name} is still not done after {:?}", self.patience))??;
        Ok(Answer {
            ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = self.command.as_std();
        write!(f, "{}", command.get_program().display())?;
        command.get_args().take(12).try_for_each(|arg| write!(f, " {}", arg.display()))
    }
}

/// What a program left.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) ok: bool,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Answer {
    /// Its last words. What it only warned of is not why it failed.
    pub(super) fn complaint(&self) -> String {
        let text = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let wrong = text.trim().lines().rev().filter(|line| !line.starts_with("Warning: "));
        let lines = wrong.take(5).collect::<Vec<_>>();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
    /// Both outputs, as on a terminal.
    pub(super) fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_complaint_leaves_warnings_out() {
        let run = Run::new("/bin/sh").args(["-c", "echo Warning: odd >&2; echo bad >&2; exit 1"]);
        assert_eq!(run.answer().await.expect("an answer").complaint(), "bad");
    }

    #[tokio::test]
    async fn a_failure_says_what_was_run_and_why_it_failed() {
        let run = Run::new("/bin/sh").args(["-c", "echo good; echo bad >&2; exit 3"]);
        let error = run.output().await.expect_err("it fails");
        assert_eq!(error.to_string(), "/bin/sh -c echo good; echo bad >&2; exit 3: bad");
    }

    #[tokio::test]
    async fn input_is_read_and_output_answered() {
        assert_eq!(Run::new("/bin/cat").input("hello").output().await.expect("it runs"), "hello");
    }

    #[tokio::test]
    async fn one_that_hangs_is_given_up() {
        let run = Run::new("/bin/sleep").args(["60"]).patience(Duration::from_millis(50));
        assert!(run.output().await.expect_err("it hangs").to_string().contains("still not done"));
    }
}
