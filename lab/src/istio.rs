//! Istio's own code: asked about our bundle endpoints, what istiod fetches and what it believes then; and its charts and tools on
//! deploy/istio.

pub mod charts;
pub(crate) mod istiod;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use entente_bundle::TrustDomain;
use entente_lab_parts::{GoModule, GoProgram};
use tokio::process::Command;

pub use self::istiod::Istiod;

/// The commit of Istio that the modules pin: a released version of it is no Go module.
pub(crate) const VERSION: &str = "v0.0.0-20260827124520-eed52ebb66ad";

const FETCH: GoModule = GoModule {
    name: "istiod's fetch code",
    version: VERSION,
    place: "istio/fetch-",
    go_mod: include_str!("../istio/fetch/go.mod"),
    go_sum: include_str!("../istio/fetch/go.sum"),
    main_go: Some(include_str!("../istio/fetch/main.go")),
    programs: &[GoProgram { file: "fetch", package: "." }],
    takes: "some seconds",
    ..GoModule::PLAIN
};

/// istiod's function that fetches a bundle, with a program around it.
#[derive(Clone, Debug)]
pub struct Fetch {
    program: PathBuf,
}

/// One fetch, as istiod would do it.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// As a person would type it.
    pub command_line: String,
    /// SHA-256 of each root that istiod would believe, in their order; none where it refuses.
    pub roots: Vec<String>,
    /// What it logs and why it refuses.
    pub said: String,
}

impl Fetch {
    /// True when it was built before.
    pub fn is_there() -> bool {
        FETCH.cache_folder().is_ok_and(|folder| FETCH.found_in(&folder).is_some())
    }
    /// Finds or builds it.
    pub async fn find_or_build() -> anyhow::Result<Self> {
        let built = FETCH.find_or_build("").await?;
        Ok(Self { program: built.folder.join("fetch") })
    }
    /// Fetches the bundle of `trust_domain` from `url`, trying again for `patience`. `authorities` are all that the fetcher believes
    /// where it verifies the endpoint's certificate, as `SSL_CERT_FILE` of istiod's container sets them.
    pub async fn fetch(
        &self,
        trust_domain: &TrustDomain,
        url: &str,
        authorities: &Path,
        patience: Duration,
    ) -> anyhow::Result<Fetched> {
        let patience = format!("{}ms", patience.as_millis());
        let arguments = ["-patience", &patience, trust_domain.as_str(), url];
        let output = Command::new(&self.program)
            .args(arguments)
            .env("SSL_CERT_FILE", authorities)
            // A folder of authorities would be believed as well.
            .env("SSL_CERT_DIR", "/nonexistent")
            // istiod's code would ask a proxy.
            .env("NO_PROXY", "*")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (printed, complaint) = (text(&output.stdout), text(&output.stderr));
        if output.status.code().is_none_or(|code| code > 1) {
            bail!("{} ended with {}: {complaint}", self.program.display(), output.status);
        }
        // Its log goes to standard output as well, with a time at the beginning.
        let is_root = |line: &&str| line.len() == 64 && line.bytes().all(|byte| byte.is_ascii_hexdigit());
        let (roots, log): (Vec<_>, Vec<_>) = printed.lines().partition(is_root);
        Ok(Fetched {
            command_line: format!(
                "SSL_CERT_FILE={} {} {}",
                authorities.display(),
                self.program.display(),
                arguments.join(" ")
            ),
            roots: roots.into_iter().map(str::to_owned).collect(),
            said: [log.join("\n").as_str(), &complaint].join("\n"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modules_pin_the_version_that_they_are_called_by() {
        assert!(FETCH.go_mod.contains(&format!("istio.io/istio {VERSION}")), "{}", FETCH.go_mod);
    }
}
