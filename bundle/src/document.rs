//! The bundle document: JSON Web Key Set with SPIFFE members, read and written (TDB 4).
//!
//! Reading follows the standard where it says "ignore" and is strict about everything else: a document is taken whole or not at
//! all. What a bundle means to someone who holds an older one is `freshness`'s business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use self::element::Element;
pub use self::element::ElementError;
use self::json::{Name, Reading, Shallow, ShallowSeed};
use crate::text::shortened;
use crate::{Bundle, JwtAuthority, TrustDomain, X509Authority};

mod element;
mod json;
mod render;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Bounds on a document from outside.
#[derive(Clone, Copy, Debug)]
pub struct DocumentLimits {
    /// Bytes of JSON text.
    pub max_bytes: usize,
    /// Elements of `keys`.
    pub max_keys: usize,
    /// Nesting of arrays and objects; a bundle as the standard describes it needs 4.
    pub max_depth: usize,
}

impl Default for DocumentLimits {
    fn default() -> Self {
        Self { max_bytes: 1 << 20, max_keys: 512, max_depth: 8 }
    }
}

/// A document that was read: the bundle, and which elements were passed over and why.
#[derive(Clone, Debug)]
pub struct ParsedDocument {
    /// Stamped with the trust domain that the caller configured; the document never names its own.
    pub bundle: Bundle,
    /// Elements that the standard tells a consumer to ignore.
    pub skipped: Vec<SkippedKey>,
}

impl ParsedDocument {
    /// Why elements were passed over, each reason with how many there are of it, for one log line; empty where none was.
    pub fn skipped_reasons(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for skipped in &self.skipped {
            *counts.entry(skipped.reason).or_default() += 1;
        }
        counts.iter().map(|(reason, count)| format!("{reason}: {count}")).collect::<Vec<_>>().join(", ")
    }
}

/// One ignored element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedKey {
    /// Position in `keys`.
    pub index: usize,
    /// Why it was ignored: a constant phrase.
    pub reason: &'static str,
}

/// Why a whole document was refused. Nothing of it may be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// A byte order mark in front, which RFC 8259 8.1 forbids to send.
    #[error("document starts with a byte order mark")]
    ByteOrderMark,
    /// One member name twice in one object.
    #[error("member {name:?} appears twice{}", .index.map(|index| format!(" in element {index} of keys")).unwrap_or_default())]
    DuplicateMember {
        /// Shortened.
        name: String,
        /// Position in `keys`, if it is there.
        index: Option<usize>,
    },
    /// An element that claims to be an authority and is none that may be held.
    #[error("element {index} of keys is unusable: {reason}")]
    Element {
        /// Position in `keys`.
        index: usize,
        /// What is wrong with it; told in the text, so that a log line needs no chain.
        reason: ElementError,
    },
    /// No bytes.
    #[error("document is empty")]
    Empty,
    /// Not JSON, or not all of it.
    #[error("document is not json: {detail}")]
    Json {
        /// The reader's words, with line and column.
        detail: String,
    },
    /// `keys` is something else than an array.
    #[error("keys is not an array")]
    KeysNotAnArray,
    /// No `keys` (TDB 4.1.3 requires it; names are case-sensitive).
    #[error("document has no member keys")]
    MissingKeys,
    /// The outermost value is not an object.
    #[error("document is not a json object")]
    NotAnObject,
    /// `spiffe_refresh_hint` is not an integer (TDB 4.1.2).
    #[error("spiffe_refresh_hint is not an integer")]
    RefreshHint,
    /// `spiffe_sequence` is not an integer from 0 to 2^64 - 1 (TDB 4.1.1).
    #[error("spiffe_sequence is not an integer from 0 to 18446744073709551615")]
    SequenceNumber,
    /// Nested deeper than the limit.
    #[error("document is nested deeper than the limit of {limit}")]
    TooDeep {
        /// Levels allowed.
        limit: usize,
    },
    /// Longer than the limit.
    #[error("document of {length} bytes is longer than the limit of {limit}")]
    TooLarge {
        /// Bytes found.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// More elements than the limit.
    #[error("keys has more than {limit} elements")]
    TooManyKeys {
        /// Elements allowed.
        limit: usize,
    },
}

/// Reads a document as the bundle of `trust_domain`.
///
/// # Errors
/// Whatever is not a bundle document as a whole, goes beyond `limits`, or holds an authority that is broken; see
/// [`DocumentError`] and [`ElementError`]. Elements that the standard says to ignore are listed in the answer instead.
pub fn parse(
    text: &[u8],
    trust_domain: &TrustDomain,
    limits: &DocumentLimits,
) -> Result<ParsedDocument, DocumentError> {
    if text.len() > limits.max_bytes {
        return Err(DocumentError::TooLarge { length: text.len(), limit: limits.max_bytes });
    }
    if text.starts_with(BYTE_ORDER_MARK) {
        return Err(DocumentError::ByteOrderMark);
    }
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(DocumentError::Empty);
    }
    let contents = read(text, limits)?;
    let Contents { jwt_authorities, refresh_hint, sequence_number, skipped, x509_authorities, .. } = contents;
    let bundle =
        Bundle::new(trust_domain.clone(), x509_authorities, jwt_authorities, sequence_number, refresh_hint);
    Ok(ParsedDocument { bundle, skipped })
}

