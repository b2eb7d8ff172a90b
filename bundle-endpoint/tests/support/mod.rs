//! What the component tests share: the real endpoint on port 0, a fake plugin on its link, clients and foreign endpoints.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of it")]

pub mod client;
pub mod endpoint;
pub mod fetching;
pub mod foreign;
pub mod log;
pub mod mutual;
pub mod plugin;
pub mod program;

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Asks again until there is an answer; fails the test when none comes.
pub async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
