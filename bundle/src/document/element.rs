//! One element of `keys`: an authority, something to pass over, or a reason to refuse the document.
//!
//! Passed over is what TDB 4.2 and X509-SVID 6.2 tell a consumer to ignore: things that it does not know. What claims to be
//! an authority of a known kind and is broken is never passed over: a bundle that is quietly smaller than its publisher
//! meant is worse than a failed fetch.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::json::Shallow;
use crate::public_key::{Curve, PublicKey};
use crate::{AuthorityError, JwtAuthority, KeyError, X509Authority};

/// Every member that is looked at; others are ignored, as RFC 7517 4 wants.
pub(super) const MEMBERS: &[&str] =
    &["crv", "d", "dp", "dq", "e", "k", "kid", "kty", "n", "oth", "p", "q", "qi", "use", "x", "x5c", "y"];

/// Members of RFC 7518 6 that only private or symmetric keys have.
const PRIVATE_MEMBERS: [&str; 8] = ["d", "dp", "dq", "k", "oth", "p", "q", "qi"];

/// What an element turned out to be.
pub(super) enum Element {
    Jwt(JwtAuthority),
    Skipped(&'static str),
    X509(X509Authority),
}

/// Why an element makes its whole document unusable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElementError {
    /// The certificate or key is not one that may be held.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The `x5c` value is not base64 (the standard alphabet, padded).
    #[error("x5c is not base64 in the standard alphabet")]
    CertificateText,
    /// `kid` of an earlier element again (a key id picks one key).
    #[error("key id {key_id:?} was used by an earlier element")]
    DuplicateKeyId {
        /// Shortened.
        key_id: String,
    },
    /// The key members describe another key than the certificate's.
    #[error("key members and certificate hold different public keys")]
    KeyMismatch,
    /// A member of the key is missing or is not unpadded base64url text.
    #[error("member {name} is missing or is not unpadded base64url text")]
    Member {
        /// Which.
        name: &'static str,
    },
    /// A `jwt-svid` element without a `kid` (JWT-SVID 6).
    #[error("a jwt-svid element needs a key id as text")]
    MissingKeyId,
    /// A private key, which no bundle may hold.
    #[error("private member {name} is in a bundle: that key is lost, rotate it")]
    PrivateKey {
        /// The first such member.
        name: &'static str,
    },
    /// `kty` is `oct`.
    #[error("a symmetric key is in a bundle")]
    SymmetricKey,
}

impl From<KeyError> for ElementError {
    fn from(error: KeyError) -> Self {
        Self::Authority(AuthorityError::Key(error))
    }
}

enum Use {
    Jwt,
    X509,
}

/// Decides about one element.
pub(super) fn read(value: &Shallow<'_>) -> Result<Element, ElementError> {
    let Shallow::Members(members) = value else {
        return Ok(Element::Skipped("element is not an object"));
    };
    let members = Members(members);
    let wanted = match members.text("use") {
        Some("x509-svid") => Use::X509,
        Some("jwt-svid") => Use::Jwt,
        // TDB 4.2.2, also for wit-svid: WIT-SVIDs are not ours to verify.
        Some(_) => return Ok(Element::Skipped("use is not known")),
        None => return Ok(Element::Skipped("use is missing")),
    };
    let Some(kind) = KeyType::of(&members)? else {
        // TDB 4.2.1.
        return Ok(Element::Skipped("key type or curve is missing or not known"));
    };
    if let Some(name) = PRIVATE_MEMBERS.into_iter().find(|name| members.value(name).is_some()) {
        return Err(ElementError::PrivateKey { name });
    }
    match wanted {
        Use::Jwt => read_jwt(&members, kind),
        Use::X509 => read_x509(&members, kind),
    }
}

fn read_jwt(members: &Members<'_>, kind: KeyType) -> Result<Element, ElementError> {
    let key_id = members.text("kid").filter(|kid| !kid.is_empty()).ok_or(ElementError::MissingKeyId)?;
    let key = kind.read(members)?;
    Ok(Element::Jwt(JwtAuthority::from_key(key_id, &key, None, false)?))
}

fn read_x509(members: &Members<'_>, kind: KeyType) -> Result<Element, ElementError> {
    let text = match members.value("x5c") {
        // X509-SVID 6.2: an element without a certificate is ignored; of several values only the first counts.
        None | Some(Shallow::List(None)) => return Ok(Element::Skipped("x5c is missing or empty")),
        Some(Shallow::List(Some(first))) => match first.as_ref() {
            Shallow::Text(text) => text,
            _ => return Err(ElementError::CertificateText),
        },
        Some(_) => return Err(ElementError::CertificateText),
    };
    // Folded base64 is not in the standard, but both readers of SPIRE take it, so it exists.
    let folded = text.contains(['\r', '\n']).then(|| text.replace(['\r', '\n'], ""));
    let der = STANDARD
        .decode(folded.as_deref().unwrap_or(text.as_ref()))
        .map_err(|_| ElementError::CertificateText)?;
    let authority = X509Authority::from_der(&der, false)?;
    // X509-SVID 6.2 wants the key members to be the certificate's; a reader of either must see the same key.
    if kind.read(members)? != authority.public_key()? {
        return Err(ElementError::KeyMismatch);
    }
    Ok(Element::X509(authority))
}

#[derive(Clone, Copy)]
enum KeyType {
    Ec(Curve),
    Ed25519,
    Rsa,
}

impl KeyType {
    fn of(members: &Members<'_>) -> Result<Option<Self>, ElementError> {
        let curve = members.text("crv");
        Ok(match members.text("kty") {
            Some("oct") => return Err(ElementError::SymmetricKey),
            // A curve that is left out is a broken key, not an unknown one.
            Some("EC" | "OKP") if members.value("crv").is_none() => {
                return Err(ElementError::Member { name: "crv" });
            }
            Some("EC") => Curve::ALL.into_iter().find(|known| Some(known.name()) == curve).map(Self::Ec),
            Some("OKP") => (curve == Some("Ed25519")).then_some(Self::Ed25519),
            Some("RSA") => Some(Self::Rsa),
            _ => None,
        })
    }

    fn read(self, members: &Members<'_>) -> Result<PublicKey, ElementError> {
        Ok(match self {
            Self::Ec(curve) => PublicKey::ec(curve, &members.bytes("x")?, &members.bytes("y")?)?,
            Self::Ed25519 => PublicKey::ed25519(&members.bytes("x")?)?,
            Self::Rsa => PublicKey::rsa(&members.bytes("n")?, &members.bytes("e")?)?,
        })
    }
}

struct Members<'a>(&'a [(&'static str, Shallow<'a>)]);

impl Members<'_> {
    fn value(&self, name: &str) -> Option<&Shallow<'_>> {
        self.0.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    fn text(&self, name: &str) -> Option<&str> {
        match self.value(name) {
            Some(Shallow::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn bytes(&self, name: &'static str) -> Result<Vec<u8>, ElementError> {
        let text = self.text(name).ok_or(ElementError::Member { name })?;
        URL_SAFE_NO_PAD.decode(text).map_err(|_| ElementError::Member { name })
    }
}
