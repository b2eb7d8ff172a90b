//! Service TrustDomain against the table of federation.md 5.5.

use entente_proto::spire::api::server::bundle::v1::CountBundlesRequest;
use entente_proto::spire::api::server::trustdomain::v1::*;
use entente_proto::spire::api::types::federation_relationship::BundleEndpointProfile;
use tonic::Code;

use super::*;

pub(super) fn relationship(trust_domain: &str, url: &str, id: &str) -> wire::FederationRelationship {
    let profile = wire::HttpsspiffeProfile { endpoint_spiffe_id: id.to_owned() };
    wire::FederationRelationship {
        trust_domain: trust_domain.to_owned(),
        bundle_endpoint_url: url.to_owned(),
        trust_domain_bundle: None,
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(profile)),
    }
}

pub(super) async fn create(server: &TestServer, row: wire::FederationRelationship) -> wire::Status {
    let request =
        BatchCreateFederationRelationshipRequest { federation_relationships: vec![row], output_mask: None };
    let response = server.relationships().batch_create_federation_relationship(request).await;
    response.unwrap().into_inner().results.into_iter().next().unwrap().status.unwrap()
}

pub(super) async fn refresh(server: &TestServer, name: &str) -> Result<(), tonic::Status> {
    let request = RefreshBundleRequest { trust_domain: name.to_owned() };
    server.relationships().refresh_bundle(request).await.map(drop)
}

fn good() -> wire::FederationRelationship {
    // Nothing listens there: whatever happens, no bundle is fetched.
    relationship("b.test", "https://127.0.0.1:1/", "spiffe://b.test/spire/server")
}

#[tokio::test]
async fn a_relationship_outside_the_rules_is_refused() {
    let server = TestServer::start("a.test").await;
    let mismatched = foreign_bundle("c.test");
    for (row, message) in [
        (
            relationship("a.test", "https://h/", "spiffe://a.test/x"),
            "unable to create federation relationship",
        ),
        (relationship("b.test", "http://h/", "spiffe://b.test/x"), "must use the https scheme"),
        (relationship("b.test", "https:///x", "spiffe://b.test/x"), "must specify the host"),
        (relationship("b.test", "https://u@h/", "spiffe://b.test/x"), "must not contain user info"),
        (relationship("b.test", "https://h/", "b.test"), "failed to parse endpoint SPIFFE ID"),
        (wire::FederationRelationship { bundle_endpoint_profile: None, ..good() }, "unsupported"),
        (wire::FederationRelationship { trust_domain_bundle: Some(mismatched), ..good() }, "must match"),
    ] {
        let refused = create(&server, row).await;
        assert_eq!(refused.code, i32::from(Code::InvalidArgument), "{message}");
        assert!(refused.message.contains(message), "{}", refused.message);
    }
}

#[tokio::test]
async fn what_is_there_already_and_what_is_not_are_both_internal_errors() {
    let server = TestServer::start("a.test").await;
    assert_eq!(create(&server, good()).await.code, 0);
    let twice = create(&server, good()).await;
    assert_eq!(twice.code, i32::from(Code::Internal));
    assert!(twice.message.contains("UNIQUE"), "{}", twice.message);
    let other = wire::FederationRelationship { trust_domain: "c.test".into(), ..good() };
    let request = BatchUpdateFederationRelationshipRequest {
        federation_relationships: vec![other],
        input_mask: None,
        output_mask: None,
    };
    let updated = server.relationships().batch_update_federation_relationship(request).await.unwrap();
    let result = updated.into_inner().results.into_iter().next().unwrap();
    assert_eq!(result.status.unwrap().code, i32::from(Code::Internal));
}

#[tokio::test]
async fn a_bundle_comes_with_the_relationship_and_stays_when_it_goes() {
    let server = TestServer::start("a.test").await;
    let bundle = foreign_bundle("b.test");
    create(&server, wire::FederationRelationship { trust_domain_bundle: Some(bundle.clone()), ..good() })
        .await;
    let request = GetFederationRelationshipRequest { trust_domain: "b.test".into(), output_mask: None };
    let held = server.relationships().get_federation_relationship(request).await.unwrap().into_inner();
    assert_eq!(held.trust_domain_bundle, Some(bundle));
    for expected in [(0, "OK"), (5, "federation relationship not found")] {
        let trust_domains = vec!["spiffe://b.test".into()];
        let request = BatchDeleteFederationRelationshipRequest { trust_domains };
        let deleted = server.relationships().batch_delete_federation_relationship(request).await.unwrap();
        let result = deleted.into_inner().results.into_iter().next().unwrap();
        assert_eq!((code(result.status.as_ref()), result.trust_domain.as_str()), (expected, "b.test"));
    }
    let listed = ListFederationRelationshipsRequest::default();
    let rows = server.relationships().list_federation_relationships(listed).await.unwrap().into_inner();
    assert!(rows.federation_relationships.is_empty());
    let refused = refresh(&server, "b.test").await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::NotFound, "no relationship with trust domain \"b.test\"")
    );
    let count = server.bundles().count_bundles(CountBundlesRequest {}).await.unwrap().into_inner().count;
    assert_eq!(count, 2);
}
