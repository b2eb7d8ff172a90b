//! The authorities of the stand-in: which one signs, which one comes next, which one is past.
//!
//! Two slots per family, as in SPIRE: the current one signs; the other holds the prepared or the old one. The old one has
//! lost its key. Whether an authority is tainted is written in the bundle, not here.

mod slots;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use entente_bundle::TrustDomain;
use entente_proto::spire::api::types as wire;

use self::slots::{JwtKey, Pair, Slots, X509Ca};
pub(crate) use self::slots::{SlotState, Status};
use super::log::Log;
use super::store::{Store, StoreError};
use super::unix_now;

const DAY: u64 = 86_400;

/// Why an authority could not be made, or something signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error("cannot keep authorities: {0}")]
    Io(#[from] std::io::Error),
    #[error("authority file {} is damaged: {source}", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("crypto: {0}")]
    Crypto(#[from] rcgen::Error),
    #[error("there is nothing prepared")]
    NothingPrepared,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What to sign. Everything else is as SPIRE's templates have it.
#[derive(Debug)]
pub(crate) struct SvidRequest<'a> {
    pub(crate) spiffe_id: String,
    /// SubjectPublicKeyInfo, DER.
    pub(crate) public_key: &'a [u8],
    pub(crate) dns_names: Vec<String>,
    pub(crate) lifetime: Duration,
}

/// A signed X509-SVID: the leaf alone, since the authority is self-signed.
#[derive(Clone, Debug)]
pub(crate) struct SignedSvid {
    pub(crate) leaf: Vec<u8>,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    /// Subject key ID of the authority that signed.
    pub(crate) authority_id: String,
}

/// One trust domain's authorities.
#[derive(Debug)]
pub(crate) struct Authorities {
    trust_domain: TrustDomain,
    lifetime: Duration,
    file: PathBuf,
    store: Arc<Store>,
    log: Log,
    slots: Mutex<Slots>,
}

impl Authorities {
    /// Takes up what an earlier run left, or makes the first authorities; the flag says that the bundle grew.
    pub(crate) fn open(
        folder: &Path,
        trust_domain: TrustDomain,
        lifetime: Duration,
        store: Arc<Store>,
        log: &Log,
    ) -> Result<(Self, bool), AuthorityError> {
        let file = folder.join("authorities.json");
        let kept = Slots::load(&file)?;
        let log = log.subsystem("ca_manager");
        let is_new = kept.is_none();
        let slots = match kept {
            Some(slots) => slots,
            None => Slots {
                x509: Pair::first(X509Ca::generate(&trust_domain, lifetime)?),
                jwt: Pair::first(JwtKey::generate(lifetime)?),
            },
        };
        let authorities = Self { trust_domain, lifetime, file, store, log, slots: Mutex::new(slots) };
        let grew = authorities.publish_current()?;
        if is_new {
            authorities.with_slots(|slots| slots.save(&authorities.file))?;
        }
        Ok((authorities, grew))
    }

    fn with_slots<T>(&self, act: impl FnOnce(&mut Slots) -> T) -> T {
        act(&mut self.slots.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// First X.509, then JWT: two appends, so a fresh bundle has sequence number 1, as SPIRE's.
    fn publish_current(&self) -> Result<bool, AuthorityError> {
        let (x509, jwt) =
            self.with_slots(|slots| (slots.x509.current.wire.clone(), slots.jwt.current.wire.clone()));
        let mut store = self.store.lock();
        let held = store.own_bundle().unwrap_or_default();
        let has_x509 = held.x509_authorities.iter().any(|one| one.asn1 == x509.asn1);
        let has_jwt = held.jwt_authorities.iter().any(|one| one.key_id == jwt.key_id);
        if !has_x509 {
            store.append(vec![x509], Vec::new())?;
        }
        if !has_jwt {
            store.append(Vec::new(), vec![jwt])?;
        }
        Ok(!has_x509 || !has_jwt)
    }

    /// Current and other slot.
    pub(crate) fn x509_state(&self) -> (SlotState, Option<SlotState>) {
        self.with_slots(|slots| slots.x509.state())
    }

    /// Current and other slot.
    pub(crate) fn jwt_state(&self) -> (SlotState, Option<SlotState>) {
        self.with_slots(|slots| slots.jwt.state())
    }

    /// Makes the next X.509 authority and puts it into the bundle; it does not sign yet. Replaces a prepared one.
    pub(crate) fn prepare_x509(&self) -> Result<SlotState, AuthorityError> {
        let authority = X509Ca::generate(&self.trust_domain, self.lifetime)?;
        let certificate = wire::X509Certificate { asn1: authority.wire.asn1.clone(), tainted: false };
        self.store.lock().append(vec![certificate], Vec::new())?;
        let state = self.with_slots(|slots| {
            slots.x509.prepare(authority);
            slots.save(&self.file).map(|()| slots.x509.state().1)
        })?;
        self.log_state("X509 CA prepared", state.as_ref());
        state.ok_or(AuthorityError::NothingPrepared)
    }

    /// The prepared X.509 authority signs from now on.
    pub(crate) fn activate_x509(&self) -> Result<SlotState, AuthorityError> {
        let state = self.with_slots(|slots| {
            if !slots.x509.activate() {
                return Err(AuthorityError::NothingPrepared);
            }
            slots.save(&self.file)?;
            Ok(slots.x509.state().0)
        })?;
        self.log_state("X509 CA activated", Some(&state));
        Ok(state)
    }

    /// As [`Self::prepare_x509`].
    pub(crate) fn prepare_jwt(&self) -> Result<SlotState, AuthorityError> {
        let key = JwtKey::generate(self.lifetime)?;
        self.store.lock().append(Vec::new(), vec![key.wire.clone()])?;
        let state = self.with_slots(|slots| {
            slots.jwt.prepare(key);
            slots.save(&self.file).map(|()| slots.jwt.state().1)
        })?;
        self.log_state("JWT key prepared", state.as_ref());
        state.ok_or(AuthorityError::NothingPrepared)
    }

    /// As [`Self::activate_x509`].
    pub(crate) fn activate_jwt(&self) -> Result<SlotState, AuthorityError> {
        let state = self.with_slots(|slots| {
            if !slots.jwt.activate() {
                return Err(AuthorityError::NothingPrepared);
            }
            slots.save(&self.file)?;
            Ok(slots.jwt.state().0)
        })?;
        self.log_state("JWT key activated", Some(&state));
        Ok(state)
    }

    fn log_state(&self, message: &str, state: Option<&SlotState>) {
        if let Some(state) = state {
            let log = self.log.with("local_authority_id", &state.authority_id);
            log.with("expiration", super::rfc3339(state.not_after)).info(message);
        }
    }

    /// True while the authority is tainted or no longer in the bundle.
    pub(crate) fn is_tainted(&self, authority_id: &str) -> bool {
        let held = self.store.lock().own_bundle().unwrap_or_default();
        super::certificate::is_tainted(&held, authority_id)
    }

    /// Signs with the current authority; the SVID ends no later than it does.
    pub(crate) fn sign(&self, request: &SvidRequest<'_>) -> Result<SignedSvid, AuthorityError> {
        self.with_slots(|slots| slots.x509.current.sign(request, SystemTime::now()))
    }

    /// What time demands of both families (federation.md 3.5); says whether the bundle grew.
    pub(crate) fn rotate(&self) -> Result<bool, AuthorityError> {
        let mut grew = false;
        let (current, next) = self.x509_state();
        match due(&current, next.as_ref()) {
            Due::Prepare => grew = self.prepare_x509().map(|_| true)?,
            Due::Activate => drop(self.activate_x509()?),
            Due::Nothing => {}
        }
        let (current, next) = self.jwt_state();
        match due(&current, next.as_ref()) {
            Due::Prepare => grew = self.prepare_jwt().map(|_| true)?,
            Due::Activate => drop(self.activate_jwt()?),
            Due::Nothing => {}
        }
        Ok(grew)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Due {
    Activate,
    Nothing,
    Prepare,
}

fn due(current: &SlotState, next: Option<&SlotState>) -> Due {
    let lifetime = current.not_after.saturating_sub(current.not_before).max(0).unsigned_abs();
    let left = current.not_after.saturating_sub(unix_now()).max(0).unsigned_abs();
    let is_prepared = next.is_some_and(|slot| slot.status == Status::Prepared);
    if !is_prepared && left <= (lifetime / 2).min(30 * DAY) {
        Due::Prepare
    } else if is_prepared && left <= (lifetime / 6).min(7 * DAY) {
        Due::Activate
    } else {
        Due::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::super::log::testing::Lines;
    use super::*;

    fn open(folder: &Path) -> (Authorities, Arc<Store>, bool) {
        let trust_domain = TrustDomain::new("a.test").unwrap();
        let store = Arc::new(Store::open(folder, trust_domain.clone()).unwrap());
        let log = Lines::default().log();
        let lifetime = Duration::from_secs(DAY);
        let (authorities, grew) =
            Authorities::open(folder, trust_domain, lifetime, store.clone(), &log).unwrap();
        (authorities, store, grew)
    }

    fn sequence_number(store: &Store) -> u64 {
        store.lock().own_bundle().unwrap().sequence_number
    }

    #[test]
    fn each_step_of_a_rotation_is_counted_once_and_activation_never() {
        let folder = tempfile::tempdir().unwrap();
        let (authorities, store, grew) = open(folder.path());
        assert!(grew);
        assert_eq!(sequence_number(&store), 1);
        let (first, _) = authorities.x509_state();
        let prepared = authorities.prepare_x509().unwrap();
        assert_eq!((prepared.status, sequence_number(&store)), (Status::Prepared, 2));
        authorities.activate_x509().unwrap();
        let (current, old) = authorities.x509_state();
        assert_eq!((current.authority_id, sequence_number(&store)), (prepared.authority_id, 2));
        assert_eq!(old.unwrap().status, Status::Old);
        assert!(!authorities.is_tainted(&first.authority_id));
        store.lock().taint_x509(&first.authority_id).unwrap();
        assert!(authorities.is_tainted(&first.authority_id));
        store.lock().revoke_x509(&first.authority_id).unwrap();
        assert_eq!(sequence_number(&store), 4);
        assert_eq!(store.lock().own_bundle().unwrap().x509_authorities.len(), 1);
    }

    #[test]
    fn nothing_can_be_activated_twice_or_unprepared() {
        let folder = tempfile::tempdir().unwrap();
        let (authorities, _, _) = open(folder.path());
        assert!(matches!(authorities.activate_x509(), Err(AuthorityError::NothingPrepared)));
        authorities.prepare_jwt().unwrap();
        authorities.activate_jwt().unwrap();
        assert!(matches!(authorities.activate_jwt(), Err(AuthorityError::NothingPrepared)));
    }

    #[test]
    fn a_restart_finds_every_authority_again() {
        let folder = tempfile::tempdir().unwrap();
        let (authorities, store, _) = open(folder.path());
        let prepared = authorities.prepare_x509().unwrap();
        let bundle = store.lock().own_bundle();
        let (again, store, grew) = open(folder.path());
        assert!(!grew);
        assert_eq!(store.lock().own_bundle(), bundle);
        assert_eq!(again.x509_state().1.unwrap(), prepared);
        assert_eq!(again.activate_x509().unwrap().authority_id, prepared.authority_id);
    }

    #[test]
    fn half_of_the_life_prepares_and_a_sixth_activates() {
        let now = unix_now();
        let slot = |left: i64, status| SlotState {
            authority_id: String::new(),
            not_before: now + left - 1200,
            not_after: now + left,
            status,
        };
        let prepared = slot(1200, Status::Prepared);
        assert_eq!(due(&slot(700, Status::Active), None), Due::Nothing);
        assert_eq!(due(&slot(500, Status::Active), None), Due::Prepare);
        assert_eq!(due(&slot(500, Status::Active), Some(&prepared)), Due::Nothing);
        assert_eq!(due(&slot(100, Status::Active), Some(&prepared)), Due::Activate);
    }
}
