//! Every bundle message, both ways, and each kind of element that must not get through.

use std::time::Duration;

use entente_bundle::testing::{KeyKind, TestAuthority, TestJwtKey};
use entente_bundle::{AuthorityError, Bundle, IdError, TrustDomain};
use entente_proto::convert::{BundleMessage, ConvertError, Element, ElementError, Refusal};
use entente_proto::link::v1 as link;
use entente_proto::spire::api::types as api;
use entente_proto::spire::plugin::types as plugin;

fn authority() -> TestAuthority {
    TestAuthority::new("a.test")
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).expect("a trust domain name")
}

/// A message as SPIRE would publish it: one authority of each kind.
fn published() -> plugin::Bundle {
    let authority = authority();
    let bundle = authority.bundle_with(Some(7), Some(Duration::from_secs(300)));
    let mut message = plugin::Bundle::from(&bundle);
    message.jwt_authorities.push(jwt("key-1"));
    message
}

fn jwt(key_id: &str) -> plugin::JwtKey {
    plugin::JwtKey {
        public_key: KeyKind::P256.generate_spki(),
        key_id: key_id.to_owned(),
        expires_at: 4_000_000_000,
        tainted: false,
    }
}

fn x509(der: &[u8]) -> plugin::X509Certificate {
    plugin::X509Certificate { asn1: der.to_vec(), tainted: false }
}

/// The element that makes the whole message fail.
fn refused_element(message: &plugin::Bundle) -> ElementError {
    match Bundle::try_from(message) {
        Err(ConvertError::Element { trust_domain, source }) => {
            assert_eq!(trust_domain, domain("a.test"));
            source
        }
        other => panic!("expected a refused element, got {other:?}"),
    }
}

fn refused_x509(der: &[u8]) -> AuthorityError {
    let mut message = published();
    message.x509_authorities.push(x509(der));
    let ElementError { element, refusal } = refused_element(&message);
    assert_eq!(element, Element::X509 { index: 1 });
    match refusal {
        Refusal::Authority(error) => error,
        other => panic!("expected a refused authority, got {other:?}"),
    }
}

fn refused_jwt(key: plugin::JwtKey) -> Refusal {
    let key_id = key.key_id.clone();
    let mut message = published();
    message.jwt_authorities.push(key);
    let ElementError { element, refusal } = refused_element(&message);
    assert_eq!(element, Element::Jwt { index: 1, key_id });
    refusal
}

#[test]
fn an_empty_certificate_is_refused() {
    assert!(matches!(refused_x509(&[]), AuthorityError::Certificate { .. }));
}

#[test]
fn two_certificates_in_one_element_are_refused() {
    let both = [authority().certificate().as_ref(), authority().certificate().as_ref()].concat();
    assert!(matches!(refused_x509(&both), AuthorityError::TrailingBytes { .. }));
}

#[test]
fn a_cut_certificate_is_refused() {
    let whole = authority().certificate().to_vec();
    assert!(matches!(refused_x509(&whole[..whole.len() - 1]), AuthorityError::Certificate { .. }));
}

#[test]
fn a_leaf_is_no_authority() {
    let svid = authority().svid("/web").build();
    assert_eq!(refused_x509(svid.leaf()), AuthorityError::NotCa);
}

#[test]
fn a_ca_that_may_not_sign_certificates_is_refused() {
    let ca = TestAuthority::builder("a.test").without_cert_sign().build();
    assert_eq!(refused_x509(ca.certificate()), AuthorityError::NotCertSign);
}

#[test]
fn a_jwt_authority_without_key_id_is_refused() {
    assert_eq!(refused_jwt(jwt("")), Refusal::Authority(AuthorityError::EmptyKeyId));
}

