use std::io;
use std::sync::Arc;

use super::*;
use crate::testing::{KeyKind, SvidBuilder, TestAuthority, TestSvid, from_now, now};
use crate::{BundleSet, X509Authority};

fn id(uri: &str) -> SpiffeId {
    SpiffeId::new(uri).unwrap()
}

fn check(svid: &TestSvid, bundles: &dyn BundleSource) -> Result<SpiffeId, SvidError> {
    verify(svid.leaf(), svid.intermediates(), bundles, &Authorizer::AnyInBundles, now())
}

fn refusal(svid: &TestSvid, bundles: &dyn BundleSource) -> SvidError {
    check(svid, bundles).unwrap_err()
}

// What one made-up fault leads to.
fn refusal_of(fault: impl FnOnce(SvidBuilder<'_>) -> SvidBuilder<'_>) -> &'static str {
    let authority = TestAuthority::new("a.test");
    let svid = fault(authority.svid("/web")).build();
    refusal(&svid, &authority.bundle()).reason()
}

#[test]
fn each_broken_leaf_rule_has_its_own_refusal() {
    assert_eq!(refusal_of(|svid| svid.with_two_uris()), "uri_count");
    assert_eq!(refusal_of(|svid| svid.with_no_uri()), "uri_count");
    assert_eq!(refusal_of(|svid| svid.without_path()), "no_path");
    assert_eq!(refusal_of(|svid| svid.with_id("https://a.test/web")), "bad_id");
    assert_eq!(refusal_of(|svid| svid.with_id("spiffe://a.test/web/")), "bad_id");
    assert_eq!(refusal_of(|svid| svid.with_ca_flag()), "leaf_is_ca");
    assert_eq!(refusal_of(|svid| svid.with_cert_sign()), "leaf_cert_sign");
    assert_eq!(refusal_of(|svid| svid.with_crl_sign()), "leaf_crl_sign");
    assert_eq!(refusal_of(|svid| svid.without_digital_signature()), "no_digital_signature");
    assert_eq!(refusal_of(|svid| svid.without_key_usage()), "no_digital_signature");
    assert_eq!(refusal_of(|svid| svid.for_servers_only()), "extended_key_usage");
    assert_eq!(refusal_of(|svid| svid.for_clients_only()), "extended_key_usage");
    assert_eq!(refusal_of(|svid| svid.expired()), "expired");
    assert_eq!(refusal_of(|svid| svid.not_valid_yet()), "not_valid_yet");
}

#[test]
fn a_root_that_signed_the_wrong_domain_is_refused() {
    let (own, foreign) = (TestAuthority::new("a.test"), TestAuthority::new("b.test"));
    let bundles: BundleSet = [own.bundle(), foreign.bundle()].into_iter().collect();
    let forged = foreign.svid("/web").with_id("spiffe://a.test/web").build();
    let presented = id("spiffe://a.test/web");
    assert_eq!(refusal(&forged, &bundles), SvidError::UnknownIssuer { presented });
    assert!(check(&foreign.svid("/web").build(), &bundles).is_ok());
}

#[test]
fn a_root_of_the_same_name_with_another_key_is_an_unknown_issuer() {
    let held = TestAuthority::builder("a.test").with_subject("root").build();
    let impostor = TestAuthority::builder("a.test").with_subject("root").build();
    assert_eq!(refusal(&impostor.svid("/web").build(), &held.bundle()).reason(), "unknown_issuer");
}

#[test]
fn a_domain_without_a_held_bundle_is_refused_by_name() {
    let svid = TestAuthority::new("a.test").svid("/web").build();
    let error = refusal(&svid, &BundleSet::default());
    let (presented, trust_domain) = (id("spiffe://a.test/web"), TrustDomain::new("a.test").unwrap());
    assert_eq!(error, SvidError::NoBundle { presented, trust_domain });
}

#[test]
fn an_expired_authority_verifies_nothing() {
    let authority = TestAuthority::builder("a.test").expired().build();
    let svid = authority.svid("/web").build();
    let presented = id("spiffe://a.test/web");
    assert_eq!(refusal(&svid, &authority.bundle()), SvidError::NoValidAuthority { presented, held: 1 });
}

