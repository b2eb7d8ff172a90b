//! Broken copies of deploy/ and what is said about them; and a kubectl that renders, or a clear word where there is none.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::PathBuf;
use std::sync::LazyLock;

use entente_deploy_checks::{Deploy, folder, rendered};
use entente_lab_parts::tell;

pub(crate) static DEPLOY: LazyLock<Deploy> =
    LazyLock::new(|| Deploy::read(&folder()).expect("deploy/ is readable"));

/// Puts `to` for `from` in one file, and expects a mistake that says `said`.
#[track_caller]
pub(crate) fn refused(file: &str, from: &str, to: &str, said: &str) {
    let mistakes = DEPLOY.with(file, from, to).expect("the copy is another").mistakes();
    assert!(mistakes.iter().any(|mistake| mistake.contains(said)), "{said:?} is not said: {mistakes:#?}");
}

/// Without one nothing is rendered and nothing compared: `left_out` says what that means. In CI that is a failure.
#[track_caller]
pub(crate) fn kubectl(left_out: &str) -> Option<PathBuf> {
    let kubectl = rendered::kubectl();
    let lacking = format!("no kubectl on the path or in the lab's cache, so {left_out}");
    assert!(kubectl.is_some() || std::env::var_os("CI").is_none(), "CI is set, but {lacking}");
    if kubectl.is_none() {
        tell(&format!("left out: {lacking}"));
    }
    kubectl
}
