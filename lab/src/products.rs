//! The programs under test: built by cargo into the folder that the running lab itself came from, then put aside, so that a
//! build during a story changes nothing.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use entente_lab_parts::{BuildGroup, sha256};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::spire::PluginProgram;

/// Environment variable that skips the build: the programs are taken as they lie beside the lab.
pub const NO_BUILD: &str = "ENTENTE_LAB_NO_BUILD";

const PLUGIN: &str = "entente-plugin";
const ENDPOINT: &str = "bundle-endpoint";
const HELLOWORLD_SERVER: &str = "helloworld-server";
const HELLOWORLD_CLIENT: &str = "helloworld-client";
const LAB: &str = "lab";

/// Packages of the programs above.
const PACKAGES: [&str; 4] = ["entente-plugin", "bundle-endpoint", "entente-workloads", "entente-lab"];

/// Where the programs of this lab are.
#[derive(Clone, Debug)]
pub struct Products {
    folder: PathBuf,
    plugin_sha256: String,
}

impl Products {
    /// Builds what is not built yet and puts it into `folder`.
    pub async fn build_into(folder: &Path) -> anyhow::Result<Self> {
        let built = build(&PACKAGES).await?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for name in [PLUGIN, ENDPOINT, HELLOWORLD_SERVER, HELLOWORLD_CLIENT, LAB] {
            put_aside(&built.join(name), &folder.join(name))?;
        }
        let plugin = std::fs::read(folder.join(PLUGIN)).context("cannot read the plugin's program")?;
        let plugin_sha256 = sha256(&plugin);
        Ok(Self { folder: folder.to_owned(), plugin_sha256 })
    }
    /// The plugin, with its hash.
    pub fn plugin(&self) -> PluginProgram {
        PluginProgram { command: self.folder.join(PLUGIN), sha256: self.plugin_sha256.clone() }
    }
    /// File name of the plugin's program.
    pub fn plugin_name() -> &'static str {
        PLUGIN
    }
    /// `bundle-endpoint`
    pub fn bundle_endpoint(&self) -> PathBuf {
        self.folder.join(ENDPOINT)
    }
    /// `helloworld-server`
    pub fn helloworld_server(&self) -> PathBuf {
        self.folder.join(HELLOWORLD_SERVER)
    }
    /// `helloworld-client`
    pub fn helloworld_client(&self) -> PathBuf {
        self.folder.join(HELLOWORLD_CLIENT)
    }
    /// This program, for its hidden roles.
    pub fn lab(&self) -> PathBuf {
        self.folder.join(LAB)
    }
}

/// Builds the programs of `packages` that are not built yet; answers where they are. Where the sources are not at hand, or [`NO_BUILD`] is
/// set, the programs that lie beside this one are taken.
pub async fn build(packages: &[&str]) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program lies")?;
    let beside = own.parent().context("this program lies in no folder")?;
    let is_test = beside.file_name().is_some_and(|name| name == "deps");
    let built = if is_test { beside.parent().unwrap_or(beside) } else { beside };
    if std::env::var_os(NO_BUILD).is_some() {
        return Ok(built.to_owned());
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let workspace = workspace.filter(|workspace| workspace.join("Cargo.toml").is_file());
    let (Some(workspace), Some(folder)) = (workspace, CargoFolder::of(built)) else {
        return Ok(built.to_owned());
    };
    if is_test {
        // Its tests run at the same time, and all need all of it.
        static BUILT: OnceCell<()> = OnceCell::const_new();
        BUILT.get_or_try_init(|| folder.build_with_tests(workspace)).await?;
    } else {
        folder.build(workspace, packages).await?;
    }
    Ok(built.to_owned())
}

/// How cargo was told to put programs into a folder.
#[derive(Debug, PartialEq, Eq)]
struct CargoFolder<'a> {
    target_dir: &'a Path,
    triple: Option<&'a str>,
    profile: &'a str,
}

impl<'a> CargoFolder<'a> {
    /// `TARGET_DIR/debug` or `TARGET_DIR/TRIPLE/debug`; nothing for a folder that cargo does not build into.
    fn of(built: &'a Path) -> Option<Self> {
        let is_target_dir = |folder: &Path| {
            [".rustc_info.json", "CACHEDIR.TAG"].iter().any(|mark| folder.join(mark).is_file())
        };
        let profile = match built.file_name()?.to_str()? {
            "debug" => "dev",
            profile => profile,
        };
        let above = built.parent()?;
        if is_target_dir(above) {
            return Some(Self { target_dir: above, triple: None, profile });
        }
        let target_dir = above.parent().filter(|folder| is_target_dir(folder))?;
        Some(Self { target_dir, triple: Some(above.file_name()?.to_str()?), profile })
    }

