//! Bundle messages to and from [`Bundle`]: the only such place.
//!
//! Three contracts have a bundle message of their own. All are read through [`BundleMessage`], which checks every authority
//! before anybody else sees it, because SPIRE itself checks less when it writes than when it reads: a message may hold what
//! no workload could ever use. Whose bundle it should be, and whether it is newer, is for the caller to decide.
//!
//! WIT authorities are left out both ways: peers before SPIRE 1.15.3 refuse a whole document for the sake of one.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use entente_bundle::text::shortened;
use entente_bundle::{AuthorityError, Bundle, IdError, JwtAuthority, TrustDomain, X509Authority};

use crate::link::v1 as link;
use crate::spire::api::types as api;
use crate::spire::plugin::types as plugin;

/// A bundle as it came over the wire, nothing of it checked yet.
#[derive(Clone, Debug)]
pub struct BundleMessage<'a> {
    trust_domain: &'a str,
    x509_authorities: Vec<X509Element<'a>>,
    jwt_authorities: Vec<JwtElement<'a>>,
    sequence_number: Option<u64>,
    refresh_hint: Option<Duration>,
}

/// What could be used of a message, and what could not.
#[derive(Clone, Debug)]
pub struct UsableBundle {
    /// Made of the authorities that passed. It can be empty although the message was not, if `refused` is not empty.
    pub bundle: Bundle,
    /// The authorities that did not, in the order of the message.
    pub refused: Vec<ElementError>,
}

/// Why a message is no bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// One authority cannot be used, so nothing of the message is.
    #[error("bundle of {trust_domain} refused")]
    Element {
        /// Whose bundle it is.
        trust_domain: TrustDomain,
        /// Which authority, and why.
        source: ElementError,
    },
    /// The message does not say whose bundle it is in a way that can be right.
    #[error("bundle names no trust domain: {presented:?}")]
    Name {
        /// What stands there, cut where it is too long to print.
        presented: String,
        /// What is wrong with it.
        source: IdError,
    },
    /// The bundle of one trust domain where that of another one belongs.
    #[error("bundle is of {presented} where that of {expected} belongs")]
    OtherTrustDomain {
        /// The one that was agreed on.
        expected: TrustDomain,
        /// The one that the message names.
        presented: TrustDomain,
    },
}

/// One authority that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{element} refused")]
pub struct ElementError {
    /// Which one.
    pub element: Element,
    /// Why.
    #[source]
    pub refusal: Refusal,
}

/// Which authority of a message, counted from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Element {
    /// A JWT authority.
    Jwt {
        /// Place in the message.
        index: usize,
        /// What stands there, cut where it is too long to print.
        key_id: String,
    },
    /// An X.509 authority.
    X509 {
        /// Place in the message.
        index: usize,
    },
}

/// Why one authority cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not what an authority has to be.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Which of two keys a token names by this ID cannot be told. The later one counts, as it does for SPIRE.
    #[error("jwt authority {later} has another key of the same key id")]
    KeyIdTaken {
        /// Place of the other one.
        later: usize,
    },
    /// Before 1970.
    #[error("expires at {expires_at}, which is no time")]
    Expiry {
        /// Unix seconds, as in the message.
        expires_at: i64,
    },
}

#[derive(Clone, Copy, Debug)]
struct X509Element<'a> {
    der: &'a [u8],
    tainted: bool,
}

#[derive(Clone, Copy, Debug)]
struct JwtElement<'a> {
    key_id: &'a str,
    spki: &'a [u8],
    expires_at: i64,
    tainted: bool,
}

