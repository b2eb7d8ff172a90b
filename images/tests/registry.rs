//! Against the reference registry, the one behind the image `registry:3`: what was pushed comes back byte by byte.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "also what a test calls may fail it")]

use std::path::{Path, PathBuf};
use std::process::Stdio;

use entente_images::{Blobs, Digest, ImageSpec, PRODUCTS, Registry, Rootfs, SBOM_TYPE};
use entente_lab_parts::{GoModule, GoProgram, go, tell};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const MODULE: GoModule = GoModule {
    name: "the reference registry",
    version: "3.1.2",
    place: "registry/",
    go_mod: include_str!("registry/go.mod"),
    go_sum: include_str!("registry/go.sum"),
    programs: &[GoProgram {
        file: "registry",
        package: "github.com/distribution/distribution/v3/cmd/registry",
    }],
    takes: "some minutes",
    ..GoModule::PLAIN
};

/// The program, built once per machine. Nothing where there is no Go, unless in CI.
async fn program() -> Option<PathBuf> {
    let there = MODULE.found_in(&MODULE.cache_folder().unwrap()).is_some();
    if !there && go().is_none() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "CI=true, but there is no Go to build a registry"
        );
        tell("left out: the reference registry, which needs Go to be built");
        return None;
    }
    Some(MODULE.find_or_build("").await.unwrap().folder.join("registry"))
}

#[test]
fn the_module_pins_the_version_that_it_is_called_by() {
    assert!(MODULE.go_mod.contains(&format!("github.com/distribution/distribution/v3 v{}", MODULE.version)));
}

/// A registry of the test's own, on a port of its own.
struct Running {
    address: String,
    store: TempDir,
    _child: Child,
}

impl Running {
    /// Nothing where it is not here and cannot be built, unless in CI.
    async fn start() -> Option<Self> {
        let program = program().await?;
        let store = tempfile::tempdir().unwrap();
        let config = store.path().join("config.yml");
        let root = store.path().join("data");
        let settings = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
            root.display()
        );
        std::fs::write(&config, settings).unwrap();
        let mut command = Command::new(program);
        command.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none").kill_on_drop(true);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next_line().await.unwrap().expect("a registry that listens");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.chars().take_while(|letter| matches!(letter, '0'..='9' | '.' | ':')).collect();
            }
        };
        // Somebody has to read on, or the registry waits for that.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Some(Self { address, store, _child: child })
    }
    fn name(&self, image: &str) -> String {
        format!("{}/{image}:0.1.0", self.address)
    }
    /// Where the registry keeps the bytes of this digest.
    fn file(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let folder = self.store.path().join("data/docker/registry/v2/blobs/sha256");
        folder.join(hex.get(..2).unwrap()).join(hex).join("data")
    }
}

fn image(name: &str, content: &str) -> Blobs {
    let mut rootfs = Rootfs::new();
    rootfs.bytes(content, "/program", 0o755).unwrap();
    ImageSpec::new(name, rootfs).assemble().unwrap().blobs().unwrap()
}

#[tokio::test]
async fn what_was_pushed_comes_back_byte_by_byte_with_what_is_kept_beside_it() {
    let Some(running) = Running::start().await else { return };
    let name = running.name("some/program");
    let registry = Registry::of(&name, None).unwrap();
    let image = image(&name, "program");
    let sbom = image.attach(b"{\"bomFormat\":\"CycloneDX\"}", SBOM_TYPE, "1970-01-01T00:00:00Z").unwrap();
    // A second time is no harm: everything is there.
    for _ in 0..2 {
        registry.push(&name, &image, std::slice::from_ref(&sbom)).await.unwrap();
    }
    for pushed in [&image, &sbom] {
        let (manifest, parts) = registry.pull(&name, &pushed.digest()).await.unwrap();
        assert_eq!((manifest, parts), (pushed.manifest.clone(), pushed.parts.clone()));
    }
    let beside = registry.beside(&name, &image.digest()).await.unwrap();
    assert_eq!(beside, [sbom.digest().to_string()]);
}

#[tokio::test]
async fn a_registry_that_answers_with_other_bytes_is_found_out() {
    let Some(running) = Running::start().await else { return };
    let name = running.name("program");
    let registry = Registry::of(&name, None).unwrap();
    let image = image(&name, "program");
    registry.push(&name, &image, &[]).await.unwrap();
    let layer = running.file(&Digest::of(image.parts.last().unwrap()));
    let mut content = std::fs::read(&layer).unwrap();
    *content.last_mut().unwrap() ^= 1;
    std::fs::write(&layer, content).unwrap();
    assert!(registry.pull(&name, &image.digest()).await.is_err());
    assert!(registry.pull(&name, &Digest::of(b"never pushed")).await.is_err());
}

/// The smallest program that there is: a header for x86-64, without a loader and without libraries.
fn static_program() -> Vec<u8> {
    let mut program = b"\x7fELF\x02\x01\x01".to_vec();
    program.resize(64, 0);
    let mut set = |at: usize, value: u16| program[at..at + 2].copy_from_slice(&value.to_le_bytes());
    // e_type, e_machine, e_version, e_ehsize, e_phentsize
    for (at, value) in [(16, 2), (18, 62), (20, 1), (52, 64), (54, 56)] {
        set(at, value);
    }
    program
}

