//! A whole lab: two trust domains, their workloads, the folder they live in, and the time line that tells about them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::checks::{ensure, reason_of};
use crate::domain::{Domain, LinkKind, Means};
use crate::http::Browser;
use crate::layout::{self, Before, Inventory, InventoryOfDomain};
use crate::products::Products;
use crate::spire::embedded::EmbeddedSpire;
use crate::spire::install::Programs;
use crate::spire::real::RealSpire;
use crate::spire::{Kind, Spire, install};
use crate::timeline::Timeline;
use crate::warden;
use crate::workloads::{HelloworldClient, HelloworldServer};

/// What a person may choose.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Run on real SPIRE, or on the embedded stand-in. Without it: real SPIRE where its programs are found.
    #[arg(long, value_enum)]
    pub spire: Option<Kind>,
    /// Folder with spire-server and spire-agent. Without it: the path, then the lab's cache.
    #[arg(long, value_name = "DIR")]
    pub spire_dir: Option<PathBuf>,
    /// How plugin and bundle endpoint are linked: by a Unix socket, or by mutual TLS.
    #[arg(long, value_enum, default_value = "unix")]
    pub link: LinkKind,
    /// Folder for configurations, logs, sockets and lab.json. Without it: a temporary one, kept only after a failure.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Two trust domains on this machine.
#[derive(Debug)]
pub struct Lab {
    /// Tells what happens.
    pub timeline: Timeline,
    /// Asks endpoints as a person would.
    pub browser: Browser,
    /// Programs.
    pub means: Means,
    /// cluster1.org: the server's side.
    pub one: Domain,
    /// cluster2.org: the client's side.
    pub two: Domain,
    /// The helloworld pair, once it runs.
    pub workloads: Option<(HelloworldServer, HelloworldClient)>,
    /// Processes whose unwanted end was told already.
    ended: BTreeSet<u32>,
    folder: Folder,
}

/// Where a lab lives. However the lab ends, `lab.json` says so, unless it is killed.
#[derive(Debug)]
enum Folder {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = mark_ended(self.path());
    }
}

fn mark_ended(folder: &Path) -> anyhow::Result<()> {
    Inventory::load(folder)?.map_or(Ok(()), |inventory| inventory.ended().save(folder))
}

