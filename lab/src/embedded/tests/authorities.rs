//! LocalAuthority, MintX509SVID and the server's own SVID.

use entente_proto::spire::api::server::debug::v1::GetInfoRequest;
use entente_proto::spire::api::server::debug::v1::debug_client::DebugClient;
use entente_proto::spire::api::server::localauthority::v1::*;
use entente_proto::spire::api::server::svid::v1::MintX509svidRequest;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use tonic::{Code, Status};

use super::*;
use crate::embedded::certificate::{authority_key_id, validity};

async fn state(server: &TestServer) -> GetX509AuthorityStateResponse {
    let request = GetX509AuthorityStateRequest {};
    server.authorities().get_x509_authority_state(request).await.unwrap().into_inner()
}

async fn prepare(server: &TestServer) -> String {
    let request = PrepareX509AuthorityRequest {};
    let prepared = server.authorities().prepare_x509_authority(request).await.unwrap().into_inner();
    prepared.prepared_authority.unwrap().authority_id
}

async fn activate(server: &TestServer, authority_id: &str) -> Result<(), Status> {
    let request = ActivateX509AuthorityRequest { authority_id: authority_id.to_owned() };
    server.authorities().activate_x509_authority(request).await.map(drop)
}

async fn taint(server: &TestServer, authority_id: &str) -> Result<(), Status> {
    let request = TaintX509AuthorityRequest { authority_id: authority_id.to_owned() };
    server.authorities().taint_x509_authority(request).await.map(drop)
}

async fn revoke(server: &TestServer, authority_id: &str) -> Result<(), Status> {
    let request = RevokeX509AuthorityRequest { authority_id: authority_id.to_owned() };
    server.authorities().revoke_x509_authority(request).await.map(drop)
}

