//! The JSON documents of an image.
//!
//! Structures of our own, since the fields have to come in one order, whichever features of other crates are on: the bytes
//! are what is hashed. The tests read them back with another implementation.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::digest::Digest;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const EMPTY: &str = "application/vnd.oci.empty.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Names one blob.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<&'static str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
}

impl Descriptor {
    pub(crate) fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            artifact_type: None,
            annotations: BTreeMap::new(),
            platform: None,
        }
    }
}

/// What an image runs on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Platform {
    pub(crate) architecture: &'static str,
    pub(crate) os: &'static str,
}

/// One image, or something that is kept beside it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u8,
    pub(crate) media_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<&'static str>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What lies in a layout, or is kept beside an image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u8,
    pub(crate) media_type: &'static str,
    pub(crate) manifests: Vec<Descriptor>,
}

/// How an image is run.
#[derive(Debug, Serialize)]
pub(crate) struct Configuration<'a> {
    pub(crate) created: String,
    pub(crate) architecture: &'static str,
    pub(crate) os: &'static str,
    pub(crate) config: Execution<'a>,
    pub(crate) rootfs: Layers,
    pub(crate) history: Vec<History>,
}

/// The part that a runtime obeys.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Execution<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) user: &'a str,
    pub(crate) env: &'a [String],
    pub(crate) entrypoint: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub(crate) cmd: &'a [String],
    pub(crate) working_dir: &'a str,
    pub(crate) labels: &'a BTreeMap<String, String>,
}

/// Hashes of the layers before compression.
#[derive(Debug, Serialize)]
pub(crate) struct Layers {
    pub(crate) r#type: &'static str,
    pub(crate) diff_ids: Vec<Digest>,
}

/// Where a layer came from.
#[derive(Debug, Serialize)]
pub(crate) struct History {
    pub(crate) created: String,
    pub(crate) created_by: &'static str,
}

/// `manifest.json` of a docker archive holds a list of these.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ArchiveItem<'a> {
    pub(crate) config: &'a str,
    pub(crate) repo_tags: [&'a str; 1],
    pub(crate) layers: [&'a str; 1],
}

/// These structures cannot fail to become JSON: their keys are strings, and nothing in them refuses.
pub(crate) fn json(document: &impl Serialize) -> std::io::Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(std::io::Error::other)
}
