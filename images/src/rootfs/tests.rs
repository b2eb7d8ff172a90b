use super::*;

fn entries(rootfs: &Rootfs) -> Vec<(String, u32, u64, u64, EntryType)> {
    let mut bytes = Vec::new();
    rootfs.write_tar(&mut bytes, 7).unwrap();
    let mut tar = tar::Archive::new(bytes.as_slice());
    let read = tar.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!(header.gid().unwrap(), header.uid().unwrap());
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        (path, header.mode().unwrap(), header.uid().unwrap(), header.mtime().unwrap(), header.entry_type())
    });
    read.collect()
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    let mut rootfs = Rootfs::new();
    for path in ["", "/", "etc/passwd", "/../etc", "/a/./b", "/a//b", "/a/", "/a\0b"] {
        let refused = rootfs.bytes("x", path, 0o644);
        assert!(matches!(refused, Err(PackError::BadPath { .. })), "{path:?}: {refused:?}");
    }
    assert_eq!(rootfs, Rootfs::new());
}

#[test]
fn two_things_at_one_path_are_refused() {
    let mut rootfs = Rootfs::new();
    rootfs.bytes("one", "/etc/name", 0o644).unwrap();
    rootfs.bytes("one", "/etc/name", 0o644).unwrap();
    assert!(matches!(rootfs.bytes("two", "/etc/name", 0o644), Err(PackError::Taken { .. })));
    assert!(matches!(rootfs.bytes("x", "/etc/name/below", 0o644), Err(PackError::Taken { .. })));
    assert!(matches!(rootfs.link("/etc", "/elsewhere"), Err(PackError::Taken { .. })));
    rootfs.directory("/run", 0o755, 1).unwrap();
    assert!(matches!(rootfs.directory("/run", 0o700, 1), Err(PackError::Taken { .. })));
}

#[test]
fn folders_come_before_what_is_in_them_whatever_the_order_of_adding() {
    let mut rootfs = Rootfs::new();
    rootfs.bytes("x", "/run/spire/socket", 0o600).unwrap();
    rootfs.link("/bin/sh", "busybox").unwrap();
    rootfs.directory("/run/spire", 0o750, 1000).unwrap();
    let expected = [
        ("bin/", 0o755, 0, EntryType::Directory),
        ("bin/sh", 0o777, 0, EntryType::Symlink),
        ("run/", 0o755, 0, EntryType::Directory),
        ("run/spire/", 0o750, 1000, EntryType::Directory),
        ("run/spire/socket", 0o600, 0, EntryType::Regular),
    ];
    let expected = expected.map(|(path, mode, owner, kind)| (path.to_owned(), mode, owner, 7, kind));
    assert_eq!(entries(&rootfs), expected);
}

#[test]
fn a_long_path_is_kept_whole() {
    let path = format!("/{}/{}", "a".repeat(120), "b".repeat(120));
    let mut rootfs = Rootfs::new();
    rootfs.bytes("x", &path, 0o644).unwrap();
    assert_eq!(entries(&rootfs).last().unwrap().0, path.trim_start_matches('/'));
}

#[test]
fn a_file_that_changes_its_length_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("program");
    for (first, then) in [("shorter", "short"), ("short", "longer than before")] {
        std::fs::write(&source, first).unwrap();
        let mut rootfs = Rootfs::new();
        rootfs.file(&source, "/program").unwrap();
        std::fs::write(&source, then).unwrap();
        let refused = rootfs.write_tar(io::sink(), 0).unwrap_err();
        assert!(refused.to_string().contains("changed while it was read"), "{refused}");
    }
}

#[test]
fn a_copy_is_executable_if_its_source_is_and_never_privileged() {
    let folder = tempfile::tempdir().unwrap();
    let mut rootfs = Rootfs::new();
    for (name, mode) in [("a", 0o600), ("b", 0o700), ("c", 0o4755)] {
        let source = folder.path().join(name);
        std::fs::write(&source, name).unwrap();
        std::fs::set_permissions(&source, std::fs::Permissions::from_mode(mode)).unwrap();
        rootfs.file(&source, &format!("/{name}")).unwrap();
    }
    let modes: Vec<u32> = entries(&rootfs).into_iter().map(|entry| entry.1).collect();
    assert_eq!(modes, [0o644, 0o755, 0o755]);
    assert!(matches!(rootfs.file(folder.path(), "/folder"), Err(PackError::NoFile { .. })));
}
