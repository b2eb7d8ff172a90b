//! Whether a program runs where there is nothing but itself.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use object::elf::{DT_NEEDED, DT_NULL, DT_STRTAB, EM_AARCH64, EM_X86_64};
use object::read::elf::{Dyn as _, ElfFile64, FileHeader as _, ProgramHeader as _};

/// Why a program cannot stand alone in an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ElfError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no 64-bit ELF program.
    #[error("{path} is no 64-bit ELF program: {reason}")]
    NotElf {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It is for a machine that we make no images for.
    #[error("{path} is for ELF machine {machine}; images are made for x86-64 (62) and aarch64 (183)")]
    Machine {
        /// Which.
        path: PathBuf,
        /// Number of the machine in the ELF header.
        machine: u16,
    },
    /// It is not static.
    #[error("{path} is not static: {needs}; build it with --target x86_64-unknown-linux-musl")]
    NotStatic {
        /// Which.
        path: PathBuf,
        /// What it cannot do without.
        needs: Needs,
    },
}

/// What a program wants from the system that it runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    interpreter: Option<String>,
    libraries: Vec<String>,
}

impl Needs {
    pub(crate) fn is_static(&self) -> bool {
        self.interpreter.is_none() && self.libraries.is_empty()
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interpreter = self.interpreter.iter().map(|path| format!("the loader {path}"));
        let parts: Vec<String> = interpreter.chain(self.libraries.iter().cloned()).collect();
        write!(formatter, "it needs {}", parts.join(", "))
    }
}

/// The machine that a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64
    Amd64,
    /// aarch64
    Arm64,
}

impl Architecture {
    /// As OCI, which follows Go, calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
    /// Of this very program.
    pub(crate) fn own() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 }
    }
}

/// Refuses a program with an interpreter or a shared library; answers with the machine that it is for.
pub fn require_static(path: &Path) -> Result<Architecture, ElfError> {
    let (architecture, needs) = inspect(path)?;
    if needs.is_static() {
        Ok(architecture)
    } else {
        Err(ElfError::NotStatic { path: path.to_owned(), needs })
    }
}

/// What a program wants.
pub(crate) fn dynamic(path: &Path) -> Result<Needs, ElfError> {
    inspect(path).map(|(_, needs)| needs)
}

fn inspect(path: &Path) -> Result<(Architecture, Needs), ElfError> {
    let data = std::fs::read(path).map_err(|source| ElfError::Read { path: path.to_owned(), source })?;
    let not_elf =
        |error: object::Error| ElfError::NotElf { path: path.to_owned(), reason: error.to_string() };
    let file = ElfFile64::<object::Endianness>::parse(data.as_slice()).map_err(not_elf)?;
    let endian = file.endian();
    let architecture = match file.elf_header().e_machine(endian) {
        EM_X86_64 => Architecture::Amd64,
        EM_AARCH64 => Architecture::Arm64,
        machine => return Err(ElfError::Machine { path: path.to_owned(), machine: machine.0 }),
    };
    Ok((architecture, needs(&file, data.as_slice()).map_err(not_elf)?))
}

// By the program headers, which are what the kernel and the loader go by; a program may come without section headers.
fn needs(file: &ElfFile64<'_>, data: &[u8]) -> object::Result<Needs> {
    let endian = file.endian();
    let mut found = Needs::default();
    for header in file.elf_program_headers() {
        if let Some(path) = header.interpreter(endian, data)? {
            found.interpreter = Some(text(path));
        }
        let entries = header.dynamic(endian, data)?.unwrap_or_default();
        let entries = || entries.iter().take_while(|entry| entry.d_tag(endian) != DT_NULL);
        let names = entries().find(|entry| entry.d_tag(endian) == DT_STRTAB).map(|entry| entry.d_val(endian));
        for entry in entries().filter(|entry| entry.d_tag(endian) == DT_NEEDED) {
            let name = names.and_then(|table| string(file, data, table.checked_add(entry.d_val(endian))?));
            // A library without a readable name is needed all the same.
            found.libraries.push(name.unwrap_or_else(|| "a library without a name".to_owned()));
        }
    }
    Ok(found)
}

/// The string at an address of the loaded program.
fn string(file: &ElfFile64<'_>, data: &[u8], address: u64) -> Option<String> {
    let endian = file.endian();
    let rest = file.elf_program_headers().iter().find_map(|header| {
        let segment = header.data_range(endian, data, address, 1).ok()??;
        let start = (segment.as_ptr() as usize).checked_sub(data.as_ptr() as usize)?;
        data.get(start..)
    })?;
    rest.split(|byte| *byte == 0).next().map(text)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_loader_is_refused_with_what_it_needs() {
        let shell = Path::new("/bin/sh");
        let refused = require_static(shell).expect_err("a shell that is not static");
        let told = refused.to_string();
        assert!(told.contains("/bin/sh is not static: it needs the loader /lib"), "{told}");
        assert!(told.contains("libc.so.6"), "{told}");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for content in
            [&b""[..], b"#!/bin/sh\n", b"\x7fELF", &[b"\x7fELF\x02\x01\x01".as_slice(), &[0xff; 80]].concat()]
        {
            std::fs::write(&path, content).unwrap();
            let refused = require_static(&path).expect_err("no program");
            assert!(matches!(refused, ElfError::NotElf { .. } | ElfError::Machine { .. }), "{refused:?}");
        }
        assert!(matches!(require_static(&folder.path().join("nothing")), Err(ElfError::Read { .. })));
    }

    #[test]
    fn a_program_of_another_machine_is_refused() {
        let mut program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        // e_machine: 243 is RISC-V.
        program.get_mut(18..20).unwrap().copy_from_slice(&243_u16.to_le_bytes());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, program).unwrap();
        assert!(matches!(require_static(&path), Err(ElfError::Machine { machine: 243, .. })));
    }
}
