//! Asks a linked plugin for handshake signatures and waits for the answer. The key never comes here.
//!
//! rustls signs synchronously, so a handshake waits on its thread, and the runtime makes another one meanwhile. Waits are
//! bounded in time and in number, of one link and of all, so that a plugin that hangs cannot take the process with it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use entente_proto::link::v1::SignRequest;
use rustls::SignatureScheme;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Semaphore, mpsc};

/// How long a handshake waits for its signature.
const SIGN_TIMEOUT: Duration = Duration::from_secs(5);

/// After a refusal or a wrong signature another link is asked for so long, where there is one. Then this one is tried again:
/// that costs a handshake where nothing has changed.
const DOUBT: Duration = Duration::from_secs(30);

/// Handshakes of one link that wait for a signature at the same time. A plugin that answers keeps this near zero.
const MAX_WAITING: usize = 64;

/// The same while the last one waited in vain: enough to find out that the plugin answers again.
const MAX_PROBING: usize = 4;

/// The same of all links together: half of the threads that the runtime makes at most (512), because the rest of the process
/// needs some too.
const MAX_WAITING_OF_ALL: usize = 256;

/// Places for handshakes that wait, shared by all links.
#[derive(Debug)]
pub(crate) struct SignPlaces(Semaphore);

impl Default for SignPlaces {
    fn default() -> Self {
        Self(Semaphore::new(MAX_WAITING_OF_ALL))
    }
}

/// Why no signature was made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignError {
    /// Too many wait already: the plugin is slow or silent.
    #[error("too many handshakes wait for signatures already, {waiting} of them for this plugin's")]
    Busy { waiting: usize },
    /// The link ended meanwhile.
    #[error("the link to the plugin ended before it signed")]
    LinkLost,
    /// The plugin said no.
    #[error("the plugin refused to sign: {reason}")]
    Refused { reason: String },
    /// The plugin said nothing.
    #[error("the plugin did not sign within {} seconds", after.as_secs())]
    TimedOut { after: Duration },
    /// The plugin answered with something that is no signature of its certificate's key.
    #[error("the plugin's signature does not verify with the certificate that it lent")]
    Wrong,
    /// Not called from a thread of a multi-threaded runtime, the only place where waiting is harmless.
    #[error("signing needs a multi-threaded runtime")]
    WrongRuntime,
}

impl SignError {
    /// A word for metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "busy",
            Self::LinkLost => "link_lost",
            Self::Refused { .. } => "refused",
            Self::TimedOut { .. } => "timeout",
            Self::Wrong => "wrong_signature",
            Self::WrongRuntime => "wrong_runtime",
        }
    }
}

type Answer = Result<Vec<u8>, String>;

/// The signing side of one link.
#[derive(Debug)]
pub(crate) struct SignQueue {
    requests: mpsc::Sender<SignRequest>,
    waiting: Mutex<Waiting>,
    waiting_count: AtomicUsize,
    places: Arc<SignPlaces>,
    last_id: AtomicU64,
    timeout: Duration,
    /// The last one waited in vain.
    silent: AtomicBool,
    /// After a refusal or a wrong signature.
    doubted_until: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Waiting {
    closed: bool,
    answers: HashMap<u64, SyncSender<Answer>>,
}

impl SignQueue {
    /// The receiver belongs to the task that writes to the link.
    pub(crate) fn new(places: Arc<SignPlaces>) -> (Arc<Self>, mpsc::Receiver<SignRequest>) {
        Self::with_timeout(places, SIGN_TIMEOUT)
    }

    fn with_timeout(places: Arc<SignPlaces>, timeout: Duration) -> (Arc<Self>, mpsc::Receiver<SignRequest>) {
        let (requests, receiver) = mpsc::channel(MAX_WAITING);
        let queue = Self {
            requests,
            waiting: Mutex::default(),
            waiting_count: AtomicUsize::new(0),
            places,
            last_id: AtomicU64::new(0),
            timeout,
            silent: AtomicBool::new(false),
            doubted_until: Mutex::default(),
        };
        (Arc::new(queue), receiver)
    }

