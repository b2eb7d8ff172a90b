//! The document that is served: rendered once per change of the own bundle, the same bytes for everybody.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use entente_bundle::refresh::RefreshPolicy;
use entente_bundle::text::hex;
use entente_bundle::{Bundle, document};
use http::HeaderValue;
use hyper::body::Bytes;
use tokio::sync::watch;
use tracing::info;

/// No cache may hold a document for longer, however high the hint: a cache in between delays revocation.
const LONGEST_CACHE: Duration = Duration::from_secs(300);

/// One rendered document.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) body: Bytes,
    /// Strong, over the canonical bundle.
    pub(crate) etag: HeaderValue,
    pub(crate) cache_control: HeaderValue,
    pub(crate) since: SystemTime,
}

/// `None` before the first bundle.
pub(crate) type PublishedWatch = watch::Receiver<Option<Arc<Published>>>;

impl Published {
    pub(crate) fn new(bundle: Arc<Bundle>, since: SystemTime) -> Self {
        let body = document::render(&bundle).into();
        let etag = format!("\"{}\"", hex(&bundle.digest()));
        // So often do consumers ask, ours and SPIRE's: a cache delays nothing by more than one of their polls.
        let usual = RefreshPolicy::default();
        let poll = bundle.refresh_hint().unwrap_or(usual.default_hint) / usual.divisor;
        let seconds = poll.min(LONGEST_CACHE).as_secs().max(1);
        let cache_control = format!("public, max-age={seconds}, must-revalidate");
        Self { body, etag: header(&etag), cache_control: header(&cache_control), since, bundle }
    }

    /// The same document of a bundle that differs in nothing that is served.
    fn with_bundle(&self, bundle: Arc<Bundle>) -> Self {
        let Self { body, etag, cache_control, since, .. } = self;
        Self {
            bundle,
            body: body.clone(),
            etag: etag.clone(),
            cache_control: cache_control.clone(),
            since: *since,
        }
    }

    /// True when `If-None-Match` names this document (RFC 9110 13.1.2: weak comparison).
    pub(crate) fn matches(&self, if_none_match: &HeaderValue) -> bool {
        let Ok(given) = if_none_match.to_str() else {
            return false;
        };
        let ours = self.etag.as_bytes();
        given
            .split(',')
            .map(str::trim)
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == ours)
    }
}

/// Renders whenever the own bundle changes, until its sender is gone.
pub(crate) async fn publish(
    mut own_bundle: watch::Receiver<Option<Arc<Bundle>>>,
    published: watch::Sender<Option<Arc<Published>>>,
) {
    loop {
        let bundle = own_bundle.borrow_and_update().clone();
        if let Some(bundle) = bundle {
            publish_one(bundle, &published);
        }
        if own_bundle.changed().await.is_err() {
            return;
        }
    }
}

fn publish_one(bundle: Arc<Bundle>, published: &watch::Sender<Option<Arc<Published>>>) {
    let before = published.borrow().clone();
    if let Some(before) = before.filter(|before| before.bundle.digest() == bundle.digest()) {
        // Only what cannot be served changed, taints and ends of JWT authorities: the same bytes, for the status page.
        published.send_replace(Some(Arc::new(before.with_bundle(bundle))));
        return;
    }
    let document = Published::new(bundle, SystemTime::now());
    info!(
        trust_domain = %document.bundle.trust_domain(),
        sequence_number = document.bundle.sequence_number(),
        x509_authorities = document.bundle.x509_authorities().len(),
        jwt_authorities = document.bundle.jwt_authorities().len(),
        "bundle published"
    );
    published.send_replace(Some(Arc::new(document)));
}

fn header(text: &str) -> HeaderValue {
    // Cannot fail: hexadecimal digits, quotes and words of our own.
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use entente_bundle::testing::TestAuthority;
    use entente_bundle::{TrustDomain, X509Authority};

    use super::*;

    fn published(sequence_number: u64, hint: Option<u64>) -> Published {
        let hint = hint.map(Duration::from_secs);
        let domain = TrustDomain::new("a.test").unwrap();
        let bundle = Bundle::new(domain, vec![], vec![], Some(sequence_number), hint);
        Published::new(Arc::new(bundle), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn the_tag_changes_with_the_bundle() {
        assert_eq!(published(1, None).etag, published(1, None).etag);
        assert_ne!(published(1, None).etag, published(2, None).etag);
        assert_eq!(published(1, None).etag.len(), 66);
    }

    #[test]
    fn a_taint_changes_what_is_known_and_not_what_is_served() {
        let authority = TestAuthority::new("a.test");
        let bundle = |tainted| {
            let authority = X509Authority::from_der(authority.certificate(), tainted).unwrap();
            let domain = TrustDomain::new("a.test").unwrap();
            Arc::new(Bundle::new(domain, vec![authority], vec![], Some(1), None))
        };
        let (sender, receiver) = watch::channel(None);
        publish_one(bundle(false), &sender);
        let before = receiver.borrow().clone().unwrap();
        publish_one(bundle(true), &sender);
        let after = receiver.borrow().clone().unwrap();
        assert_eq!((&after.body, &after.etag, after.since), (&before.body, &before.etag, before.since));
        assert!(after.bundle.x509_authorities()[0].is_tainted());
    }

    #[test]
    fn a_cache_holds_it_for_a_quarter_of_the_hint_and_never_long() {
        let age = |hint| published(1, hint).cache_control;
        assert_eq!(age(Some(60)), "public, max-age=15, must-revalidate");
        assert_eq!(age(Some(1)), "public, max-age=1, must-revalidate");
        assert_eq!(age(None), "public, max-age=75, must-revalidate");
        assert_eq!(age(Some(86_400)), "public, max-age=300, must-revalidate");
    }

    #[test]
    fn a_known_tag_matches_in_every_form() {
        let published = published(1, None);
        let tag = published.etag.to_str().unwrap().to_owned();
        let matches = |value: &str| published.matches(&HeaderValue::from_str(value).unwrap());
        assert!(
            matches(&tag)
                && matches(&format!("W/{tag}"))
                && matches(&format!("\"x\", {tag}"))
                && matches("*")
        );
        assert!(!matches("\"x\"") && !matches(tag.trim_matches('"')));
    }
}
