//! Files that the operator names: read whole, never waited for, never endless.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Largest file that is read: configurations, certificates and bundles of hundreds of authorities fit.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why a file was not read. Each text names the file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A folder, a device, a pipe or a socket.
    #[error("{} is no regular file", path.display())]
    NotAFile {
        /// What is no file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing that is meant to be read here is so large.
    #[error("{} is larger than {MAX_FILE_BYTES} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

impl FileError {
    /// True when the file may simply not be there yet.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// A regular file of at most [`MAX_FILE_BYTES`].
///
/// # Errors
/// When it is something else or larger, or the system refuses.
pub fn read_file(path: &Path) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    // What is there is looked at after it was opened, so that it cannot be exchanged in between. To open a pipe would wait
    // for somebody who writes.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile { path: path.to_owned() });
    }
    let too_large = || FileError::TooLarge { path: path.to_owned() };
    if metadata.len() > MAX_FILE_BYTES {
        return Err(too_large());
    }
    // At once as large as it gets: what grows leaves copies behind, of private keys too.
    let room = usize::try_from(metadata.len()).map_err(|_| too_large())?;
    let mut content = Vec::with_capacity(room + 1);
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content).map_err(failed)?;
    // It may have grown since.
    if content.len() as u64 > MAX_FILE_BYTES { Err(too_large()) } else { Ok(content) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn what_is_no_file_is_refused_without_a_wait() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for path in [folder.path(), pipe.as_path(), Path::new("/dev/zero")] {
            assert!(matches!(read_file(path), Err(FileError::NotAFile { .. })), "{}", path.display());
        }
    }

    #[test]
    fn what_is_too_large_is_refused_and_what_fits_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(read_file(&path).unwrap_err().is_missing());
        let file = File::create(&path).unwrap();
        file.set_len(MAX_FILE_BYTES + 1).unwrap();
        let error = read_file(&path).unwrap_err();
        assert!(matches!(error, FileError::TooLarge { .. }) && error.to_string().contains("file"), "{error}");
        file.set_len(MAX_FILE_BYTES).unwrap();
        assert_eq!(read_file(&path).unwrap().len() as u64, MAX_FILE_BYTES);
    }

    // The size of such files is said to be nothing.
    #[test]
    fn a_file_of_the_kernel_is_read() {
        assert!(!read_file(Path::new("/proc/self/status")).unwrap().is_empty());
    }
}
