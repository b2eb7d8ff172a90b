//! `lab up`: says what to try, keeps others out of its folder, and leaves nothing running behind.

mod support;

use std::path::Path;
use std::time::Duration;

use entente_lab::layout::Inventory;
use entente_lab::log_file::{LogFile, Mark};
use entente_lab::process::{is_running, signal_pid};
use entente_lab::{checks, http};
use rustix::process::Signal;
use tokio::process::Child;

const UP_WITHIN: Duration = Duration::from_secs(300);

async fn up(dir: &Path, output: &Path) -> Child {
    let output = std::fs::File::create(output).expect("a file for its output");
    let dir = dir.to_str().expect("a plain name");
    let mut command = support::lab_command(&["up", "--spire", "embedded", "--dir", dir]).await;
    command.stderr(output.try_clone().expect("a second handle")).stdout(output);
    command.spawn().expect("the lab starts")
}

fn pids(inventory: &Inventory) -> Vec<u32> {
    inventory.trust_domains.iter().flat_map(|domain| &domain.processes).map(|process| process.pid).collect()
}

#[tokio::test]
async fn a_lab_that_is_up_has_its_folder_for_itself_and_leaves_nothing_running() {
    let _turn = support::turn().await;
    let folder = tempfile::Builder::new().prefix("lab-").tempdir().expect("a folder");
    let (dir, output) = (folder.path().join("d"), folder.path().join("output"));
    let mut first = up(&dir, &output).await;
    checks::line_in(&LogFile::new(&output), Mark::default(), &["stay until Ctrl-C"], UP_WITHIN)
        .await
        .expect("it is up");

    let inventory = Inventory::load(&dir).expect("lab.json").expect("lab.json");
    assert_eq!(Some(inventory.pid), first.id());
    assert_eq!(pids(&inventory).len(), 2 * 5, "server, plugin, agent, endpoint and workload of each");
    let one = inventory.trust_domains.first().expect("cluster1.org");
    let trust = http::Trust::CaFile(one.web_ca_file.clone());
    let reply = http::ask(&http::Request::get(&one.web_url, trust)).await.expect("the printed URL answers");
    assert_eq!(reply.status, 200);

    let second = up(&dir, &folder.path().join("second")).await.wait().await.expect("it ends");
    assert_eq!(second.code(), Some(1));
    let said = std::fs::read_to_string(folder.path().join("second")).expect("its output");
    assert!(said.contains("in use by a lab that runs as pid"), "{said}");

    signal_pid(inventory.pid, Signal::INT).expect("a signal");
    let status = tokio::time::timeout(Duration::from_secs(30), first.wait()).await.expect("it ends in time");
    assert_eq!(status.expect("it ends").code(), Some(0));
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
    let mut second = up(&dir, &output).await;
    let log = LogFile::new(&output);
    checks::line_in(&log, Mark::default(), &["took over"], UP_WITHIN).await.expect("it says so");
    checks::line_in(&log, Mark::default(), &["stay until Ctrl-C"], UP_WITHIN).await.expect("it is up");
    signal_pid(second.id().expect("a pid"), Signal::TERM).expect("a signal");
    let status = tokio::time::timeout(Duration::from_secs(30), second.wait()).await.expect("it ends in time");
    assert_eq!(status.expect("it ends").code(), Some(0));
}
