//! The shared libraries of a program, asked of the loader of this machine.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::elf::{self, ElfError};

/// Why the libraries of a program are not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// It is no program.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// `ldd` did not run.
    #[error("cannot run ldd on {program}")]
    Run {
        /// The program that was asked about.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `ldd` answered with a failure.
    #[error("ldd does not understand {program}: {message}")]
    Refused {
        /// The program that was asked about.
        program: PathBuf,
        /// What it said.
        message: String,
    },
    /// A library is not on this machine.
    #[error("{program} needs {library}, which is not on this machine")]
    Missing {
        /// The program that was asked about.
        program: PathBuf,
        /// What it lacks.
        library: String,
    },
}

/// Where the loader looks for what this program needs, the loader itself included; nothing for a static program.
///
/// `ldd` runs the program's loader, so this is for programs that one would run anyway.
pub fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>, LibraryError> {
    if elf::dynamic(program)?.is_static() {
        return Ok(Vec::new());
    }
    let run = |source| LibraryError::Run { program: program.to_owned(), source };
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output().map_err(run)?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(LibraryError::Refused { program: program.to_owned(), message });
    }
    let missing =
        |library: &str| LibraryError::Missing { program: program.to_owned(), library: library.to_owned() };
    paths(&String::from_utf8_lossy(&output.stdout)).map_err(|library| missing(&library))
}

/// Reads `libc.so.6 => /lib/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`; the kernel's own has no path.
fn paths(answer: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for line in answer.lines() {
        let line = line.trim();
        let (name, place) = line.split_once(" => ").unwrap_or((line, line));
        if place.starts_with("not found") {
            return Err(name.to_owned());
        }
        if let Some((path, _)) = place.split_once(" (0x")
            && path.starts_with('/')
        {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named() {
        let answer = "\tlibnl.so.3 => not found\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f)\n";
        assert_eq!(paths(answer), Err("libnl.so.3".to_owned()));
    }

    #[test]
    fn libraries_and_the_loader_are_found_and_the_kernels_own_is_not() {
        let answer = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(paths(answer), Ok(expected.to_vec()));
    }

    #[test]
    fn this_test_needs_a_loader_that_exists() {
        let own = std::env::current_exe().unwrap();
        let found = shared_libraries(&own).unwrap();
        // Where tests are built static there is nothing to be found.
        assert!(
            found.is_empty() || found.iter().any(|path| path.to_string_lossy().contains("/ld-")),
            "{found:?}"
        );
        assert!(found.iter().all(|path| path.is_file()), "{found:?}");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(matches!(shared_libraries(&script), Err(LibraryError::Elf(ElfError::NotElf { .. }))));
    }
}
