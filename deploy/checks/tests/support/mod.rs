//! Broken copies of deploy/, and what is said about them.

use std::sync::LazyLock;

use entente_deploy_checks::{Deploy, folder};

pub(crate) static DEPLOY: LazyLock<Deploy> =
    LazyLock::new(|| Deploy::read(&folder()).expect("deploy/ is readable"));

/// Puts `to` for `from` in one file, and expects a mistake that says `said`.
#[track_caller]
pub(crate) fn refused(file: &str, from: &str, to: &str, said: &str) {
    let mistakes = DEPLOY.with(file, from, to).expect("the copy is another").mistakes();
    assert!(mistakes.iter().any(|mistake| mistake.contains(said)), "{said:?} is not said: {mistakes:#?}");
}
