//! A strict look at JSON text: one pass, bounded depth, no member name twice, at any level, known or not.
//!
//! Values are seen shallowly: text, integers and the first item of a list are kept (borrowed where they can be), the rest is
//! only walked through, so that memory stays far below the size of the text.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::DocumentError;
use crate::text::shortened;

/// As much of a value as anyone here asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Shallow<'de> {
    /// A whole number, written without point and exponent.
    Integer(i128),
    /// An array: its first item.
    List(Option<Box<Self>>),
    /// An object: the members that were asked for.
    Members(Vec<(&'static str, Self)>),
    /// Null, true, false, another number.
    Other,
    /// A string.
    Text(Cow<'de, str>),
}

/// Carried through one reading: the bound, and the refusal, since serde's errors are texts.
#[derive(Debug)]
pub(super) struct Reading {
    max_depth: usize,
    refusal: RefCell<Option<DocumentError>>,
    within: Cell<Option<usize>>,
}

impl Reading {
    pub(super) fn new(max_depth: usize) -> Self {
        Self { max_depth, refusal: RefCell::new(None), within: Cell::new(None) }
    }

    /// Remembers the refusal and ends serde's walk.
    pub(super) fn refuse<E: Error>(&self, refusal: DocumentError) -> E {
        self.refusal.replace(Some(refusal));
        E::custom("refused")
    }

    /// Tells which element of `keys` is being read, for messages.
    pub(super) fn enter_element(&self, index: Option<usize>) {
        self.within.set(index);
    }

    /// Why the walk ended, if we ended it.
    pub(super) fn into_refusal(self) -> Option<DocumentError> {
        self.refusal.into_inner()
    }

    pub(super) fn check_depth<E: Error>(&self, depth: usize) -> Result<(), E> {
        if depth <= self.max_depth {
            return Ok(());
        }
        Err(self.refuse(DocumentError::TooDeep { limit: self.max_depth }))
    }

    /// Refuses a second member of one name: readers differ in which of the two they believe.
    pub(super) fn check_name<'de, E: Error>(
        &self,
        seen: &mut BTreeSet<Cow<'de, str>>,
        name: Cow<'de, str>,
    ) -> Result<(), E> {
        if !seen.contains(&name) {
            seen.insert(name);
            return Ok(());
        }
        let (name, index) = (shortened(&name), self.within.get());
        Err(self.refuse(DocumentError::DuplicateMember { name, index }))
    }
}

/// Reads any one value. `depth` is the depth that the value has if it is an array or object; the outermost has 1.
#[derive(Clone, Copy)]
pub(super) struct ShallowSeed<'r> {
    pub(super) reading: &'r Reading,
    pub(super) depth: usize,
    /// Members to keep if the value is an object.
    pub(super) keep: &'static [&'static str],
}

impl<'r> ShallowSeed<'r> {
    pub(super) fn new(reading: &'r Reading, depth: usize) -> Self {
        Self { reading, depth, keep: &[] }
    }
}

impl<'de> DeserializeSeed<'de> for ShallowSeed<'_> {
    type Value = Shallow<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shallow<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ShallowSeed<'_> {
    type Value = Shallow<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Shallow<'de>, E> {
        Ok(Shallow::Other)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Shallow<'de>, E> {
        Ok(Shallow::Integer(number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Shallow<'de>, E> {
        Ok(Shallow::Integer(number.into()))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Shallow<'de>, E> {
        Ok(Shallow::Other)
    }

    fn visit_unit<E: Error>(self) -> Result<Shallow<'de>, E> {
        Ok(Shallow::Other)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Shallow<'de>, E> {
        Ok(Shallow::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Shallow<'de>, E> {
        Ok(Shallow::Text(Cow::Borrowed(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shallow<'de>, A::Error> {
        self.reading.check_depth(self.depth)?;
        let item = Self::new(self.reading, self.depth + 1);
        let first = items.next_element_seed(item)?.map(Box::new);
        while items.next_element_seed(item)?.is_some() {}
        Ok(Shallow::List(first))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Shallow<'de>, A::Error> {
        self.reading.check_depth(self.depth)?;
        let (mut seen, mut kept) = (BTreeSet::new(), Vec::new());
        while let Some(Name(name)) = members.next_key()? {
            self.reading.check_name(&mut seen, name.clone())?;
            let value = members.next_value_seed(Self::new(self.reading, self.depth + 1))?;
            if let Some(name) = self.keep.iter().find(|kept| **kept == name) {
                kept.push((*name, value));
            }
        }
        Ok(Shallow::Members(kept))
    }
}

/// A member name, borrowed from the text unless it holds escapes.
pub(super) struct Name<'de>(pub(super) Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }
            fn visit_str<E: Error>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
            fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}