fn csr(uris: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

async fn mint(server: &TestServer, csr: Vec<u8>) -> Result<wire::X509svid, Status> {
    let response = server.svids().mint_x509svid(MintX509svidRequest { csr, ttl: 0 }).await?;
    Ok(response.into_inner().svid.unwrap())
}

#[tokio::test]
async fn each_step_of_a_rotation_is_refused_out_of_turn() {
    let server = TestServer::start("a.test").await;
    let active = state(&server).await.active.unwrap().authority_id;
    for id in ["", "nobody"] {
        for outcome in [activate(&server, id).await, taint(&server, id).await, revoke(&server, id).await] {
            assert_eq!(outcome.unwrap_err().code(), Code::InvalidArgument, "{id:?}");
        }
    }
    let refused = taint(&server, &active).await.unwrap_err();
    assert_eq!(refused.message(), "unable to taint current local authority");
    let prepared = prepare(&server).await;
    let refused = taint(&server, &prepared).await.unwrap_err();
    assert!(refused.message().starts_with("only Old local authorities can be tainted"));
    activate(&server, &prepared).await.unwrap();
    let refused = activate(&server, &active).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    let refused = revoke(&server, &active).await.unwrap_err();
    let untainted = "failed to revoke X.509 authority: it is not possible to revoke an untainted root CA";
    assert_eq!(refused.message(), untainted);
    taint(&server, &active).await.unwrap();
    assert!(taint(&server, &active).await.unwrap_err().message().ends_with("root CA is already tainted"));
}

#[tokio::test]
async fn a_rotation_is_counted_by_the_bundle_and_followed_by_the_servers_own_svid() {
    let server = TestServer::start("a.test").await;
    let old = state(&server).await.active.unwrap().authority_id;
    let prepared = prepare(&server).await;
    assert_eq!(state(&server).await.prepared.unwrap().authority_id, prepared);
    activate(&server, &prepared).await.unwrap();
    taint(&server, &old).await.unwrap();
    let bundle = server.own_bundle().await;
    assert_eq!(bundle.sequence_number, 3);
    assert!(bundle.x509_authorities[0].tainted && !bundle.x509_authorities[1].tainted);
    revoke(&server, &old).await.unwrap();
    let after = state(&server).await;
    assert_eq!(after.active.unwrap().authority_id, prepared);
    assert_eq!(server.own_bundle().await.x509_authorities.len(), 1);
    let text = "forcing rotation of the Server SVID";
    eventually(async || server.log().contains(text).then_some(())).await;
}

#[tokio::test]
async fn jwt_authorities_live_the_same_life() {
    let server = TestServer::start("a.test").await;
    let mut client = server.authorities();
    let first = server.own_bundle().await.jwt_authorities[0].key_id.clone();
    let prepared = client.prepare_jwt_authority(PrepareJwtAuthorityRequest {}).await.unwrap().into_inner();
    let authority_id = prepared.prepared_authority.unwrap().authority_id;
    let request = RevokeJwtAuthorityRequest { authority_id: authority_id.clone() };
    let refused = client.revoke_jwt_authority(request).await.unwrap_err();
    assert_eq!(refused.message(), "invalid authority ID: unable to use a prepared key");
    client
        .activate_jwt_authority(ActivateJwtAuthorityRequest { authority_id: authority_id.clone() })
        .await
        .unwrap();
    let request = RevokeJwtAuthorityRequest { authority_id: first.clone() };
    let refused = client.revoke_jwt_authority(request.clone()).await.unwrap_err();
    assert!(refused.message().ends_with("it is not possible to revoke an untainted key"));
    client.taint_jwt_authority(TaintJwtAuthorityRequest { authority_id: first }).await.unwrap();
    client.revoke_jwt_authority(request).await.unwrap();
    let keys: Vec<_> = server.own_bundle().await.jwt_authorities.into_iter().map(|key| key.key_id).collect();
    assert_eq!(keys, [authority_id]);
}

#[tokio::test]
async fn a_signing_request_outside_the_rules_is_refused() {
    let server = TestServer::start("a.test").await;
    let mut forged = csr(&["spiffe://a.test/web"]);
    *forged.last_mut().unwrap() ^= 1;
    for (csr, message) in [
        (Vec::new(), "missing CSR"),
        (b"garbage".to_vec(), "malformed CSR"),
        (forged, "failed to verify CSR signature"),
        (csr(&[]), "CSR URI SAN is required"),
        (csr(&["spiffe://a.test/1", "spiffe://a.test/2"]), "only one URI SAN is expected"),
        (csr(&["https://a.test/web"]), "CSR URI SAN is invalid"),
        (csr(&["spiffe://b.test/web"]), "CSR URI SAN is invalid"),
        (csr(&["spiffe://a.test"]), "CSR URI SAN is invalid"),
        (csr(&["spiffe://a.test/spire/server"]), "CSR URI SAN is invalid"),
    ] {
        let refused = mint(&server, csr).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{message}");
        assert!(refused.message().starts_with(message), "{}", refused.message());
    }
}

#[tokio::test]
async fn a_minted_svid_verifies_against_the_own_bundle_and_ends_with_its_authority() {
    use entente_bundle::{Authorizer, SpiffeId, svid};
    use entente_proto::convert::BundleMessage;
    let server = TestServer::start("a.test").await;
    let active = state(&server).await.active.unwrap();
    let minted = mint(&server, csr(&["spiffe://a.test/web"])).await.unwrap();
    let leaf = minted.cert_chain[0].clone();
    assert_eq!(authority_key_id(&leaf), Some(active.authority_id));
    let (start, end) = validity(&leaf).unwrap();
    assert_eq!((minted.expires_at, end - start), (end, 3_610));
    let bundle = BundleMessage::from(&server.own_bundle().await).into_bundle().unwrap();
    let id = SpiffeId::new("spiffe://a.test/web").unwrap();
    let exact = Authorizer::exact(id.clone());
    let now = entente_bundle::testing::now();
    assert_eq!(svid::verify(&leaf.into(), &[], &bundle, &exact, now), Ok(id));
    let ttl = i32::MAX;
    let request = MintX509svidRequest { csr: csr(&["spiffe://a.test/web"]), ttl };
    let long = server.svids().mint_x509svid(request).await.unwrap().into_inner().svid.unwrap();
    assert_eq!(long.expires_at, active.expires_at);
}

#[tokio::test]
async fn info_shows_the_servers_own_svid() {
    let server = TestServer::start("a.test").await;
    let info =
        DebugClient::new(server.channel.clone()).get_info(GetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.svid_chain[0].id, id_of("a.test", "/spire/server"));
    assert_eq!((info.federated_bundles_count, info.entries_count), (1, 0));
}
