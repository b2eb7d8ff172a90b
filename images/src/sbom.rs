//! The bill of materials of a program: CycloneDX 1.5, of the crates that are linked into it and of nothing else.
//!
//! cargo is asked twice: `cargo tree` knows what is built for the target, with which features, without what only tests,
//! build scripts and macros need; `cargo metadata` and the lock file know licences, sources and hashes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cargo::{self, CargoError};
use crate::digest::Digest;
use crate::product::Product;
use crate::provenance::rfc3339;

/// Media type of the document.
pub const SBOM_TYPE: &str = "application/vnd.cyclonedx+json";

/// Why there is no bill of materials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SbomError {
    /// cargo did not answer.
    #[error(transparent)]
    Cargo(#[from] CargoError),
    /// cargo answered something that is not understood.
    #[error("cargo tree answers with a line that is not understood: {line:?}")]
    Tree {
        /// The line.
        line: String,
    },
    /// Two answers of cargo do not fit together.
    #[error("{name} {version} is linked in, but cargo metadata does not know it")]
    Unknown {
        /// Name of the crate.
        name: String,
        /// Its version.
        version: String,
    },
    /// The description of the packages cannot be read.
    #[error("the answer of cargo metadata cannot be read")]
    Metadata(#[source] serde_json::Error),
    /// The lock file cannot be read.
    #[error("Cargo.lock cannot be read: {reason}")]
    Lock {
        /// What is wrong.
        reason: String,
    },
}

/// Name and version: what tells crates apart in one lock file, since we take none of the same version from two places.
type CrateId = (String, String);

/// What the programs of one checkout are made of.
#[derive(Debug)]
pub struct Materials {
    dependencies: BTreeMap<CrateId, BTreeSet<CrateId>>,
    packages: BTreeMap<CrateId, Package>,
    checksums: BTreeMap<CrateId, String>,
    rust: String,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The program that a document is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Which.
    pub product: &'a Product,
    /// Hash of the program.
    pub program: &'a Digest,
    /// Hash of the file of web authorities, where the image holds one.
    pub web_authorities: Option<&'a Digest>,
    /// Time of the document, in seconds since 1970.
    pub created: u64,
}

impl Materials {
    /// Asks cargo. The products have to be those that are built together, since they share features.
    pub fn of(workspace: &Path, products: &[&Product]) -> Result<Self, SbomError> {
        let mut tree = vec!["tree", "--locked", "--edges", "normal,no-proc-macro", "--target", cargo::TARGET];
        tree.extend(["--prefix", "depth", "--format", " {p}", "--charset", "ascii"]);
        tree.extend(products.iter().flat_map(|product| ["--package", product.package]));
        let metadata = ["metadata", "--locked", "--format-version", "1", "--filter-platform", cargo::TARGET];
        let metadata = cargo::output("cargo", &metadata, workspace)?;
        let metadata: Metadata = serde_json::from_str(&metadata).map_err(SbomError::Metadata)?;
        let lock = |reason: String| SbomError::Lock { reason };
        let locked =
            std::fs::read_to_string(workspace.join("Cargo.lock")).map_err(|error| lock(error.to_string()))?;
        let locked: Lock = toml::from_str(&locked).map_err(|error| lock(error.to_string()))?;
        let checksum = |locked: Locked| Some(((locked.name, locked.version), locked.checksum?));
        Ok(Self {
            dependencies: parse_tree(&cargo::output("cargo", &tree, workspace)?)?,
            packages: metadata.packages.into_iter().map(|package| (package.id(), package)).collect(),
            checksums: locked.package.into_iter().filter_map(checksum).collect(),
            rust: rust_version(&cargo::output("rustc", &["--version"], workspace)?),
        })
    }

    /// The document of one program.
    pub fn document(&self, subject: &Subject<'_>) -> Result<Value, SbomError> {
        let root = self.packages.values().find(|package| package.name == subject.product.package);
        let root = root.map(Package::id).ok_or_else(|| SbomError::Unknown {
            name: subject.product.package.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })?;
        let crates = self.closure(&root);
        let mut components = Vec::new();
        for id in crates.iter().filter(|id| **id != root) {
            components.push(self.component(id)?);
        }
        components.push(rust_library(&self.rust));
        components.push(musl());
        components.extend(subject.web_authorities.map(web_authorities));
        let dependencies: Vec<Value> = crates.iter().map(|id| self.edges(id, &root)).collect();
        Ok(json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "serialNumber": serial_number(subject.program),
            "version": 1,
            "metadata": {
                "timestamp": rfc3339(subject.created),
                "tools": { "components": [
                    { "type": "application", "name": "entente-images", "version": env!("CARGO_PKG_VERSION") },
                ] },
                "component": {
                    "type": "application",
                    "bom-ref": self.reference(&root),
                    "name": subject.product.name,
                    "version": root.1,
                    "description": subject.product.title,
                    "hashes": [{ "alg": "SHA-256", "content": subject.program.hex() }],
                    "licenses": [{ "expression": env!("CARGO_PKG_LICENSE") }],
                },
            },
            "components": components,
            "dependencies": dependencies,
        }))
    }

    fn closure(&self, root: &CrateId) -> BTreeSet<CrateId> {
        let (mut found, mut next) = (BTreeSet::from([root.clone()]), vec![root.clone()]);
        while let Some(id) = next.pop() {
            for dependency in self.dependencies.get(&id).into_iter().flatten() {
                if found.insert(dependency.clone()) {
                    next.push(dependency.clone());
                }
            }
        }
        found
    }

    /// A package URL for what a registry has; our own crates are in none.
    fn reference(&self, (name, version): &CrateId) -> String {
        let published = self
            .packages
            .get(&(name.clone(), version.clone()))
            .is_some_and(|package| package.source.is_some());
        if published { format!("pkg:cargo/{name}@{version}") } else { format!("crate:{name}@{version}") }
    }

    fn component(&self, id: &CrateId) -> Result<Value, SbomError> {
        let unknown = || SbomError::Unknown { name: id.0.clone(), version: id.1.clone() };
        let package = self.packages.get(id).ok_or_else(unknown)?;
        let reference = self.reference(id);
        let mut component = json!({
            "type": "library", "bom-ref": reference, "name": id.0, "version": id.1, "scope": "required",
        });
        let purl = package.source.is_some().then(|| json!(reference));
        // The slash is an old way of writing it, which is no SPDX expression.
        let license = package.license.as_ref().map(|license| license.replace('/', " OR "));
        let optional = [
            ("purl", purl),
            ("licenses", license.map(|license| json!([{ "expression": license }]))),
            ("hashes", self.checksums.get(id).map(|hash| json!([{ "alg": "SHA-256", "content": hash }]))),
            (
                "externalReferences",
                package.repository.as_ref().map(|url| json!([{ "type": "vcs", "url": url }])),
            ),
        ];
        for (key, value) in optional {
            if let (Some(value), Some(fields)) = (value, component.as_object_mut()) {
                fields.insert(key.to_owned(), value);
            }
        }
        Ok(component)
    }

    fn edges(&self, id: &CrateId, root: &CrateId) -> Value {
        let dependencies = self.dependencies.get(id).into_iter().flatten();
        let mut names: Vec<String> = dependencies.map(|id| self.reference(id)).collect();
        if id == root {
            names.extend([rust_reference(&self.rust), MUSL.to_owned()]);
        }
        json!({ "ref": self.reference(id), "dependsOn": names })
    }
}

