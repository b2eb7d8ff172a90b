//! Log files of child processes, read while they grow.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A file that some process appends to. A missing one is empty.
#[derive(Clone, Debug)]
pub struct LogFile {
    path: PathBuf,
}

/// A place in a log: what was written later is news.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(u64);

impl LogFile {
    /// Reads nothing yet.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned() }
    }
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The end of what has been written so far.
    pub fn mark(&self) -> Mark {
        Mark(std::fs::metadata(&self.path).map_or(0, |data| data.len()))
    }
    /// Complete lines written after `mark`.
    pub fn lines_since(&self, mark: Mark) -> Vec<String> {
        let news = self.bytes_since(mark).unwrap_or_default();
        let complete = news.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text = String::from_utf8_lossy(news.get(..complete).unwrap_or_default()).into_owned();
        text.lines().map(str::to_owned).collect()
    }
    fn bytes_since(&self, mark: Mark) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(mark.0))?;
        let mut news = Vec::new();
        file.read_to_end(&mut news)?;
        Ok(news)
    }
    /// The first complete line after `mark` that holds every one of `needles`.
    pub fn find_since(&self, mark: Mark, needles: &[&str]) -> Option<String> {
        self.lines_since(mark).into_iter().find(|line| needles.iter().all(|needle| line.contains(needle)))
    }
    /// The last `count` lines.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let lines = self.lines_since(Mark::default());
        let skipped = lines.len().saturating_sub(count);
        lines.into_iter().skip(skipped).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_lines_after_the_mark_are_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = LogFile::new(folder.path().join("log"));
        assert!(log.lines_since(Mark::default()).is_empty());

        std::fs::write(log.path(), "one\ntwo\n").expect("a write");
        let mark = log.mark();
        std::fs::write(log.path(), "one\ntwo\nthree x=1\nfou").expect("a write");

        assert_eq!(log.lines_since(mark), ["three x=1"]);
        assert_eq!(log.find_since(mark, &["three", "x=1"]).as_deref(), Some("three x=1"));
        assert_eq!(log.find_since(mark, &["one"]), None);
        assert_eq!(log.tail(2), ["two", "three x=1"]);
    }
}
