use std::collections::BTreeMap;
use std::io::Read;

use super::*;

fn spec() -> ImageSpec {
    let mut rootfs = Rootfs::new();
    rootfs.bytes("program", "/opt/entente/program", 0o755).unwrap();
    rootfs.directory("/run/entente", 0o750, 65532).unwrap();
    let mut spec = ImageSpec::new("localhost:10000/program:0.1.0", rootfs);
    spec.user = "65532:65532".to_owned();
    spec.entrypoint = vec!["/opt/entente/program".to_owned()];
    spec.created = 1_700_000_000;
    spec
}

fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut tar = tar::Archive::new(archive);
    let read = tar.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().to_string_lossy().into_owned(), content)
    });
    read.collect()
}

fn docker_archive(image: &Image) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.tar");
    image.write_docker_archive(&path).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    // Added in another order, and made a while later.
    let mut other = spec();
    other.rootfs = Rootfs::new();
    other.rootfs.directory("/run/entente", 0o750, 65532).unwrap();
    other.rootfs.bytes("program", "/opt/entente/program", 0o755).unwrap();
    let (one, two) = (spec().assemble().unwrap(), other.assemble().unwrap());
    assert_eq!(one.blobs().unwrap(), two.blobs().unwrap());
    assert_eq!(docker_archive(&one), docker_archive(&two));
}

#[test]
fn the_digest_is_that_of_earlier_versions() {
    // A new version of the compressor or of the tar writer would change the digest of every image: that shall be seen.
    let blobs = spec().assemble().unwrap().blobs().unwrap();
    assert_eq!(
        Digest::of(&blobs.manifest).hex(),
        "7e2db040e5cc6a4f0fdf8bec75a64699089f7d277da1097917f09168fc1e0f7f"
    );
}

#[test]
fn another_byte_is_another_image() {
    let mut other = spec();
    other.rootfs.bytes("x", "/etc/x", 0o644).unwrap();
    let (one, two) = (spec().assemble().unwrap(), other.assemble().unwrap());
    assert_ne!(one.id(), two.id());
}

#[test]
fn the_archive_holds_what_its_hashes_say() {
    let image = spec().assemble().unwrap();
    let files = files(&docker_archive(&image));
    let items: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(items[0]["RepoTags"][0], "localhost:10000/program:0.1.0");
    let (config, layer) = (items[0]["Config"].as_str().unwrap(), items[0]["Layers"][0].as_str().unwrap());
    assert_eq!(config, format!("{}.json", Digest::of(&files[config]).hex()));
    let config: serde_json::Value = serde_json::from_slice(&files[config]).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"][0], Digest::of(&files[layer]).to_string());
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    let inner = self::files(&files[layer]);
    assert_eq!(inner["opt/entente/program"], b"program");
}

#[test]
fn a_file_that_changed_since_is_refused_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("program");
    std::fs::write(&source, "first").unwrap();
    let mut spec = spec();
    spec.rootfs.file(&source, "/copied").unwrap();
    let image = spec.assemble().unwrap();
    std::fs::write(&source, "other").unwrap();
    assert!(image.blobs().is_err());
    assert!(image.write_docker_archive(&folder.path().join("image.tar")).is_err());
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["program"]);
}

#[test]
fn the_layout_holds_what_its_hashes_say_and_replaces_an_older_one() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("program.oci");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("old"), "").unwrap();
    let image = spec().assemble().unwrap();
    let blobs = image.blobs().unwrap();
    let document = blobs.attach(b"{}", "application/vnd.example+json", "1970-01-01T00:00:00Z").unwrap();
    image.write_layout(&blobs, &[document], &folder).unwrap();
    assert!(!folder.join("old").exists());
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
    let blob = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        let content = std::fs::read(folder.join("blobs").join(digest.replace(':', "/"))).unwrap();
        assert_eq!(Digest::of(&content).to_string(), digest);
        assert_eq!(descriptor["size"], content.len());
        content
    };
    let manifest: serde_json::Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
    let mut layer = Vec::new();
    flate2::read::GzDecoder::new(blob(&manifest["layers"][0]).as_slice()).read_to_end(&mut layer).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"][0], Digest::of(&layer).to_string());
    let attached: serde_json::Value = serde_json::from_slice(&blob(&index["manifests"][1])).unwrap();
    assert_eq!(attached["subject"]["digest"], index["manifests"][0]["digest"]);
    assert_eq!(blob(&attached["layers"][0]), b"{}");
    assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], image.name());
}