    /// Cargo's own progress goes to the terminal; with nothing to do it is silent for a moment.
    async fn build(&self, workspace: &Path, packages: &[&str]) -> anyhow::Result<()> {
        let mut arguments = vec!["build", "--bins"];
        arguments.extend(packages.iter().flat_map(|package| ["--package", package]));
        self.cargo(workspace, &arguments, Stdio::inherit()).await
    }

    /// A test asks for what `cargo test --workspace` has just built, programs included: with other features than those, most
    /// dependencies would be compiled once more. What it prints is for the test harness to read.
    async fn build_with_tests(&self, workspace: &Path) -> anyhow::Result<()> {
        self.cargo(workspace, &["test", "--no-run", "--workspace"], Stdio::null()).await
    }

    async fn cargo(&self, workspace: &Path, arguments: &[&str], stdout: Stdio) -> anyhow::Result<()> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(arguments).arg("--target-dir").arg(self.target_dir);
        if self.profile != "dev" {
            cargo.args(["--profile", self.profile]);
        }
        if let Some(triple) = self.triple {
            cargo.args(["--target", triple]);
        }
        run_cargo(cargo.current_dir(workspace).stdin(Stdio::null()).stdout(stdout)).await
    }
}

/// Runs cargo to its end. When nobody waits for that any more it ends at once, compilers and all.
pub(crate) async fn run_cargo(cargo: &mut Command) -> anyhow::Result<()> {
    let failed = format!("cannot run {}", cargo.as_std().get_program().display());
    let mut build = BuildGroup::start(cargo).with_context(|| failed.clone())?;
    let status = build.child.wait().await.context(failed)?;
    if status.success() { Ok(()) } else { bail!("the programs do not build ({status})") }
}

/// A hard link where both lie on one file system, else a copy.
pub(crate) fn put_aside(from: &Path, to: &Path) -> anyhow::Result<()> {
    // A copy onto another name of the same file would empty it.
    if to.exists() {
        std::fs::remove_file(to).with_context(|| format!("cannot replace {}", to.display()))?;
    }
    if std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    std::fs::copy(from, to).map(drop).with_context(|| {
        format!("{} is not there: build the programs with `cargo build --workspace --bins`", from.display())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::process;

    #[test]
    fn cargo_is_told_to_build_where_it_built_before() {
        let target = tempfile::tempdir().expect("a folder");
        std::fs::write(target.path().join("CACHEDIR.TAG"), "").expect("a write");
        let plain = target.path().join("debug");
        let crossed = target.path().join("x86_64-unknown-linux-musl").join("release");
        let folder = CargoFolder { target_dir: target.path(), triple: None, profile: "dev" };
        assert_eq!(CargoFolder::of(&plain), Some(folder));
        let folder = CargoFolder {
            target_dir: target.path(),
            triple: Some("x86_64-unknown-linux-musl"),
            profile: "release",
        };
        assert_eq!(CargoFolder::of(&crossed), Some(folder));
        assert_eq!(CargoFolder::of(Path::new("/usr/local/bin")), None);
    }

    // Of a build for two minutes or more: it holds the lock of the target folder.
    #[tokio::test]
    async fn cargo_ends_with_whoever_waits_for_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let pid_file = folder.path().join("compiler");
        let mut cargo = Command::new("sh");
        cargo.args(["-c", "sleep 600 & echo $! > \"$0\"; wait"]).arg(&pid_file);
        let compiler = async {
            loop {
                let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
                match text.trim().parse::<u32>() {
                    Ok(pid) => return pid,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let pid = tokio::select! {
            built = run_cargo(&mut cargo) => panic!("it is not done: {built:?}"),
            pid = compiler => pid,
        };
        let gone = async {
            while process::is_running(pid) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), gone).await.expect("the compiler ends");
    }

    #[test]
    fn putting_a_program_aside_twice_leaves_it_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        std::fs::write(&from, "program").expect("a write");
        for _ in 0..2 {
            put_aside(&from, &to).expect("put aside");
        }
        assert_eq!(std::fs::read(&to).expect("a read"), b"program");
        assert_eq!(std::fs::read(&from).expect("a read"), b"program");
    }
}