#[test]
fn a_jwt_authority_with_a_broken_key_is_refused() {
    let broken = plugin::JwtKey { public_key: vec![0x30, 0x03, 0x02, 0x01], ..jwt("broken") };
    assert!(matches!(refused_jwt(broken), Refusal::Authority(AuthorityError::Key(_))));
    let none = plugin::JwtKey { public_key: Vec::new(), ..jwt("none") };
    assert!(matches!(refused_jwt(none), Refusal::Authority(AuthorityError::Key(_))));
}

#[test]
fn a_jwt_authority_that_ended_before_time_began_is_refused() {
    let key = plugin::JwtKey { expires_at: -1, ..jwt("old") };
    assert_eq!(refused_jwt(key), Refusal::Expiry { expires_at: -1 });
}

#[test]
fn a_key_id_that_two_keys_share_is_refused_and_the_later_key_counts() {
    let mut message = published();
    message.jwt_authorities.push(jwt("key-1"));
    let shared = ElementError {
        element: Element::Jwt { index: 0, key_id: "key-1".into() },
        refusal: Refusal::KeyIdTaken { later: 1 },
    };
    assert_eq!(refused_element(&message), shared);

    let usable = BundleMessage::from(&message).into_usable().unwrap();
    assert_eq!(usable.refused, [shared]);
    let [kept] = usable.bundle.jwt_authorities() else { panic!("one key is left") };
    assert_eq!(kept.spki(), message.jwt_authorities[1].public_key);
}

#[test]
fn the_same_key_twice_is_no_conflict() {
    let mut message = published();
    message.jwt_authorities.push(message.jwt_authorities[0].clone());
    message.x509_authorities.push(message.x509_authorities[0].clone());
    let bundle = Bundle::try_from(&message).unwrap();
    assert_eq!((bundle.x509_authorities().len(), bundle.jwt_authorities().len()), (1, 1));
}

#[test]
fn a_message_that_names_no_trust_domain_is_refused() {
    for name in ["", "A.test", "a.test/path", "a test", "spiffe://"] {
        let message = plugin::Bundle { trust_domain: name.into(), ..published() };
        let result = Bundle::try_from(&message);
        assert!(matches!(result, Err(ConvertError::Name { .. })), "{name:?} gave {result:?}");
    }
}

#[test]
fn an_endless_name_is_cut_in_the_error() {
    let path = format!("spiffe://a.test/{}", "é".repeat(1_000_000));
    let message = link::Bundle { trust_domain: path, ..link::Bundle::default() };
    let Err(ConvertError::Name { presented, source }) = Bundle::try_from(&message) else { panic!("a path") };
    assert!(presented.chars().count() < 200 && source.to_string().chars().count() < 250, "{source}");
    let message = link::Bundle { trust_domain: "é".repeat(1_000_000), ..link::Bundle::default() };
    let Err(error) = Bundle::try_from(&message) else { panic!("no trust domain is that long") };
    assert!(error.to_string().chars().count() < 200, "{error}");
    assert!(matches!(error, ConvertError::Name { source: IdError::TooLong { .. }, .. }), "{error:?}");
}

#[test]
fn the_bundle_of_another_trust_domain_is_refused_where_one_is_expected() {
    let message = published();
    let refused = BundleMessage::from(&message).into_bundle_of(&domain("b.test"));
    let expected = ConvertError::OtherTrustDomain { expected: domain("b.test"), presented: domain("a.test") };
    assert_eq!(refused.unwrap_err(), expected);
    assert!(BundleMessage::from(&message).into_bundle_of(&domain("a.test")).is_ok());
}

#[test]
fn one_bad_authority_does_not_hide_the_good_ones_of_a_store() {
    let mut message = published();
    message.x509_authorities.insert(0, x509(b"garbage"));
    let usable = BundleMessage::from(&message).into_usable().unwrap();
    assert_eq!(usable.bundle.x509_authorities().len(), 1);
    assert_eq!(usable.bundle.jwt_authorities().len(), 1);
    let [refused] = usable.refused.as_slice() else { panic!("one is refused: {:?}", usable.refused) };
    assert_eq!(refused.element, Element::X509 { index: 0 });
    assert_eq!(refused.to_string(), "x509 authority 0 refused");
}

