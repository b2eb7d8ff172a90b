//! What SPIRE holds, and what authenticates an endpoint beside it.

use entente_bundle::testing::TestAuthority;
use entente_bundle::{Bundle, TrustDomain};
use entente_proto::link::v1::plugin_message::Message as FromPlugin;

use super::support::endpoint::FakeEndpoint;
use super::{FOREIGN, Federated, block};

#[tokio::test]
async fn what_others_put_into_spire_is_seen_and_reported() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    federated.spire.store.put(&federated.bundle(8));
    let reported = federated.endpoint.wait_held(FOREIGN, |held| held.bundle.is_some()).await;
    assert_eq!(reported.bundle.unwrap().sequence_number, Some(8));
}

#[tokio::test]
async fn more_bundles_than_a_page_holds_are_all_seen() {
    let names: Vec<_> = (0..450).map(|number| format!("td{number:03}.test")).collect();
    let authority = TestAuthority::new("shared.test").x509_authority();
    let federated = Federated::with_store(&block("td449.test", ""), |store| {
        for name in &names {
            let name = TrustDomain::new(name).unwrap();
            store.put(&Bundle::new(name, vec![authority.clone()], Vec::new(), Some(1), None));
        }
    })
    .await;
    federated.endpoint.wait_held("td449.test", |held| held.bundle.is_some()).await;
}

#[tokio::test]
async fn the_bootstrap_bundle_is_lent_until_spire_holds_one() {
    let federated = Federated::new("").await;
    let path = federated.folder.join("bootstrap.json");
    federated.configure(&block(FOREIGN, &format!("bootstrap_bundle = {path:?}"))).await;
    let held = federated.endpoint.wait_held(FOREIGN, |_| true).await;
    assert_eq!((held.bundle, held.authentication_bundle), (None, None));
    let line = federated.plugin.launched.logs.wait_for("bootstrap bundle cannot be used").await;
    assert!(line["error"].as_str().unwrap().contains("bootstrap.json"));
    std::fs::write(&path, entente_bundle::document::render(&federated.bundle(1))).unwrap();
    let held = federated.endpoint.wait_held(FOREIGN, |held| held.authentication_bundle.is_some()).await;
    assert_eq!(held.authentication_file, path.display().to_string());
    assert_eq!(held.bundle, None, "it authenticates the endpoint and is never set");
    assert!(federated.spire.store.bundle(FOREIGN).is_none());
    federated.offer(&federated.bundle(1)).await;
    let held = federated.endpoint.wait_held(FOREIGN, |held| held.bundle.is_some()).await;
    assert_eq!((held.authentication_bundle, held.authentication_file.as_str()), (None, ""));
}

#[tokio::test]
async fn a_bootstrap_bundle_that_cannot_be_used_is_told_to_the_endpoint_until_it_can() {
    let federated = Federated::new("").await;
    let path = federated.folder.join("bootstrap.json");
    std::fs::write(&path, "{").unwrap();
    federated.configure(&block(FOREIGN, &format!("bootstrap_bundle = {path:?}"))).await;
    let expected =
        format!("bootstrap_bundle of {FOREIGN} cannot be used: {} is no SPIFFE bundle", path.display());
    let told = |text: &str| text.starts_with(&expected);
    federated.endpoint.wait_held(FOREIGN, |held| told(&held.authentication_trouble)).await;
    std::fs::write(&path, entente_bundle::document::render(&federated.bundle(1))).unwrap();
    let held = federated.endpoint.wait_held(FOREIGN, |held| held.authentication_bundle.is_some()).await;
    assert_eq!(held.authentication_trouble, "");
}

#[tokio::test]
async fn a_bootstrap_bundle_that_is_gone_is_nobodys_trouble_once_spire_holds_the_bundle() {
    let foreign = TestAuthority::new(FOREIGN).bundle();
    let text = block(FOREIGN, "bootstrap_bundle = \"/nowhere/bootstrap.json\"");
    let federated = Federated::with_store(&text, |store| store.put(&foreign)).await;
    let first = federated.endpoint.wait_held(FOREIGN, |_| true).await;
    assert!(first.bundle.is_some());
    assert_eq!(first.authentication_trouble, "");
    let logs = federated.plugin.launched.logs.clone();
    federated.plugin.stop().await;
    assert!(logs.with_message("bootstrap bundle cannot be used").is_empty());
}

