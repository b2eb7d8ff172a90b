//! What is ours in the clusters: images of the four programs, and this run's copy of deploy/ with the plugin's checksum in it.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use entente_images::{CA_FILE, Digest, PRODUCTS, Product, Provenance, StaticBuild, require_tools};

use super::command::Run;
use super::images::pack;
use crate::checks::ensure;
use crate::layout::write;
use crate::products::run_cargo;

const REGISTRY: &str = "localhost:10000";

/// Fails with what [`pack_ours`] would miss; rustup is asked for Rust's part of it.
pub(super) async fn check(programs: Option<&Path>) -> anyhow::Result<()> {
    let workspace = workspace()?;
    if let Some(folder) = programs {
        return all_in(folder);
    }
    target_dir()?;
    let tools = tokio::task::spawn_blocking(move || require_tools(&workspace)).await?;
    tools.map(drop).context("our programs cannot be built")
}

fn all_in(folder: &Path) -> anyhow::Result<()> {
    let missing = PRODUCTS.iter().map(|product| product.name).filter(|name| !folder.join(name).is_file());
    let missing = missing.collect::<Vec<_>>();
    ensure(missing.is_empty(), || format!("{} lacks {}", folder.display(), missing.join(", ")))
}

/// Builds the programs static, unless a folder has them already, and packs them. Answers the tars, and the plugin's checksum.
pub(super) async fn pack_ours(
    workspace: &Path,
    programs: Option<&Path>,
    folder: &Path,
) -> anyhow::Result<(Vec<PathBuf>, String)> {
    let provenance = Provenance::of(workspace, None).context("the sources have no known state")?;
    let programs = match programs {
        Some(programs) => programs.to_owned(),
        None => built(workspace, provenance.created).await?,
    };
    let mut tars = Vec::new();
    for product in &PRODUCTS {
        let program = programs.join(product.name);
        let name = format!("{REGISTRY}/{}:{}", product.name, product.tag(&digest_of(&program)?));
        let spec = product.image(&name, &program, Path::new(CA_FILE), &provenance);
        tars.push(pack(spec.with_context(|| format!("cannot make the image {name}"))?, folder)?);
    }
    Ok((tars, digest_of(&programs.join("entente-plugin"))?.hex().to_owned()))
}

fn digest_of(program: &Path) -> anyhow::Result<Digest> {
    let content = std::fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    Ok(Digest::of(&content))
}

/// Cargo's own progress goes to the terminal. It ends with the lab, since it holds the target folder's lock.
async fn built(workspace: &Path, created: u64) -> anyhow::Result<PathBuf> {
    let (workspace, target) = (workspace.to_owned(), target_dir()?);
    let all = PRODUCTS.iter().collect::<Vec<&Product>>();
    // It may have rustup fetch something.
    let build =
        tokio::task::spawn_blocking(move || StaticBuild::of(&workspace, &target, &all, created)).await?;
    let StaticBuild { cargo, programs } = build.context("our programs cannot be built")?;
    run_cargo(&mut cargo.into()).await?;
    Ok(programs)
}

/// The folder that this program was built in.
fn target_dir() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program lies")?;
    let folder = own.ancestors().skip(1).find(|folder| folder.join("CACHEDIR.TAG").is_file());
    Ok(folder.context("this program does not lie in cargo's folder: use --programs")?.to_owned())
}

/// The checkout that this program was built from.
pub(super) fn workspace() -> anyhow::Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let workspace = workspace.filter(|workspace| workspace.join("deploy").is_dir());
    Ok(workspace
        .context("the checkout that this lab was built from is gone, and deploy/ with it")?
        .to_owned())
}

/// Copies the manifests, writes the plugin's checksum into the copy and renders it again, as the build of its image does.
pub(super) async fn copy_deploy(from: &Path, to: &Path, kubectl: &Path, sha256: &str) -> anyhow::Result<()> {
    copy_tree(from, to)?;
    write(&to.join("base/spire/plugin-checksum.env"), format!("ENTENTE_PLUGIN_SHA256={sha256}\n"))?;
    let render = to.join("script/render.sh");
    let rendered = Run::new("bash").args([&render]).env("KUBECTL", kubectl).output().await?;
    if !rendered.contains("spire-all.yaml") {
        bail!("{} did not write spire-all.yaml again: it said {rendered:?}", render.display());
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_tree(&from, &to)?;
        } else {
            std::fs::copy(&from, &to).map(drop).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_programs_has_all_of_them() {
        let folder = tempfile::tempdir().expect("a folder");
        for product in &PRODUCTS {
            assert!(all_in(folder.path()).expect_err("it lacks some").to_string().contains(product.name));
            std::fs::write(folder.path().join(product.name), "").expect("a write");
        }
        all_in(folder.path()).expect("all are there");
    }
}
