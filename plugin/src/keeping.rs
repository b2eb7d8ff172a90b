//! Whether SPIRE keeps the bundles of trust domains that are declared as assisted.
//!
//! SPIRE lists the relationships that were made through its API. Those of server.conf it lists to nobody, yet it refreshes them. So
//! where none is listed SPIRE is asked for a refresh, and `NotFound` means that nobody fetches that bundle: one that lies there was
//! put there once, grows old, and was confirmed by nobody. Only what SPIRE says counts; a call that gave no answer says nothing.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use entente_bundle::TrustDomain;
use entente_bundle::causes::chain;
use futures_util::FutureExt;
use tokio::sync::{Semaphore, watch};
use tonic::Code;
use tracing::{error, info, warn};

use crate::newcomers::Newcomers;
use crate::relationships::{FederationRelationship, Mode, SpireRelationships};
use crate::server_api::{ApiError, ServerApi};
use crate::state::Shared;

/// Waits between askings until SPIRE says that it keeps it: SPIRE logs an error for each. A relationship that is made through the
/// API is listed, and found without asking; one of server.conf needs a new server, and so a new plugin.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// The same once it has said so: where a policy hides the relationships nothing else tells that one has ended. SPIRE fetches for
/// each, which it does more often by itself.
const STANDING: Duration = Duration::from_secs(900);

/// Most of our questions at a time: for each SPIRE lists all its relationships, one question after the other.
const AT_ONCE: usize = 4;

/// Assisted trust domains whose relationship SPIRE does not list, and what it says of them when it is asked.
#[derive(Clone, Debug)]
pub(crate) struct Keeping {
    unlisted: Arc<watch::Sender<BTreeMap<TrustDomain, Unlisted>>>,
    questions: Arc<Semaphore>,
    newcomers: Arc<Mutex<Newcomers>>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Unlisted {
    /// Another one each time that it is listed no more.
    since: Arc<()>,
    keeper: Keeper,
    is_asking: bool,
    /// When SPIRE is asked next.
    ask_at: Instant,
    /// How long after the next answer that does not say that SPIRE keeps it.
    wait: Duration,
}

/// What SPIRE is to be asked about.
#[derive(Debug)]
struct Question {
    trust_domain: TrustDomain,
    since: Arc<()>,
}

/// Who keeps the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Keeper {
    Nobody,
    /// By a relationship of its configuration file.
    Spire,
    /// SPIRE has not answered yet, or what it answered says nothing.
    Unknown {
        error: Option<String>,
    },
}

/// For people, with the way out.
pub(crate) fn nobody_keeps(trust_domain: &TrustDomain) -> String {
    format!(
        "no relationship in SPIRE names {trust_domain}: nothing keeps or confirms its bundle; {}",
        way_out(trust_domain)
    )
}

fn way_out(trust_domain: &TrustDomain) -> String {
    format!(
        "make one (spire-server federation create -trustDomain {trust_domain} ..., or federates_with in server.conf), or set mode = \"managed\" in the plugin's configuration"
    )
}

/// Asks SPIRE about those that are due. The answers come later: a refresh lasts as long as the foreign endpoint likes.
pub(crate) fn look<'a>(
    shared: &Shared,
    api: &ServerApi,
    relationships: impl IntoIterator<Item = &'a FederationRelationship>,
    spire: &SpireRelationships,
) {
    let assisted = relationships.into_iter().filter(|one| one.mode == Mode::Assisted);
    let unlisted = assisted.map(|one| &one.trust_domain).filter(|name| !spire.contains_key(*name));
    let now = Instant::now();
    shared.keeping.take_listed(spire, now);
    for question in shared.keeping.due(&unlisted.cloned().collect::<Vec<_>>(), now) {
        let (api, trust_domain) = (api.clone(), question.trust_domain.clone());
        let refresh = async move { api.refresh_bundle(&trust_domain).await };
        tokio::spawn(shared.keeping.clone().ask(question, refresh));
    }
}

impl Default for Keeping {
    fn default() -> Self {
        let questions = Arc::new(Semaphore::new(AT_ONCE));
        Self { unlisted: Arc::default(), questions, newcomers: Arc::default() }
    }
}

impl Keeping {
    /// Waits for its turn, and only then for the answer. However it ends, a panic too, there may be another question after it.
    async fn ask(self, question: Question, refresh: impl Future<Output = Result<(), ApiError>>) {
        let asked = AssertUnwindSafe(self.ask_in_turn(&question, refresh)).catch_unwind().await;
        if asked.is_err() {
            let trust_domain = &question.trust_domain;
            error!(%trust_domain, "the question whether spire keeps the bundle panicked and is asked again");
        }
        self.end(&question, Instant::now());
    }

