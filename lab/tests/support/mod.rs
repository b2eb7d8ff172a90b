//! Shared by the stories: a lab on the SPIRE that is wanted, one at a time, and a clear word where real SPIRE is missing.

#![allow(dead_code, reason = "no story needs all of it")]

pub(crate) mod bench;

use std::io::Write;
use std::process::Stdio;
use std::sync::LazyLock;

use entente_lab::checks::reason_of;
use entente_lab::lab::{Lab, Options};
use entente_lab::products;
use entente_lab::spire::{Kind, install};
use entente_lab::story::{self, Step};
use entente_lab::timeline::Timeline;
use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard};

static ONE_AT_A_TIME: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);

/// What a story costs is a machine's whole attention.
pub(crate) async fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().await
}

/// True when stories on this SPIRE can be told here. In CI real SPIRE must be there.
pub(crate) fn can_tell(kind: Kind) -> bool {
    if kind == Kind::Embedded {
        return true;
    }
    let found = install::find(None).expect("the cache can be looked at").is_some();
    can_have(found || install::can_build(), "the story on real SPIRE", "real SPIRE", "install Go")
}

/// Answers `there`, and says what is left out where it is not. In CI that is a failure.
pub(crate) fn can_have(there: bool, left_out: &str, part: &str, remedy: &str) -> bool {
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(there || !in_ci, "CI=true, but {part} is neither here nor to be had: {remedy}");
    if !there {
        // Past the test harness, which shows the output of failed tests only.
        let _ = writeln!(
            std::io::stderr(),
            "left out: {left_out}; {part} is neither here nor to be had: {remedy}"
        );
    }
    there
}

/// `lab` with `arguments`, on the programs that belong to this test run.
pub(crate) async fn lab_command(arguments: &[&str]) -> Command {
    products::build(&["entente-lab"])
        .await
        .unwrap_or_else(|error| panic!("no programs: {}", reason_of(&error)));
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.args(arguments).env(products::NO_BUILD, "1").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A lab after `steps`, all of which held.
pub(crate) async fn lab_after(kind: Kind, steps: &[Step]) -> Lab {
    lab_of(&Options { spire: Some(kind), ..Options::default() }, steps).await
}

/// The same with other options.
pub(crate) async fn lab_of(options: &Options, steps: &[Step]) -> Lab {
    let lab = Lab::prepare(options, Timeline::new().quiet()).await;
    let mut lab = lab.unwrap_or_else(|error| panic!("no lab: {}", reason_of(&error)));
    if let Err(error) = story::tell(&mut lab, steps, None).await {
        give_up(lab, &error).await;
    }
    lab
}

/// Tells `steps`, and nothing else.
pub(crate) async fn tell(kind: Kind, steps: &[Step]) {
    let _turn = turn().await;
    if can_tell(kind) {
        lab_after(kind, steps).await.stop(false).await;
    }
}

/// The same with other options.
pub(crate) async fn tell_with(options: &Options, kind: Kind, steps: &[Step]) {
    let _turn = turn().await;
    if can_tell(kind) {
        lab_of(options, steps).await.stop(false).await;
    }
}

/// Ends the lab and the test, and says where everything can be looked at.
pub(crate) async fn give_up(lab: Lab, error: &anyhow::Error) -> ! {
    let reason = reason_of(error);
    let folder = lab.stop(true).await.map(|folder| folder.display().to_string()).unwrap_or_default();
    panic!("{reason}\nconfigurations and logs are in {folder}");
}
