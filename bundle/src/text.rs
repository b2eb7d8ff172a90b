//! Bytes and strangers' text made fit for a log line.

const LONGEST: usize = 128;

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// At most 128 characters of something that may be as long as its sender liked; a cut is marked.
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => text.get(..end).map(|start| format!("{start}…")).unwrap_or_default(),
        None => text.to_owned(),
    }
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
    fn each_byte_is_two_lower_case_digits() {
        assert_eq!(hex(&[0, 0xab, 9]), "00ab09");
    }
}
