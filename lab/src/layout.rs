//! Where everything lies: one folder per lab, in it one per trust domain.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use entente_bundle::TrustDomain;
use serde::{Deserialize, Serialize};

use crate::process::{self, Process};

/// The kernel's limit on the path of a Unix socket, its final zero byte included.
const MAX_SOCKET_PATH: usize = 108;
/// The longest name of a socket in a trust domain's folder.
const LONGEST_SOCKET: &str = "agent.sock";

/// The folder of one trust domain. SPIRE's and our files lie in it under fixed names.
#[derive(Clone, Debug)]
pub struct Home {
    folder: PathBuf,
}

impl Home {
    /// Makes the folder. Fails when sockets in it would have paths that are too long for the kernel.
    pub fn create(lab: &Path, trust_domain: &TrustDomain) -> anyhow::Result<Self> {
        let folder = lab.join(trust_domain.as_str());
        let longest = folder.join(LONGEST_SOCKET);
        let length = longest.as_os_str().len();
        if length >= MAX_SOCKET_PATH {
            bail!(
                "{} has {length} bytes, a Unix socket's path must have less than {MAX_SOCKET_PATH}: choose a shorter --dir",
                longest.display()
            );
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder })
    }
    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
    /// Anything in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
    /// SPIRE Server's API.
    pub fn api_socket(&self) -> PathBuf {
        self.file("api.sock")
    }
    /// The agent's Workload API.
    pub fn agent_socket(&self) -> PathBuf {
        self.file("agent.sock")
    }
    /// Where plugin and bundle endpoint meet.
    pub fn link_socket(&self) -> PathBuf {
        self.file("link.sock")
    }
    /// SPIRE Server's configuration; the embedded server's is JSON under its own name.
    pub fn server_conf(&self) -> PathBuf {
        self.file("server.conf")
    }
    /// Removes sockets whose listeners are gone: nobody may take one for a sign of life.
    pub fn remove_sockets(&self) {
        for socket in [self.api_socket(), self.agent_socket(), self.link_socket()] {
            // Whoever ended in good order took it along.
            let _ = std::fs::remove_file(socket);
        }
    }
    /// What SPIRE Server and its plugin log.
    pub fn server_log(&self) -> PathBuf {
        self.file("server.log")
    }
    /// What the agent logs.
    pub fn agent_log(&self) -> PathBuf {
        self.file("agent.log")
    }
    /// The bundle endpoint's configuration.
    pub fn endpoint_conf(&self) -> PathBuf {
        self.file("bundle-endpoint.toml")
    }
    /// What the bundle endpoint logs.
    pub fn endpoint_log(&self) -> PathBuf {
        self.file("bundle-endpoint.log")
    }
    /// The plugin's configuration (`plugin_data_file`), read again at SIGUSR1.
    pub fn plugin_data(&self) -> PathBuf {
        self.file("entente.hcl")
    }
    /// The bundle of a foreign trust domain that was carried here by hand.
    pub fn bootstrap_bundle(&self, foreign: &TrustDomain) -> PathBuf {
        self.file(&format!("{foreign}.bootstrap.json"))
    }
}

/// Writes a new file that only its owner may read.
pub fn write_private(path: &Path, content: impl AsRef<[u8]>) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(content.as_ref()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a file, naming it when that fails.
pub fn write(path: &Path, content: impl AsRef<[u8]>) -> anyhow::Result<()> {
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// `lab.json`: what runs where, for people and programs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Inventory {
    /// The lab's own pid: the folder is in use while it runs. None once the lab has ended in good order.
    pub pid: Option<u32>,
    /// The process that kills what a killed lab leaves running, once there is one.
    pub warden_pid: Option<u32>,
    /// `real` or `embedded`.
    pub spire: String,
    /// One for each trust domain.
    pub trust_domains: Vec<InventoryOfDomain>,
}

/// One trust domain in `lab.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct InventoryOfDomain {
    /// Its name.
    pub trust_domain: String,
    /// Folder with its configurations, logs and sockets.
    pub folder: PathBuf,
    /// SPIRE Server's API.
    pub api_socket: PathBuf,
    /// Where SPIRE Server listens for agents; the stand-in does not.
    pub server_address: Option<String>,
    /// Where plugin and bundle endpoint meet.
    pub link_socket: PathBuf,
    /// The plugin's configuration, read again when SPIRE Server gets SIGUSR1.
    pub plugin_data_file: PathBuf,
    /// The agent's Workload API, as `SPIFFE_ENDPOINT_SOCKET` wants it.
    pub workload_api: String,
    /// The bundle endpoint as `https_spiffe`.
    pub bundle_endpoint_url: String,
    /// The bundle endpoint as `https_web`.
    pub web_url: String,
    /// Authority of the `https_web` certificate.
    pub web_ca_file: PathBuf,
    /// `/live`, `/ready`, `/metrics`, `/status`.
    pub admin_url: String,
    /// Where the domain's helloworld-server listens, once it does.
    pub helloworld_address: Option<String>,
    /// What runs, by name.
    pub processes: Vec<InventoryOfProcess>,
}

/// One process in `lab.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct InventoryOfProcess {
    /// Such as `bundle-endpoint cluster1.org`.
    pub name: String,
    /// Its pid.
    pub pid: u32,
    /// Its log.
    pub log: PathBuf,
}

