//! Finds the programs of real SPIRE, or builds the pinned version once per machine.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use entente_lab_parts::{GoModule, GoProgram, go};
use tokio::process::Command;

/// The version that `lab/spire/go.mod` pins.
pub const VERSION: &str = "1.15.3";

const MODULE: GoModule = GoModule {
    name: "SPIRE",
    version: VERSION,
    place: "spire/",
    go_mod: include_str!("../../spire/go.mod"),
    go_sum: include_str!("../../spire/go.sum"),
    programs: &[
        GoProgram { file: "spire-agent", package: "github.com/spiffe/spire/cmd/spire-agent" },
        GoProgram { file: "spire-server", package: "github.com/spiffe/spire/cmd/spire-server" },
    ],
    // SQLite is written in C.
    cgo: true,
    takes: "about 5 minutes",
    ..GoModule::PLAIN
};

/// The two programs of one SPIRE version.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `spire-server`
    pub server: PathBuf,
    /// `spire-agent`
    pub agent: PathBuf,
    /// Where they were found: `option`, `path` or `cache`.
    pub source: &'static str,
}

impl Programs {
    fn in_folder(folder: &Path, source: &'static str) -> Option<Self> {
        let folder = MODULE.found_in(folder)?;
        Some(Self { server: folder.join("spire-server"), agent: folder.join("spire-agent"), source })
    }
    /// What `spire-server --version` says.
    pub async fn version(&self) -> anyhow::Result<String> {
        let output = Command::new(&self.server).arg("--version").stdin(Stdio::null()).output().await;
        let output = output.with_context(|| format!("cannot run {}", self.server.display()))?;
        // Older versions print it to standard error.
        let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        Ok(String::from_utf8_lossy(&text).trim().to_owned())
    }
}

/// Looks in the folder given, else on the path, else in the cache; builds nothing. A folder that was given must have them.
pub fn find(folder: Option<&Path>) -> anyhow::Result<Option<Programs>> {
    if let Some(folder) = folder {
        let found = Programs::in_folder(folder, "option");
        let missing = || format!("no spire-server and spire-agent in {}", folder.display());
        return found.with_context(missing).map(Some);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).find_map(|folder| Programs::in_folder(&folder, "path"));
    Ok(match on_path {
        Some(found) => Some(found),
        None => Programs::in_folder(&cache_folder()?, "cache"),
    })
}

/// Finds the programs, or builds them into the cache with progress shown. Two labs do not build at once.
pub async fn find_or_build(folder: Option<&Path>) -> anyhow::Result<Programs> {
    match find(folder)? {
        Some(found) => Ok(found),
        None => find_or_build_pinned().await,
    }
}

/// The pinned version and no other, wherever another one lies.
pub async fn find_or_build_pinned() -> anyhow::Result<Programs> {
    let otherwise =
        ", or unpack SPIRE's release and name its folder with --spire-dir, or use --spire embedded";
    let built = MODULE.find_or_build(otherwise).await?;
    Programs::in_folder(&built.folder, "cache")
        .with_context(|| format!("the build left no programs in {}", built.folder.display()))
}

/// True when `find_or_build` would have a chance.
pub fn can_build() -> bool {
    go().is_some()
}

/// `${ENTENTE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/entente}/spire/VERSION-HASH`, the hash being that of `go.sum`.
pub fn cache_folder() -> anyhow::Result<PathBuf> {
    MODULE.cache_folder()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::write;

    #[test]
    fn a_folder_without_the_programs_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(find(Some(folder.path())).is_err());
        write(&folder.path().join("spire-server"), "").expect("a write");
        assert!(find(Some(folder.path())).is_err());
        write(&folder.path().join("spire-agent"), "").expect("a write");
        assert!(find(Some(folder.path())).expect("found").is_some());
    }

    #[test]
    fn the_pinned_module_names_the_version() {
        assert!(MODULE.go_mod.contains(&format!("github.com/spiffe/spire v{VERSION}")));
    }
}
