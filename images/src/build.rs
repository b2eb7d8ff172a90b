//! The command `build`: from sources to files that a registry, a runtime and an auditor take.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use entente_images::{
    Blobs, CA_FILE, Digest, Image, Materials, PRODUCTS, Product, Provenance, Registry, SBOM_TYPE, Subject,
    compile,
};

/// What an image may weigh at most before compression: more than this and something has got in that does not belong there.
const SIZE_LIMIT: u64 = 20_000_000;
/// The user of the registry, and the password; both or none.
const USER: &str = "ENTENTE_REGISTRY_USER";
const PASSWORD: &str = "ENTENTE_REGISTRY_PASSWORD";

#[derive(Args)]
pub(crate) struct Options {
    /// Which images; all if none is named.
    names: Vec<String>,
    /// The registry, and what stands before the name in it.
    #[arg(long, default_value = "localhost:10000")]
    registry: String,
    /// The tag, in place of the version and of the plugin's checksum, which the manifests ask for.
    #[arg(long)]
    tag: Option<String>,
    /// Pushes the images and their bills of materials into the registry: plain http to this machine, https to others;
    /// ENTENTE_REGISTRY_USER and ENTENTE_REGISTRY_PASSWORD where one has to log in.
    #[arg(long)]
    push: bool,
    /// Folder for what is made: NAME.tar for docker and containerd, NAME.oci as an OCI image layout, NAME.sbom.json.
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

/// An image as it was made.
struct Made {
    product: &'static Product,
    image: Image,
    blobs: Blobs,
    sbom: Vec<u8>,
    program: Digest,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let products = chosen(&options.names)?;
    let workspace = options.workspace.canonicalize();
    let workspace = workspace.with_context(|| format!("there is no {}", options.workspace.display()))?;
    let mut provenance = Provenance::of(&workspace, options.revision.clone())?;
    provenance.source = options.source.clone().or(provenance.source);
    // All are built whichever are asked for: together they share features, and so one digest is that of each.
    let all: Vec<&Product> = PRODUCTS.iter().collect();
    let programs = match &options.programs {
        Some(folder) => folder.clone(),
        None => {
            let target_dir = std::path::absolute(workspace.join(&options.target_dir))?;
            compile(&workspace, &target_dir, &all, provenance.created)?
        }
    };
    let materials = Materials::of(&workspace, &all)?;
    let out = workspace.join(&options.out);
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    for product in products {
        let made = make(product, &programs, options, &provenance, &materials)?;
        let attached = [made.blobs.attach(&made.sbom, SBOM_TYPE, &provenance.created_text())?];
        write(&made, &attached, &out, options)?;
        if options.push {
            let registry = Registry::of(made.image.name(), credentials()?)?;
            registry.push(made.image.name(), &made.blobs, &attached).await?;
            println!("  pushed    {}@{}", made.image.name(), made.blobs.digest());
        }
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

fn credentials() -> anyhow::Result<Option<(String, String)>> {
    match (std::env::var(USER).ok(), std::env::var(PASSWORD).ok()) {
        (Some(user), Some(password)) => Ok(Some((user, password))),
        (None, None) => Ok(None),
        _ => bail!("{USER} and {PASSWORD} belong together: set both or none"),
    }
}

fn make(
    product: &'static Product,
    programs: &Path,
    options: &Options,
    provenance: &Provenance,
    materials: &Materials,
) -> anyhow::Result<Made> {
    let path = programs.join(product.name);
    let program = digest_of(&path)?;
    let tag = options.tag.clone().unwrap_or_else(|| product.tag(&program));
    let name = format!("{}/{}:{tag}", options.registry, product.name);
    let image = product.image(&name, &path, &options.ca_file, provenance)?.assemble();
    let image = image.with_context(|| format!("cannot pack {name}"))?;
    if image.layer_size() > SIZE_LIMIT {
        bail!("{name} has {} bytes; {SIZE_LIMIT} are allowed", image.layer_size());
    }
    let blobs = image.blobs().with_context(|| format!("cannot compress {name}"))?;
    let authorities = if product.needs_web_authorities() { Some(digest_of(&options.ca_file)?) } else { None };
    let document = materials.document(&Subject {
        product,
        program: &program,
        web_authorities: authorities.as_ref(),
        created: provenance.created,
    })?;
    Ok(Made { product, image, blobs, sbom: serde_json::to_vec_pretty(&document)?, program })
}

fn write(made: &Made, attached: &[Blobs], out: &Path, options: &Options) -> anyhow::Result<()> {
    let place = |kind: &str| out.join(format!("{}.{kind}", made.product.name));
    let (tar, layout, sbom) = (place("tar"), place("oci"), place("sbom.json"));
    let cannot = |path: &Path| format!("cannot write {}", path.display());
    made.image.write_docker_archive(&tar).with_context(|| cannot(&tar))?;
    made.image.write_layout(&made.blobs, attached, &layout).with_context(|| cannot(&layout))?;
    fs::write(&sbom, &made.sbom).with_context(|| cannot(&sbom))?;
    println!("{}", made.image.name());
    println!("  manifest  {}", made.blobs.digest());
    println!("  program   {}", made.program);
    println!(
        "  size      {} MB, compressed {} MB",
        megabytes(made.image.layer_size()),
        megabytes(made.blobs.size())
    );
    println!("  files     {} {} {}", tar.display(), layout.display(), sbom.display());
    if let (Some(path), "entente-plugin") = (&options.plugin_checksum, made.product.name) {
        let line = format!("ENTENTE_PLUGIN_SHA256={}\n", made.program.hex());
        fs::write(path, line).with_context(|| cannot(path))?;
    }
    Ok(())
}

fn digest_of(path: &Path) -> anyhow::Result<Digest> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Digest::of(&content))
}

/// With one digit behind the point.
fn megabytes(bytes: u64) -> String {
    let tenths = bytes.div_ceil(100_000);
    format!("{}.{}", tenths / 10, tenths % 10)
}
