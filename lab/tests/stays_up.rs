//! `lab up`: says what to try, keeps others out of its folder, and leaves nothing running behind.

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use entente_lab::layout::{Inventory, InventoryOfProcess};
use entente_lab::log_file::{LogFile, Mark};
use entente_lab::process::{is_running, signal_pid};
use entente_lab::stop_signals::hangup_is_ignored;
use entente_lab::{checks, http};
use rustix::process::Signal;
use tokio::process::Child;

const UP_WITHIN: Duration = Duration::from_secs(300);
/// A second on a machine that has nothing else to do.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

async fn up(dir: &Path, output: &Path) -> Child {
    let output = std::fs::File::create(output).expect("a file for its output");
    let dir = dir.to_str().expect("a plain name");
    let mut command = support::lab_command(&["up", "--spire", "embedded", "--dir", dir]).await;
    command.stderr(output.try_clone().expect("a second handle")).stdout(output);
    command.spawn().expect("the lab starts")
}

fn processes(inventory: &Inventory) -> impl Iterator<Item = &InventoryOfProcess> {
    inventory.trust_domains.iter().flat_map(|domain| &domain.processes)
}

fn pids(inventory: &Inventory) -> Vec<u32> {
    processes(inventory).map(|process| process.pid).collect()
}

/// A lab that has ended leaves no socket behind, and a `lab.json` that names nothing that runs.
fn is_clean(dir: &Path) {
    let left = Inventory::load(dir).expect("lab.json").expect("lab.json");
    assert_eq!((left.pid, left.warden_pid, pids(&left)), (None, None, Vec::new()));
    for domain in left.trust_domains {
        for socket in [&domain.api_socket, &domain.link_socket, &domain.folder.join("agent.sock")] {
            assert!(!socket.exists(), "{} was left behind", socket.display());
        }
    }
}

/// Ends it by `signal`; answers its exit code.
async fn end_by(signal: Signal, mut lab: Child) -> Option<i32> {
    signal_pid(lab.id().expect("a pid"), signal).expect("a signal");
    let status = tokio::time::timeout(Duration::from_secs(30), lab.wait()).await.expect("it ends in time");
    status.expect("it ends").code()
}

#[tokio::test]
async fn a_lab_that_is_up_has_its_folder_for_itself_and_leaves_nothing_running() {
    let _turn = support::turn().await;
    let folder = tempfile::Builder::new().prefix("lab-").tempdir().expect("a folder");
    let (dir, output) = (folder.path().join("d"), folder.path().join("output"));
    let first = up(&dir, &output).await;
    checks::line_in(&LogFile::new(&output), Mark::default(), &["stay until Ctrl-C"], UP_WITHIN)
        .await
        .expect("it is up");

    let inventory = Inventory::load(&dir).expect("lab.json").expect("lab.json");
    assert_eq!(inventory.pid, first.id());
    assert_eq!(pids(&inventory).len(), 2 * 5, "server, plugin, agent, endpoint and workload of each");
    let names: BTreeSet<_> = processes(&inventory).map(|process| &process.name).collect();
    assert_eq!(names.len(), 2 * 5, "each has a name of its own: {names:?}");
    assert!(inventory.warden_pid.is_some_and(is_running));
    let one = inventory.trust_domains.first().expect("cluster1.org");
    let trust = http::Trust::CaFile(one.web_ca_file.clone());
    assert!(one.link_socket.exists() && one.plugin_data_file.exists());
    let key = std::fs::metadata(one.folder.join("web.key")).expect("the web key");
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    let reply = http::ask(&http::Request::get(&one.web_url, trust)).await.expect("the printed URL answers");
    assert_eq!(reply.status, 200);

    let second = up(&dir, &folder.path().join("second")).await.wait().await.expect("it ends");
    assert_eq!(second.code(), Some(1));
    let said = std::fs::read_to_string(folder.path().join("second")).expect("its output");
    assert!(said.contains("in use by a lab that runs as pid"), "{said}");

    assert_eq!(end_by(Signal::INT, first).await, Some(0));
    is_clean(&dir);
    for pid in pids(&inventory) {
        assert!(!is_running(pid), "process {pid} is still running");
    }
}