impl From<&Process> for InventoryOfProcess {
    fn from(process: &Process) -> Self {
        Self { name: process.name().to_owned(), pid: process.pid(), log: process.log().path().to_owned() }
    }
}

impl Inventory {
    fn path(lab: &Path) -> PathBuf {
        lab.join("lab.json")
    }
    /// Writes `lab.json`, whole or not at all.
    pub fn save(&self, lab: &Path) -> anyhow::Result<()> {
        let fresh = lab.join("lab.json.new");
        write(&fresh, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&fresh, Self::path(lab))
            .with_context(|| format!("cannot write {}", Self::path(lab).display()))
    }
    /// What stays of it when nothing runs any more.
    pub fn ended(self) -> Self {
        let ended = |domain| InventoryOfDomain { processes: Vec::new(), ..domain };
        let trust_domains = self.trust_domains.into_iter().map(ended).collect();
        Self { pid: None, warden_pid: None, trust_domains, ..self }
    }
    /// Reads `lab.json`; `None` when there is none.
    pub fn load(lab: &Path) -> anyhow::Result<Option<Self>> {
        let path = Self::path(lab);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let inventory = serde_json::from_slice(&bytes);
                Ok(Some(
                    inventory
                        .with_context(|| format!("{} is not ours; choose another --dir", path.display()))?,
                ))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

/// What a new lab found in its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// A lab that died, so many of whose processes still ran and had to be killed.
    Dead {
        /// How many.
        strays: usize,
    },
    /// A lab that had ended in good order.
    Ended,
    /// Nothing.
    Nothing,
}

/// Makes `lab` ready for a new lab: refuses a folder in use or one with other people's files, clears what an earlier lab left.
pub fn take_over(lab: &Path) -> anyhow::Result<Before> {
    std::fs::create_dir_all(lab).with_context(|| format!("cannot make {}", lab.display()))?;
    let Some(left) = Inventory::load(lab)? else {
        let mut entries = std::fs::read_dir(lab).with_context(|| format!("cannot read {}", lab.display()))?;
        if entries.next().is_some() {
            bail!("{} is not empty and holds no lab: choose another --dir", lab.display());
        }
        return Ok(Before::Nothing);
    };
    if let Some(pid) = left.pid.filter(|pid| *pid != std::process::id() && is_a_lab(*pid)) {
        bail!("{} is in use by a lab that runs as pid {pid}: end it, or choose another --dir", lab.display());
    }
    let processes = left.trust_domains.iter().flat_map(|domain| &domain.processes);
    // A pid may belong to somebody else by now; ours were started from the lab's own folder of programs.
    let strays =
        processes.filter(|stray| started_from(stray.pid, lab)).map(|stray| stray.pid).collect::<Vec<_>>();
    for pid in &strays {
        process::signal_pid(*pid, rustix::process::Signal::KILL)?;
    }
    std::fs::remove_dir_all(lab).with_context(|| format!("cannot clear {}", lab.display()))?;
    std::fs::create_dir_all(lab).with_context(|| format!("cannot make {}", lab.display()))?;
    Ok(if left.pid.is_none() { Before::Ended } else { Before::Dead { strays: strays.len() } })
}

fn is_a_lab(pid: u32) -> bool {
    let runs_lab = process::executable(pid)
        .and_then(|path| Some(path.file_name()?.to_string_lossy().starts_with("lab")));
    process::is_running(pid) && runs_lab.unwrap_or(false)
}

fn started_from(pid: u32, lab: &Path) -> bool {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let lab = lab.as_os_str().as_encoded_bytes();
    process::executable(pid).is_some_and(|path| path.as_os_str().as_encoded_bytes().starts_with(lab))
        || (!lab.is_empty() && arguments.windows(lab.len()).any(|window| window == lab))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(pid: u32) -> Inventory {
        Inventory {
            pid: Some(pid),
            warden_pid: None,
            spire: "embedded".to_owned(),
            trust_domains: Vec::new(),
        }
    }

    #[test]
    fn a_folder_with_other_files_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        write(&folder.path().join("thesis.txt"), "precious").expect("a write");
        assert!(take_over(folder.path()).is_err());
        assert!(folder.path().join("thesis.txt").exists());
    }

    #[test]
    fn a_dead_lab_is_taken_over() {
        let folder = tempfile::tempdir().expect("a folder");
        inventory(u32::MAX >> 1).save(folder.path()).expect("a write");
        assert_eq!(take_over(folder.path()).expect("a take-over"), Before::Dead { strays: 0 });
        assert!(Inventory::load(folder.path()).expect("a read").is_none());
    }

    #[test]
    fn a_lab_that_has_ended_is_not_called_dead() {
        let folder = tempfile::tempdir().expect("a folder");
        inventory(u32::MAX >> 1).ended().save(folder.path()).expect("a write");
        assert_eq!(take_over(folder.path()).expect("a take-over"), Before::Ended);
        assert_eq!(take_over(folder.path()).expect("a take-over"), Before::Nothing);
    }

    #[test]
    fn a_private_file_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        write_private(&path, "secret").expect("a write");
        assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        assert!(write_private(&path, "secret").is_err(), "a file that others may have opened is not reused");
    }

    #[test]
    fn a_socket_path_that_is_too_long_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let deep = folder.path().join("d".repeat(90));
        let trust_domain = TrustDomain::new("cluster1.org").expect("a name");
        assert!(Home::create(&deep, &trust_domain).is_err());
    }
}
