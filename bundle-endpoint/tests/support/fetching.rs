//! An endpoint that fetches, and what its tests ask of it.

use entente_bundle::document;
use entente_bundle::testing::TestAuthority;

use super::endpoint::{Endpoint, KEYLESS};
use super::foreign::{Foreign, Says};
use super::plugin::{FakePlugin, spiffe};

pub const QUICK: &str =
    "[fetch]\nminimum_interval = \"100ms\"\nmaximum_interval = \"200ms\"\nrequest_timeout = \"2s\"\n";
pub const PATIENT: &str = "[fetch]\nrequest_timeout = \"2s\"\n";

/// An endpoint of `a.test` with a linked plugin.
pub async fn linked(fetch: &str) -> (Endpoint, FakePlugin) {
    let endpoint = Endpoint::start(KEYLESS, fetch).await;
    let plugin = FakePlugin::link(&endpoint.link_socket()).await;
    (endpoint, plugin)
}

/// `b.test` is to be fetched from `foreign`, authenticated with the bundle of `authority`.
pub async fn federate(plugin: &FakePlugin, authority: &TestAuthority, foreign: &Foreign) {
    plugin.holds_or_authenticates("b.test", None, Some(&authority.bundle())).await;
    plugin.relationships(vec![spiffe("b.test", &foreign.url())]).await;
}

/// The document of an honest `b.test`.
pub fn good() -> Says {
    Says::Document(document::render(&TestAuthority::new("b.test").bundle()))
}
