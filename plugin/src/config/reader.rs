//! Typed access to a block: kinds, repeats, unknown keys with a suggestion.

use entente_bundle::{IdError, SpiffeId};

use super::Mistakes;
use crate::hcl::{Item, Object, Value};

/// A block whose keys have been checked against the known ones.
pub(super) struct Block<'a> {
    path: String,
    object: &'a Object,
}

impl<'a> Block<'a> {
    /// Reports every key that is not `known`. `path` stands before each key in messages.
    pub(super) fn new(path: &str, object: &'a Object, known: &[&str], mistakes: &mut Mistakes) -> Self {
        let block = Self { path: path.to_owned(), object };
        for item in &object.items {
            if !known.contains(&item.key.as_str()) {
                mistakes.add(block.key(&item.key), unknown_key(&item.key, known));
            }
        }
        block
    }

    /// The way to a key, for messages.
    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}: {key}", self.path) }
    }

    /// Whether it is there at all, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.items(key).next().is_some()
    }

    pub(super) fn string(&self, key: &str, mistakes: &mut Mistakes) -> Option<&'a str> {
        match self.value(key, mistakes)? {
            Value::String(text) => Some(text),
            other => self.wrong_kind(key, "a string in double quotes", other, mistakes),
        }
    }

    /// The ID of somebody who is to prove it.
    pub(super) fn spiffe_id(&self, key: &str, mistakes: &mut Mistakes) -> Option<SpiffeId> {
        let text = self.string(key, mistakes)?;
        let wrong = match SpiffeId::with_path(text) {
            Ok(id) => return Some(id),
            Err(error @ IdError::NoPath { .. }) => error.to_string(),
            Err(error) => format!("expected a SPIFFE ID, found {text:?}: {error}"),
        };
        mistakes.add(self.key(key), wrong);
        None
    }

    pub(super) fn boolean(&self, key: &str, mistakes: &mut Mistakes) -> Option<bool> {
        match self.value(key, mistakes)? {
            Value::Bool(value) => Some(*value),
            other => self.wrong_kind(key, "true or false without quotes", other, mistakes),
        }
    }

    pub(super) fn integer(&self, key: &str, mistakes: &mut Mistakes) -> Option<i64> {
        match self.value(key, mistakes)? {
            Value::Integer(value) => Some(*value),
            other => self.wrong_kind(key, "a whole number without quotes", other, mistakes),
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, key: &str, words: &[(&str, T)], mistakes: &mut Mistakes) -> Option<T> {
        let text = self.string(key, mistakes)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            mistakes.add(self.key(key), format!("expected {}, found {text:?}", words.join(" or ")));
        }
        found
    }

    /// Blocks with a label, `key "label" { ... }`, in whatever shape they arrive: SPIRE prints the blocks of a JSON
    /// configuration as assignments of objects, and JSON authors wrap them in lists.
    pub(super) fn labelled(
        &self,
        key: &str,
        example: &str,
        mistakes: &mut Mistakes,
    ) -> Vec<(String, Object)> {
        let mut found = Vec::new();
        for item in self.items(key) {
            if flatten(&item.labels, &item.value, &mut found).is_none() {
                mistakes.add(
                    self.key(key),
                    format!("expected a block with a label, {example}, found {}", item.value.kind()),
                );
            }
        }
        found
    }

    fn items(&self, key: &str) -> impl Iterator<Item = &'a Item> {
        self.object.items.iter().filter(move |item| item.key == key)
    }

    fn value(&self, key: &str, mistakes: &mut Mistakes) -> Option<&'a Value> {
        let mut items = self.items(key);
        let first = items.next()?;
        if items.next().is_some() {
            mistakes.add(self.key(key), "given more than once; keep one");
        }
        if !first.labels.is_empty() {
            mistakes.add(self.key(key), "takes no label; write key = value");
        }
        Some(&first.value)
    }

    fn wrong_kind<T>(&self, key: &str, expected: &str, found: &Value, mistakes: &mut Mistakes) -> Option<T> {
        mistakes.add(self.key(key), format!("expected {expected}, found {}", found.kind()));
        None
    }
}

/// Collects (label, block) pairs; `None` when there is something that is neither a block nor a list of blocks.
fn flatten(labels: &[String], value: &Value, found: &mut Vec<(String, Object)>) -> Option<()> {
    match (labels, value) {
        ([label], Value::Object(object)) => found.push((label.clone(), object.clone())),
        ([], Value::Object(object)) => {
            for item in &object.items {
                let labels: Vec<_> = std::iter::once(&item.key).chain(&item.labels).cloned().collect();
                flatten(&labels, &item.value, found)?;
            }
        }
        ([] | [_], Value::List(values)) => {
            for value in values {
                flatten(labels, value, found)?;
            }
        }
        ([label, key, rest @ ..], value) => {
            let item = Item { key: key.clone(), labels: rest.to_vec(), value: value.clone() };
            found.push((label.clone(), Object { items: vec![item] }));
        }
        _ => return None,
    }
    Some(())
}

fn unknown_key(key: &str, known: &[&str]) -> String {
    let lower = key.to_lowercase();
    let nearest = known.iter().map(|known| (distance(&lower, known), known)).min();
    match nearest {
        Some((distance, known)) if distance <= 1 + known.len() / 5 => {
            format!("unknown key; did you mean {known}?")
        }
        _ => format!("unknown key; known here: {}", known.join(", ")),
    }
}

/// How many letters have to be put in, left out or replaced to get from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().take(64).enumerate() {
        let mut previous = index;
        let mut left = index + 1;
        for (cell, &wanted) in row.iter_mut().skip(1).zip(&to) {
            let above = *cell;
            left = (previous + usize::from(letter != wanted)).min(above + 1).min(left + 1);
            previous = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted_in_letters() {
        for (from, to, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("endpoint", "endpoint", 0),
            ("a", "b", 1),
        ] {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn a_misspelt_key_gets_a_suggestion_and_a_strange_one_the_list() {
        let known = ["endpoint", "refresh_hint"];
        assert_eq!(unknown_key("refreshhint", &known), "unknown key; did you mean refresh_hint?");
        assert_eq!(unknown_key("Endpoint", &known), "unknown key; did you mean endpoint?");
        assert_eq!(unknown_key("bucket", &known), "unknown key; known here: endpoint, refresh_hint");
    }
}
