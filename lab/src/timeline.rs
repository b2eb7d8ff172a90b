//! The printed story: numbered steps, their checks with command and answer, a tick or a cross and the time.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::checks::{log_of, reason_of, seconds};
use crate::log_file::LogFile;

/// Lines of a log that are shown with a failure.
const LOG_TAIL: usize = 15;
/// Lines of an answer that are shown with a command.
const ANSWER_LINES: usize = 12;
const ANSWER_COLUMNS: usize = 260;

/// Prints to standard output as things happen; plain text when that is not a terminal.
#[derive(Debug)]
pub struct Timeline {
    /// Time zero; the story's beginning as soon as there is one.
    start: Instant,
    /// What went by before the story began.
    preparation: Duration,
    left_out: AtomicUsize,
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
        Self {
            start: Instant::now(),
            preparation: Duration::ZERO,
            left_out: AtomicUsize::new(0),
            colours,
            quiet: false,
            current: None,
        }
    }
    /// Prints steps and failures, but neither checks nor answers.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }
    /// Everything is found or built: what is counted from now on is the story.
    pub fn story_begins(&mut self) {
        self.preparation = self.start.elapsed();
        self.start = Instant::now();
    }
    /// How long finding and building took, and the story since then.
    pub fn times(&self) -> String {
        format!("built in {}, story {}", seconds(self.preparation), seconds(self.start.elapsed()))
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
        if let Some(log) = log_of(error) {
            self.end_of(&log);
        }
    }
    /// A process that should run has ended, though nobody asked it to.
    pub fn ended(&self, what: &str, log: &Path) {
        print(&format!("\n{} {what}", self.red("✗")));
        self.end_of(&LogFile::new(log));
    }
    fn end_of(&self, log: &LogFile) {
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
    /// A check that cannot be made here, told and counted, so that nobody takes it for one that held.
    pub fn left_out(&self, what: &str) {
        self.left_out.fetch_add(1, Ordering::Relaxed);
        if !self.quiet {
            print(&format!("   - left out: {what} (needs real SPIRE)"));
        }
    }
    /// How many checks were left out so far.
    pub fn count_left_out(&self) -> usize {
        self.left_out.load(Ordering::Relaxed)
    }
    /// A command as a person would type it, and the beginning of its answer.
    pub fn command(&self, command: &str, answer: &str) {
        self.command_lines(command, answer, ANSWER_LINES);
    }
    /// The same with at most `lines` of the answer.
    pub fn command_lines(&self, command: &str, answer: &str, lines: usize) {
        if self.quiet {
            return;
        }
        print(&format!("     $ {command}"));
        let count = answer.lines().count();
        for line in answer.lines().take(lines) {
            print(&format!("       {}", self.dim(&clipped(line))));
        }
        if count > lines {
            print(&format!("       {}", self.dim(&format!("… {} more lines", count - lines))));
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

/// Prints a line. A closed standard output is no reason to fail: the exit code still tells.
pub fn print(line: &str) {
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
