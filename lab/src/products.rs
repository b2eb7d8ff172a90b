//! The programs under test: built by cargo into the folder that the running lab itself came from, then put aside, so that a
//! build during a story changes nothing.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::process::Command;

use crate::spire::PluginProgram;
use crate::spire::install::hex;

/// Set to skip the build: the programs are taken as they lie beside the lab.
const NO_BUILD: &str = "ENTENTE_LAB_NO_BUILD";

const PLUGIN: &str = "entente-plugin";
const ENDPOINT: &str = "bundle-endpoint";
const HELLOWORLD_SERVER: &str = "helloworld-server";
const HELLOWORLD_CLIENT: &str = "helloworld-client";
const LAB: &str = "lab";

/// Where the programs of this lab are.
#[derive(Clone, Debug)]
pub struct Products {
    folder: PathBuf,
    plugin_sha256: String,
}

impl Products {
    /// Builds what is not built yet and puts it into `folder`.
    pub async fn build_into(folder: &Path) -> anyhow::Result<Self> {
        let built = built_folder()?;
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        if let Some(workspace) = workspace.filter(|workspace| workspace.join("Cargo.toml").is_file())
            && std::env::var_os(NO_BUILD).is_none()
        {
            build(workspace, &built).await?;
        }
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for name in [PLUGIN, ENDPOINT, HELLOWORLD_SERVER, HELLOWORLD_CLIENT, LAB] {
            put_aside(&built.join(name), &folder.join(name))?;
        }
        let plugin = std::fs::read(folder.join(PLUGIN)).context("cannot read the plugin's program")?;
        let plugin_sha256 = hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &plugin).as_ref());
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

/// The folder of built programs that this program came from; a test runs from `deps` below it.
fn built_folder() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program lies")?;
    let folder = own.parent().context("this program lies in no folder")?;
    Ok(match folder.file_name() {
        Some(name) if name == "deps" => folder.parent().unwrap_or(folder).to_owned(),
        _ => folder.to_owned(),
    })
}

/// Cargo's own progress goes to the terminal; with nothing to do it is silent for a moment.
async fn build(workspace: &Path, built: &Path) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let (target, profile) = match (built.parent(), built.file_name().and_then(|name| name.to_str())) {
        (Some(target), Some("debug")) => (target, "dev"),
        (Some(target), Some(profile)) => (target, profile),
        _ => bail!("{} is no folder that cargo builds into", built.display()),
    };
    let status = Command::new(&cargo)
        .args(["build", "--workspace", "--bins", "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(workspace)
        .stdin(Stdio::null())
        .status()
        .await
        .with_context(|| format!("cannot run {}", Path::new(&cargo).display()))?;
    if status.success() { Ok(()) } else { bail!("the programs do not build ({status})") }
}

/// A hard link where both lie on one file system, else a copy.
fn put_aside(from: &Path, to: &Path) -> anyhow::Result<()> {
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
