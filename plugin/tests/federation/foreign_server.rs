//! `server_socket` leads to the server of another trust domain: nothing is written there, and nothing removed.

use entente_proto::link::v1::offer_outcome::Outcome;

use super::{FOREIGN, Federated, block};

const OTHER: &str = "other.test";

#[tokio::test]
async fn the_server_of_another_trust_domain_loses_nothing_and_is_named() {
    let settings = format!("undeclared_bundles = \"remove\"\n{}", block(FOREIGN, ""));
    let federated = Federated::with_store(&settings, |_| ()).await;
    let foreign = federated.bundle(1);
    federated.spire.store.open().serves = Some(OTHER.into());
    // What that server holds is not ours to judge.
    federated.spire.store.put(&entente_bundle::testing::TestAuthority::new("theirs.test").bundle());
    let state = federated.endpoint.wait_server_api(|state| !state.trouble.is_empty()).await;
    assert!(state.trouble.contains("server of trust domain \"other.test\", not of"), "{state:?}");
    let (outcome, reason) = federated.offer(&foreign).await;
    assert_eq!(outcome, Outcome::Failed);
    assert!(reason.contains("other.test"), "{reason}");
    {
        let state = federated.spire.store.open();
        assert!(state.sets.is_empty() && state.deletes.is_empty(), "{:?} {:?}", state.sets, state.deletes);
        assert_eq!(state.bundles.len(), 1);
    }

    federated.spire.store.open().serves = None;
    federated.endpoint.wait_server_api(|state| state.trouble.is_empty()).await;
    assert_eq!(federated.offer(&foreign).await.0, Outcome::Set);
}