impl Folder {
    /// The given folder, made ready or refused; else a temporary one.
    fn make(dir: Option<&Path>, timeline: &Timeline) -> anyhow::Result<Self> {
        let Some(dir) = dir else {
            let folder = tempfile::Builder::new().prefix("lab-").tempdir();
            return folder.map(Self::Temporary).context("cannot make a temporary folder");
        };
        ensure_printable(dir)?;
        let name = dir.display();
        match layout::take_over(dir)? {
            Before::Dead { strays } => timeline
                .say(&format!("took over {name} from a dead lab ({strays} of its processes still ran)")),
            Before::Ended => timeline.say(&format!("cleared {name}, where an earlier lab had ended")),
            Before::Nothing => {}
        }
        Ok(Self::Given(dir.canonicalize().with_context(|| format!("cannot find {name}"))?))
    }
    fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

impl Lab {
    /// Finds or builds every program, makes the folders; starts nothing.
    pub async fn prepare(options: &Options, mut timeline: Timeline) -> anyhow::Result<Self> {
        // What is missing is said before anything is made or built.
        let programs = find_spire(options).await?;
        let about = about_spire(options, programs.as_ref()).await?;
        let folder = Folder::make(options.dir.as_deref(), &timeline)?;
        let kind = if programs.is_some() { Kind::Real } else { Kind::Embedded };
        // From now on the folder is in use.
        inventory(kind, Vec::new()).save(folder.path())?;
        let products = Arc::new(Products::build_into(&folder.path().join("bin")).await?);
        warden::post(&products.lab())?;
        timeline.say(&format!("{about}; everything lies in {}", folder.path().display()));
        let spire = match programs {
            Some(programs) => Spire::Real(RealSpire::new(programs)),
            None => Spire::Embedded(EmbeddedSpire::new(products.lab())),
        };
        let means = Means { products, spire: Arc::new(spire), link: options.link };
        let one = Domain::create(folder.path(), "cluster1.org", &means)?;
        let two = Domain::create(folder.path(), "cluster2.org", &means)?;
        timeline.story_begins();
        let (browser, ended) = (Browser::find(), BTreeSet::new());
        Ok(Self { timeline, browser, means, one, two, workloads: None, ended, folder })
    }
    /// Where it lives.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
    /// The helloworld pair.
    pub fn pair(&mut self) -> anyhow::Result<(&mut HelloworldServer, &mut HelloworldClient)> {
        let (server, client) = self.workloads.as_mut().context("the workloads were not started")?;
        Ok((server, client))
    }
    /// Writes `lab.json` as things are now.
    pub fn save_inventory(&self) -> anyhow::Result<()> {
        let mut trust_domains = vec![self.one.inventory(), self.two.inventory()];
        if let (Some((server, client)), [one, two]) = (&self.workloads, trust_domains.as_mut_slice()) {
            one.helloworld_address = Some(server.address.to_string());
            for (domain, process) in [(one, server.process()), (two, client.process())] {
                domain.processes.extend(process.check_alive().is_ok().then(|| process.into()));
            }
        }
        inventory(self.means.spire.kind(), trust_domains).save(self.folder())
    }
    /// Tells of processes that have ended since the last time although nobody stopped them, and takes them out of `lab.json`.
    /// Answers how many those were.
    pub fn tell_of_ended(&mut self) -> usize {
        let mut ended = [self.one.ended(), self.two.ended()].concat();
        if let Some((server, client)) = &mut self.workloads {
            ended.extend([server.ended(), client.ended()].into_iter().flatten());
        }
        ended.retain(|(ended, _)| self.ended.insert(ended.pid));
        if !ended.is_empty()
            && let Err(error) = self.save_inventory()
        {
            self.timeline.say(&format!("lab.json is not up to date: {}", reason_of(&error)));
        }
        for (what, log) in &ended {
            self.timeline.ended(&format!("{what}; the rest runs on"), log);
        }
        ended.len()
    }
    /// Ends everything in good order. A temporary folder goes too, unless `keep`.
    pub async fn stop(mut self, keep: bool) -> Option<PathBuf> {
        if let Some((server, client)) = &mut self.workloads {
            let grace = Duration::from_secs(2);
            let _ = tokio::join!(client.stop(grace), server.stop(grace));
        }
        tokio::join!(self.one.stop(), self.two.stop());
        if let Folder::Temporary(folder) = &mut self.folder {
            folder.disable_cleanup(keep);
        }
        keep.then(|| self.folder().to_owned())
    }
}

fn ensure_printable(dir: &Path) -> anyhow::Result<()> {
    let printable = dir.to_str().is_some_and(|text| !text.contains(['"', '\\', '\n']));
    ensure(printable, || {
        format!("{} cannot stand in configuration files: choose a plain name", dir.display())
    })
}

fn inventory(spire: Kind, trust_domains: Vec<InventoryOfDomain>) -> Inventory {
    let pid = Some(std::process::id());
    Inventory { pid, warden_pid: warden::pid(), spire: spire.to_string(), trust_domains }
}

/// The programs of real SPIRE, built where they were asked for; nothing where the stand-in is to be used.
async fn find_spire(options: &Options) -> anyhow::Result<Option<Programs>> {
    let folder = options.spire_dir.as_deref();
    let at_odds = options.spire == Some(Kind::Embedded) && folder.is_some();
    ensure(!at_odds, || "--spire-dir is for real SPIRE: leave it out with --spire embedded".to_owned())?;
    match options.spire {
        Some(Kind::Embedded) => Ok(None),
        Some(Kind::Real) => install::find_or_build(folder).await.map(Some),
        None => install::find(folder),
    }
}

/// Which SPIRE it is, and how to have the other one.
async fn about_spire(options: &Options, programs: Option<&Programs>) -> anyhow::Result<String> {
    Ok(match (programs, options.spire) {
        (Some(programs), _) => format!(
            "on real SPIRE {} from {} ({}; the embedded stand-in: --spire embedded)",
            programs.version().await?,
            programs.server.parent().unwrap_or(&programs.server).display(),
            programs.source,
        ),
        (None, Some(_)) => "on the embedded stand-in".to_owned(),
        (None, None) => format!(
            "on the embedded stand-in, as SPIRE is not on this machine (real SPIRE {}: --spire real builds it once, with Go)",
            install::VERSION
        ),
    })
}
