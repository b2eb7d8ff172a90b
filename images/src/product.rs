//! The four images of Entente.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::elf::{ElfError, require_static};
use crate::image::ImageSpec;
use crate::provenance::Provenance;
use crate::rootfs::{PackError, Rootfs};

/// Where web authorities lie on Debian-like systems, and in the image that needs them.
pub const CA_FILE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why an image of ours cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProductError {
    /// The program cannot stand alone.
    #[error(transparent)]
    Program(#[from] ElfError),
    /// Something cannot be put in.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The authorities of the web are not at hand.
    #[error(
        "{name} fetches from https_web endpoints and needs the web's authorities, but {path} is not here: apt-get install ca-certificates"
    )]
    NoAuthorities {
        /// The image that needs them.
        name: &'static str,
        /// Where they were looked for.
        path: PathBuf,
    },
}

/// One of our programs and how its image looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Of the image and of the program.
    pub name: &'static str,
    /// The crate that it is built from.
    pub package: &'static str,
    /// User and group that run it.
    pub user: u32,
    /// One line for the label.
    pub title: &'static str,
    web_authorities: bool,
}

// Nothing of ours writes a file, so none of the images has a place to write to, /tmp included: the endpoint's sockets lie
// on volumes, and the plugin, which makes a socket in TMPDIR, does that in SPIRE Server's container and not in its own image.
/// All of them.
pub const PRODUCTS: [Product; 4] = [
    Product {
        name: "entente-plugin",
        package: "entente-plugin",
        // SPIRE Server's own: the copy that the init container leaves must be its, or readable for it.
        user: 1000,
        title: "Plugin of SPIRE Server that keeps trust domains federated",
        web_authorities: false,
    },
    Product {
        name: "bundle-endpoint",
        package: "bundle-endpoint",
        user: 65532,
        title: "Serves the bundle of one SPIFFE trust domain and fetches those of others",
        web_authorities: true,
    },
    Product {
        name: "helloworld-server",
        package: "entente-workloads",
        user: 65532,
        title: "Workload that greets callers of allowed SPIFFE IDs over mutual TLS",
        web_authorities: false,
    },
    Product {
        name: "helloworld-client",
        package: "entente-workloads",
        user: 65532,
        title: "Workload that calls helloworld-server over mutual TLS",
        web_authorities: false,
    },
];

impl Product {
    /// The one of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PRODUCTS.iter().find(|product| product.name == name)
    }
    /// Whether its image holds the authorities of the web.
    pub fn needs_web_authorities(&self) -> bool {
        self.web_authorities
    }
    /// Where the program lies in its image.
    pub fn path(&self) -> String {
        format!("/opt/entente/{}", self.name)
    }
    /// The tag that the manifests ask for. The plugin's is the checksum of its program, because SPIRE Server starts no other
    /// than that of server.conf, and a node that has an image does not look whether the tag is another's today.
    pub fn tag(&self, program: &Digest) -> String {
        if self.name == "entente-plugin" {
            program.hex().to_owned()
        } else {
            env!("CARGO_PKG_VERSION").to_owned()
        }
    }
    /// The image around a program that was built, under a full name. Refuses a program that is not static.
    pub fn image(
        &self,
        name: &str,
        program: &Path,
        ca_file: &Path,
        provenance: &Provenance,
    ) -> Result<ImageSpec, ProductError> {
        let architecture = require_static(program)?;
        let mut rootfs = Rootfs::new();
        rootfs.file(program, &self.path())?;
        if self.web_authorities {
            if !ca_file.is_file() {
                return Err(ProductError::NoAuthorities { name: self.name, path: ca_file.to_owned() });
            }
            rootfs.file(ca_file, CA_FILE)?;
        }
        let mut spec = ImageSpec::new(name, rootfs);
        spec.user = format!("{0}:{0}", self.user);
        spec.entrypoint = vec![self.path()];
        spec.environment.clear();
        spec.labels = self.labels(provenance);
        spec.created = provenance.created;
        spec.architecture = architecture;
        Ok(spec)
    }

    fn labels(&self, provenance: &Provenance) -> BTreeMap<String, String> {
        let labels = [
            ("title", Some(self.name.to_owned())),
            ("description", Some(self.title.to_owned())),
            ("source", provenance.source.clone()),
            ("revision", Some(provenance.revision.clone())),
            ("version", Some(env!("CARGO_PKG_VERSION").to_owned())),
            ("created", Some(provenance.created_text())),
            ("licenses", Some(env!("CARGO_PKG_LICENSE").to_owned())),
        ];
        let with_prefix =
            |(key, value): (&str, Option<String>)| Some((format!("org.opencontainers.image.{key}"), value?));
        labels.into_iter().filter_map(with_prefix).collect()
    }
}
