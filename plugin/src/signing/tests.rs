use std::time::Duration;

use entente_bundle::testing::{KeyKind, TestAuthority};
use rustls_pki_types::PrivateKeyDer;
use sha2::{Digest, Sha256};

use super::*;

fn key(kind: KeyKind) -> ServerKey {
    let svid = TestAuthority::new("own.test").svid("/spire/server").with_key(kind).build();
    let der = PrivateKeyDer::Pkcs8(svid.pkcs8.clone().into());
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).unwrap();
    ServerKey { leaf_sha256: Sha256::digest(svid.leaf()).into(), key }
}

fn content(hash: usize) -> Vec<u8> {
    [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify", &[0], &vec![7; hash]].concat()
}

fn ask(
    keys: &[ServerKey],
    leaf: [u8; 32],
    scheme: SignatureScheme,
    content: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let request =
        SigningRequest { certificate_sha256: &leaf, signature_scheme: u16::from(scheme).into(), content };
    let now = Instant::now();
    sign(&request, keys, &Signatures::new(now).lend("x", now), now)
}

const P256: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

#[test]
fn anything_but_a_server_certificate_verify_is_refused() {
    let key = key(KeyKind::P256);
    let good = content(32);
    let mut wrong = vec![
        Vec::new(),
        good[1..].to_vec(),
        [&b" "[..], &good].concat(),
        content(31),
        content(33),
        content(47),
        content(64),
        content(0),
        [&[b' '; 64][..], b"TLS 1.3, client CertificateVerify", &[0], &[7; 32]].concat(),
        [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify", &[1], &[7; 32]].concat(),
        vec![7; 130],
        good[..64].to_vec(),
    ];
    let mut tab = good.clone();
    tab[63] = b'\t';
    wrong.push(tab);
    // What an attacker would want: a certificate request or a token, signed with the server's key.
    wrong.push(b"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJzcGlmZmU6Ly9vd24udGVzdC9hZG1pbiJ9".to_vec());
    for content in wrong {
        assert_eq!(
            ask(std::slice::from_ref(&key), key.leaf_sha256, P256, &content),
            Err(Refusal::Content),
            "{content:?}"
        );
    }
}

#[test]
fn only_the_current_and_the_previous_certificate_are_signed_for() {
    let (current, previous, older) = (key(KeyKind::P256), key(KeyKind::P256), key(KeyKind::P256));
    let keys = [current.clone(), previous.clone()];
    assert_eq!(ask(&keys, older.leaf_sha256, P256, &content(32)), Err(Refusal::Certificate));
    assert_eq!(ask(&[], current.leaf_sha256, P256, &content(32)), Err(Refusal::NoIdentity));
    assert!(ask(&keys, current.leaf_sha256, P256, &content(32)).is_ok());
    assert!(ask(&keys, previous.leaf_sha256, P256, &content(48)).is_ok());
}

#[test]
fn a_scheme_that_does_not_fit_the_key_is_refused() {
    let (ec, rsa) = (key(KeyKind::P256), key(KeyKind::Rsa2048));
    for (key, scheme) in [
        (&ec, SignatureScheme::ECDSA_NISTP384_SHA384),
        (&ec, SignatureScheme::RSA_PSS_SHA256),
        (&rsa, P256),
        (&rsa, SignatureScheme::RSA_PKCS1_SHA256),
        (&rsa, SignatureScheme::RSA_PKCS1_SHA1),
        (&ec, SignatureScheme::Unknown(0xfefe)),
    ] {
        let refused = ask(std::slice::from_ref(key), key.leaf_sha256, scheme, &content(32));
        assert!(matches!(refused, Err(Refusal::Scheme { .. })), "{scheme:?}");
    }
    let request = SigningRequest {
        certificate_sha256: &ec.leaf_sha256,
        signature_scheme: 0x1_0403,
        content: &content(32),
    };
    let now = Instant::now();
    assert_eq!(
        sign(&request, std::slice::from_ref(&ec), &Signatures::new(now).lend("x", now), now),
        Err(Refusal::Scheme { scheme: 0x1_0403 })
    );
}

#[test]
fn every_kind_of_server_key_signs_with_its_schemes() {
    for (kind, scheme) in [
        (KeyKind::P256, P256),
        (KeyKind::P384, SignatureScheme::ECDSA_NISTP384_SHA384),
        (KeyKind::Rsa2048, SignatureScheme::RSA_PSS_SHA256),
        (KeyKind::Rsa2048, SignatureScheme::RSA_PSS_SHA512),
    ] {
        let key = key(kind);
        let signature = ask(std::slice::from_ref(&key), key.leaf_sha256, scheme, &content(32)).unwrap();
        assert!(signature.len() > 60, "{kind:?}");
    }
}

/// How many of so many are granted.
fn granted(lending: &Lending<'_>, at: Instant, tries: usize) -> usize {
    (0..tries).filter(|_| lending.allows(at)).count()
}

#[test]
fn the_rate_is_bounded_and_recovers() {
    let start = Instant::now();
    let signatures = Signatures::new(start);
    let only = signatures.lend("one", start);
    let granted = |at: Duration, tries| granted(&only, start + at, tries);
    assert_eq!(granted(Duration::ZERO, 5000), 2000);
    assert_eq!(granted(Duration::from_millis(500), 5000), 500);
    assert_eq!(granted(Duration::from_secs(3600), 5000), 2000);
    assert_eq!(granted(Duration::ZERO, 10), 0, "time that goes back gives nothing");
}

#[test]
fn an_endpoint_that_asks_without_end_takes_nothing_of_the_others_part() {
    let start = Instant::now();
    let signatures = Signatures::new(start);
    let (greedy, other) = (signatures.lend("greedy", start), signatures.lend("other", start));
    assert_eq!((granted(&greedy, start, 5000), granted(&other, start, 5000)), (1000, 1000));
    let later = start + Duration::from_secs(1);
    assert_eq!((granted(&greedy, later, 5000), granted(&other, later, 5000)), (500, 500));
    let anew = signatures.lend("greedy", later);
    assert_eq!(granted(&anew, later, 10), 0, "a second link of one endpoint is no second part");
    drop((greedy, anew));
    let again = signatures.lend("greedy", later);
    assert_eq!(granted(&again, later, 10), 0, "nor is one that comes again");
    drop(again);
    let alone = later + Duration::from_secs(2);
    assert_eq!(granted(&other, alone, 5000), 2000, "who is alone has everything");
    let third = signatures.lend("third", alone);
    assert_eq!(granted(&third, alone, 10), 0, "there is never more than the total");
    let later = alone + Duration::from_secs(1);
    assert_eq!(granted(&third, later, 5000) + granted(&other, later, 5000), 1000);
}
