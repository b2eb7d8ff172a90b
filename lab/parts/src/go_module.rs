//! Programs written in Go, built once per machine into the lab's cache, each from a module of our own that pins every hash.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::{BuildGroup, cache, lock, sha256, tell};

/// Lines of the build's output that are shown when it fails.
const FAILURE_TAIL: usize = 20;
/// How often a line tells that the build goes on, where there is no terminal.
const PLAIN_PROGRESS: Duration = Duration::from_secs(20);

/// What is built from one pinned module.
#[derive(Clone, Copy, Debug)]
pub struct GoModule {
    /// What people call it.
    pub name: &'static str,
    /// The version that `go.mod` pins.
    pub version: &'static str,
    /// Where it lies below the lab's cache; the version and a hash are added.
    pub place: &'static str,
    /// The module.
    pub go_mod: &'static str,
    /// Its hashes.
    pub go_sum: &'static str,
    /// Code of our own (`main.go`), where what is to be built is a library that needs a program around it.
    pub main_go: Option<&'static str>,
    /// What to build.
    pub programs: &'static [GoProgram],
    /// Flags for the linker beside those that leave debugging out.
    pub linker_flags: &'static str,
    /// With C code; without it programs are static.
    pub cgo: bool,
    /// How long it takes from cold on two cores.
    pub takes: &'static str,
}

/// One program of a module.
#[derive(Clone, Copy, Debug)]
pub struct GoProgram {
    /// Its name in the cache.
    pub file: &'static str,
    /// The package to build.
    pub package: &'static str,
}

/// Programs that are there now.
#[derive(Clone, Debug)]
pub struct Built {
    /// Where they lie.
    pub folder: PathBuf,
    /// How long building took; nothing when they were there already.
    pub took: Option<Duration>,
}

impl GoModule {
    /// The rest of a declaration that says what is its own: no code of ours, no flags for the linker, static programs.
    pub const PLAIN: Self = Self {
        name: "",
        version: "",
        place: "",
        go_mod: "",
        go_sum: "",
        main_go: None,
        programs: &[],
        linker_flags: "",
        cgo: false,
        takes: "",
    };

    /// `PLACE-VERSION-HASH` below the cache, the hash being that of `go.sum` and of our own code. A place that ends with a slash is a
    /// folder of its own.
    pub fn cache_folder(&self) -> anyhow::Result<PathBuf> {
        self.require_own()?;
        let hash = sha256([self.go_sum, self.main_go.unwrap_or_default()].concat().as_bytes());
        let hash = hash.get(..12).unwrap_or(&hash);
        Ok(cache()?.join(format!("{}{}-{hash}", self.place, self.version)))
    }

    /// A field that a declaration forgot would lead into the folder of another module.
    fn require_own(&self) -> anyhow::Result<()> {
        let own = [
            ("name", self.name),
            ("version", self.version),
            ("place", self.place),
            ("go_mod", self.go_mod),
            ("go_sum", self.go_sum),
        ];
        let forgotten = own.iter().find(|(_, content)| content.is_empty()).map(|(field, _)| field);
        match forgotten.or(self.programs.is_empty().then_some(&"programs")) {
            Some(field) => bail!("the declaration of Go module {:?} says nothing of `{field}`", self.name),
            None => Ok(()),
        }
    }

