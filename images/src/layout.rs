//! The image as a folder, as the OCI image layout 1.0 has it: what `skopeo`, `crane` and `oras` read.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::blobs::Blobs;
use crate::digest::Digest;
use crate::image::Image;
use crate::manifest::{INDEX, Index, json};

impl Image {
    /// Writes the image and what is kept beside it into a folder, which is replaced whole.
    pub fn write_layout(&self, blobs: &Blobs, attached: &[Blobs], folder: &Path) -> io::Result<()> {
        let parent =
            folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let work = tempfile::Builder::new()
            .prefix(".layout-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(parent)?;
        let store = work.path().join("blobs/sha256");
        fs::create_dir_all(&store)?;
        for item in [blobs].into_iter().chain(attached) {
            for blob in item.parts.iter().chain([&item.manifest]) {
                fs::write(store.join(Digest::of(blob).hex()), blob)?;
            }
        }
        fs::write(work.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        fs::write(work.path().join("index.json"), json(&self.index(blobs, attached))?)?;
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(work.keep(), folder)
    }

    fn index(&self, blobs: &Blobs, attached: &[Blobs]) -> Index {
        let mut manifest = blobs.descriptor();
        manifest.platform = Some(self.platform());
        let tag = self.name().rsplit_once(':').map_or("latest", |(_, tag)| tag);
        // The first is the standard's, which knows tags alone; the second is where containerd looks for the whole name.
        for (key, value) in
            [("org.opencontainers.image.ref.name", tag), ("io.containerd.image.name", self.name())]
        {
            manifest.annotations.insert(key.to_owned(), value.to_owned());
        }
        let manifests = [manifest].into_iter().chain(attached.iter().map(Blobs::descriptor)).collect();
        Index { schema_version: 2, media_type: INDEX, manifests }
    }
}
