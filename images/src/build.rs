//! The command `build`: from sources to files that a registry, a runtime and an auditor take.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use entente_images::{CA_FILE, Digest, PRODUCTS, Product, Provenance, compile};

/// What an image may weigh at most, compressed or not: more than this and something has got in that does not belong there.
const SIZE_LIMIT: u64 = 20_000_000;

#[derive(Args)]
pub(crate) struct Options {
    /// Which images; all if none is named.
    names: Vec<String>,
    /// The registry, and what stands before the name in it.
    #[arg(long, default_value = "localhost:10000")]
    registry: String,
    /// The tag.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// Folder for what is made: NAME.tar for docker and containerd, NAME.oci as an OCI image layout.
    #[arg(long, default_value = "target/images")]
    out: PathBuf,
    /// The checkout of Entente.
    #[arg(long, default_value = ".")]
    workspace: PathBuf,
    /// Where cargo builds.
    #[arg(long, env = "CARGO_TARGET_DIR", default_value = "target")]
    target_dir: PathBuf,
    /// A folder with static programs that are built already.
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    /// The authorities of the web, for the image that fetches from https_web endpoints.
    #[arg(long, value_name = "FILE", default_value = CA_FILE)]
    ca_file: PathBuf,
    /// The commit that the sources are at; asked of git if it is not given.
    #[arg(long)]
    revision: Option<String>,
    /// Where the sources can be had; the https address of the remote `origin` if it is not given.
    #[arg(long, value_name = "URL")]
    source: Option<String>,
    /// Writes ENTENTE_PLUGIN_SHA256=… into this file, for the checksum in server.conf, when the plugin is among the images.
    #[arg(long, value_name = "FILE")]
    plugin_checksum: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let products = chosen(&options.names)?;
    let workspace = &options.workspace;
    let workspace =
        workspace.canonicalize().with_context(|| format!("there is no {}", workspace.display()))?;
    let mut provenance = Provenance::of(&workspace, options.revision.clone())?;
    provenance.source = options.source.clone().or(provenance.source);
    let programs = match &options.programs {
        Some(folder) => folder.clone(),
        None => {
            let target_dir = std::path::absolute(workspace.join(&options.target_dir))?;
            compile(&workspace, &target_dir, &products, provenance.created)?
        }
    };
    let out = workspace.join(&options.out);
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    for product in products {
        make(product, &programs, &out, options, &provenance)?;
    }
    Ok(())
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Product>> {
    if names.is_empty() {
        return Ok(PRODUCTS.iter().collect());
    }
    let known = || PRODUCTS.map(|product| product.name).join(", ");
    let find = |name: &String| {
        Product::named(name).with_context(|| format!("no image {name}: there are {}", known()))
    };
    names.iter().map(find).collect()
}

fn make(
    product: &Product,
    programs: &Path,
    out: &Path,
    options: &Options,
    provenance: &Provenance,
) -> anyhow::Result<()> {
    let name = format!("{}/{}:{}", options.registry, product.name, options.tag);
    let program = programs.join(product.name);
    let image = product.image(&name, &program, &options.ca_file, provenance)?.assemble();
    let image = image.with_context(|| format!("cannot pack {name}"))?;
    if image.layer_size() > SIZE_LIMIT {
        bail!("{name} has {} bytes; {SIZE_LIMIT} are allowed", image.layer_size());
    }
    let blobs = image.blobs().with_context(|| format!("cannot compress {name}"))?;
    let (tar, layout) =
        (out.join(format!("{}.tar", product.name)), out.join(format!("{}.oci", product.name)));
    image.write_docker_archive(&tar).with_context(|| format!("cannot write {}", tar.display()))?;
    image.write_layout(&blobs, &layout).with_context(|| format!("cannot write {}", layout.display()))?;
    println!("{name}");
    println!("  manifest  {}", Digest::of(&blobs.manifest));
    println!(
        "  size      {:.1} MB, compressed {:.1} MB",
        megabytes(image.layer_size()),
        megabytes(blobs.layer.len() as u64)
    );
    println!("  archive   {}", tar.display());
    println!("  layout    {}", layout.display());
    if product.name == "entente-plugin" {
        let checksum = Digest::of(&fs::read(&program)?);
        println!("  program   {checksum}");
        if let Some(path) = &options.plugin_checksum {
            fs::write(path, format!("ENTENTE_PLUGIN_SHA256={}\n", checksum.hex()))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "shown with one digit behind the point")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