impl Package {
    fn id(&self) -> CrateId {
        (self.name.clone(), self.version.clone())
    }
}

const MUSL: &str = "pkg:generic/musl";

fn rust_reference(version: &str) -> String {
    format!("pkg:generic/rust-std@{version}")
}

fn rust_library(version: &str) -> Value {
    json!({
        "type": "library", "bom-ref": rust_reference(version), "purl": rust_reference(version), "name": "rust-std",
        "version": version, "description": "Rust's standard library, as the toolchain brings it",
        "licenses": [{ "expression": "MIT OR Apache-2.0" }],
    })
}

fn musl() -> Value {
    json!({
        "type": "library", "bom-ref": MUSL, "purl": MUSL, "name": "musl",
        "description": "The C library, in the version that the Rust toolchain brings for its musl targets",
        "licenses": [{ "expression": "MIT" }],
    })
}

fn web_authorities(hash: &Digest) -> Value {
    json!({
        "type": "data", "bom-ref": "ca-certificates", "name": "ca-certificates",
        "description": "Authorities of the web, from the machine that made the image",
        "hashes": [{ "alg": "SHA-256", "content": hash.hex() }],
    })
}

/// A UUID that the program alone decides, so that the document is the same whenever it is made.
fn serial_number(program: &Digest) -> String {
    let hex = program.hex();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    // Version 8: made by a rule of one's own. Variant: RFC 9562.
    format!("urn:uuid:{}-{}-8{}-a{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}

/// `rustc 1.95.0 (59807616e 2026-04-14)`
fn rust_version(answer: &str) -> String {
    answer.split_whitespace().nth(1).unwrap_or("unknown").to_owned()
}

/// Lines such as `2 tokio v1.54.1`, the number being the depth. A tree that was shown already ends with `(*)` and is not shown
/// again, so the edges of all lines together are the graph.
fn parse_tree(text: &str) -> Result<BTreeMap<CrateId, BTreeSet<CrateId>>, SbomError> {
    let mut above: Vec<CrateId> = Vec::new();
    let mut dependencies: BTreeMap<CrateId, BTreeSet<CrateId>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (depth, id) = parse_line(line).ok_or_else(|| SbomError::Tree { line: line.to_owned() })?;
        if depth > above.len() {
            return Err(SbomError::Tree { line: line.to_owned() });
        }
        above.truncate(depth);
        if let Some(parent) = above.last() {
            dependencies.entry(parent.clone()).or_default().insert(id.clone());
        }
        dependencies.entry(id.clone()).or_default();
        above.push(id);
    }
    Ok(dependencies)
}

fn parse_line(line: &str) -> Option<(usize, CrateId)> {
    let mut words = line.split(' ');
    let depth = words.next()?.parse().ok()?;
    let name = words.next().filter(|name| !name.is_empty())?;
    let version = words.next()?.strip_prefix('v')?;
    Some((depth, (name.to_owned(), version.to_owned())))
}

#[cfg(test)]
mod tests;