#[test]
fn an_authority_that_starts_later_verifies_nothing_yet() {
    let authority = TestAuthority::builder("a.test").with_lifetime(600, 7200).build();
    assert_eq!(refusal(&authority.svid("/web").build(), &authority.bundle()).reason(), "no_valid_authority");
}

#[test]
fn an_empty_bundle_revokes_every_svid() {
    let authority = TestAuthority::new("a.test");
    let empty = Bundle::new(authority.trust_domain().clone(), vec![], vec![], Some(9), None);
    let presented = id("spiffe://a.test/web");
    let svid = authority.svid("/web").build();
    assert_eq!(refusal(&svid, &empty), SvidError::NoValidAuthority { presented, held: 0 });
}

#[test]
fn a_verified_id_still_needs_permission() {
    let authority = TestAuthority::new("a.test");
    let svid = authority.svid("/web").build();
    let judge = |authorizer| verify(svid.leaf(), &[], &authority.bundle(), &authorizer, now());
    let presented = id("spiffe://a.test/web");
    let refused = Err(SvidError::NotAuthorized { presented: presented.clone() });
    assert_eq!(judge(Authorizer::exact(id("spiffe://a.test/web2"))), refused);
    assert_eq!(judge(Authorizer::exact(presented.clone())), Ok(presented));
}

#[test]
fn an_unverified_id_is_never_asked_for_permission() {
    let (own, other) = (TestAuthority::new("a.test"), TestAuthority::new("a.test"));
    let svid = other.svid("/web").build();
    let nobody = Authorizer::exact(id("spiffe://a.test/somebody-else"));
    let error = verify(svid.leaf(), &[], &own.bundle(), &nobody, now()).unwrap_err();
    assert_eq!(error.reason(), "unknown_issuer");
}

#[test]
fn a_leaf_is_valid_up_to_and_including_its_last_second() {
    let authority = TestAuthority::new("a.test");
    let svid = authority.svid("/web").with_lifetime(-60, 600).build();
    let at = |time| verify(svid.leaf(), &[], &authority.bundle(), &Authorizer::AnyInBundles, time);
    let not_after = Leaf::read(svid.leaf()).unwrap().not_after;
    let second = |second| UnixTime::since_unix_epoch(std::time::Duration::from_secs(second));
    assert!(at(second(not_after)).is_ok());
    let presented = id("spiffe://a.test/web");
    assert_eq!(at(second(not_after + 1)), Err(SvidError::Expired { presented, not_after }));
    assert!(at(from_now(-120)).is_err());
    let told = |time| at(time).unwrap_err().to_string();
    assert!(told(second(not_after + 1)).ends_with(&format!(" expired at {}", rfc3339(not_after))));
    assert!(told(from_now(-120)).ends_with('Z'));
}

#[test]
fn a_chain_through_an_intermediate_verifies_only_with_the_intermediate() {
    let root = TestAuthority::new("a.test");
    let svid = root.intermediate().intermediate().svid("/web").build();
    assert_eq!(svid.chain.len(), 3);
    assert!(check(&svid, &root.bundle()).is_ok());
    let alone = TestSvid { chain: vec![svid.leaf().clone()], ..svid };
    assert_eq!(refusal(&alone, &root.bundle()).reason(), "unknown_issuer");
}

#[test]
fn an_intermediate_that_may_not_sign_is_no_issuer() {
    let root = TestAuthority::new("a.test");
    let presented = || id("spiffe://a.test/web");
    let refused = SvidError::IntermediateNotCa { presented: presented(), position: 1 };
    let no_ca = root.intermediate_builder().not_a_ca().build();
    assert_eq!(refusal(&no_ca.svid("/web").build(), &root.bundle()), refused);
    let no_sign = root.intermediate_builder().without_cert_sign().build();
    assert_eq!(refusal(&no_sign.svid("/web").build(), &root.bundle()), refused);
    let expired = root.intermediate_builder().expired().build();
    let refused = SvidError::IntermediateExpired { presented: presented() };
    assert_eq!(refusal(&expired.svid("/web").build(), &root.bundle()), refused);
    let unmarked = root.intermediate_builder().without_key_usage().build();
    assert!(check(&unmarked.svid("/web").build(), &root.bundle()).is_ok());
}