    /// Waits for a signature and has it looked at by `verifies`; the thread is given back to the runtime meanwhile.
    pub(crate) fn sign(
        &self,
        leaf_sha256: [u8; 32],
        scheme: SignatureScheme,
        content: &[u8],
        verifies: impl FnOnce(&[u8]) -> bool,
    ) -> Result<Vec<u8>, SignError> {
        let may_wait = Handle::try_current().is_ok_and(|h| h.runtime_flavor() == RuntimeFlavor::MultiThread);
        if !may_wait {
            return Err(SignError::WrongRuntime);
        }
        let waiting = self.waiting_count.fetch_add(1, Ordering::Relaxed);
        let result = match self.places.0.try_acquire() {
            Ok(_place) if waiting < self.most_waiting() => self.ask(leaf_sha256, scheme, content),
            Ok(_) | Err(_) => Err(SignError::Busy { waiting }),
        };
        self.waiting_count.fetch_sub(1, Ordering::Relaxed);
        // The peer would refuse a wrong one and see a broken server; we would have counted a good handshake.
        let result = result
            .and_then(|signature| if verifies(&signature) { Ok(signature) } else { Err(SignError::Wrong) });
        self.note(result.as_ref().err());
        result
    }

    fn note(&self, failure: Option<&SignError>) {
        let doubt = match failure {
            Some(SignError::TimedOut { .. }) => {
                self.silent.store(true, Ordering::Relaxed);
                return;
            }
            Some(SignError::Refused { .. } | SignError::Wrong) => Some(Instant::now() + DOUBT),
            None => None,
            // It was not asked.
            Some(_) => return,
        };
        self.silent.store(false, Ordering::Relaxed);
        *crate::lock(&self.doubted_until) = doubt;
    }

    fn most_waiting(&self) -> usize {
        if self.silent.load(Ordering::Relaxed) { MAX_PROBING } else { MAX_WAITING }
    }

    /// True while the plugin is silent, has too much to do, or made no good signature lately: where another link can sign,
    /// that one is the better choice.
    pub(crate) fn is_suspect(&self) -> bool {
        let doubted = crate::lock(&self.doubted_until).is_some_and(|until| Instant::now() < until);
        doubted
            || self.silent.load(Ordering::Relaxed)
            || self.waiting_count.load(Ordering::Relaxed) >= MAX_WAITING
    }

    fn ask(
        &self,
        leaf_sha256: [u8; 32],
        scheme: SignatureScheme,
        content: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let request_id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let answer = self.expect_answer(request_id)?;
        let request = SignRequest {
            request_id,
            certificate_sha256: leaf_sha256.to_vec(),
            signature_scheme: u32::from(u16::from(scheme)),
            content: content.to_vec(),
        };
        let result = match self.requests.try_send(request) {
            Ok(()) => self.wait(&answer),
            Err(mpsc::error::TrySendError::Full(_)) => Err(SignError::Busy { waiting: MAX_WAITING }),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(SignError::LinkLost),
        };
        crate::lock(&self.waiting).answers.remove(&request_id);
        result
    }

    fn expect_answer(&self, request_id: u64) -> Result<Receiver<Answer>, SignError> {
        let (sender, receiver) = sync_channel(1);
        let mut waiting = crate::lock(&self.waiting);
        if waiting.closed {
            return Err(SignError::LinkLost);
        }
        waiting.answers.insert(request_id, sender);
        Ok(receiver)
    }

    fn wait(&self, answer: &Receiver<Answer>) -> Result<Vec<u8>, SignError> {
        match tokio::task::block_in_place(|| answer.recv_timeout(self.timeout)) {
            Ok(Ok(signature)) => Ok(signature),
            Ok(Err(reason)) => Err(SignError::Refused { reason }),
            Err(RecvTimeoutError::Timeout) => Err(SignError::TimedOut { after: self.timeout }),
            Err(RecvTimeoutError::Disconnected) => Err(SignError::LinkLost),
        }
    }

    /// The plugin's answer; one that comes too late has nobody waiting.
    pub(crate) fn answer(&self, request_id: u64, answer: Answer) {
        if let Some(sender) = crate::lock(&self.waiting).answers.remove(&request_id) {
            // The channel has room for the one answer; a receiver that is gone has timed out.
            let _ = sender.try_send(answer);
        }
    }

