//! Where the lab keeps what it has built or fetched, and whose turn it is to make something there.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::tell;

/// `${ENTENTE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/entente}`
pub fn cache() -> anyhow::Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("ENTENTE_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("entente")))
        .or_else(|| Some(variable("HOME")?.join(".cache").join("entente")))
        .context("no cache folder: set ENTENTE_CACHE or HOME")
}

/// Keeps other labs from making things in `folder` of the cache, as long as the answer is kept.
pub async fn lock(folder: &Path, what: &str) -> anyhow::Result<File> {
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    if file.try_lock().is_err() {
        tell(&format!("another lab is making something; waiting for it before {what} is made"));
    }
    tokio::task::spawn_blocking(move || file.lock().map(|()| file))
        .await?
        .with_context(|| format!("cannot lock {}", path.display()))
}
