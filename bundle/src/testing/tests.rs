use rcgen::CertificateParams;

use super::*;
use crate::{Authorizer, SpiffeId, svid};

fn verified(authority: &TestAuthority, chain: &[CertificateDer<'static>]) -> SpiffeId {
    let (leaf, intermediates) = chain.split_first().unwrap();
    svid::verify(leaf, intermediates, &authority.bundle(), &Authorizer::AnyInBundles, now()).unwrap()
}

#[test]
fn an_authority_survives_its_pem_text() {
    for kind in KeyKind::ALL {
        let authority = TestAuthority::builder("a.test").with_key(kind).build();
        let loaded = TestAuthority::from_pem(&authority.to_pem()).unwrap();
        assert_eq!(loaded.trust_domain(), authority.trust_domain());
        assert_eq!(loaded.certificate(), authority.certificate());
        verified(&authority, &loaded.svid("/web").build().chain);
    }
}

#[test]
fn an_intermediate_survives_its_pem_text_with_its_chain() {
    let root = TestAuthority::new("a.test");
    for below in [root.intermediate(), root.intermediate().intermediate()] {
        let loaded = TestAuthority::from_pem(&below.to_pem()).unwrap();
        assert_eq!(loaded.root(), root.certificate());
        let svid = loaded.svid("/web").build();
        assert_eq!(svid.chain.len(), below.svid("/web").build().chain.len());
        verified(&root, &svid.chain);
    }
}

#[test]
fn a_text_without_authority_is_refused() {
    let text = TestAuthority::new("a.test").to_pem();
    let key = text.split_at(text.find("-----BEGIN PRIVATE").unwrap()).1;
    assert!(matches!(TestAuthority::from_pem(key), Err(TestingError::NoCertificate)));
    assert!(matches!(TestAuthority::from_pem("hello"), Err(TestingError::Pem(_))));
    let web = TestAuthority::builder("a.test").with_id("https://a.test").build().to_pem();
    assert!(matches!(TestAuthority::from_pem(&web), Err(TestingError::NoCertificate)));
}

#[test]
fn an_svid_can_be_signed_for_a_key_that_is_elsewhere() {
    let authority = TestAuthority::new("a.test");
    for kind in KeyKind::ALL.into_iter().filter(|kind| *kind != KeyKind::P521) {
        let key = kind.generate();
        let for_spki = authority.svid("/web").build_for_spki(&key.subject_public_key_info()).unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let for_csr = authority.svid("/web").build_for_csr(request.der()).unwrap();
        for chain in [for_spki, for_csr] {
            assert_eq!(verified(&authority, &chain).to_string(), "spiffe://a.test/web");
            assert!(tls::certified_key(chain, key.serialize_der()).is_ok());
        }
    }
    assert!(authority.svid("/web").build_for_spki(b"no key").is_err());
    assert!(authority.svid("/web").build_for_csr(b"no request").is_err());
}

#[test]
fn authorities_have_names_of_their_own_unless_told_otherwise() {
    let subject = |authority: &TestAuthority| {
        use x509_parser::prelude::{FromDer, X509Certificate};
        X509Certificate::from_der(authority.root()).unwrap().1.subject().to_string()
    };
    let named = || TestAuthority::builder("a.test").with_subject("root").build();
    assert_ne!(subject(&TestAuthority::new("a.test")), subject(&TestAuthority::new("a.test")));
    assert_eq!(subject(&named()), subject(&named()));
}

#[test]
fn nothing_prints_a_private_key() {
    let authority = TestAuthority::new("a.test");
    let (svid, jwt) = (authority.svid("/web").build(), TestJwtKey::new("k", KeyKind::P256));
    let printed = format!("{authority:?} {svid:?} {jwt:?}");
    for secret in [authority.issuer().key().serialized_der(), &svid.pkcs8, &jwt.pkcs8] {
        // As a derived `Debug` would print it.
        let list = format!("{secret:?}");
        assert!(!printed.contains(list.trim_matches(['[', ']'])), "{printed}");
    }
}
