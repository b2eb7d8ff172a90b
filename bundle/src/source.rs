//! Where verifiers find the bundle of a trust domain, as held at this moment.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{Bundle, TrustDomain};

/// Asked at each verification, so that the newest held bundle decides. Bundles of different trust domains are never pooled.
pub trait BundleSource: fmt::Debug + Send + Sync {
    /// The held bundle of `trust_domain`, if any.
    fn bundle_for(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>>;
}

/// A set of bundles that is swapped as a whole; reading never blocks.
#[derive(Debug, Default)]
pub struct BundleSet(ArcSwap<BTreeMap<TrustDomain, Arc<Bundle>>>);

impl BundleSet {
    /// Replaces everything.
    pub fn replace(&self, bundles: BTreeMap<TrustDomain, Arc<Bundle>>) {
        self.0.store(Arc::new(bundles));
    }
    /// The current whole.
    pub fn snapshot(&self) -> Arc<BTreeMap<TrustDomain, Arc<Bundle>>> {
        self.0.load_full()
    }
}

impl FromIterator<Bundle> for BundleSet {
    fn from_iter<I: IntoIterator<Item = Bundle>>(bundles: I) -> Self {
        let set = Self::default();
        set.replace(bundles.into_iter().map(|b| (b.trust_domain().clone(), Arc::new(b))).collect());
        set
    }
}

impl BundleSource for BundleSet {
    fn bundle_for(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.0.load().get(trust_domain).cloned()
    }
}

/// One bundle, answering for its own trust domain only.
impl BundleSource for Bundle {
    fn bundle_for(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        (self.trust_domain() == trust_domain).then(|| Arc::new(self.clone()))
    }
}
