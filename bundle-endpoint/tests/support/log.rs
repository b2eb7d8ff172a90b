//! What the process logs at `info` and above, of all tests of this binary together: look for what is yours alone.

use std::io::{self, Write};
use std::sync::{Mutex, Once};

use super::eventually;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Capture;

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From here on.
pub fn capture() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let lines = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::INFO);
        lines.with_writer(|| Capture).init();
    });
}

/// Waits for a line that holds all of these words.
pub async fn line_with(words: &[&str]) -> String {
    let found = || async { lines_with(words).into_iter().next() };
    eventually(&format!("a line with {words:?}"), found).await
}

/// Those that hold all of these words by now.
pub fn lines_with(words: &[&str]) -> Vec<String> {
    let text = String::from_utf8_lossy(&LINES.lock().unwrap()).into_owned();
    text.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
}
