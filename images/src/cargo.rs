//! Running cargo and the compiler, and what they build for.

use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// What the programs are built for.
pub const TARGET: &str = "x86_64-unknown-linux-musl";

/// Why cargo or the compiler did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CargoError {
    /// It did not start.
    #[error("cannot run {program}")]
    Run {
        /// Which.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It failed, and said why on the terminal.
    #[error("{program} {arguments} failed ({status})")]
    Failed {
        /// Which.
        program: &'static str,
        /// What it was to do.
        arguments: String,
        /// How it ended.
        status: ExitStatus,
    },
}

/// What it prints; its errors go to the terminal.
pub(crate) fn output(program: &'static str, arguments: &[&str], folder: &Path) -> Result<String, CargoError> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(|source| CargoError::Run { program, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(CargoError::Failed { program, arguments: arguments.join(" "), status: output.status })
}
