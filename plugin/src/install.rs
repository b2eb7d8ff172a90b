//! `entente-plugin install DIR`: puts a copy where SPIRE Server can start it, for init containers of images without a shell.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// File name of the copy.
const NAME: &str = "entente-plugin";

/// What was installed.
#[derive(Debug)]
pub struct Installed {
    /// Where it is.
    pub path: PathBuf,
    /// For `plugin_checksum`: lower-case hex SHA-256 of the file.
    pub sha256: String,
}

/// Why nothing was installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There is no such folder.
    #[error("{} is no folder; create it first", .0.display())]
    NoFolder(PathBuf),
    /// Reading ourselves failed.
    #[error("cannot read this program")]
    Read(#[source] io::Error),
    /// Writing the copy failed.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Copies this program into `folder`. A copy that is there is replaced in one step, also while it runs.
pub fn install(folder: &Path) -> Result<Installed, InstallError> {
    if !folder.is_dir() {
        return Err(InstallError::NoFolder(folder.into()));
    }
    // SPIRE Server starts it from another folder than ours.
    let folder = std::path::absolute(folder).map_err(InstallError::Read)?;
    let mut program = Vec::new();
    let own = std::env::current_exe().map_err(InstallError::Read)?;
    File::open(own).and_then(|mut file| file.read_to_end(&mut program)).map_err(InstallError::Read)?;
    let path = folder.join(NAME);
    let temporary = folder.join(format!(".{NAME}-{:08x}", rand::random::<u32>()));
    let written = write(&temporary, &program).and_then(|()| fs::rename(&temporary, &path));
    written.map_err(|source| {
        // What failed half-way is of no use; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        InstallError::Write { path: path.clone(), source }
    })?;
    let sha256 = Sha256::digest(&program).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Installed { path, sha256 })
}

fn write(path: &Path, program: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(path)?;
    file.write_all(program)?;
    // Whatever the umask says: SPIRE Server may run as another user.
    file.set_permissions(Permissions::from_mode(0o755))?;
    file.sync_all()
}
