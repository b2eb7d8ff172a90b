//! The brakes on what a peer of the link has us write into the log.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use entente_bounds::Throttle;

/// One brake for each reason: the noise of one peer must not hide what another one does.
#[derive(Debug)]
pub(super) struct Brakes {
    interval: Duration,
    // Reasons are constants of this program, so there are only so many.
    throttles: Mutex<HashMap<&'static str, Throttle>>,
}

impl Brakes {
    /// One line per reason and `interval`.
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, throttles: Mutex::default() }
    }

    /// `Some` when a line with this reason may be written, with how many were held back since the one before.
    pub(super) fn pass(&self, reason: &'static str) -> Option<u64> {
        let mut throttles = crate::lock(&self.throttles);
        throttles.entry(reason).or_insert_with(|| Throttle::new(self.interval)).pass()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_line_of_its_own() {
        let brakes = Brakes::new(Duration::from_secs(3600));
        assert_eq!(brakes.pass("malformed"), Some(0));
        assert_eq!(brakes.pass("malformed"), None);
        assert_eq!(brakes.pass("empty"), Some(0));
    }
}
