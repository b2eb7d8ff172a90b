//! Has cargo build the programs static, in such a way that checkout, home and target folder leave no trace in them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cargo::{CargoError, TARGET, output};
use crate::product::Product;

/// Between the parts of `CARGO_ENCODED_RUSTFLAGS`, since paths may hold spaces.
const SEPARATOR: &str = "\x1f";

/// Why there are no programs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// aws-lc's C code has to be compiled against musl.
    #[error("musl-gcc is not here: apt-get install musl-tools")]
    NoMuslCompiler,
    /// Rust's own libraries for the target are missing.
    #[error("Rust has no {TARGET} here: rustup target add {TARGET}")]
    NoTarget,
    /// cargo or the compiler failed.
    #[error(transparent)]
    Cargo(#[from] CargoError),
    /// The folder of crates is not known.
    #[error("where crates lie is not known: set CARGO_HOME or HOME")]
    NoCargoHome,
    /// A path cannot be given to the compiler.
    #[error("{path} is not UTF-8, so that it cannot be kept out of the programs")]
    Path {
        /// Which.
        path: PathBuf,
    },
}

/// A build of static programs that only has to be run: by [`compile`], or by whoever wants to end it before its end.
#[derive(Debug)]
pub struct StaticBuild {
    /// Cargo's command line. Its progress goes to the terminal.
    pub cargo: Command,
    /// Where the programs lie afterwards.
    pub programs: PathBuf,
}

impl StaticBuild {
    /// Of the programs of these products. `created` is the time that they may show.
    ///
    /// # Errors
    ///
    /// What [`require_tools`] says, and paths that cannot be kept out of the programs.
    pub fn of(
        workspace: &Path,
        target_dir: &Path,
        products: &[&Product],
        created: u64,
    ) -> Result<Self, CompileError> {
        let sysroot = require_tools(workspace)?;
        let home = cargo_home().ok_or(CompileError::NoCargoHome)?;
        let folders = [
            (target_dir, "/target"),
            (workspace, "/entente"),
            (home.as_path(), "/cargo"),
            (sysroot.as_path(), "/rust"),
        ];
        let mut cargo = Command::new("cargo");
        cargo.current_dir(workspace).stdin(Stdio::null());
        cargo.args(["build", "--release", "--locked", "--target", TARGET]);
        cargo.arg("--target-dir").arg(target_dir);
        for product in products {
            cargo.args(["--package", product.package, "--bin", product.name]);
        }
        for name in foreign_settings(std::env::vars_os().map(|(name, _)| name)) {
            cargo.env_remove(name);
        }
        cargo.env("SOURCE_DATE_EPOCH", created.to_string());
        cargo.env("CARGO_INCREMENTAL", "0");
        cargo.env("CARGO_ENCODED_RUSTFLAGS", rust_flags(&folders)?);
        cargo.env(format!("CFLAGS_{}", TARGET.replace('-', "_")), c_flags(&folders)?);
        Ok(Self { cargo, programs: target_dir.join(TARGET).join("release") })
    }
}

/// Builds the programs of these products; they lie in the folder that is answered. `created` is the time that they may show.
pub fn compile(
    workspace: &Path,
    target_dir: &Path,
    products: &[&Product],
    created: u64,
) -> Result<PathBuf, CompileError> {
    let StaticBuild { mut cargo, programs } = StaticBuild::of(workspace, target_dir, products, created)?;
    let status = cargo.status().map_err(|source| CargoError::Run { program: "cargo", source })?;
    if !status.success() {
        return Err(CargoError::Failed { program: "cargo", arguments: "build".to_owned(), status }.into());
    }
    Ok(programs)
}

// The last mapping that fits wins, so the outer folder comes first; of ours, the target folder may lie in the workspace.
fn rust_flags(folders: &[(&Path, &str)]) -> Result<String, CompileError> {
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    for (from, to) in outer_first(folders) {
        flags.push(format!("--remap-path-prefix={}={to}", utf8(from)?));
    }
    Ok(flags.join(SEPARATOR))
}

fn c_flags(folders: &[(&Path, &str)]) -> Result<String, CompileError> {
    let mut flags = Vec::new();
    for (from, to) in outer_first(folders) {
        flags.push(format!("-ffile-prefix-map={}={to}", utf8(from)?));
    }
    Ok(flags.join(" "))
}

fn outer_first<'a>(folders: &[(&'a Path, &'a str)]) -> Vec<(&'a Path, &'a str)> {
    let mut folders = folders.to_vec();
    folders.sort_by_key(|(from, _)| from.components().count());
    folders
}

fn utf8(path: &Path) -> Result<&str, CompileError> {
    path.to_str().ok_or_else(|| CompileError::Path { path: path.to_owned() })
}

/// What would change the programs from outside: flags and profiles that somebody set for other builds.
fn foreign_settings(names: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let prefixes = ["CARGO_PROFILE_", "CARGO_BUILD_", "CFLAGS", "CXXFLAGS", "AWS_LC_SYS_"];
    let foreign = |name: &OsString| {
        let name = name.to_string_lossy();
        name == "RUSTFLAGS"
            || name == "TARGET_CFLAGS"
            || prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    names.filter(foreign).collect()
}

/// What a build needs beside cargo: a C compiler for musl, and Rust's target, which rustup is asked for where it is missing.
/// Answers the folder of Rust's own libraries.
///
/// # Errors
///
/// Either is not here, or there is no Rust.
pub fn require_tools(workspace: &Path) -> Result<PathBuf, CompileError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|folder| folder.join("musl-gcc").is_file()) {
        return Err(CompileError::NoMuslCompiler);
    }
    let sysroot = PathBuf::from(output("rustc", &["--print", "sysroot"], workspace)?.trim());
    if sysroot.join("lib/rustlib").join(TARGET).is_dir() {
        return Ok(sysroot);
    }
    let status = Command::new("rustup").args(["target", "add", TARGET]).current_dir(workspace).status();
    match status {
        Ok(status) if status.success() => Ok(sysroot),
        _ => Err(CompileError::NoTarget),
    }
}

fn cargo_home() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("CARGO_HOME").or_else(|| Some(variable("HOME")?.join(".cargo")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_inside_another_is_mapped_after_it() {
        let folders =
            [(Path::new("/src/entente/target"), "/target"), (Path::new("/src/entente"), "/entente")];
        let flags = rust_flags(&folders).unwrap();
        let flags: Vec<&str> = flags.split(SEPARATOR).collect();
        let expected = [
            "-Ctarget-feature=+crt-static",
            "--remap-path-prefix=/src/entente=/entente",
            "--remap-path-prefix=/src/entente/target=/target",
        ];
        assert_eq!(flags, expected);
    }

    #[test]
    fn what_somebody_set_for_other_builds_is_taken_away() {
        let names =
            ["PATH", "RUSTFLAGS", "CARGO_PROFILE_RELEASE_LTO", "CFLAGS_x86_64_unknown_linux_musl", "HOME"];
        let taken = foreign_settings(names.into_iter().map(OsString::from));
        assert_eq!(taken, ["RUSTFLAGS", "CARGO_PROFILE_RELEASE_LTO", "CFLAGS_x86_64_unknown_linux_musl"]);
    }
}
