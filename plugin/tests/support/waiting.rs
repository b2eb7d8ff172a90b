//! What every fake needs: the own trust domain, and waiting with a limit.

use std::time::{Duration, Instant};

use entente_bundle::testing::TestAuthority;
use entente_proto::spire::plugin::types;

/// The trust domain of the server that hosts the plugin.
pub const OWN: &str = "own.test";

/// Longest wait for anything that is expected to happen. Test machines can be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `check` gives something, and fails with `what` if it never does.
pub async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The same for something that is true or false.
pub async fn until(what: &str, mut check: impl FnMut() -> bool) {
    eventually(what, || check().then_some(())).await;
}

/// A bundle of the own trust domain, as SPIRE hands it to plugins.
pub fn own_bundle(authority: &TestAuthority, sequence_number: u64) -> types::Bundle {
    types::Bundle::from(&authority.bundle_with(Some(sequence_number), None))
}
