//! Panics end where they happen: a handler's becomes INTERNAL, a background task is started again.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::error;

/// Pause before a task that panicked is started again.
const RESTART: Duration = Duration::from_secs(1);

/// Runs a handler. The panic hook has logged what there is to know.
pub(crate) async fn guarded<T>(handler: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match AssertUnwindSafe(handler).catch_unwind().await {
        Ok(result) => result,
        Err(_) => Err(Status::internal("the plugin failed; its log says how")),
    }
}

/// Runs a background task until it ends or the plugin stops.
pub(crate) async fn supervised<F>(task: &'static str, stop: CancellationToken, work: impl Fn() -> F)
where
    F: Future<Output = ()>,
{
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            end = AssertUnwindSafe(work()).catch_unwind() => match end {
                Ok(()) => return,
                Err(_) => error!(task, "background task panicked and is started again"),
            }
        }
        tokio::time::sleep(RESTART).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_handler_becomes_an_internal_error() {
        let status = guarded::<()>(async { panic!("for this test") }).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Internal);
    }

    #[tokio::test]
    async fn a_task_that_panicked_is_started_again() {
        let runs = AtomicU32::new(0);
        supervised("test", CancellationToken::new(), || async {
            assert!(runs.fetch_add(1, Ordering::SeqCst) > 0, "for this test");
        })
        .await;
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }
}