impl BundleMessage<'_> {
    /// The whole bundle, or the first thing that is wrong with it.
    ///
    /// # Errors
    ///
    /// When the trust domain has no proper name, or any authority cannot be used.
    pub fn into_bundle(self) -> Result<Bundle, ConvertError> {
        let UsableBundle { bundle, refused } = self.into_usable()?;
        match refused.into_iter().next() {
            Some(source) => {
                Err(ConvertError::Element { trust_domain: bundle.trust_domain().clone(), source })
            }
            None => Ok(bundle),
        }
    }

    /// The same, where it is known whose bundle it has to be.
    ///
    /// # Errors
    ///
    /// As [`Self::into_bundle`], and when it is that of another trust domain.
    pub fn into_bundle_of(self, expected: &TrustDomain) -> Result<Bundle, ConvertError> {
        let presented = self.named()?;
        if presented != *expected {
            return Err(ConvertError::OtherTrustDomain { expected: expected.clone(), presented });
        }
        self.into_bundle()
    }

    /// Whatever can be used, for messages from SPIRE's own store, which others fill too and where one bad authority must not
    /// hide the good ones.
    ///
    /// # Errors
    ///
    /// When the trust domain has no proper name.
    pub fn into_usable(self) -> Result<UsableBundle, ConvertError> {
        let trust_domain = self.named()?;
        let mut refused = Vec::new();
        let x509_authorities =
            keep_good(self.x509_authorities.iter().enumerate().map(read_x509), &mut refused);
        let jwt = keep_good(self.jwt_authorities.iter().enumerate().map(read_jwt), &mut refused);
        let jwt_authorities = one_per_key_id(jwt, &mut refused);
        let bundle = Bundle::new(
            trust_domain,
            x509_authorities,
            jwt_authorities,
            self.sequence_number,
            self.refresh_hint,
        );
        Ok(UsableBundle { bundle, refused })
    }

    fn named(&self) -> Result<TrustDomain, ConvertError> {
        TrustDomain::from_name_or_id(self.trust_domain)
            .map_err(|source| ConvertError::Name { presented: shortened(self.trust_domain), source })
    }
}

fn keep_good<T>(
    read: impl Iterator<Item = Result<T, ElementError>>,
    refused: &mut Vec<ElementError>,
) -> Vec<T> {
    read.filter_map(|authority| authority.map_err(|error| refused.push(error)).ok()).collect()
}

fn read_x509((index, element): (usize, &X509Element<'_>)) -> Result<X509Authority, ElementError> {
    X509Authority::from_der(element.der, element.tainted)
        .map_err(|error| ElementError { element: Element::X509 { index }, refusal: error.into() })
}

fn read_jwt((index, element): (usize, &JwtElement<'_>)) -> Result<(usize, JwtAuthority), ElementError> {
    let refuse = |refusal| ElementError { element: jwt_element(index, element.key_id), refusal };
    let expires_at = element.expires_at;
    let seconds = u64::try_from(expires_at).map_err(|_| refuse(Refusal::Expiry { expires_at }))?;
    let seconds = Some(seconds).filter(|seconds| *seconds != 0);
    JwtAuthority::from_spki(element.key_id, element.spki, seconds, element.tainted)
        .map(|authority| (index, authority))
        .map_err(|error| refuse(error.into()))
}

/// A key ID names one key in the whole bundle (TDB 4.2.2). The same key twice is a mere repeat.
fn one_per_key_id(
    authorities: Vec<(usize, JwtAuthority)>,
    refused: &mut Vec<ElementError>,
) -> Vec<JwtAuthority> {
    let mut kept: BTreeMap<String, (usize, JwtAuthority)> = BTreeMap::new();
    for (later, authority) in authorities {
        let key_id = authority.key_id().to_owned();
        let spki = authority.spki().to_vec();
        if let Some((index, earlier)) = kept.insert(key_id, (later, authority))
            && earlier.spki() != spki
        {
            let element = jwt_element(index, earlier.key_id());
            refused.push(ElementError { element, refusal: Refusal::KeyIdTaken { later } });
        }
    }
    kept.into_values().map(|(_, authority)| authority).collect()
}

fn jwt_element(index: usize, key_id: &str) -> Element {
    Element::Jwt { index, key_id: shortened(key_id) }
}

/// Seconds to a hint; 0 means none, and so does what cannot be meant.
fn hint_from(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds).ok().filter(|seconds| *seconds != 0).map(Duration::from_secs)
}

fn hint_to(hint: Option<Duration>) -> i64 {
    hint.map_or(0, |hint| i64::try_from(hint.as_secs()).unwrap_or(i64::MAX))
}

fn expiry_to(expires_at: Option<u64>) -> i64 {
    expires_at.map_or(0, |seconds| i64::try_from(seconds).unwrap_or(i64::MAX))
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jwt { index, key_id } => write!(f, "jwt authority {index} with key id {key_id:?}"),
            Self::X509 { index } => write!(f, "x509 authority {index}"),
        }
    }
}

