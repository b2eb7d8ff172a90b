//! The printed story: numbered steps, their checks with command and answer, a tick or a cross and the time.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::checks::{log_of, reason_of, seconds};

/// Lines of a log that are shown with a failure.
const LOG_TAIL: usize = 15;
/// Lines of an answer that are shown with a command.
const ANSWER_LINES: usize = 12;
const ANSWER_COLUMNS: usize = 260;

/// Prints to standard output as things happen; plain text when that is not a terminal.
#[derive(Debug)]
pub struct Timeline {
    start: Instant,
    colours: bool,
    quiet: bool,
    current: Option<Step>,
}

#[derive(Debug)]
struct Step {
    number: usize,
    title: String,
    start: Instant,
}

impl Timeline {
    /// Time zero is now.
    pub fn new() -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { start: Instant::now(), colours, quiet: false, current: None }
    }
    /// Prints steps and failures, but neither checks nor answers.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }
    /// Since time zero.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
    /// A line before or between the steps.
    pub fn say(&self, text: &str) {
        print(text);
    }
    /// Opens a step; the one before is taken as done.
    pub fn step(&mut self, number: usize, title: &str) {
        self.done();
        print(&format!("\n{} {}", self.bold(&format!("{number}.")), self.bold(title)));
        self.current = Some(Step { number, title: title.to_owned(), start: Instant::now() });
    }
    /// Closes the step with a tick and its time.
    pub fn done(&mut self) {
        if let Some(step) = self.current.take() {
            print(&format!(
                "   {} step {} in {}",
                self.green("✓"),
                step.number,
                seconds(step.start.elapsed())
            ));
        }
    }
    /// Closes the step with a cross, the reason, and the end of the log that tells more.
    pub fn failed(&mut self, error: &anyhow::Error) {
        let place = self.current.take().map(|step| {
            format!("step {} ({}) after {}", step.number, step.title, seconds(step.start.elapsed()))
        });
        let place = place.unwrap_or_else(|| "before the first step".to_owned());
        print(&format!("   {} {place}: {}", self.red("✗"), reason_of(error)));
        let Some(log) = log_of(error) else { return };
        print(&format!("     the end of {}:", log.path().display()));
        for line in log.tail(LOG_TAIL) {
            print(&format!("     {}", self.dim(&clipped(&line))));
        }
    }
    /// One check that held.
    pub fn held(&self, text: &str) {
        if !self.quiet {
            print(&format!("   {} {text}", self.green("✓")));
        }
    }
    /// One check that held, with the time it took.
    pub fn held_after(&self, text: &str, took: Duration) {
        if !self.quiet {
            print(&format!(
                "   {} {text} {}",
                self.green("✓"),
                self.dim(&format!("({})", milliseconds(took)))
            ));
        }
    }
    /// Something to know that is no check.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            print(&format!("     {}", self.dim(text)));
        }
    }
    /// A command as a person would type it, and the beginning of its answer.
    pub fn command(&self, command: &str, answer: &str) {
        if self.quiet {
            return;
        }
        print(&format!("     $ {command}"));
        let count = answer.lines().count();
        for line in answer.lines().take(ANSWER_LINES) {
            print(&format!("       {}", self.dim(&clipped(line))));
        }
        if count > ANSWER_LINES {
            print(&format!("       {}", self.dim(&format!("… {} more lines", count - ANSWER_LINES))));
        }
    }
    /// The last line.
    pub fn summary(&self, ok: bool, text: &str) {
        let mark = if ok { self.green("✓") } else { self.red("✗") };
        print(&format!("\n{mark} {text}"));
    }

    fn bold(&self, text: &str) -> String {
        self.coloured("1", text)
    }
    fn dim(&self, text: &str) -> String {
        self.coloured("2", text)
    }
    fn green(&self, text: &str) -> String {
        self.coloured("32", text)
    }
    fn red(&self, text: &str) -> String {
        self.coloured("31", text)
    }
    fn coloured(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self::new()
    }
}

/// A closed standard output is no reason to fail: the exit code still tells.
fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn clipped(line: &str) -> String {
    let mut clipped: String = line.chars().take(ANSWER_COLUMNS).collect();
    if line.chars().nth(ANSWER_COLUMNS).is_some() {
        clipped.push('…');
    }
    clipped
}

fn milliseconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) { format!("{} ms", duration.as_millis()) } else { seconds(duration) }
}