#[tokio::test]
async fn the_first_word_on_a_bundle_that_spire_does_not_hold_comes_with_the_bootstrap_bundle() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let foreign = TestAuthority::new(FOREIGN).bundle();
    std::fs::write(file.path(), entente_bundle::document::render(&foreign)).unwrap();
    let text = block(FOREIGN, &format!("bootstrap_bundle = {:?}", file.path()));
    let federated = Federated::new(&text).await;
    federated.endpoint.wait_held(FOREIGN, |_| true).await;
    let first = federated.endpoint.received().into_iter().find_map(|message| match message {
        FromPlugin::HeldBundle(held) => Some(held),
        _ => None,
    });
    assert!(first.unwrap().authentication_bundle.is_some());
}

#[tokio::test]
async fn a_bootstrap_bundle_may_be_pem() {
    let federated = Federated::new("").await;
    let path = federated.folder.join("bootstrap.pem");
    // The certificate alone: the key has no business there.
    let pem = federated.foreign.to_pem();
    let start = pem.find("-----BEGIN CERTIFICATE").unwrap();
    std::fs::write(&path, &pem[start..]).unwrap();
    federated.configure(&block(FOREIGN, &format!("bootstrap_bundle = {path:?}"))).await;
    let held = federated.endpoint.wait_held(FOREIGN, |held| held.authentication_bundle.is_some()).await;
    let bundle = held.authentication_bundle.unwrap();
    assert_eq!(bundle.x509_authorities[0].certificate, federated.foreign.certificate().as_ref());
}

#[tokio::test]
async fn the_bundle_of_a_foreign_endpoint_id_is_held_too() {
    let text = "federates_with \"a.test\" { bundle_endpoint_url = \"https://a.test\"
        bundle_endpoint_profile \"https_spiffe\" { endpoint_spiffe_id = \"spiffe://foreign.test/bundles\" } }";
    let foreign = TestAuthority::new(FOREIGN);
    let federated = Federated::with_store(text, |store| store.put(&foreign.bundle())).await;
    let held = federated.endpoint.wait_held(FOREIGN, |held| held.bundle.is_some()).await;
    assert_eq!(held.bundle.unwrap().x509_authorities[0].certificate, foreign.certificate().as_ref());
    let logs = &federated.plugin.launched.logs;
    assert!(
        logs.with_message("spire holds a federated bundle that no relationship names; it is kept").is_empty()
    );
}

#[tokio::test]
async fn what_is_remembered_of_spire_comes_after_the_word_that_it_cannot_be_seen() {
    let foreign = TestAuthority::new(FOREIGN).bundle();
    let federated = Federated::with_store(&block(FOREIGN, ""), |store| store.put(&foreign)).await;
    let Federated { endpoint, spire, folder, plugin: _plugin, .. } = federated;
    let position =
        |endpoint: &FakeEndpoint, is: fn(&FromPlugin) -> bool| endpoint.received().iter().position(is);
    let held = |message: &FromPlugin| matches!(message, FromPlugin::HeldBundle(_));
    let sees = |message: &FromPlugin| matches!(message, FromPlugin::ServerApi(api) if api.trouble.is_empty());
    let is_blind =
        |message: &FromPlugin| matches!(message, FromPlugin::ServerApi(api) if !api.trouble.is_empty());
    endpoint.wait_server_api(|api| api.trouble.is_empty()).await;
    assert!(position(&endpoint, held).unwrap() < position(&endpoint, sees).unwrap());

    spire.stop().await;
    endpoint.wait_server_api(|api| !api.trouble.is_empty()).await;
    endpoint.stop().await;
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    endpoint.wait_held(FOREIGN, |held| held.bundle.is_some()).await;
    assert!(position(&endpoint, is_blind).unwrap() < position(&endpoint, held).unwrap());
    assert_eq!(position(&endpoint, sees), None);
}
