//! The wall clock, read at the edge and handed inwards.

use std::time::{SystemTime, UNIX_EPOCH};

use rustls_pki_types::UnixTime;

/// Now, as verification wants it.
pub(crate) fn unix_now() -> UnixTime {
    UnixTime::now()
}

/// Whole seconds since 1970; a clock before that reads as 0.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
