//! What is checked in for `kubectl apply -f` is what kustomize makes of the bases today.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use entente_lab_parts::cache;

use crate::object;

/// A kubectl: that of the path, or the lab's own.
#[must_use]
pub fn kubectl() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join("kubectl")).find(|file| file.is_file());
    on_path.or_else(|| {
        let parts = fs::read_dir(cache().ok()?.join("kubernetes")).ok()?;
        parts.filter_map(Result::ok).map(|part| part.path().join("kubectl")).find(|file| file.is_file())
    })
}

/// Renders everything that rendered.txt in `deploy` names, and names each file that is another.
///
/// Objects are compared, not bytes: versions of kustomize break long lines at different places.
///
/// # Errors
///
/// A kustomization cannot be rendered, or a file not be read.
pub fn stale(deploy: &Path, kubectl: &Path) -> anyhow::Result<Vec<String>> {
    let table = deploy.join("rendered.txt");
    let table = fs::read_to_string(&table).with_context(|| format!("{}", table.display()))?;
    let mut mistakes = Vec::new();
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let (folder, file) =
            line.split_once(char::is_whitespace).with_context(|| format!("{line:?}: two paths"))?;
        let file = file.trim();
        let fresh = render(&deploy.join(folder), kubectl)?;
        let text = fs::read_to_string(deploy.join(file)).with_context(|| file.to_owned())?;
        let values = |text: &str| -> anyhow::Result<Vec<_>> {
            Ok(object::parse(file, text)?.into_iter().map(|object| object.value).collect())
        };
        if values(&fresh)? != values(&text)? {
            mistakes.push(format!("{file} is not what {folder} gives: run deploy/script/render.sh"));
        }
    }
    Ok(mistakes)
}

/// What kustomize makes of one folder.
///
/// # Errors
///
/// It cannot be rendered.
pub fn render(folder: &Path, kubectl: &Path) -> anyhow::Result<String> {
    let output =
        Command::new(kubectl).arg("kustomize").arg(folder).output().context("kubectl cannot be started")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} cannot be rendered: {error}", folder.display());
    String::from_utf8(output.stdout).context("kubectl wrote no UTF-8")
}
