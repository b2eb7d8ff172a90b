//! The server's own X509-SVID, `spiffe://TD/spire/server`: renewed at half of its life or when its authority is tainted.

use std::sync::Arc;
use std::time::Duration;

use entente_bundle::tls::{CertificateSlot, certified_key};
use rcgen::{KeyPair, PublicKeyData as _};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::authority::SvidRequest;
use super::core::Core;
use super::{is_half_over, unix_now};

/// How often it is looked at; SPIRE takes 5 s.
const CHECK: Duration = Duration::from_secs(1);

/// One SVID with its key.
pub(crate) struct ServerSvid {
    /// DER.
    pub(crate) leaf: Vec<u8>,
    /// PKCS#8 DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) authority_id: String,
}

impl std::fmt::Debug for ServerSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerSvid").field("authority_id", &self.authority_id).finish_non_exhaustive()
    }
}

/// The newest SVID, for whoever presents or lends it.
#[derive(Debug)]
pub(crate) struct Identity {
    svid: watch::Sender<Option<Arc<ServerSvid>>>,
    /// The same, for TLS.
    pub(crate) slot: Arc<CertificateSlot>,
}

impl Default for Identity {
    fn default() -> Self {
        Self { svid: watch::Sender::new(None), slot: Arc::default() }
    }
}

impl Identity {
    /// `None` before the first one was issued.
    pub(crate) fn current(&self) -> Option<Arc<ServerSvid>> {
        self.svid.borrow().clone()
    }
}

/// Issues a new one at once.
pub(crate) fn renew(core: &Core) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let spiffe_id = core.trust_domain.spire_server_id().to_string();
    let signed = core.authorities.sign(&SvidRequest {
        spiffe_id: spiffe_id.clone(),
        public_key: &key.subject_public_key_info(),
        dns_names: Vec::new(),
        lifetime: core.svid_lifetime(),
    })?;
    let pkcs8 = Zeroizing::new(key.serialize_der());
    let presentable = certified_key(vec![signed.leaf.clone().into()], pkcs8.to_vec())?;
    let log = core.log.subsystem("svid_rotator").with("spiffe_id", spiffe_id);
    log.with("expiration", super::rfc3339(signed.not_after)).debug("Signed X509 SVID");
    core.identity.slot.set(presentable);
    core.identity.svid.send_replace(Some(Arc::new(ServerSvid {
        leaf: signed.leaf,
        key: pkcs8,
        not_before: signed.not_before,
        not_after: signed.not_after,
        authority_id: signed.authority_id,
    })));
    Ok(())
}

/// Keeps it fresh until the server stops.
pub(crate) async fn keep_fresh(core: Arc<Core>) {
    let log = core.log.subsystem("svid_rotator");
    loop {
        tokio::time::sleep(CHECK).await;
        let Some(held) = core.identity.current() else { continue };
        let is_tainted = core.authorities.is_tainted(&held.authority_id);
        if is_tainted {
            log.info("Server SVID signed using a tainted authority, forcing rotation of the Server SVID");
        }
        if (is_tainted || is_half_over(held.not_before, held.not_after, unix_now()))
            && let Err(error) = renew(&core)
        {
            log.error_field(format!("{error:#}")).error("Could not rotate server SVID");
        }
    }
}
