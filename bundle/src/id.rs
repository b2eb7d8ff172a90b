//! Trust domain names and SPIFFE IDs, stricter than most parsers: what SPIFFE-ID 2 allows and nothing else.
//!
//! Upper case is refused in scheme and trust domain, as go-spiffe does, although SPIFFE-ID 2 calls both case-insensitive:
//! two spellings of one name must never become two keys of a map.

use std::fmt;
use std::str::FromStr;

use crate::text::shortened;

const SCHEME: &str = "spiffe://";
const MAX_TRUST_DOMAIN: usize = 255;
const MAX_ID: usize = 2048;

/// A trust domain name such as `cluster1.org`: 1 to 255 bytes of `a-z 0-9 . - _` (SPIFFE-ID 2.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(String);

/// A SPIFFE ID such as `spiffe://cluster1.org/spire/server`, at most 2048 bytes (SPIFFE-ID 2.3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    path: String,
}

/// Why a text is no trust domain name or no SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A path character outside `a-z A-Z 0-9 . - _` (SPIFFE-ID 2.2). Queries, fragments and percent signs end here too.
    #[error("character {found:?} is not allowed in the path of a spiffe id")]
    BadPathCharacter {
        /// The first such character.
        found: char,
    },
    /// A trust domain character outside `a-z 0-9 . - _` (SPIFFE-ID 2.1). Ports and user names end here too.
    #[error(
        "character {found:?} is not allowed in a trust domain name (only a-z, 0-9, dot, dash, underscore)"
    )]
    BadTrustDomainCharacter {
        /// The first such character.
        found: char,
    },
    /// A path segment `.` or `..`.
    #[error("path segment {segment:?} is not allowed in a spiffe id")]
    DotSegment {
        /// The segment.
        segment: String,
    },
    /// Two slashes in a row.
    #[error("path of a spiffe id has an empty segment")]
    EmptySegment,
    /// An ID or a URI where a bare name was wanted.
    #[error("expected a bare trust domain name such as example.org, found a uri")]
    NameIsUri,
    /// A path where only a trust domain was wanted.
    #[error("expected a trust domain without a path, found path {path:?}")]
    NameWithPath {
        /// The path, shortened.
        path: String,
    },
    /// A trust domain where the ID of somebody in it was wanted.
    #[error("expected a SPIFFE ID with a path, found {}", .trust_domain.id_string())]
    NoPath {
        /// The trust domain.
        trust_domain: TrustDomain,
    },
    /// No trust domain at all.
    #[error("trust domain name is empty")]
    NoTrustDomain,
    /// Something else than `spiffe://` at the start.
    #[error("a spiffe id starts with spiffe:// (lower case)")]
    NotSpiffe,
    /// Longer than the standard asks anyone to support.
    #[error("{length} bytes are longer than the limit of {limit}")]
    TooLong {
        /// Bytes found.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A slash at the end.
    #[error("a spiffe id must not end with a slash")]
    TrailingSlash,
}

impl TrustDomain {
    /// Parses a bare name; `spiffe://name` is refused. Use [`TrustDomain::from_name_or_id`] where SPIRE accepts both.
    pub fn new(name: &str) -> Result<Self, IdError> {
        if name.is_empty() {
            return Err(IdError::NoTrustDomain);
        }
        if name.contains("://") {
            return Err(IdError::NameIsUri);
        }
        if name.len() > MAX_TRUST_DOMAIN {
            return Err(IdError::TooLong { length: name.len(), limit: MAX_TRUST_DOMAIN });
        }
        let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
        if let Some(found) = name.chars().find(|c| !allowed(*c)) {
            return Err(IdError::BadTrustDomainCharacter { found });
        }
        Ok(Self(name.to_owned()))
    }

