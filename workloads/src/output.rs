//! The lines on stdout, which people and scripts read: each one is written out at once. Everything else is a log line on stderr.

use std::io::Write;

use tracing::debug;

/// More than any name or greeting needs; what a peer sends does not fill our logs.
const LIMIT: usize = 256;

/// Writes one line to stdout. A reader that went away does not stop us.
pub(crate) fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        debug!(%error, "stdout cannot be written");
    }
}

/// A text from outside, made fit for one line: no control characters, nothing that turns the direction of writing, bounded.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control() && !is_invisible(*character))
        .take(LIMIT)
        .collect()
}

/// Unicode's separators and format characters, which a terminal obeys and a reader does not see.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_write_a_line_of_its_own() {
        let name = "BoanLab\r\nServer gets nobody's SPIFFEID\u{1b}[2J\u{202e}\u{2028}";
        assert_eq!(one_line(name), "BoanLabServer gets nobody's SPIFFEID[2J");
    }

    #[test]
    fn a_long_name_is_cut() {
        assert_eq!(one_line(&"é".repeat(10_000)).chars().count(), LIMIT);
    }

    #[test]
    fn an_ordinary_name_stays_as_it_is() {
        assert_eq!(one_line("BoanLab Client 보안"), "BoanLab Client 보안");
    }
}
