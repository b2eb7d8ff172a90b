//! The walk as a page: what was typed, where, and what came back.

use std::fmt::Write as _;

use anyhow::Context;

/// Markdown that grows as the walk goes on.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    text: String,
    in_block: bool,
}

impl Transcript {
    /// A part of the walk.
    pub(super) fn step(&mut self, number: usize, title: &str) {
        self.close();
        let _ = write!(self.text, "\n## {number}. {title}\n");
    }
    /// A sentence between commands.
    pub(super) fn say(&mut self, text: &str) {
        self.close();
        let _ = write!(self.text, "\n{text}\n");
    }
    /// A check that held.
    pub(super) fn held(&mut self, text: &str) {
        self.say(&format!("✓ {text}"));
    }
    /// A command and its answer.
    pub(super) fn command(&mut self, line: &str, answer: &str) {
        if self.in_block {
            self.text.push('\n');
        } else {
            self.text.push_str("\n```console\n");
            self.in_block = true;
        }
        let _ = writeln!(self.text, "$ {line}");
        for line in answer.trim_end().lines() {
            let _ = writeln!(self.text, "{}", line.trim_end());
        }
    }
    fn close(&mut self) {
        if std::mem::take(&mut self.in_block) {
            self.text.push_str("```\n");
        }
    }
    /// Writes the page under its title.
    pub(super) fn save(mut self, path: &std::path::Path, title: &str) -> anyhow::Result<()> {
        self.close();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        crate::layout::write(path, format!("# {title}\n{}", self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_a_row_share_a_block_that_a_sentence_ends() {
        let mut transcript = Transcript::default();
        transcript.step(1, "Install");
        transcript.command("kubectl get po", "NAME  \nx\n");
        transcript.command("true", "");
        transcript.held("all is well");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("docs/run.md");
        transcript.save(&path, "A run").expect("saved");
        let text = std::fs::read_to_string(path).expect("a page");
        let expected = "# A run\n\n## 1. Install\n\n```console\n$ kubectl get po\nNAME\nx\n\n$ true\n```\n\n✓ all is well\n";
        assert_eq!(text, expected);
    }
}
