//! Bytes, times and strangers' text made fit for a log line.

use std::time::{Duration, UNIX_EPOCH};

const LONGEST: usize = 128;

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// At most 128 characters of something that may be as long as its sender liked; see [`printable`].
pub fn shortened(text: &str) -> String {
    printable(text, LONGEST)
}

/// At most `limit` characters, none of them a control character; a cut is marked.
pub fn printable(text: &str, limit: usize) -> String {
    let (text, mark) = match text.char_indices().nth(limit) {
        Some((end, _)) => (text.get(..end).unwrap_or_default(), "…"),
        None => (text, ""),
    };
    let shown = text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character });
    shown.chain(mark.chars()).collect()
}

/// What looks like an URL, less the user and the password that may stand in it: neither belongs into a log.
///
/// Works on what is no URL as well, because such a text is what a refusal shows. So nothing that stands before the last `@` is
/// shown but `https` or `http` and slashes: a password may hold whatever ends a host, and a user may look like a scheme.
pub fn without_userinfo(url: &str) -> String {
    let Some((hidden, rest)) = url.rsplit_once('@') else { return url.to_owned() };
    format!("{}***@{rest}", scheme(hidden))
}

/// `https:` or `http:`, with the slashes behind it.
fn scheme(text: &str) -> &str {
    let is_scheme = |name: &str| name.eq_ignore_ascii_case("https") || name.eq_ignore_ascii_case("http");
    match text.split_once(':') {
        Some((name, rest)) if is_scheme(name) => {
            let end = text.len() - rest.trim_start_matches('/').len();
            text.get(..end).unwrap_or_default()
        }
        _ => "",
    }
}

/// Unix seconds as RFC 3339 in UTC. Years that the calendar of the format does not know read as its last.
pub fn rfc3339(unix_seconds: u64) -> String {
    const LAST: u64 = 253_402_300_799;
    let time = UNIX_EPOCH + Duration::from_secs(unix_seconds.min(LAST));
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        assert_eq!(shortened(&"é".repeat(1000)), format!("{}…", "é".repeat(LONGEST)));
        assert_eq!(shortened(&"é".repeat(LONGEST)), "é".repeat(LONGEST));
    }

    #[test]
    fn a_control_character_does_not_reach_a_terminal() {
        assert_eq!(printable("a\u{1b}[2J\nb", 6), "a\u{fffd}[2J\u{fffd}…");
    }

    #[test]
    fn neither_user_nor_password_of_a_url_is_shown() {
        for (url, shown) in [
            ("HTTPS://me:pw@b.test:8443/x?y=a@b", "HTTPS://***@b"),
            ("https://me:p@w@b.test", "https://***@b.test"),
            ("http://me@b.test#f", "http://***@b.test#f"),
            ("me:pw@b.test/x", "***@b.test/x"),
            ("//me:pw@b.test", "***@b.test"),
            ("https://me:ab/cd@b.test/", "https://***@b.test/"),
            ("https://me:ab?cd@b.test/x", "https://***@b.test/x"),
            ("https://me:ab#cd@b.test", "https://***@b.test"),
            ("https://me:a//b@b.test", "https://***@b.test"),
            ("https:/me:pw@b.test", "https:/***@b.test"),
            ("https:me:pw@b.test", "https:***@b.test"),
            ("http s://me:pw@b.test", "***@b.test"),
            ("me:a://b@b.test", "***@b.test"),
            ("me@b.test", "***@b.test"),
            ("https://b.test/x", "https://b.test/x"),
            ("", ""),
        ] {
            assert_eq!(without_userinfo(url), shown, "{url}");
        }
    }

    #[test]
    fn a_time_beyond_the_calendar_is_still_printed() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn each_byte_is_two_lower_case_digits() {
        assert_eq!(hex(&[0, 0xab, 9]), "00ab09");
    }
}
