//! What plugins find wrong with a trust domain by their own memory and files, merged. Each speaks for its own server alone, so its
//! word counts while its link lasts: nobody else can say when it is over, nor that it is none.

use std::collections::{BTreeMap, BTreeSet};

use super::LinkPeer;

/// In the words of one plugin, or of all together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Troubles {
    /// Why the operator's file cannot be used that would authenticate an endpoint.
    pub(crate) authentication: Option<String>,
    /// Why nothing keeps the held bundle current and confirms it.
    pub(crate) keeping: Option<String>,
}

impl Troubles {
    /// Puts the words of all links about one trust domain together.
    pub(super) fn merge<'a>(links: impl Iterator<Item = (&'a LinkPeer, Option<&'a Self>)> + Clone) -> Self {
        let all = |of: fn(&Self) -> &Option<String>| {
            merged(links.clone().map(|(peer, said)| (peer, said.and_then(|said| of(said).as_deref()))))
        };
        Self { authentication: all(|said| &said.authentication), keeping: all(|said| &said.keeping) }
    }
}

/// Each text once, with the links that say it where others do not.
fn merged<'a>(links: impl Iterator<Item = (&'a LinkPeer, Option<&'a str>)>) -> Option<String> {
    let mut count = 0;
    let mut texts: BTreeMap<&str, Vec<&LinkPeer>> = BTreeMap::new();
    for (peer, text) in links {
        count += 1;
        if let Some(text) = text {
            texts.entry(text).or_default().push(peer);
        }
    }
    let told = texts.into_iter().map(|(text, peers)| {
        if peers.len() == count {
            return text.to_owned();
        }
        let names: BTreeSet<_> = peers.into_iter().map(ToString::to_string).collect();
        format!("{text} (told by {})", names.into_iter().collect::<Vec<_>>().join(", "))
    });
    let told: Vec<_> = told.collect();
    (!told.is_empty()).then(|| told.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{LocalPeer, LocalProcess};

    fn peer(pid: i32) -> LinkPeer {
        LinkPeer::Local(LocalPeer { uid: 7, process: LocalProcess::Pid(pid), allowed: true })
    }

    fn unkept(text: &str) -> Troubles {
        Troubles { keeping: Some(text.into()), ..Troubles::default() }
    }

    fn of(links: &[(LinkPeer, Option<Troubles>)]) -> Option<String> {
        let merged = Troubles::merge(links.iter().map(|(peer, said)| (peer, said.as_ref())));
        assert_eq!(merged.authentication, None);
        merged.keeping
    }

    #[test]
    fn what_every_link_says_is_told_once_and_without_a_name() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(peer(1), None)]), None);
        assert_eq!(of(&[(peer(1), Some(unkept("x")))]).as_deref(), Some("x"));
        assert_eq!(of(&[(peer(1), Some(unkept("x"))), (peer(2), Some(unkept("x")))]).as_deref(), Some("x"));
    }

    #[test]
    fn where_links_differ_each_text_names_those_that_say_it() {
        let one_of_two = of(&[(peer(1), None), (peer(2), Some(unkept("x")))]);
        assert_eq!(one_of_two.as_deref(), Some("x (told by process 2 of user id 7)"));
        let both = of(&[(peer(1), Some(unkept("y"))), (peer(2), Some(unkept("x")))]);
        let text = "x (told by process 2 of user id 7); y (told by process 1 of user id 7)";
        assert_eq!(both.as_deref(), Some(text));
    }
}
