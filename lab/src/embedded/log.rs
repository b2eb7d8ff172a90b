//! Log lines in the text form of SPIRE: time, level and message first, then the fields by name.
//!
//! A value that is handed round, not a global subscriber: several servers can live in one test process, and lines of a
//! plugin come with their own level and message.

use std::fmt::{self, Display, Write as _};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Importance of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Where lines go, and the fields that each of them carries.
#[derive(Clone)]
pub(crate) struct Log {
    out: Arc<Mutex<Box<dyn Write + Send>>>,
    fields: Vec<(String, String)>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("fields", &self.fields).finish_non_exhaustive()
    }
}

impl Log {
    /// Writes to `out`, one line at a time.
    pub(crate) fn new(out: impl Write + Send + 'static) -> Self {
        Self { out: Arc::new(Mutex::new(Box::new(out))), fields: Vec::new() }
    }

    /// SPIRE's default.
    pub(crate) fn to_stdout() -> Self {
        Self::new(std::io::stdout())
    }

    /// The same log with one more field on each line; a field of that name is replaced.
    pub(crate) fn with(&self, name: &str, value: impl Display) -> Self {
        let mut log = self.clone();
        log.fields.retain(|(held, _)| held != name);
        log.fields.push((name.to_owned(), value.to_string()));
        log
    }

    /// The same log for one part of the server.
    pub(crate) fn subsystem(&self, name: &str) -> Self {
        self.with("subsystem_name", name)
    }

    /// The same log with the error that the next line reports.
    pub(crate) fn error_field(&self, error: impl Display) -> Self {
        self.with("error", error)
    }

    pub(crate) fn debug(&self, message: &str) {
        self.line(Level::Debug, message);
    }

    pub(crate) fn info(&self, message: &str) {
        self.line(Level::Info, message);
    }

    pub(crate) fn warn(&self, message: &str) {
        self.line(Level::Warning, message);
    }

    pub(crate) fn error(&self, message: &str) {
        self.line(Level::Error, message);
    }

    pub(crate) fn line(&self, level: Level, message: &str) {
        let text = render(SystemTime::now(), level, message, &self.fields);
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written has nowhere to say so.
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }
}

fn render(time: SystemTime, level: Level, message: &str, fields: &[(String, String)]) -> String {
    let time = humantime::format_rfc3339_seconds(time);
    let mut line = format!("time=\"{time}\" level={} msg={}", level.as_str(), quoted(message, true));
    let mut sorted: Vec<_> = fields.iter().collect();
    sorted.sort();
    for (name, value) in sorted {
        // Cannot fail: writing to a String never does.
        let _ = write!(line, " {}={}", own_name(name), quoted(value, false));
    }
    line.push('\n');
    line
}

/// Fields that would hide the first three are renamed, as logrus does.
fn own_name(name: &str) -> String {
    match name {
        "level" | "msg" | "time" => format!("fields.{name}"),
        _ => name.to_owned(),
    }
}

fn quoted(value: &str, always: bool) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if !always && !value.is_empty() && value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
    }
}

/// A log that can be read back.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    #[derive(Clone, Default)]
    pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        pub(crate) fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
        }

        pub(crate) fn log(&self) -> Log {
            Log::new(self.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Lines;
    use super::*;

    #[test]
    fn a_line_reads_as_one_of_spire() {
        let lines = Lines::default();
        let log = lines.log().subsystem("bundle_client").with("trust_domain", "b.test");
        log.with("at", "2026-11-24T00:00:00Z").info("Bundle refreshed");
        let text = lines.text();
        assert!(text.starts_with("time=\"20"), "{text}");
        assert!(text.ends_with(
            " level=info msg=\"Bundle refreshed\" at=\"2026-11-24T00:00:00Z\" subsystem_name=bundle_client \
             trust_domain=b.test\n"
        ));
    }

    #[test]
    fn quotes_line_ends_and_hidden_names_stay_readable() {
        let fields = [("level".to_owned(), "a \"b\"\n".to_owned()), ("e".to_owned(), String::new())];
        let line = render(SystemTime::UNIX_EPOCH, Level::Warning, "m", &fields);
        let expected =
            "time=\"1970-01-01T00:00:00Z\" level=warning msg=\"m\" e=\"\" fields.level=\"a \\\"b\\\"\\n\"\n";
        assert_eq!(line, expected);
    }
}