#[test]
fn an_expired_authority_passes() {
    // SPIRE publishes them for a day more; verifiers skip them.
    let expired = TestAuthority::builder("a.test").expired().build();
    let message = plugin::Bundle { x509_authorities: vec![x509(expired.certificate())], ..published() };
    assert_eq!(Bundle::try_from(&message).unwrap().x509_authorities().len(), 1);
}

#[test]
fn an_empty_bundle_is_a_bundle() {
    let message = api::Bundle { trust_domain: "a.test".into(), ..api::Bundle::default() };
    let bundle = Bundle::try_from(&message).unwrap();
    assert!(bundle.is_empty());
    assert_eq!(api::Bundle::from(&bundle), message);
}

#[test]
fn zero_and_negative_numbers_mean_none() {
    let message = plugin::Bundle { sequence_number: 0, refresh_hint: -300, ..published() };
    let bundle = Bundle::try_from(&message).unwrap();
    assert_eq!((bundle.sequence_number(), bundle.refresh_hint()), (None, None));
    let link = link::Bundle::from(&bundle);
    assert_eq!((link.sequence_number, link.refresh_hint), (None, None));
    // On the link, 0 is what a document said.
    let zero = bundle.with_sequence_number(Some(0));
    assert_eq!(Bundle::try_from(&link::Bundle::from(&zero)).unwrap().sequence_number(), Some(0));
    assert_eq!(plugin::Bundle::from(&zero).sequence_number, 0);
}

#[test]
fn wit_authorities_are_left_out() {
    let key = jwt("wit");
    let wit = plugin::WitKey { public_key: key.public_key, key_id: key.key_id, ..plugin::WitKey::default() };
    let message = plugin::Bundle { wit_authorities: vec![wit], ..published() };
    let bundle = Bundle::try_from(&message).unwrap();
    assert!(plugin::Bundle::from(&bundle).wit_authorities.is_empty());
}

#[test]
fn a_bundle_goes_through_every_contract_unchanged() {
    let mut message = published();
    message.x509_authorities[0].tainted = true;
    message.jwt_authorities[0].tainted = true;
    message.jwt_authorities.push(plugin::JwtKey { expires_at: 0, ..jwt("key-2") });
    let bundle = Bundle::try_from(&message).unwrap();
    assert_eq!(bundle.trust_domain(), &domain("a.test"));
    assert_eq!((bundle.sequence_number(), bundle.refresh_hint()), (Some(7), Some(Duration::from_secs(300))));
    assert!(bundle.x509_authorities()[0].is_tainted() && bundle.jwt_authorities()[0].is_tainted());
    let expiry: Vec<_> = bundle.jwt_authorities().iter().map(|authority| authority.expires_at()).collect();
    assert_eq!(expiry, [Some(4_000_000_000), None]);

    assert_eq!(plugin::Bundle::from(&bundle), message);
    assert_eq!(Bundle::try_from(&plugin::Bundle::from(&bundle)).unwrap(), bundle);
    assert_eq!(Bundle::try_from(&api::Bundle::from(&bundle)).unwrap(), bundle);
    assert_eq!(Bundle::try_from(&link::Bundle::from(&bundle)).unwrap(), bundle);
}

#[test]
fn every_kind_of_key_that_spire_makes_passes() {
    for kind in KeyKind::ALL {
        let ca = TestAuthority::builder("a.test").with_key(kind).build();
        let key = TestJwtKey::new("key", kind).authority;
        let bundle = Bundle::new(domain("a.test"), vec![ca.x509_authority()], vec![key], None, None);
        assert_eq!(Bundle::try_from(&link::Bundle::from(&bundle)).unwrap(), bundle, "{kind:?}");
    }
}
