//! Read-only bind mounts that may be asked for, and taken back, more than once.

use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};

/// What went wrong with which mount.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", .target.display())]
pub(super) struct MountError {
    action: &'static str,
    target: PathBuf,
    source: io::Error,
}

/// Makes `target` a read-only view of `source`. A target that is one already is left as it is.
pub(super) fn publish(source: &Path, target: &Path) -> Result<(), MountError> {
    let failed = |action| move |source: io::Error| MountError { action, target: target.to_owned(), source };
    // The kubelet has made the folders above it, not itself.
    match std::fs::create_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("make")(error)),
        _ => {}
    }
    if is_mount_point(target).map_err(failed("look at"))? {
        return Ok(());
    }
    mount_bind(source, target).map_err(|error| failed("mount")(error.into()))?;
    let read_only = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount(target, read_only, c"").map_err(|error| {
        // Nobody may get it writable.
        let _ = unmount(target, UnmountFlags::DETACH);
        failed("make read-only")(error.into())
    })
}

/// Takes the mount and its folder away. One that is gone already is as good.
pub(super) fn unpublish(target: &Path) -> Result<(), MountError> {
    let failed = |action| move |source: io::Error| MountError { action, target: target.to_owned(), source };
    while is_mount_point(target).map_err(failed("look at"))? {
        unmount(target, UnmountFlags::DETACH).map_err(|error| failed("unmount")(error.into()))?;
    }
    match std::fs::remove_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove")(error)),
        _ => Ok(()),
    }
}

/// True when something is mounted exactly here, as this process sees it.
fn is_mount_point(path: &Path) -> io::Result<bool> {
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    // The fifth field is the mount point, with spaces and the like as octal escapes.
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.map(unescaped).any(|point| Path::new(&point) == path))
}

/// `\040` is a space, and so on.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (code, part.get(3..)) {
            (Some(code), Some(rest)) => {
                plain.push(char::from(code));
                plain.push_str(rest);
            }
            _ => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_mountinfo_are_read() {
        assert_eq!(unescaped(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescaped(r"/plain"), "/plain");
        assert_eq!(unescaped(r"/odd\9"), r"/odd\9");
    }

    #[test]
    fn the_root_is_a_mount_point_and_a_plain_folder_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(is_mount_point(Path::new("/")).expect("an answer"));
        assert!(!is_mount_point(folder.path()).expect("an answer"));
        assert!(!is_mount_point(&folder.path().join("missing")).expect("an answer"));
    }

    #[test]
    fn unpublishing_what_is_not_there_succeeds() {
        let folder = tempfile::tempdir().expect("a folder");
        unpublish(&folder.path().join("mount")).expect("nothing to do");
        std::fs::create_dir(folder.path().join("mount")).expect("a folder");
        unpublish(&folder.path().join("mount")).expect("an empty folder goes");
        assert!(!folder.path().join("mount").exists());
    }

    #[test]
    fn what_a_folder_that_was_not_a_mount_holds_is_not_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("mount");
        std::fs::create_dir(&target).expect("a folder");
        std::fs::write(target.join("precious"), "").expect("a file");
        assert!(unpublish(&target).is_err());
        assert!(target.join("precious").exists());
    }
}