#[tokio::test]
async fn a_lab_that_was_killed_leaves_nothing_running_and_its_folder_can_be_taken_over() {
    let _turn = support::turn().await;
    let folder = tempfile::Builder::new().prefix("lab-").tempdir().expect("a folder");
    let (dir, output) = (folder.path().join("d"), folder.path().join("output"));
    let mut first = up(&dir, &output).await;
    checks::line_in(&LogFile::new(&output), Mark::default(), &["stay until Ctrl-C"], UP_WITHIN)
        .await
        .expect("it is up");
    let left = pids(&Inventory::load(&dir).expect("lab.json").expect("lab.json"));
    first.kill().await.expect("SIGKILL");
    checks::eventually("what the dead lab left is gone", Duration::from_secs(20), async || {
        let running = left.iter().filter(|pid| is_running(**pid)).count();
        checks::ensure(running == 0, || format!("{running} processes still run"))
    })
    .await
    .expect("its warden kills them");

    let output = folder.path().join("again");
    let second = up(&dir, &output).await;
    let log = LogFile::new(&output);
    checks::line_in(&log, Mark::default(), &["took over"], UP_WITHIN).await.expect("it says so");
    checks::line_in(&log, Mark::default(), &["stay until Ctrl-C"], UP_WITHIN).await.expect("it is up");
    assert_eq!(end_by(Signal::TERM, second).await, Some(0));
    is_clean(&dir);
}

#[tokio::test]
async fn a_dead_part_is_told_at_once_and_the_rest_runs_on_until_the_terminal_goes_away() {
    let _turn = support::turn().await;
    let folder = tempfile::Builder::new().prefix("lab-").tempdir().expect("a folder");
    let (dir, output) = (folder.path().join("d"), folder.path().join("output"));
    let first = up(&dir, &output).await;
    let log = LogFile::new(&output);
    checks::line_in(&log, Mark::default(), &["stay until Ctrl-C"], UP_WITHIN).await.expect("it is up");
    let before = Inventory::load(&dir).expect("lab.json").expect("lab.json");

    let mut dead = BTreeSet::new();
    for (name, how) in [
        ("bundle-endpoint cluster1.org", "signal: 9 (SIGKILL)"),
        // Its server alone learns how.
        ("entente-plugin cluster2.org", "has ended"),
        ("helloworld-server", "signal: 9 (SIGKILL)"),
    ] {
        let process = processes(&before).find(|process| process.name == name).expect(name);
        signal_pid(process.pid, Signal::KILL).expect("SIGKILL");
        let pid = format!("(pid {})", process.pid);
        checks::line_in(&log, Mark::default(), &[name, &pid, how, "the rest runs on"], TOLD_WITHIN)
            .await
            .expect("it is told");
        let end_of_log = format!("the end of {}:", process.log.display());
        checks::line_in(&log, Mark::default(), &[&end_of_log], TOLD_WITHIN).await.expect("with its log");
        dead.insert(process.pid);
    }
    let after = Inventory::load(&dir).expect("lab.json").expect("lab.json");
    let wanted: BTreeSet<_> = pids(&before).into_iter().filter(|pid| !dead.contains(pid)).collect();
    assert_eq!(pids(&after).into_iter().collect::<BTreeSet<_>>(), wanted);
    assert!(wanted.iter().all(|pid| is_running(*pid)), "the rest runs on");

    assert_eq!(end_by(hang_up(), first).await, Some(1));
    is_clean(&dir);
    let said = std::fs::read_to_string(&output).expect("its output");
    assert!(said.contains("3 processes ended that should have stayed"), "{said}");
}

/// Where that signal is ignored the lab is ended another way.
fn hang_up() -> Signal {
    if hangup_is_ignored() { Signal::TERM } else { Signal::HUP }
}