async fn build(running: &Running, folder: &Path, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_entente-images"));
    command.arg("build").args(arguments).arg("--workspace").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command
        .arg("--programs")
        .arg(folder)
        .arg("--ca-file")
        .arg(folder.join("ca"))
        .arg("--out")
        .arg(folder.join("out"));
    command.args(["--revision", "0123", "--registry", &running.address]);
    command.env("SOURCE_DATE_EPOCH", "1700000000").stdin(Stdio::null()).output().await.unwrap()
}

/// With every program, and authorities.
fn folder_to_build_in() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca"), "authorities").unwrap();
    for product in &PRODUCTS {
        std::fs::write(folder.path().join(product.name), static_program()).unwrap();
    }
    folder
}

#[tokio::test]
async fn the_program_pushes_what_it_says_that_it_made() {
    let Some(running) = Running::start().await else { return };
    let folder = folder_to_build_in();
    let checksum = folder.path().join("checksum.env");
    let output =
        build(&running, folder.path(), &["--push", "--plugin-checksum", checksum.to_str().unwrap()]).await;
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let plugin = Digest::of(&static_program());
    assert_eq!(
        std::fs::read_to_string(checksum).unwrap(),
        format!("ENTENTE_PLUGIN_SHA256={}\n", plugin.hex())
    );
    for product in &PRODUCTS {
        let layout = folder.path().join(format!("out/{}.oci", product.name));
        let index = std::fs::read(layout.join("index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
        assert!(told.contains(&digest), "{told}");
        let manifest = std::fs::read(layout.join("blobs").join(digest.replace(':', "/"))).unwrap();
        let name = format!("{}/{}:{}", running.address, product.name, product.tag(&plugin));
        let registry = Registry::of(&name, None).unwrap();
        assert!(told.contains(&name), "{told}");
        assert_eq!(registry.pull(&name, &Digest::of(&manifest)).await.unwrap().0, manifest);
        let sbom = index["manifests"][1]["digest"].as_str().unwrap();
        assert_eq!(registry.beside(&name, &Digest::of(&manifest)).await.unwrap(), [sbom]);
    }
}

#[tokio::test]
async fn a_program_that_is_not_static_is_not_pushed() {
    let Some(running) = Running::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy("/bin/sh", folder.path().join("helloworld-server")).unwrap();
    let output = build(&running, folder.path(), &["helloworld-server", "--push"]).await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(told.contains("is not static"), "{told}");
    assert!(!running.store.path().join("data/docker/registry/v2/repositories/helloworld-server").exists());
}

/// A program of the path that stands in for another.
fn stand_in(folder: &Path, name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// deploy/images/build.sh in a copy of deploy/, with programs that are built already and a kubectl that renders one word.
async fn build_script(running: &Running, folder: &Path) -> std::process::Output {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(checkout.join("deploy")).arg(checkout.join("Cargo.toml"));
    assert!(copy.arg(folder).status().await.unwrap().success());
    let (place, path) = (folder.display(), std::env::var("PATH").unwrap());
    let ours = format!(
        "--workspace {} --programs {place} --ca-file {place}/ca --out {place}/out",
        checkout.display()
    );
    let images = env!("CARGO_BIN_EXE_entente-images");
    let run = format!("while [ \"$1\" != -- ]; do shift; done\nshift\nexec {images} \"$@\" {ours}");
    let other = format!("PATH='{path}' exec {} \"$@\"", env!("CARGO"));
    stand_in(folder, "cargo", &format!("if [ \"$1\" = run ]; then\n{run}\nfi\n{other}"));
    stand_in(folder, "kubectl", "echo rendered");
    let mut command = Command::new("bash");
    command.arg(folder.join("deploy/images/build.sh")).env("PATH", format!("{place}:{path}"));
    command
        .env_remove("KUBECTL")
        .env_remove("CARGO")
        .env("BUILDER", "cargo")
        .env("REGISTRY", &running.address);
    command.env("REVISION", "0123").env("SOURCE_DATE_EPOCH", "1700000000").stdin(Stdio::null());
    command.output().await.unwrap()
}

#[tokio::test]
async fn the_script_pushes_what_the_manifests_ask_for() {
    let Some(running) = Running::start().await else { return };
    let folder = folder_to_build_in();
    let output = build_script(&running, folder.path()).await;
    let told = format!("{output:?}");
    assert!(output.status.success(), "{told}");
    let plugin = Digest::of(&static_program());
    let read = |path: &str| std::fs::read_to_string(folder.path().join("deploy").join(path)).unwrap();
    let line = format!("ENTENTE_PLUGIN_SHA256={}\n", plugin.hex());
    assert_eq!(read("base/spire/plugin-checksum.env"), line);
    assert!(read("cluster1/spire/spire-all.yaml").ends_with("\nrendered\n"), "{told}");
    let repositories = running.store.path().join("data/docker/registry/v2/repositories");
    for (image, tag) in [("entente-plugin", plugin.hex()), ("bundle-endpoint", env!("CARGO_PKG_VERSION"))] {
        assert!(repositories.join(format!("{image}/_manifests/tags/{tag}/current/link")).is_file(), "{told}");
    }
    assert!(!repositories.join("helloworld-server").exists(), "{told}");
}
