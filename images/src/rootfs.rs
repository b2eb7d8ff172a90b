//! What lies in an image: files, folders and links, written as one tar that depends on nothing but them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use crate::libraries::{LibraryError, shared_libraries};

/// Why something cannot be put into an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// Not absolute, or with parts that go elsewhere.
    #[error("{path:?} is no path inside an image: it must begin with / and hold no empty part, . or ..")]
    BadPath {
        /// What was asked for.
        path: String,
    },
    /// Something else is there already.
    #[error("{path} is in the image already, as something else")]
    Taken {
        /// Where.
        path: String,
    },
    /// A file of this machine cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Only files are copied.
    #[error("{path} is not a regular file")]
    NoFile {
        /// Which.
        path: PathBuf,
    },
    /// The libraries of a program cannot be found.
    #[error(transparent)]
    Libraries(#[from] LibraryError),
}

/// The files of an image. Folders above a file come by themselves, with mode 0755 and owner 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rootfs {
    // By path without the leading slash, so that a folder stands before what is in it.
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    kind: Kind,
    mode: u32,
    owner: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Directory { asked_for: bool },
    Copy { source: PathBuf, length: u64 },
    Bytes(Vec<u8>),
    Link(String),
}

impl Rootfs {
    /// Nothing at all: `FROM scratch`.
    pub fn new() -> Self {
        Self::default()
    }
    /// A folder with this mode, owned by this user and the group of the same number.
    pub fn directory(&mut self, path: &str, mode: u32, owner: u32) -> Result<(), PackError> {
        self.insert(path, Entry { kind: Kind::Directory { asked_for: true }, mode, owner })
    }
    /// A copy of a file of this machine, followed if it is a link: mode 0755 if somebody may execute it, else 0644.
    pub fn file(&mut self, source: &Path, path: &str) -> Result<(), PackError> {
        let read = |error| PackError::Read { path: source.to_owned(), source: error };
        let source = source.canonicalize().map_err(read)?;
        let metadata = source.metadata().map_err(read)?;
        if !metadata.is_file() {
            return Err(PackError::NoFile { path: source });
        }
        let mode = if metadata.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
        self.insert(path, Entry { kind: Kind::Copy { source, length: metadata.len() }, mode, owner: 0 })
    }
    /// A file with this content.
    pub fn bytes(&mut self, content: impl Into<Vec<u8>>, path: &str, mode: u32) -> Result<(), PackError> {
        self.insert(path, Entry { kind: Kind::Bytes(content.into()), mode, owner: 0 })
    }
    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<(), PackError> {
        self.insert(path, Entry { kind: Kind::Link(target.to_owned()), mode: 0o777, owner: 0 })
    }
    /// A program, and the shared libraries that it needs at the places where its loader looks for them.
    pub fn program_with_libraries(&mut self, source: &Path, path: &str) -> Result<(), PackError> {
        self.file(source, path)?;
        for library in shared_libraries(source)? {
            self.file(&library, &library.to_string_lossy())?;
        }
        Ok(())
    }

    fn insert(&mut self, path: &str, entry: Entry) -> Result<(), PackError> {
        let bad = || PackError::BadPath { path: path.to_owned() };
        let key = path.strip_prefix('/').ok_or_else(bad)?;
        if key.contains('\0') || key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(bad());
        }
        for (end, _) in key.match_indices('/') {
            let above = key.get(..end).unwrap_or_default();
            let folder = self.entries.entry(above.to_owned()).or_insert(Entry {
                kind: Kind::Directory { asked_for: false },
                mode: 0o755,
                owner: 0,
            });
            if !matches!(folder.kind, Kind::Directory { .. }) {
                return Err(PackError::Taken { path: format!("/{above}") });
            }
        }
        match self.entries.get(key) {
            // Two programs may need the same library, and a folder may first have come by itself.
            Some(held) if *held == entry => Ok(()),
            Some(Entry { kind: Kind::Directory { asked_for: false }, .. })
                if matches!(entry.kind, Kind::Directory { .. }) =>
            {
                self.entries.insert(key.to_owned(), entry);
                Ok(())
            }
            Some(_) => Err(PackError::Taken { path: path.to_owned() }),
            None => {
                self.entries.insert(key.to_owned(), entry);
                Ok(())
            }
        }
    }

    /// The layer. `modified` is the time of every file, in seconds since 1970.
    pub(crate) fn write_tar(&self, output: impl Write, modified: u64) -> io::Result<()> {
        let mut tar = tar::Builder::new(output);
        for (path, entry) in &self.entries {
            let mut header = Header::new_gnu();
            header.set_mode(entry.mode);
            header.set_uid(entry.owner.into());
            header.set_gid(entry.owner.into());
            header.set_mtime(modified);
            header.set_size(0);
            match &entry.kind {
                Kind::Directory { .. } => {
                    header.set_entry_type(EntryType::Directory);
                    tar.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Kind::Link(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    tar.append_link(&mut header, path, target)?;
                }
                Kind::Bytes(content) => {
                    header.set_size(content.len() as u64);
                    tar.append_data(&mut header, path, content.as_slice())?;
                }
                Kind::Copy { source, length } => {
                    header.set_size(*length);
                    let content = Exactly { inner: File::open(source)?, left: *length, path: source };
                    tar.append_data(&mut header, path, content)?;
                }
            }
        }
        tar.into_inner()?.flush()
    }
}

/// A file must still have the length that the header tells: one that is being rewritten would shift all that follows.
struct Exactly<'a> {
    inner: File,
    left: u64,
    path: &'a Path,
}

impl Read for Exactly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) if read > 0 || left == 0 || buffer.is_empty() => {
                self.left = left;
                Ok(read)
            }
            _ => Err(io::Error::other(format!("{} changed while it was read", self.path.display()))),
        }
    }
}

#[cfg(test)]
mod tests;