    /// The folder, if every program is in it.
    pub fn found_in<'a>(&self, folder: &'a Path) -> Option<&'a Path> {
        self.programs.iter().all(|program| folder.join(program.file).is_file()).then_some(folder)
    }

    /// Builds what is not in the cache, with progress shown. Two labs do not build at once. `otherwise` says what else could be
    /// done where there is no Go.
    pub async fn find_or_build(&self, otherwise: &str) -> anyhow::Result<Built> {
        let folder = self.cache_folder()?;
        if self.found_in(&folder).is_some() {
            return Ok(Built { folder, took: None });
        }
        let parent = folder.parent().context("the cache folder has no parent")?;
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let _lock = lock(parent, self.name).await?;
        // Whoever held the lock may have built them.
        if self.found_in(&folder).is_some() {
            return Ok(Built { folder, took: None });
        }
        let go = go().with_context(|| {
            format!(
                "{} is not here and cannot be built without Go: install Go 1.26.6 or later{otherwise}",
                self.name
            )
        })?;
        let start = Instant::now();
        self.build(&go, &folder).await?;
        let took = start.elapsed();
        tell(&format!("built {} {} in {:.1} s", self.name, self.version, took.as_secs_f64()));
        Ok(Built { folder, took: Some(took) })
    }

    /// The result moves into place once every program is there.
    async fn build(&self, go: &Path, folder: &Path) -> anyhow::Result<()> {
        let parent = folder.parent().context("the cache folder has no parent")?;
        let work = tempfile::Builder::new()
            .prefix("build-")
            .tempdir_in(parent)
            .context("cannot make a build folder")?;
        let (module, programs) = (work.path().join("module"), work.path().join("programs"));
        std::fs::create_dir(&module).context("cannot make a build folder")?;
        let files = [("go.mod", Some(self.go_mod)), ("go.sum", Some(self.go_sum)), ("main.go", self.main_go)];
        for (name, content) in files {
            let Some(content) = content else { continue };
            std::fs::write(module.join(name), content).with_context(|| format!("cannot write {name}"))?;
        }
        tell(&format!(
            "building {} {} once for this machine, into {} ({} on two cores)",
            self.name,
            self.version,
            folder.display(),
            self.takes
        ));
        for program in self.programs {
            self.build_one(go, &module, &programs, program).await?;
        }
        if folder.exists() {
            std::fs::remove_dir_all(folder).with_context(|| format!("cannot clear {}", folder.display()))?;
        }
        std::fs::rename(&programs, folder).with_context(|| format!("cannot make {}", folder.display()))
    }

    async fn build_one(
        &self,
        go: &Path,
        module: &Path,
        programs: &Path,
        program: &GoProgram,
    ) -> anyhow::Result<()> {
        let mut command = Command::new(go);
        command
            .args(["build", "-v", "-trimpath", "-ldflags"])
            .arg(format!("-s -w {}", self.linker_flags))
            .arg("-o")
            .arg(programs.join(program.file))
            .arg(program.package)
            .current_dir(module)
            .env("CGO_ENABLED", if self.cgo { "1" } else { "0" })
            .env("GOFLAGS", "-mod=readonly")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut build =
            BuildGroup::start(&mut command).with_context(|| format!("cannot run {}", go.display()))?;
        let output = build.child.stderr.take().context("the build has no output")?;
        let tail = show_progress(program.file, output).await?;
        let status = build.child.wait().await?;
        if !status.success() {
            bail!("building {} failed ({status}); its last words:\n{}", program.file, tail.join("\n"));
        }
        Ok(())
    }
}

/// Go's program, if this machine has one.
pub fn go() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("go"));
    on_path.chain([PathBuf::from("/usr/local/go/bin/go")]).find(|go| go.is_file())
}

/// Reads the names of compiled packages; answers with the last lines. Also tells while nothing comes: linking takes a minute.
async fn show_progress(what: &str, output: impl tokio::io::AsyncRead + Unpin) -> anyhow::Result<Vec<String>> {
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
        let state = format!("{what}: {count} packages in {} s, last {newest}", start.elapsed().as_secs());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_declaration_forgot_is_named() {
        let whole = GoModule {
            name: "x",
            version: "v1",
            place: "x-",
            go_mod: "module x",
            go_sum: "x v1 h1:",
            programs: &[GoProgram { file: "x", package: "x" }],
            ..GoModule::PLAIN
        };
        assert!(whole.require_own().is_ok());
        for (field, module) in [
            ("name", GoModule { name: "", ..whole }),
            ("place", GoModule { place: "", ..whole }),
            ("go_sum", GoModule { go_sum: "", ..whole }),
            ("programs", GoModule { programs: &[], ..whole }),
        ] {
            let error = module.cache_folder().unwrap_err().to_string();
            assert!(error.ends_with(&format!("says nothing of `{field}`")), "{error}");
        }
    }
}
