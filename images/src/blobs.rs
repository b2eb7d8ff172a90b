//! What registries and layouts hold: a manifest and the parts that it names by their hashes.

use std::collections::BTreeMap;
use std::io;

use crate::digest::Digest;
use crate::manifest::{Descriptor, EMPTY, MANIFEST, Manifest, json};
#[cfg(feature = "push")]
use crate::manifest::{INDEX, Index};

/// One image in its compressed form, or one document that is kept beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blobs {
    /// Names the parts. Its digest is that of the whole.
    pub manifest: Vec<u8>,
    /// What it names; the first is the configuration.
    pub parts: Vec<Vec<u8>>,
    pub(crate) artifact_type: Option<&'static str>,
}

impl Blobs {
    /// Of the whole: what one pins.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }
    /// Of all parts together.
    pub fn size(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }
    /// A document about this image, to be kept beside it: an OCI artifact with this as its subject.
    pub fn attach(&self, document: &[u8], media_type: &'static str, created: &str) -> io::Result<Self> {
        let empty = b"{}";
        let created = ("org.opencontainers.image.created".to_owned(), created.to_owned());
        let manifest = json(&Manifest {
            schema_version: 2,
            media_type: MANIFEST,
            artifact_type: Some(media_type),
            config: Descriptor::of(EMPTY, empty),
            layers: vec![Descriptor::of(media_type, document)],
            subject: Some(Descriptor::of(MANIFEST, &self.manifest)),
            annotations: BTreeMap::from([created]),
        })?;
        let parts = vec![empty.to_vec(), document.to_vec()];
        Ok(Self { manifest, parts, artifact_type: Some(media_type) })
    }
    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor { artifact_type: self.artifact_type, ..Descriptor::of(MANIFEST, &self.manifest) }
    }
}

/// The list of what is kept beside an image, for registries that do not make it themselves.
#[cfg(feature = "push")]
pub(crate) fn referrers(attached: &[Blobs]) -> io::Result<Vec<u8>> {
    json(&Index {
        schema_version: 2,
        media_type: INDEX,
        manifests: attached.iter().map(Blobs::descriptor).collect(),
    })
}
