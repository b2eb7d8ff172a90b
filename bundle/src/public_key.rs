//! Public keys as a bundle may hold them: taken from a SubjectPublicKeyInfo or from bare numbers, checked, written back.
//!
//! There is exactly one encoding of each key here, so that equal keys have equal bytes.

use std::fmt;

use aws_lc_rs::signature::{self, ParsedPublicKey};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519, Oid,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// RSA moduli that we take: below is weak, above is more than the TLS stack verifies.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The library below counts an exponent of more than 33 bits as hostile.
const RSA_EXPONENT_BYTES: usize = 4;

/// Why a public key was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not the DER of one SubjectPublicKeyInfo, or not its only valid form.
    #[error("public key is not one well-formed SubjectPublicKeyInfo")]
    Malformed,
    /// The point does not satisfy the equation of its curve (or of Edwards 25519).
    #[error("public key is not a point of curve {curve}")]
    NotOnCurve {
        /// JWK name of the curve.
        curve: &'static str,
    },
    /// An RSA exponent that is even, below 3 or absurdly large.
    #[error("rsa public exponent must be odd, at least 3 and at most 32 bits long")]
    RsaExponent,
    /// An RSA modulus of a size that is weak or cannot be verified with, or an even one.
    #[error("rsa modulus of {bits} bits is not an odd number of 2048 to 8192 bits")]
    RsaModulus {
        /// Bits found.
        bits: usize,
    },
    /// An algorithm or curve that no SVID can use.
    #[error("public key algorithm or curve {oid} is not supported (rsa, p-256, p-384, p-521, ed25519 are)")]
    Unsupported {
        /// Its object identifier, dotted.
        oid: String,
    },
    /// An elliptic curve coordinate of the wrong length for its curve.
    #[error("coordinate has {found} bytes, curve {curve} needs {expected}")]
    WrongLength {
        /// JWK name of the curve.
        curve: &'static str,
        /// Bytes a coordinate of this curve has.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
}

/// The curves of RFC 7518 6.2.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    pub(crate) const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// Name in a JWK.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Bytes of one coordinate.
    pub(crate) fn coordinate_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn oid(self) -> Oid<'static> {
        match self {
            Self::P256 => OID_EC_P256,
            Self::P384 => OID_NIST_EC_P384,
            Self::P521 => OID_NIST_EC_P521,
        }
    }

    // For the larger curves any algorithm over the curve will do: only the parsing of the key is wanted, which checks the point.
    fn contains(self, point: &[u8]) -> bool {
        match self {
            Self::P256 => p256::PublicKey::from_sec1_bytes(point).is_ok(),
            Self::P384 => ParsedPublicKey::new(&signature::ECDSA_P384_SHA384_ASN1, point).is_ok(),
            Self::P521 => ParsedPublicKey::new(&signature::ECDSA_P521_SHA512_ASN1, point).is_ok(),
        }
    }
}

/// A checked public key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum PublicKey {
    /// Uncompressed coordinates, each as long as the curve wants.
    Ec { curve: Curve, x: Vec<u8>, y: Vec<u8> },
    /// The 32 bytes of RFC 8032.
    Ed25519 { x: Vec<u8> },
    /// Big-endian, without leading zeros.
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
}

impl PublicKey {
    /// Checks lengths and that the point is on its curve.
    pub(crate) fn ec(curve: Curve, x: &[u8], y: &[u8]) -> Result<Self, KeyError> {
        for coordinate in [x, y] {
            check_length(curve.name(), curve.coordinate_bytes(), coordinate)?;
        }
        if !curve.contains(&sec1_point(x, y)) {
            return Err(KeyError::NotOnCurve { curve: curve.name() });
        }
        Ok(Self::Ec { curve, x: x.to_vec(), y: y.to_vec() })
    }

    /// Checks the length, and the point as far as the library does.
    pub(crate) fn ed25519(x: &[u8]) -> Result<Self, KeyError> {
        check_length("Ed25519", 32, x)?;
        ParsedPublicKey::new(&signature::ED25519, x)
            .map_err(|_| KeyError::NotOnCurve { curve: "Ed25519" })?;
        Ok(Self::Ed25519 { x: x.to_vec() })
    }

