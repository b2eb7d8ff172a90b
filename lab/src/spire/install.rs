//! Finds the programs of real SPIRE, or builds the pinned version once per machine.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::layout::write;

/// The version that `lab/spire/go.mod` pins.
pub const VERSION: &str = "1.15.3";

const GO_MOD: &str = include_str!("../../spire/go.mod");
const GO_SUM: &str = include_str!("../../spire/go.sum");
const PACKAGES: [&str; 2] =
    ["github.com/spiffe/spire/cmd/spire-agent", "github.com/spiffe/spire/cmd/spire-server"];

/// Lines of the build's output that are shown when it fails.
const FAILURE_TAIL: usize = 20;
/// How often a line tells that the build goes on, where there is no terminal.
const PLAIN_PROGRESS: Duration = Duration::from_secs(20);

/// The two programs of one SPIRE version.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `spire-server`
    pub server: PathBuf,
    /// `spire-agent`
    pub agent: PathBuf,
    /// Where they were found: `option`, `path` or `cache`.
    pub source: &'static str,
}

impl Programs {
    fn in_folder(folder: &Path, source: &'static str) -> Option<Self> {
        let found = Self { server: folder.join("spire-server"), agent: folder.join("spire-agent"), source };
        (found.server.is_file() && found.agent.is_file()).then_some(found)
    }
    /// What `spire-server --version` says.
    pub async fn version(&self) -> anyhow::Result<String> {
        let output = Command::new(&self.server).arg("--version").stdin(Stdio::null()).output().await;
        let output = output.with_context(|| format!("cannot run {}", self.server.display()))?;
        // Older versions print it to standard error.
        let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        Ok(String::from_utf8_lossy(&text).trim().to_owned())
    }
}

/// Looks in the folder given, else on the path, else in the cache; builds nothing. A folder that was given must have them.
pub fn find(folder: Option<&Path>) -> anyhow::Result<Option<Programs>> {
    if let Some(folder) = folder {
        let found = Programs::in_folder(folder, "option");
        let missing = || format!("no spire-server and spire-agent in {}", folder.display());
        return found.with_context(missing).map(Some);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).find_map(|folder| Programs::in_folder(&folder, "path"));
    Ok(match on_path {
        Some(found) => Some(found),
        None => Programs::in_folder(&cache_folder()?, "cache"),
    })
}

/// Finds the programs, or builds them into the cache with progress shown. Two labs do not build at once.
pub async fn find_or_build(folder: Option<&Path>) -> anyhow::Result<Programs> {
    if let Some(found) = find(folder)? {
        return Ok(found);
    }
    let folder = cache_folder()?;
    let parent = folder.parent().context("the cache folder has no parent")?;
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let _lock = lock(&parent.join("lock")).await?;
    // Whoever held the lock may have built them.
    if let Some(found) = Programs::in_folder(&folder, "cache") {
        return Ok(found);
    }
    let go = go().context(
        "real SPIRE is not here and cannot be built without Go: install Go 1.26.6 or later, or unpack SPIRE's release and \
         name its folder with --spire-dir, or use --spire embedded",
    )?;
    build(&go, &folder).await?;
    Programs::in_folder(&folder, "cache")
        .with_context(|| format!("the build left no programs in {}", folder.display()))
}

/// True when `find_or_build` would have a chance.
pub fn can_build() -> bool {
    go().is_some()
}

/// `${ENTENTE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/entente}/spire/VERSION-HASH`, the hash being that of `go.sum`.
pub fn cache_folder() -> anyhow::Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("ENTENTE_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("entente")))
        .or_else(|| Some(variable("HOME")?.join(".cache").join("entente")))
        .context("no cache folder: set ENTENTE_CACHE or HOME")?;
    let hash = hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, GO_SUM.as_bytes()).as_ref());
    let hash = hash.get(..12).unwrap_or(&hash);
    Ok(cache.join("spire").join(format!("{VERSION}-{hash}")))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn go() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("go"));
    on_path.chain([PathBuf::from("/usr/local/go/bin/go")]).find(|go| go.is_file())
}

async fn lock(path: &Path) -> anyhow::Result<File> {
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    if file.try_lock().is_err() {
        tell("another lab is building SPIRE; waiting for it");
    }
    tokio::task::spawn_blocking(move || file.lock().map(|()| file))
        .await?
        .with_context(|| format!("cannot lock {}", path.display()))
}

/// `go install` in a module of our own that pins every hash; the result moves into place once both programs are there.
async fn build(go: &Path, folder: &Path) -> anyhow::Result<()> {
    let parent = folder.parent().context("the cache folder has no parent")?;
    let work =
        tempfile::Builder::new().prefix("build-").tempdir_in(parent).context("cannot make a build folder")?;
    let (module, programs) = (work.path().join("module"), work.path().join("programs"));
    std::fs::create_dir(&module).context("cannot make a build folder")?;
    write(&module.join("go.mod"), GO_MOD)?;
    write(&module.join("go.sum"), GO_SUM)?;

    tell(&format!(
        "building SPIRE {VERSION} once for this machine, into {} (about 5 minutes on two cores)",
        folder.display()
    ));
    let mut child = Command::new(go)
        .args(["install", "-v", "-ldflags", "-s -w"])
        .args(PACKAGES)
        .current_dir(&module)
        .env("GOBIN", &programs)
        .env("GOFLAGS", "-mod=readonly")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {}", go.display()))?;
    let output = child.stderr.take().context("the build has no output")?;
    let tail = show_progress(output).await?;
    let status = child.wait().await?;
    if !status.success() {
        bail!("building SPIRE {VERSION} failed ({status}); its last words:\n{}", tail.join("\n"));
    }
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    std::fs::rename(&programs, folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// Reads the names of compiled packages; answers with the last lines. Also tells while nothing comes: linking takes a minute.
async fn show_progress(output: impl tokio::io::AsyncRead + Unpin) -> anyhow::Result<Vec<String>> {
    let start = Instant::now();
    let spinner = ProgressBar::new_spinner();
    let mut lines = BufReader::new(output).lines();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let (mut count, mut told, mut tail) = (0_usize, Instant::now(), Vec::new());
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line? else { break };
                count += 1;
                tail.push(line);
                if tail.len() > FAILURE_TAIL {
                    tail.remove(0);
                }
            }
            _ = ticks.tick() => {}
        }
        let newest = tail.last().map_or("starting", String::as_str);
        let state = format!("{count} packages in {} s, last {newest}", start.elapsed().as_secs());
        if !spinner.is_hidden() {
            spinner.set_message(state);
            spinner.tick();
        } else if told.elapsed() >= PLAIN_PROGRESS {
            tell(&format!("  {state}"));
            told = Instant::now();
        }
    }
    spinner.finish_and_clear();
    Ok(tail)
}

/// To the terminal, also from inside a test, whose harness keeps what macros print.
fn tell(line: &str) {
    // Nobody to read it is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_the_programs_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(find(Some(folder.path())).is_err());
        write(&folder.path().join("spire-server"), "").expect("a write");
        assert!(find(Some(folder.path())).is_err());
        write(&folder.path().join("spire-agent"), "").expect("a write");
        assert!(find(Some(folder.path())).expect("found").is_some());
    }

    #[test]
    fn the_pinned_module_names_the_version() {
        assert!(GO_MOD.contains(&format!("github.com/spiffe/spire v{VERSION}")));
    }
}