    /// Accepts `name` and `spiffe://name` (no path), as SPIRE's `federates_with` label does.
    pub fn from_name_or_id(text: &str) -> Result<Self, IdError> {
        let Some(name) = text.strip_prefix(SCHEME) else {
            return Self::new(text);
        };
        match name.split_once('/') {
            None => Self::new(name),
            Some((_, path)) => Err(IdError::NameWithPath { path: shortened(&format!("/{path}")) }),
        }
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `spiffe://name`, the key of Workload API bundle maps.
    pub fn id_string(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }

    /// The ID of this trust domain's SPIRE Server: `spiffe://name/spire/server`.
    pub fn spire_server_id(&self) -> SpiffeId {
        SpiffeId { trust_domain: self.clone(), path: "/spire/server".into() }
    }
}

impl SpiffeId {
    /// Parses a whole URI. A path is not required here; a leaf's ID needs one (see `svid`).
    pub fn new(uri: &str) -> Result<Self, IdError> {
        if uri.len() > MAX_ID {
            return Err(IdError::TooLong { length: uri.len(), limit: MAX_ID });
        }
        let rest = uri.strip_prefix(SCHEME).ok_or(IdError::NotSpiffe)?;
        let (name, path) = match rest.find('/').and_then(|slash| rest.split_at_checked(slash)) {
            Some((name, path)) => (name, path),
            None => (rest, ""),
        };
        let trust_domain = TrustDomain::new(name)?;
        check_path(path)?;
        Ok(Self { trust_domain, path: path.to_owned() })
    }

    /// The same for the ID of somebody who is to prove it. X509-SVID 5.2: a leaf without a path is never verified, so nobody could.
    pub fn with_path(uri: &str) -> Result<Self, IdError> {
        let id = Self::new(uri)?;
        if id.path.is_empty() { Err(IdError::NoPath { trust_domain: id.trust_domain }) } else { Ok(id) }
    }

