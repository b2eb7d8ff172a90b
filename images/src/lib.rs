//! Container images out of programs, without a daemon.
//!
//! The same input gives the same bytes: files are sorted, times are the commit's, and compression keeps no time. Three
//! users: `entente-images`, which makes the images of Entente; the lab, which packs other people's programs for its
//! clusters; and both their tests.
//!
//! ```no_run
//! use std::path::Path;
//! use entente_images::{ImageSpec, Rootfs};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut rootfs = Rootfs::new();
//! rootfs.program_with_libraries(Path::new("/usr/local/bin/spire-agent"), "/opt/spire/bin/spire-agent")?;
//! rootfs.directory("/run/spire", 0o755, 0)?;
//! let mut spec = ImageSpec::new("ghcr.io/spiffe/spire-agent:1.15.3", rootfs);
//! spec.entrypoint = vec!["/opt/spire/bin/spire-agent".to_owned(), "run".to_owned()];
//! spec.assemble()?.write_docker_archive(Path::new("spire-agent.tar"))?;
//! # Ok(())
//! # }
//! ```

mod blobs;
mod cargo;
mod compile;
mod digest;
mod elf;
mod image;
mod layout;
mod libraries;
mod manifest;
mod product;
mod provenance;
#[cfg(feature = "push")]
mod push;
mod rootfs;
mod sbom;

pub use blobs::Blobs;
pub use cargo::{CargoError, TARGET};
pub use compile::{CompileError, StaticBuild, compile, require_tools};
pub use digest::Digest;
pub use elf::{Architecture, ElfError, Needs, require_static};
pub use image::{Image, ImageSpec};
pub use libraries::{LibraryError, shared_libraries};
pub use product::{CA_FILE, PRODUCTS, Product, ProductError};
pub use provenance::{Provenance, ProvenanceError};
#[cfg(feature = "push")]
pub use push::{PushError, Registry};
pub use rootfs::{PackError, Rootfs};
pub use sbom::{Materials, SBOM_TYPE, SbomError, Subject};