    /// Checks size and exponent; takes numbers with leading zeros, which RFC 7518 6.3.1 says some producers write.
    pub(crate) fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let (modulus, exponent) = (without_leading_zeros(modulus), without_leading_zeros(exponent));
        let bits = bit_length(modulus);
        if !RSA_BITS.contains(&bits) || !is_odd(modulus) {
            return Err(KeyError::RsaModulus { bits });
        }
        if exponent.len() > RSA_EXPONENT_BYTES || !is_odd(exponent) || exponent == [1] {
            return Err(KeyError::RsaExponent);
        }
        Ok(Self::Rsa { modulus: modulus.to_vec(), exponent: exponent.to_vec() })
    }

    /// Reads exactly one SubjectPublicKeyInfo.
    pub(crate) fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let (_, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|_| KeyError::Malformed)?;
        let algorithm = &spki.algorithm.algorithm;
        let data = spki.subject_public_key.data.as_ref();
        let key = if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            Self::from_ec_spki(&spki, data)?
        } else if *algorithm == OID_SIG_ED25519 {
            Self::ed25519(data)?
        } else if *algorithm == OID_PKCS1_RSAENCRYPTION {
            match spki.parsed() {
                Ok(x509_parser::public_key::PublicKey::RSA(key)) => Self::rsa(key.modulus, key.exponent)?,
                _ => return Err(KeyError::Malformed),
            }
        } else {
            return Err(KeyError::Unsupported { oid: algorithm.to_id_string() });
        };
        // One key, one encoding: this catches trailing bytes, missing or additional parameters and stray padding at once.
        if key.to_spki() == der { Ok(key) } else { Err(KeyError::Malformed) }
    }

    fn from_ec_spki(spki: &SubjectPublicKeyInfo<'_>, data: &[u8]) -> Result<Self, KeyError> {
        let parameters = spki.algorithm.parameters.as_ref().ok_or(KeyError::Malformed)?;
        let oid = parameters.as_oid().map_err(|_| KeyError::Malformed)?;
        let Some(curve) = Curve::ALL.into_iter().find(|curve| curve.oid() == oid) else {
            return Err(KeyError::Unsupported { oid: oid.to_id_string() });
        };
        // Only the uncompressed form, like Go's x509 package: SPIRE could not read another one.
        let Some((4, coordinates)) = data.split_first().map(|(tag, rest)| (*tag, rest)) else {
            return Err(KeyError::Malformed);
        };
        let (x, y) = coordinates.split_at(coordinates.len() / 2);
        Self::ec(curve, x, y)
    }

    /// SubjectPublicKeyInfo, DER.
    pub(crate) fn to_spki(&self) -> Vec<u8> {
        let (algorithm, key) = match self {
            Self::Ec { curve, x, y } => {
                let oids = [oid(&OID_KEY_TYPE_EC_PUBLIC_KEY), oid(&curve.oid())].concat();
                (oids, sec1_point(x, y))
            }
            Self::Ed25519 { x } => (oid(&OID_SIG_ED25519), x.clone()),
            Self::Rsa { modulus, exponent } => {
                let null = element(0x05, &[]);
                let numbers = [unsigned(modulus), unsigned(exponent)].concat();
                ([oid(&OID_PKCS1_RSAENCRYPTION), null].concat(), sequence(&numbers))
            }
        };
        let bits = element(0x03, &[&[0], key.as_slice()].concat());
        sequence(&[sequence(&algorithm), bits].concat())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ec { curve, .. } => write!(f, "PublicKey({})", curve.name()),
            Self::Ed25519 { .. } => f.write_str("PublicKey(Ed25519)"),
            Self::Rsa { modulus, .. } => write!(f, "PublicKey(RSA {})", bit_length(modulus)),
        }
    }
}

fn check_length(curve: &'static str, expected: usize, bytes: &[u8]) -> Result<(), KeyError> {
    let found = bytes.len();
    if found == expected { Ok(()) } else { Err(KeyError::WrongLength { curve, expected, found }) }
}

fn sec1_point(x: &[u8], y: &[u8]) -> Vec<u8> {
    [&[4], x, y].concat()
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.split_at(zeros).1
}

