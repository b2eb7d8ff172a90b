//! What goes into SPIRE and what does not: offers, removals, relationships, against a Server API that can misbehave.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod foreign_server;
mod held;
mod offers;
mod relationships;
mod removal;
#[path = "../support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::time::Duration;

use entente_bundle::Bundle;
use entente_bundle::testing::TestAuthority;
use entente_proto::link::v1::offer_outcome::Outcome;
use support::endpoint::FakeEndpoint;
use support::plugin::Plugin;
use support::spire::FakeSpire;

/// A plugin that is linked and has a SPIRE Server, with a foreign trust domain.
struct Federated {
    plugin: Plugin,
    folder: PathBuf,
    endpoint: FakeEndpoint,
    spire: FakeSpire,
    foreign: TestAuthority,
}

const FOREIGN: &str = "foreign.test";

fn block(trust_domain: &str, extra: &str) -> String {
    format!(
        "federates_with \"{trust_domain}\" {{ bundle_endpoint_url = \"https://{trust_domain}\" {extra}
           bundle_endpoint_profile \"https_spiffe\" {{ endpoint_spiffe_id = \"spiffe://{trust_domain}/spire/server\" }} }}\n"
    )
}

impl Federated {
    async fn new(blocks: &str) -> Self {
        Self::with_store(blocks, |_| {}).await
    }

    /// `prepare` fills SPIRE's store before the plugin sees it.
    async fn with_store(blocks: &str, prepare: impl FnOnce(&support::spire::Store)) -> Self {
        let plugin = Plugin::publisher().await;
        let folder = plugin.launched.folder.path().to_owned();
        let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
        let spire = FakeSpire::start(&folder.join("api.sock"));
        prepare(&spire.store);
        let new = Self { plugin, folder, endpoint, spire, foreign: TestAuthority::new(FOREIGN) };
        new.configure(blocks).await;
        new.endpoint.wait_relationships(|_| true).await;
        new
    }

    async fn configure(&self, blocks: &str) {
        let folder = self.folder.display();
        let text = format!(
            "endpoint = \"unix://{folder}/link.sock\"\nserver_socket = \"{folder}/api.sock\"\n{blocks}"
        );
        self.plugin.configure(&text).await.unwrap();
    }

    fn bundle(&self, sequence_number: u64) -> Bundle {
        self.foreign.bundle_with(Some(sequence_number), Some(Duration::from_secs(300)))
    }

    async fn offer(&self, bundle: &Bundle) -> (Outcome, String) {
        let outcome = self.endpoint.offer_and_wait(FOREIGN, bundle).await;
        (outcome.outcome(), outcome.reason)
    }
}
