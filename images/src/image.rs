//! One image: its layer and its configuration, with their hashes; and the tar that `docker load` and `ctr images import` read.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::blobs::Blobs;
use crate::digest::{Digest, Hashing};
use crate::elf::Architecture;
use crate::manifest::{
    ArchiveItem, CONFIG, Configuration, Descriptor, Execution, History, LAYER, Layers, MANIFEST, Manifest,
    Platform, json,
};
use crate::provenance::rfc3339;
use crate::rootfs::Rootfs;

/// What an image is made of.
#[derive(Clone, Debug)]
pub struct ImageSpec {
    /// Full name with tag, under which a runtime will know it.
    pub name: String,
    /// What lies in it.
    pub rootfs: Rootfs,
    /// Who runs it: `UID:GID`. Empty is root.
    pub user: String,
    /// The program and the arguments that it always gets.
    pub entrypoint: Vec<String>,
    /// Arguments that a user of the image replaces.
    pub arguments: Vec<String>,
    /// `NAME=VALUE`
    pub environment: Vec<String>,
    /// `org.opencontainers.image.…` and others.
    pub labels: BTreeMap<String, String>,
    /// Time of the image and of every file in it, in seconds since 1970.
    pub created: u64,
    /// The machine that its programs are for.
    pub architecture: Architecture,
}

impl ImageSpec {
    /// An image for this machine that nobody has said anything about yet, made in 1970.
    pub fn new(name: impl Into<String>, rootfs: Rootfs) -> Self {
        Self {
            name: name.into(),
            rootfs,
            user: String::new(),
            entrypoint: Vec::new(),
            arguments: Vec::new(),
            environment: vec!["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".to_owned()],
            labels: BTreeMap::new(),
            created: 0,
            architecture: Architecture::own(),
        }
    }

    /// Reads everything once and fixes the hashes.
    pub fn assemble(self) -> io::Result<Image> {
        let mut hashing = Hashing::new(io::sink());
        self.rootfs.write_tar(&mut hashing, self.created)?;
        let (diff_id, layer_size, _) = hashing.finish();
        let created = rfc3339(self.created);
        let configuration = json(&Configuration {
            created: created.clone(),
            architecture: self.architecture.name(),
            os: "linux",
            config: Execution {
                user: &self.user,
                env: &self.environment,
                entrypoint: &self.entrypoint,
                cmd: &self.arguments,
                working_dir: "/",
                labels: &self.labels,
            },
            rootfs: Layers { r#type: "layers", diff_ids: vec![diff_id.clone()] },
            history: vec![History { created, created_by: "entente-images" }],
        })?;
        Ok(Image { spec: self, diff_id, layer_size, configuration })
    }
}

/// An image whose hashes are known. Its files are read again when it is written; one that changed meanwhile is an error.
#[derive(Clone, Debug)]
pub struct Image {
    spec: ImageSpec,
    diff_id: Digest,
    layer_size: u64,
    configuration: Vec<u8>,
}

impl Image {
    /// Full name with tag.
    pub fn name(&self) -> &str {
        &self.spec.name
    }
    /// Hash of the configuration: what runtimes call the image's ID.
    pub fn id(&self) -> Digest {
        Digest::of(&self.configuration)
    }
    /// Size of what is in it, not compressed.
    pub fn layer_size(&self) -> u64 {
        self.layer_size
    }
    pub(crate) fn platform(&self) -> Platform {
        Platform { architecture: self.spec.architecture.name(), os: "linux" }
    }

    /// Compresses the layer and makes the manifest. All of it is held in memory: this is for small images.
    pub fn blobs(&self) -> io::Result<Blobs> {
        // Writes neither time nor name into the header.
        let mut compressed = Hashing::new(GzEncoder::new(Vec::new(), Compression::best()));
        self.spec.rootfs.write_tar(&mut compressed, self.spec.created)?;
        let (diff_id, _, encoder) = compressed.finish();
        self.require_same(&diff_id)?;
        let layer = encoder.finish()?;
        let manifest = json(&Manifest {
            schema_version: 2,
            media_type: MANIFEST,
            artifact_type: None,
            config: Descriptor::of(CONFIG, &self.configuration),
            layers: vec![Descriptor::of(LAYER, &layer)],
            subject: None,
            annotations: self.spec.labels.clone(),
        })?;
        Ok(Blobs { manifest, parts: vec![self.configuration.clone(), layer], artifact_type: None })
    }

    /// Writes the tar that `docker load` and `ctr images import` read. It is there whole or not at all.
    pub fn write_docker_archive(&self, path: &Path) -> io::Result<()> {
        let (config, layer) =
            (format!("{}.json", self.id().hex()), format!("{}/layer.tar", self.diff_id.hex()));
        let items = json(&[ArchiveItem { config: &config, repo_tags: [self.name()], layers: [&layer] }])?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let readable = Permissions::from_mode(0o644);
        let mut file = tempfile::Builder::new().permissions(readable).tempfile_in(folder)?;
        let mut output = io::BufWriter::with_capacity(1 << 20, file.as_file_mut());
        write_entry(&mut output, &config, &self.configuration)?;
        write_entry(&mut output, "manifest.json", &items)?;
        output.write_all(header(&layer, self.layer_size)?.as_bytes())?;
        let mut hashing = Hashing::new(&mut output);
        self.spec.rootfs.write_tar(&mut hashing, self.spec.created)?;
        self.require_same(&hashing.finish().0)?;
        // A tar's own length is a multiple of the block already; two empty blocks end the outer one.
        output.write_all(&[0; 1024])?;
        output.into_inner()?.sync_data()?;
        file.persist(path)?;
        Ok(())
    }

    fn require_same(&self, diff_id: &Digest) -> io::Result<()> {
        if *diff_id == self.diff_id {
            return Ok(());
        }
        Err(io::Error::other(format!("a file of {} changed while its image was made", self.spec.name)))
    }
}

fn header(path: &str, size: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_mode(0o644);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    Ok(header)
}

fn write_entry(output: &mut impl Write, path: &str, content: &[u8]) -> io::Result<()> {
    output.write_all(header(path, content.len() as u64)?.as_bytes())?;
    output.write_all(content)?;
    let padding = content.len().next_multiple_of(512) - content.len();
    output.write_all(&vec![0; padding])
}

#[cfg(test)]
mod tests;