/// Writes the document that SPIRE 1.15 and go-spiffe accept: stable order, four-space indent, LF, no trailing newline,
/// `x509-svid` and `jwt-svid` only, sequence and hint left out when absent.
pub fn render(bundle: &Bundle) -> Vec<u8> {
    render::render(bundle)
}

fn read(text: &[u8], limits: &DocumentLimits) -> Result<Contents, DocumentError> {
    let reading = Reading::new(limits.max_depth);
    let mut contents = Contents::default();
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let seed = TopSeed { reading: &reading, limits, contents: &mut contents };
    // `end` refuses anything after the first value; SPIRE would ignore it, and so could be shown something else than we are.
    let outcome = seed.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match (outcome, reading.into_refusal()) {
        (_, Some(refusal)) => Err(refusal),
        // A wrong type anywhere else is looked at by ourselves.
        (Err(error), None) if error.is_data() => match contents.keys_seen {
            true => Err(DocumentError::KeysNotAnArray),
            false => Err(DocumentError::NotAnObject),
        },
        (Err(error), None) => Err(DocumentError::Json { detail: error.to_string() }),
        (Ok(()), None) if !contents.keys_seen => Err(DocumentError::MissingKeys),
        (Ok(()), None) => Ok(contents),
    }
}

/// What has been read so far.
#[derive(Default)]
struct Contents {
    keys_seen: bool,
    jwt_authorities: Vec<JwtAuthority>,
    key_ids: BTreeSet<String>,
    refresh_hint: Option<Duration>,
    sequence_number: Option<u64>,
    skipped: Vec<SkippedKey>,
    x509_authorities: Vec<X509Authority>,
}

impl Contents {
    fn take_element(&mut self, index: usize, value: &Shallow<'_>) -> Result<(), ElementError> {
        match element::read(value)? {
            Element::Jwt(authority) => {
                if !self.key_ids.insert(authority.key_id().to_owned()) {
                    return Err(ElementError::DuplicateKeyId { key_id: shortened(authority.key_id()) });
                }
                self.jwt_authorities.push(authority);
            }
            Element::Skipped(reason) => self.skipped.push(SkippedKey { index, reason }),
            Element::X509(authority) => self.x509_authorities.push(authority),
        }
        Ok(())
    }
}

fn sequence_number(value: &Shallow<'_>) -> Result<Option<u64>, DocumentError> {
    match value {
        Shallow::Integer(number) => {
            u64::try_from(*number).map(Some).map_err(|_| DocumentError::SequenceNumber)
        }
        _ => Err(DocumentError::SequenceNumber),
    }
}

// A hint of zero or less asks for nothing that makes sense: as good as none. SPIRE reads it so too.
fn refresh_hint(value: &Shallow<'_>) -> Result<Option<Duration>, DocumentError> {
    match value {
        Shallow::Integer(seconds) => Ok(u64::try_from(*seconds).ok().map(Duration::from_secs)),
        _ => Err(DocumentError::RefreshHint),
    }
}

/// The outermost object.
struct TopSeed<'a> {
    reading: &'a Reading,
    limits: &'a DocumentLimits,
    contents: &'a mut Contents,
}

impl<'de> DeserializeSeed<'de> for TopSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TopSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bundle document")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self { reading, limits, contents } = self;
        reading.check_depth(1)?;
        let mut seen = BTreeSet::new();
        while let Some(Name(name)) = members.next_key()? {
            reading.check_name(&mut seen, name.clone())?;
            if name == "keys" {
                contents.keys_seen = true;
                members.next_value_seed(KeysSeed { reading, limits, contents: &mut *contents })?;
                continue;
            }
            let value = members.next_value_seed(ShallowSeed::new(reading, 2))?;
            match name.as_ref() {
                "spiffe_refresh_hint" => contents.refresh_hint = or_refuse(reading, refresh_hint(&value))?,
                "spiffe_sequence" => contents.sequence_number = or_refuse(reading, sequence_number(&value))?,
                // TDB 4.1: other members may be there and mean nothing to us.
                _ => {}
            }
        }
        Ok(())
    }
}

/// The array of elements.
struct KeysSeed<'a> {
    reading: &'a Reading,
    limits: &'a DocumentLimits,
    contents: &'a mut Contents,
}

impl<'de> DeserializeSeed<'de> for KeysSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for KeysSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of keys")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let Self { reading, limits, contents } = self;
        reading.check_depth(2)?;
        let seed = ShallowSeed { reading, depth: 3, keep: element::MEMBERS };
        for index in 0.. {
            reading.enter_element(Some(index));
            let Some(value) = elements.next_element_seed(seed)? else { break };
            if index >= limits.max_keys {
                return Err(reading.refuse(DocumentError::TooManyKeys { limit: limits.max_keys }));
            }
            let taken = contents.take_element(index, &value);
            or_refuse(reading, taken.map_err(|reason| DocumentError::Element { index, reason }))?;
        }
        reading.enter_element(None);
        Ok(())
    }
}

fn or_refuse<T, E: serde::de::Error>(reading: &Reading, result: Result<T, DocumentError>) -> Result<T, E> {
    result.map_err(|refusal| reading.refuse(refusal))
}

#[cfg(test)]
mod tests;