    /// The trust domain this ID is a member of.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash, or the empty string.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// True for what SPIRE keeps for itself: `/spire` and all below it. No workload has such an ID.
    pub fn is_reserved(&self) -> bool {
        self.path.strip_prefix("/spire").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn check_path(path: &str) -> Result<(), IdError> {
    let Some(segments) = path.strip_prefix('/') else {
        return Ok(());
    };
    if segments.is_empty() || segments.ends_with('/') {
        return Err(IdError::TrailingSlash);
    }
    segments.split('/').try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), IdError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match segment {
        "" => Err(IdError::EmptySegment),
        "." | ".." => Err(IdError::DotSegment { segment: segment.to_owned() }),
        _ => match segment.chars().find(|c| !allowed(*c)) {
            Some(found) => Err(IdError::BadPathCharacter { found }),
            None => Ok(()),
        },
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.trust_domain, self.path)
    }
}

impl FromStr for TrustDomain {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        Self::new(s)
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        Self::new(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(uri: &str) -> IdError {
        SpiffeId::new(uri).unwrap_err()
    }

    #[test]
    fn what_spire_keeps_for_itself_is_known() {
        for (path, is_reserved) in [
            ("/spire", true),
            ("/spire/server", true),
            ("/spire/agent/x", true),
            ("/spirex", false),
            ("/a/spire", false),
        ] {
            assert_eq!(
                SpiffeId::new(&format!("spiffe://a.test{path}")).unwrap().is_reserved(),
                is_reserved,
                "{path}"
            );
        }
    }

    #[test]
    fn a_trust_domain_outside_the_character_set_is_refused() {
        let bad = |found| Err(IdError::BadTrustDomainCharacter { found });
        assert_eq!(TrustDomain::new("Cluster1.org"), bad('C'));
        assert_eq!(TrustDomain::new("a.test:8443"), bad(':'));
        assert_eq!(TrustDomain::new("user@a.test"), bad('@'));
        assert_eq!(TrustDomain::new("a.test/x"), bad('/'));
        assert_eq!(TrustDomain::new("ä.test"), bad('ä'));
        assert_eq!(TrustDomain::new("a%2etest"), bad('%'));
        assert_eq!(TrustDomain::new(""), Err(IdError::NoTrustDomain));
        assert_eq!(TrustDomain::new("spiffe://a.test"), Err(IdError::NameIsUri));
    }

    #[test]
    fn a_trust_domain_has_at_most_255_bytes() {
        assert!(TrustDomain::new(&"a".repeat(255)).is_ok());
        let refused = TrustDomain::new(&"a".repeat(256));
        assert_eq!(refused, Err(IdError::TooLong { length: 256, limit: 255 }));
    }

    #[test]
    fn an_id_outside_the_standard_is_refused() {
        assert_eq!(refusal("https://a.test/web"), IdError::NotSpiffe);
        assert_eq!(refusal("SPIFFE://a.test/web"), IdError::NotSpiffe);
        assert_eq!(refusal("spiffe:///web"), IdError::NoTrustDomain);
        assert_eq!(refusal("spiffe://a.test/"), IdError::TrailingSlash);
        assert_eq!(refusal("spiffe://a.test/web/"), IdError::TrailingSlash);
        assert_eq!(refusal("spiffe://a.test//web"), IdError::EmptySegment);
        assert_eq!(refusal("spiffe://a.test/./web"), IdError::DotSegment { segment: ".".into() });
        assert_eq!(refusal("spiffe://a.test/web/.."), IdError::DotSegment { segment: "..".into() });
        assert_eq!(refusal("spiffe://a.test/we%62"), IdError::BadPathCharacter { found: '%' });
        assert_eq!(refusal("spiffe://a.test/web?x=1"), IdError::BadPathCharacter { found: '?' });
        assert_eq!(refusal("spiffe://a.test/web#x"), IdError::BadPathCharacter { found: '#' });
        assert_eq!(refusal("spiffe://a.test?x"), IdError::BadTrustDomainCharacter { found: '?' });
    }

    #[test]
    fn who_is_to_prove_an_id_needs_one_with_a_path() {
        let trust_domain = TrustDomain::new("a.test").unwrap();
        let refused = SpiffeId::with_path("spiffe://a.test").unwrap_err();
        assert_eq!(refused.to_string(), "expected a SPIFFE ID with a path, found spiffe://a.test");
        assert_eq!(refused, IdError::NoPath { trust_domain });
        assert_eq!(SpiffeId::with_path("spiffe://a.test/"), Err(IdError::TrailingSlash));
        assert_eq!(SpiffeId::with_path("spiffe://a.test/x").unwrap().path(), "/x");
    }

    #[test]
    fn an_id_has_at_most_2048_bytes() {
        let id = |length: usize| format!("spiffe://a.test/{}", "a".repeat(length - 16));
        assert!(SpiffeId::new(&id(2048)).is_ok());
        assert_eq!(refusal(&id(2049)), IdError::TooLong { length: 2049, limit: 2048 });
    }

    #[test]
    fn an_id_prints_as_it_was_read() {
        for uri in ["spiffe://a.test", "spiffe://a.test/web", "spiffe://a_b-1.test/ns/A.b_c-9/..."] {
            assert_eq!(SpiffeId::new(uri).unwrap().to_string(), uri);
        }
    }

    #[test]
    fn a_label_may_be_a_name_or_an_id_without_path() {
        let name = TrustDomain::new("a.test").unwrap();
        assert_eq!(TrustDomain::from_name_or_id("a.test"), Ok(name.clone()));
        assert_eq!(TrustDomain::from_name_or_id("spiffe://a.test"), Ok(name));
        let refused = TrustDomain::from_name_or_id("spiffe://a.test/web");
        assert_eq!(refused, Err(IdError::NameWithPath { path: "/web".into() }));
        let endless = TrustDomain::from_name_or_id(&format!("spiffe://a.test/{}", "x".repeat(100_000)));
        assert!(endless.unwrap_err().to_string().len() < 300);
    }
}