#[test]
fn certificates_that_the_path_does_not_need_do_no_harm() {
    let root = TestAuthority::new("a.test");
    let mut svid = root.svid("/web").build();
    svid.chain.push(TestAuthority::new("x.test").svid("/other").build().leaf().clone());
    svid.chain.push(CertificateDer::from(vec![0x30, 0x00]));
    assert!(check(&svid, &root.bundle()).is_ok());
}

#[test]
fn a_tainted_authority_still_verifies_until_it_is_removed() {
    let authority = TestAuthority::new("a.test");
    let tainted = X509Authority::from_der(authority.root(), true).unwrap();
    let bundle = Bundle::new(authority.trust_domain().clone(), vec![tainted], vec![], None, None);
    assert!(check(&authority.svid("/web").build(), &bundle).is_ok());
}

#[test]
fn every_kind_of_key_verifies() {
    for kind in KeyKind::ALL {
        let authority = TestAuthority::builder("a.test").with_key(kind).build();
        let svid = authority.svid("/web").with_key(kind).build();
        assert_eq!(check(&svid, &authority.bundle()), Ok(id("spiffe://a.test/web")), "{kind:?}");
    }
}

#[test]
fn bytes_that_are_no_certificate_are_malformed() {
    let authority = TestAuthority::new("a.test");
    let leaf = authority.svid("/web").build().leaf().clone();
    let trailing = CertificateDer::from([leaf.as_ref(), &[0]].concat());
    assert_eq!(leaf_id(&trailing), Err(SvidError::Malformed { detail: "trailing bytes" }));
    assert_eq!(leaf_id(&CertificateDer::from(vec![])), Err(SvidError::Malformed { detail: "not der" }));
    for cut in 0..leaf.len() {
        assert!(leaf_id(&CertificateDer::from(leaf[..cut].to_vec())).is_err());
    }
}

#[test]
fn an_extension_that_is_there_and_cannot_be_read_is_never_absent() {
    let (key_usage, extended, names): (&[u64], &[u64], &[u64]) =
        (&[2, 5, 29, 15], &[2, 5, 29, 37], &[2, 5, 29, 17]);
    let authority = TestAuthority::new("a.test");
    let refused = |svid: SvidBuilder<'_>| refusal(&svid.build(), &authority.bundle());
    let malformed = |detail| SvidError::Malformed { detail };
    let svid = || authority.svid("/web");
    let garbage = [0xff, 0x01];
    assert_eq!(
        refused(svid().without_key_usage().with_extension(key_usage, &garbage)),
        malformed("key usage")
    );
    let unread = svid().without_extended_key_usage().with_extension(extended, &garbage);
    assert_eq!(refused(unread), malformed("extended key usage"));
    let unread = svid().with_no_uri().with_extension(names, &garbage);
    assert_eq!(refused(unread), malformed("subject alternative name"));
}

#[test]
fn an_extension_that_is_there_twice_is_never_the_last_of_them() {
    let authority = TestAuthority::new("a.test");
    // Not a CA, said after a basic constraints extension that says the opposite.
    let not_a_ca = [0x30, 0x00];
    let svid = authority.svid("/web").with_ca_flag().with_extension(&[2, 5, 29, 19], &not_a_ca).build();
    let refused = SvidError::Malformed { detail: "extension given twice" };
    assert_eq!(refusal(&svid, &authority.bundle()), refused);
    let harmless = authority.svid("/web").with_extension(&[1, 3, 6, 1, 4, 1, 99999, 1], &[5, 0]).build();
    assert!(check(&harmless, &authority.bundle()).is_ok());
}

#[test]
fn a_refusal_is_found_in_any_chain_of_errors() {
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    let presented = id("spiffe://a.test/web");
    let refusal = SvidError::NotAuthorized { presented };
    let other = || rustls::OtherError(Arc::new(refusal.clone()));
    let tls = rustls::Error::InvalidCertificate(CertificateError::Other(other()));
    let nested = Outer(io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls.clone())));
    assert_eq!(SvidError::find_in(&nested), Some(&refusal));
    assert_eq!(SvidError::find_in(&tls), Some(&refusal));
    assert_eq!(SvidError::find_in(&rustls::Error::Other(other())), Some(&refusal));
    assert_eq!(SvidError::find_in(&refusal), Some(&refusal));
    assert_eq!(SvidError::find_in(&io::Error::other("else")), None);
    assert_eq!(SvidError::find_in(&io::Error::from(io::ErrorKind::BrokenPipe)), None);
}
