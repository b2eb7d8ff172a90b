//! deploy/kind/up.sh looks at the kubelets before anything is built. Docker, kind and kubectl are stand-ins here.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use entente_deploy_checks::folder;

/// Every program that up.sh calls. Both clusters are there already.
const STAND_IN: &str = r#"#!/bin/sh
case "${0##*/} $*" in
    'docker version'*) echo amd64 ;;
    'docker ps'*) echo running ;;
    'docker network inspect'*) echo entente-registry ;;
    'kind get clusters') printf 'entente-cluster1\nentente-cluster2\n' ;;
    'kubectl --context kind-entente-cluster1 get nodes -o '*kubeletVersion*) echo "$KUBELETS1" ;;
    'kubectl --context kind-entente-cluster2 get nodes -o '*kubeletVersion*) echo "$KUBELETS2" ;;
esac
"#;

/// What comes after the look at the kubelets.
const BUILD: &str = "#!/bin/sh\necho it builds\nexit 3\n";

fn program(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder is made");
    fs::write(path, text).expect("a program is written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it may be run");
}

/// A folder deploy/ with up.sh and what it reads.
fn copy() -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    let overlays = ["cluster1", "cluster2"].map(|name| format!("{name}/spire/common/kustomization.yaml"));
    for file in ["kind/up.sh", "script/common.sh"].into_iter().chain(overlays.iter().map(String::as_str)) {
        program(&copy.path().join(file), &fs::read_to_string(folder().join(file)).expect("it is readable"));
    }
    program(&copy.path().join("images/build.sh"), BUILD);
    for name in ["docker", "kind", "kubectl", "git"] {
        program(&copy.path().join("bin").join(name), STAND_IN);
    }
    copy
}

fn up(copy: &Path, [one, two]: [&str; 2]) -> Output {
    let mut path = vec![copy.join("bin")];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let mut command = Command::new("bash");
    command.arg(copy.join("kind/up.sh")).env_remove("FORM").env_remove("KUBECTL");
    command.env("PATH", env::join_paths(path).expect("a path without colons"));
    let output = command.env("KUBELETS1", one).env("KUBELETS2", two).output();
    output.expect("bash can be started")
}

#[track_caller]
fn goes_on(output: &Output) {
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("it builds"), "{output:?}");
}

#[track_caller]
fn refused(output: &Output, said: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("it builds"), "{output:?}");
    assert!(said.iter().all(|said| error.contains(said)), "{said:?}: {error}");
}

#[test]
fn kubelets_that_would_refuse_the_agents() {
    let copy = copy();
    for versions in ["v1.33.0", "v1.33.1 v1.36.3", "v1.100.0", "v1.34.2+k3s1"] {
        goes_on(&up(copy.path(), [versions, "v1.33.1"]));
    }
    let way_out = "or name deploy/base/nodes-proxy under `components` in deploy/cluster";
    for version in ["v1.32.2", "v1.9.11", "v1.29.15", "v1.32.9-gke.100"] {
        let versions = format!("v1.33.1 {version}");
        let said = format!("cluster1 has a kubelet of {version}");
        refused(&up(copy.path(), [&versions, "v1.33.1"]), &[&said, "kind 0.28 or later", way_out]);
    }
    refused(&up(copy.path(), ["v1.33.1", "v1.32.2"]), &["cluster2 has a kubelet of v1.32.2", way_out]);
    refused(&up(copy.path(), ["", "v1.33.1"]), &["cluster1 has no node"]);
    let overlay = copy.path().join("cluster1/spire/common/kustomization.yaml");
    let text = fs::read_to_string(&overlay).expect("it is readable");
    program(&overlay, &format!("{text}components:\n  # - ../../../base/nodes-proxy\n"));
    refused(&up(copy.path(), ["v1.32.2", "v1.33.1"]), &[way_out]);
    program(&overlay, &format!("{text}components:\n  - ../../../base/nodes-proxy\n"));
    goes_on(&up(copy.path(), ["v1.32.2", "v1.33.1"]));
}
