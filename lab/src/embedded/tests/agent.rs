//! The stand-in agent against the stand-in server: who gets what, and when it changes.

use entente_proto::spire::api::server::entry::v1::{BatchCreateEntryRequest, BatchDeleteEntryRequest};
use entente_proto::spire::api::server::localauthority::v1::*;
use entente_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use entente_proto::workload::*;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status, Streaming};

use super::*;
use crate::embedded::agent;
use crate::embedded::certificate::authority_key_id;
use crate::embedded::config::AgentConfig;

struct TestAgent {
    channel: Channel,
    _stop: tokio_util::sync::DropGuard,
}

impl TestAgent {
    async fn start(server: &TestServer) -> Self {
        let config = AgentConfig {
            trust_domain: server.trust_domain.to_owned(),
            server_socket: server.socket(),
            socket_path: server.folder.path().join("agent.sock"),
            sync_interval_ms: 20,
        };
        let socket = config.socket_path.clone();
        let stop = CancellationToken::new();
        tokio::spawn(agent::run(config, Lines::default().log(), stop.clone()));
        eventually(async || socket.exists().then_some(())).await;
        let channel = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap().connect_lazy();
        Self { channel, _stop: stop.drop_guard() }
    }

    async fn svids(&self) -> Result<Streaming<X509svidResponse>, Status> {
        let request = with_header(X509svidRequest {}, &["true"]);
        Ok(SpiffeWorkloadApiClient::new(self.channel.clone()).fetch_x509svid(request).await?.into_inner())
    }

    async fn refusal(&self) -> Status {
        self.svids().await.unwrap().message().await.unwrap_err()
    }
}