/// SPIRE's two bundle messages have the same fields in two packages.
macro_rules! spire_bundle {
    ($types:ident) => {
        impl<'a> From<&'a $types::Bundle> for BundleMessage<'a> {
            fn from(message: &'a $types::Bundle) -> Self {
                let x509 = |element: &'a $types::X509Certificate| X509Element {
                    der: &element.asn1,
                    tainted: element.tainted,
                };
                let jwt = |element: &'a $types::JwtKey| JwtElement {
                    key_id: &element.key_id,
                    spki: &element.public_key,
                    expires_at: element.expires_at,
                    tainted: element.tainted,
                };
                Self {
                    trust_domain: &message.trust_domain,
                    x509_authorities: message.x509_authorities.iter().map(x509).collect(),
                    jwt_authorities: message.jwt_authorities.iter().map(jwt).collect(),
                    // 0 stands for none there.
                    sequence_number: Some(message.sequence_number).filter(|number| *number != 0),
                    refresh_hint: hint_from(message.refresh_hint),
                }
            }
        }

        impl From<&Bundle> for $types::Bundle {
            fn from(bundle: &Bundle) -> Self {
                let x509 = |authority: &X509Authority| $types::X509Certificate {
                    asn1: authority.der().to_vec(),
                    tainted: authority.is_tainted(),
                };
                let jwt = |authority: &JwtAuthority| $types::JwtKey {
                    public_key: authority.spki().to_vec(),
                    key_id: authority.key_id().to_owned(),
                    expires_at: expiry_to(authority.expires_at()),
                    tainted: authority.is_tainted(),
                };
                Self {
                    trust_domain: bundle.trust_domain().to_string(),
                    x509_authorities: bundle.x509_authorities().iter().map(x509).collect(),
                    jwt_authorities: bundle.jwt_authorities().iter().map(jwt).collect(),
                    refresh_hint: hint_to(bundle.refresh_hint()),
                    sequence_number: bundle.sequence_number().unwrap_or(0),
                    wit_authorities: Vec::new(),
                }
            }
        }

        impl TryFrom<&$types::Bundle> for Bundle {
            type Error = ConvertError;

            fn try_from(message: &$types::Bundle) -> Result<Self, ConvertError> {
                BundleMessage::from(message).into_bundle()
            }
        }
    };
}

spire_bundle!(api);
spire_bundle!(plugin);

impl<'a> From<&'a link::Bundle> for BundleMessage<'a> {
    fn from(message: &'a link::Bundle) -> Self {
        let x509 = |element: &'a link::X509Authority| X509Element {
            der: &element.certificate,
            tainted: element.tainted,
        };
        let jwt = |element: &'a link::JwtAuthority| JwtElement {
            key_id: &element.key_id,
            spki: &element.public_key,
            expires_at: element.expires_at,
            tainted: element.tainted,
        };
        Self {
            trust_domain: &message.trust_domain,
            x509_authorities: message.x509_authorities.iter().map(x509).collect(),
            jwt_authorities: message.jwt_authorities.iter().map(jwt).collect(),
            sequence_number: message.sequence_number,
            refresh_hint: message.refresh_hint.map(Duration::from_secs),
        }
    }
}

impl From<&Bundle> for link::Bundle {
    fn from(bundle: &Bundle) -> Self {
        let x509 = |authority: &X509Authority| link::X509Authority {
            certificate: authority.der().to_vec(),
            tainted: authority.is_tainted(),
        };
        let jwt = |authority: &JwtAuthority| link::JwtAuthority {
            key_id: authority.key_id().to_owned(),
            public_key: authority.spki().to_vec(),
            expires_at: expiry_to(authority.expires_at()),
            tainted: authority.is_tainted(),
        };
        Self {
            trust_domain: bundle.trust_domain().to_string(),
            x509_authorities: bundle.x509_authorities().iter().map(x509).collect(),
            jwt_authorities: bundle.jwt_authorities().iter().map(jwt).collect(),
            sequence_number: bundle.sequence_number(),
            refresh_hint: bundle.refresh_hint().map(|hint| hint.as_secs()),
        }
    }
}

impl TryFrom<&link::Bundle> for Bundle {
    type Error = ConvertError;

    fn try_from(message: &link::Bundle) -> Result<Self, ConvertError> {
        BundleMessage::from(message).into_bundle()
    }
}