fn bit_length(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

fn is_odd(number: &[u8]) -> bool {
    number.last().is_some_and(|byte| byte & 1 == 1)
}

fn oid(oid: &Oid<'_>) -> Vec<u8> {
    element(0x06, oid.as_bytes())
}

fn sequence(content: &[u8]) -> Vec<u8> {
    element(0x30, content)
}

// DER integers are signed: a set top bit needs a zero byte in front.
fn unsigned(number: &[u8]) -> Vec<u8> {
    let sign: &[u8] = if number.first().is_none_or(|first| *first > 0x7f) { &[0] } else { &[] };
    element(0x02, &[sign, number].concat())
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut der = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => der.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let bytes = without_leading_zeros(&bytes);
            der.push(0x80 | bytes.len() as u8);
            der.extend_from_slice(bytes);
        }
    }
    der.extend_from_slice(content);
    der
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::KeyKind;

    fn spki(kind: KeyKind) -> Vec<u8> {
        kind.generate_spki()
    }

    fn with_byte(mut der: Vec<u8>, from_end: usize, change: impl Fn(u8) -> u8) -> Vec<u8> {
        let at = der.len() - from_end;
        der[at] = change(der[at]);
        der
    }

    #[test]
    fn a_point_off_its_curve_is_refused() {
        for (kind, curve) in [(KeyKind::P256, "P-256"), (KeyKind::P384, "P-384"), (KeyKind::P521, "P-521")] {
            let off = with_byte(spki(kind), 1, |byte| byte ^ 1);
            assert_eq!(PublicKey::from_spki(&off), Err(KeyError::NotOnCurve { curve }));
        }
    }

    #[test]
    fn a_spki_with_anything_added_or_taken_away_is_refused() {
        for kind in KeyKind::ALL {
            let der = spki(kind);
            assert_eq!(PublicKey::from_spki(&[der.as_slice(), &[0]].concat()), Err(KeyError::Malformed));
            assert!(PublicKey::from_spki(&der[..der.len() - 1]).is_err());
        }
        assert_eq!(PublicKey::from_spki(&[]), Err(KeyError::Malformed));
    }

    #[test]
    fn a_compressed_point_is_refused() {
        let PublicKey::Ec { x, .. } = PublicKey::from_spki(&spki(KeyKind::P256)).unwrap() else { panic!() };
        let algorithm = sequence(&[oid(&OID_KEY_TYPE_EC_PUBLIC_KEY), oid(&OID_EC_P256)].concat());
        let der = sequence(&[algorithm, element(3, &[&[0, 2], x.as_slice()].concat())].concat());
        assert_eq!(PublicKey::from_spki(&der), Err(KeyError::Malformed));
    }

    #[test]
    fn an_unknown_curve_or_algorithm_is_named() {
        let secp256k1 = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a];
        let algorithm = sequence(&[oid(&OID_KEY_TYPE_EC_PUBLIC_KEY), secp256k1.to_vec()].concat());
        let der = sequence(&[algorithm, element(3, &[0, 4, 1, 1])].concat());
        assert_eq!(PublicKey::from_spki(&der), Err(KeyError::Unsupported { oid: "1.3.132.0.10".into() }));
    }

    #[test]
    fn rsa_needs_2048_bits_and_an_odd_exponent_of_at_least_three() {
        let modulus = |bytes: usize| [vec![0x80], vec![0; bytes - 2], vec![1]].concat();
        let refused = |bits| Err(KeyError::RsaModulus { bits });
        assert_eq!(PublicKey::rsa(&modulus(128), &[1, 0, 1]), refused(1024));
        assert_eq!(PublicKey::rsa(&modulus(1025), &[1, 0, 1]), refused(8200));
        assert_eq!(PublicKey::rsa(&[vec![0x80], vec![0; 255]].concat(), &[3]), refused(2048));
        assert_eq!(PublicKey::rsa(&[], &[3]), refused(0));
        for exponent in [&[] as &[u8], &[0], &[1], &[2], &[4], &[1, 0, 0, 0, 1]] {
            assert_eq!(PublicKey::rsa(&modulus(256), exponent), Err(KeyError::RsaExponent));
        }
        assert!(PublicKey::rsa(&modulus(256), &[3]).is_ok());
    }

    #[test]
    fn every_supported_kind_of_key_survives_a_round_trip() {
        for kind in KeyKind::ALL {
            let der = spki(kind);
            assert_eq!(PublicKey::from_spki(&der).unwrap().to_spki(), der);
        }
    }
}