fn with_header<T>(message: T, values: &[&'static str]) -> Request<T> {
    let mut request = Request::new(message);
    for value in values {
        request.metadata_mut().append("workload.spiffe.io", MetadataValue::from_static(value));
    }
    request
}

async fn add(server: &TestServer, entry: wire::Entry) -> String {
    let request = BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
    let response = server.entries().batch_create_entry(request).await.unwrap().into_inner();
    response.results[0].entry.clone().unwrap().id
}

/// Messages until one fits.
async fn until(
    stream: &mut Streaming<X509svidResponse>,
    fits: impl Fn(&X509svidResponse) -> bool,
) -> X509svidResponse {
    let reading = async {
        loop {
            let message = stream.message().await.unwrap().unwrap();
            if fits(&message) {
                return message;
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.expect("no such message")
}

#[tokio::test]
async fn a_call_without_exactly_the_security_header_is_refused() {
    let server = TestServer::start("a.test").await;
    let agent = TestAgent::start(&server).await;
    for values in [&[][..], &["True"][..], &["true", "true"][..]] {
        let mut client = SpiffeWorkloadApiClient::new(agent.channel.clone());
        let refused = client.fetch_x509svid(with_header(X509svidRequest {}, values)).await.unwrap_err();
        let expected = (Code::InvalidArgument, "security header missing from request");
        assert_eq!((refused.code(), refused.message()), expected, "{values:?}");
    }
}

#[tokio::test]
async fn a_caller_without_an_entry_gets_no_identity() {
    let server = TestServer::start("a.test").await;
    let selectors = vec![wire::Selector { r#type: "unix".into(), value: "uid:4242".into() }];
    add(&server, wire::Entry { selectors, ..entry("a.test", "/other", &[]) }).await;
    let agent = TestAgent::start(&server).await;
    let refused = agent.refusal().await;
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "no identity issued"));
}

#[tokio::test]
async fn an_identity_comes_with_the_bundles_that_its_entry_names() {
    let server = TestServer::start("a.test").await;
    let (named, other) = (foreign_bundle("b.test"), foreign_bundle("c.test"));
    server.set_bundle(named.clone()).await;
    server.set_bundle(other).await;
    add(&server, entry("a.test", "/web", &["b.test"])).await;
    let agent = TestAgent::start(&server).await;
    let message = agent.svids().await.unwrap().message().await.unwrap().unwrap();
    assert_eq!(message.svids[0].spiffe_id, "spiffe://a.test/web");
    let own = server.own_bundle().await;
    assert_eq!(message.svids[0].bundle, own.x509_authorities[0].asn1);
    let federated: Vec<_> = message.federated_bundles.into_iter().collect();
    assert_eq!(federated, [("spiffe://b.test".to_owned(), named.x509_authorities[0].asn1.clone())]);
    let mut client = SpiffeWorkloadApiClient::new(agent.channel.clone());
    let request = with_header(X509BundlesRequest {}, &["true"]);
    let bundles =
        client.fetch_x509_bundles(request).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(bundles.bundles.len(), 2);
    let request = with_header(JwtsvidRequest { audience: vec!["x".into()], ..Default::default() }, &["true"]);
    assert_eq!(client.fetch_jwtsvid(request).await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn every_change_is_pushed_and_a_deleted_entry_ends_the_stream() {
    let server = TestServer::start("a.test").await;
    server.set_bundle(foreign_bundle("b.test")).await;
    let id = add(&server, entry("a.test", "/web", &["b.test"])).await;
    let agent = TestAgent::start(&server).await;
    let mut stream = agent.svids().await.unwrap();
    let first = stream.message().await.unwrap().unwrap();
    let newer = foreign_bundle("b.test");
    server.set_bundle(newer.clone()).await;
    let wanted = &newer.x509_authorities[0].asn1;
    let second = until(&mut stream, |message| message.federated_bundles["spiffe://b.test"] == *wanted).await;
    assert_eq!(first.svids, second.svids);
    server.entries().batch_delete_entry(BatchDeleteEntryRequest { ids: vec![id] }).await.unwrap();
    assert_eq!(stream.message().await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_tainted_authority_has_every_svid_renewed_by_the_new_one() {
    let server = TestServer::start("a.test").await;
    add(&server, entry("a.test", "/web", &[])).await;
    let agent = TestAgent::start(&server).await;
    let mut stream = agent.svids().await.unwrap();
    let first = stream.message().await.unwrap().unwrap();
    let old = authority_key_id(&first.svids[0].x509_svid).unwrap();
    let mut authorities = server.authorities();
    let prepared = authorities.prepare_x509_authority(PrepareX509AuthorityRequest {}).await.unwrap();
    let new = prepared.into_inner().prepared_authority.unwrap().authority_id;
    let request = ActivateX509AuthorityRequest { authority_id: new.clone() };
    authorities.activate_x509_authority(request).await.unwrap();
    authorities.taint_x509_authority(TaintX509AuthorityRequest { authority_id: old.clone() }).await.unwrap();
    let signed_by = |message: &X509svidResponse| authority_key_id(&message.svids[0].x509_svid).unwrap();
    let renewed = until(&mut stream, |message| signed_by(message) == new).await;
    assert_ne!(renewed.svids[0].x509_svid_key, first.svids[0].x509_svid_key);
    authorities.revoke_x509_authority(RevokeX509AuthorityRequest { authority_id: old }).await.unwrap();
    let own = server.own_bundle().await.x509_authorities[0].asn1.clone();
    until(&mut stream, |message| message.svids[0].bundle == own).await;
}

#[tokio::test]
async fn an_agent_whose_server_is_away_serves_on_and_comes_back() {
    let server = TestServer::start("a.test").await;
    add(&server, entry("a.test", "/web", &[])).await;
    let agent = TestAgent::start(&server).await;
    let mut stream = agent.svids().await.unwrap();
    let first = stream.message().await.unwrap().unwrap();
    let folder = server.kill().await;
    let again = agent.svids().await.unwrap().message().await.unwrap().unwrap();
    assert_eq!(again, first);
    let server = TestServer::start_in(folder, "a.test").await;
    add(&server, wire::Entry { hint: "second".into(), ..entry("a.test", "/two", &[]) }).await;
    let both = until(&mut stream, |message| message.svids.len() == 2).await;
    assert_eq!(both.svids[0], first.svids[0]);
}
