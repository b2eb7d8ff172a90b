//! Bytes and strangers' text made fit for a log line.

const LONGEST: usize = 128;

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first characters of something that may be as long as its sender liked.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}