    /// The link ended: whoever waits hears so at once.
    pub(crate) fn close(&self) {
        let mut waiting = crate::lock(&self.waiting);
        waiting.closed = true;
        waiting.answers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

    fn queue() -> (Arc<SignQueue>, mpsc::Receiver<SignRequest>) {
        SignQueue::new(Arc::default())
    }

    async fn sign(queue: &Arc<SignQueue>) -> Result<Vec<u8>, SignError> {
        let queue = Arc::clone(queue);
        tokio::spawn(
            async move { queue.sign([7; 32], SCHEME, b"content", |signature| signature != b"wrong") },
        )
        .await
        .unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_silent_plugin_costs_a_handshake_its_timeout_and_leaves_nothing_behind() {
        let (queue, _requests) = SignQueue::with_timeout(Arc::default(), Duration::from_millis(20));
        assert!(matches!(sign(&queue).await, Err(SignError::TimedOut { .. })));
        assert!(crate::lock(&queue.waiting).answers.is_empty());
        assert_eq!(queue.waiting_count.load(Ordering::Relaxed), 0);
        assert!(queue.is_suspect());
    }

    fn waits(queue: &Arc<SignQueue>) -> tokio::task::JoinHandle<Result<Vec<u8>, SignError>> {
        let queue = Arc::clone(queue);
        tokio::spawn(async move { sign(&queue).await })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_silent_plugin_is_only_probed_until_it_answers() {
        let (queue, mut requests) = queue();
        queue.silent.store(true, Ordering::Relaxed);
        let mut probes = Vec::new();
        for _ in 0..MAX_PROBING {
            probes.push(waits(&queue));
            requests.recv().await.unwrap();
        }
        assert_eq!(sign(&queue).await, Err(SignError::Busy { waiting: MAX_PROBING }));
        assert!(queue.is_suspect());
        queue.answer(1, Ok(vec![1]));
        assert_eq!(probes.remove(0).await.unwrap(), Ok(vec![1]));
        assert!(!queue.is_suspect());
        probes.extend([waits(&queue), waits(&queue)]);
        requests.recv().await.unwrap();
        requests.recv().await.unwrap();
        queue.close();
        for probe in probes {
            assert_eq!(probe.await.unwrap(), Err(SignError::LinkLost));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn all_links_together_have_so_many_places() {
        let places = Arc::new(SignPlaces(Semaphore::new(1)));
        let (one, mut requests) = SignQueue::new(Arc::clone(&places));
        let (two, _requests) = SignQueue::new(places);
        let waiting = waits(&one);
        requests.recv().await.unwrap();
        assert_eq!(sign(&two).await, Err(SignError::Busy { waiting: 0 }));
        one.close();
        assert_eq!(waiting.await.unwrap(), Err(SignError::LinkLost));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_link_that_ends_tells_whoever_waits() {
        let (queue, mut requests) = queue();
        let waiting = waits(&queue);
        requests.recv().await.unwrap();
        queue.close();
        assert_eq!(waiting.await.unwrap(), Err(SignError::LinkLost));
        assert_eq!(sign(&queue).await, Err(SignError::LinkLost));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_refusal_carries_the_plugins_reason_and_only_a_good_signature_ends_the_doubt() {
        let (queue, mut requests) = queue();
        let plugin = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move {
                let first = requests.recv().await.unwrap();
                assert_eq!(first.signature_scheme, 0x0403);
                queue.answer(first.request_id, Err("no".into()));
                for signature in [b"wrong".to_vec(), vec![1]] {
                    let next = requests.recv().await.unwrap();
                    queue.answer(next.request_id, Ok(signature));
                }
            }
        });
        assert_eq!(sign(&queue).await, Err(SignError::Refused { reason: "no".into() }));
        assert!(queue.is_suspect());
        assert_eq!(sign(&queue).await, Err(SignError::Wrong));
        assert!(queue.is_suspect());
        assert_eq!(sign(&queue).await, Ok(vec![1]));
        assert!(!queue.is_suspect());
        plugin.await.unwrap();
    }

    #[tokio::test]
    async fn a_single_threaded_runtime_is_refused_rather_than_blocked() {
        let (queue, _requests) = queue();
        assert_eq!(queue.sign([0; 32], SCHEME, b"", |_| true), Err(SignError::WrongRuntime));
    }
}