    async fn ask_in_turn(&self, question: &Question, refresh: impl Future<Output = Result<(), ApiError>>) {
        // Cannot fail: nobody closes it.
        let Ok(_turn) = self.questions.acquire().await else { return };
        // Listed meanwhile, or not declared any more; where it came back, it came with a question of its own.
        let is_wanted =
            self.unlisted.borrow().get(&question.trust_domain).is_some_and(|one| question.is_about(one));
        if is_wanted {
            let refreshed = refresh.await;
            self.answered(&question.trust_domain, &refreshed, Instant::now());
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<BTreeMap<TrustDomain, Unlisted>> {
        self.unlisted.subscribe()
    }

    /// Why nothing keeps the bundle of this trust domain, for people.
    pub(crate) fn trouble(&self, trust_domain: &TrustDomain) -> Option<String> {
        match &self.unlisted.borrow().get(trust_domain)?.keeper {
            Keeper::Nobody => Some(nobody_keeps(trust_domain)),
            Keeper::Spire => None,
            Keeper::Unknown { error } => {
                let error = error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
                Some(format!(
                    "SPIRE has not said yet whether a relationship of its own names {trust_domain}, and is asked again{error}"
                ))
            }
        }
    }

    fn take_listed(&self, spire: &SpireRelationships, now: Instant) {
        self.newcomers.lock().unwrap_or_else(PoisonError::into_inner).take(spire.keys(), now);
    }

    /// Takes those that are not listed now; returns those that SPIRE is to be asked about, and counts them as asked.
    fn due(&self, unlisted: &[TrustDomain], now: Instant) -> Vec<Question> {
        let mut due = Vec::new();
        // Nobody waits for these questions, unlike for a change that was offered.
        let may_ask = self.newcomers.lock().unwrap_or_else(PoisonError::into_inner).are_polled(now);
        self.unlisted.send_if_modified(|known| {
            let before = known.len();
            known.retain(|name, one| {
                let stays = unlisted.contains(name);
                if !stays && one.keeper == Keeper::Nobody {
                    info!(trust_domain = %name, "the bundle that nothing kept is kept now, or not wanted any more");
                }
                stays
            });
            let mut is_changed = known.len() != before;
            for name in unlisted {
                let one = known.entry(name.clone()).or_insert_with(|| {
                    is_changed = true;
                    Unlisted::new(now)
                });
                if may_ask && one.begin(now) {
                    due.push(Question { trust_domain: name.clone(), since: Arc::clone(&one.since) });
                }
            }
            is_changed
        });
        due
    }

    /// Takes what SPIRE answered to a refresh, whoever asked for it.
    pub(crate) fn answered(
        &self,
        trust_domain: &TrustDomain,
        refreshed: &Result<(), ApiError>,
        now: Instant,
    ) {
        let keeper = Keeper::of(refreshed);
        self.unlisted.send_if_modified(|known| {
            let Some(one) = known.get_mut(trust_domain) else { return false };
            let was_kept = one.keeper == Keeper::Spire;
            // What SPIRE has said is worth more than a call that failed.
            if one.keeper == keeper || !keeper.is_known() && one.keeper.is_known() {
                return false;
            }
            if was_kept {
                (one.ask_at, one.wait) = (now + FIRST_RETRY, FIRST_RETRY);
            }
            keeper.tell(trust_domain);
            one.keeper = keeper;
            true
        });
    }

    /// Whatever came of a question, the next one may be asked some time.
    fn end(&self, question: &Question, now: Instant) {
        self.unlisted.send_if_modified(|known| {
            if let Some(one) = known.get_mut(&question.trust_domain)
                && question.is_about(one)
            {
                one.end(now);
            }
            false
        });
    }
}

impl Question {
    fn is_about(&self, one: &Unlisted) -> bool {
        Arc::ptr_eq(&self.since, &one.since)
    }
}

impl Unlisted {
    fn new(now: Instant) -> Self {
        let keeper = Keeper::Unknown { error: None };
        Self { since: Arc::default(), keeper, is_asking: false, ask_at: now, wait: FIRST_RETRY }
    }

    /// True where SPIRE is to be asked.
    fn begin(&mut self, now: Instant) -> bool {
        let is_due = !self.is_asking && now >= self.ask_at;
        self.is_asking |= is_due;
        is_due
    }

    /// SPIRE was asked. The wait counts from the end, so that one who takes long to answer has a rest too.
    fn end(&mut self, now: Instant) {
        self.is_asking = false;
        let (wait, next) = match self.keeper {
            Keeper::Spire => (STANDING, FIRST_RETRY),
            Keeper::Nobody | Keeper::Unknown { .. } => (self.wait, (self.wait * 2).min(LONGEST_RETRY)),
        };
        self.ask_at = now + wait;
        self.wait = next;
    }
}

impl Keeper {
    fn of(refreshed: &Result<(), ApiError>) -> Self {
        match refreshed {
            Ok(()) => Self::Spire,
            Err(error) if error.code() == Some(Code::NotFound) => Self::Nobody,
            // The foreign endpoint failed: whoever asked it has a relationship.
            Err(error) if error.is_failed_fetch() => Self::Spire,
            Err(error) => Self::Unknown { error: Some(chain(error)) },
        }
    }

    fn is_known(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }

    fn tell(&self, trust_domain: &TrustDomain) {
        match self {
            Self::Nobody => {
                let way_out = way_out(trust_domain);
                error!(%trust_domain, way_out, "no relationship in spire names this trust domain, so nothing keeps or confirms its bundle");
            }
            Self::Spire => {
                info!(%trust_domain, "spire keeps the bundle by a relationship that it does not list")
            }
            Self::Unknown { error } => {
                warn!(%trust_domain, error, "spire does not say whether it keeps the bundle, and is asked again")
            }
        }
    }
}

#[cfg(test)]
mod tests;
