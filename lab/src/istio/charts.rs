//! Istio's own charts and tools on the values and manifests of deploy/istio: real Helm renders the charts, real istioctl injects
//! and validates. Nothing here needs a cluster.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use entente_lab_parts::{GoModule, GoProgram, go};
use tempfile::TempDir;
use tokio::process::Command;

use super::VERSION;
use crate::layout::write;

const HELM: GoModule = GoModule {
    name: "Helm",
    version: "3.22.0",
    place: "istio/helm-",
    go_mod: include_str!("../../istio/helm/go.mod"),
    go_sum: include_str!("../../istio/helm/go.sum"),
    programs: &[GoProgram { file: "helm", package: "helm.sh/helm/v3/cmd/helm" }],
    takes: "about a minute",
    ..GoModule::PLAIN
};

const ISTIOCTL: GoModule = GoModule {
    name: "istioctl",
    version: VERSION,
    place: "istio/istioctl-",
    go_mod: include_str!("../../istio/istioctl/go.mod"),
    go_sum: include_str!("../../istio/istioctl/go.sum"),
    programs: &[GoProgram { file: "istioctl", package: "istio.io/istio/istioctl/cmd/istioctl" }],
    takes: "about 5 minutes",
    ..GoModule::PLAIN
};

/// Without a cluster both answer in under a second. istioctl waits for one for ever where it believes that it needs it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Istio's charts and the program that renders them.
#[derive(Debug)]
pub struct Charts {
    helm: PathBuf,
    istio: PathBuf,
    // Of Helm's caches, which would otherwise be the user's.
    home: TempDir,
}

impl Charts {
    /// Finds or builds Helm, and has Go fetch and verify the module that the charts lie in.
    pub async fn find_or_build() -> anyhow::Result<Self> {
        let helm = HELM.find_or_build("").await?.folder.join("helm");
        let home = tempfile::Builder::new().prefix("lab-").tempdir().context("cannot make a folder")?;
        write(&home.path().join("go.mod"), ISTIOCTL.go_mod)?;
        write(&home.path().join("go.sum"), ISTIOCTL.go_sum)?;
        let go = go().context("Istio's charts lie in a Go module: install Go")?;
        let mut command = Command::new(&go);
        command.args(["mod", "download", "-json", "istio.io/istio"]);
        command.current_dir(home.path()).env("GOFLAGS", "-mod=readonly").kill_on_drop(true);
        // From a cold start it is some 20 MB.
        let output = command.output().await.with_context(|| format!("cannot run {}", go.display()))?;
        if !output.status.success() {
            bail!("the module of Istio's charts cannot be had: {}", both(&output));
        }
        let module: serde_json::Value = serde_json::from_slice(&output.stdout).context("go wrote no JSON")?;
        let istio = module.get("Dir").and_then(serde_json::Value::as_str).context("go names no folder")?;
        Ok(Self { helm, istio: istio.into(), home })
    }

    /// Helm's program.
    #[must_use]
    pub fn helm(&self) -> &Path {
        &self.helm
    }

    /// Istio's sources, of the version that the charts are of.
    #[must_use]
    pub fn sources(&self) -> &Path {
        &self.istio
    }

    /// The folder of a chart.
    #[must_use]
    pub fn chart(&self, name: &str) -> PathBuf {
        self.istio.join("manifests/charts").join(name)
    }

    /// `helm template RELEASE CHART -f …`
    ///
    /// # Errors
    ///
    /// What Helm says where it refuses.
    pub async fn template(&self, release: &str, chart: &str, values: &[PathBuf]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.helm);
        command.args(["template", release]).arg(self.chart(chart)).args(["--namespace", "istio-system"]);
        for file in values {
            command.arg("--values").arg(file);
        }
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(variable, self.home.path());
        }
        text_of(command).await
    }
}

/// Istio's own command line.
#[derive(Debug)]
pub struct Istioctl {
    program: PathBuf,
}

impl Istioctl {
    /// True when it was built before.
    pub fn is_there() -> bool {
        ISTIOCTL.cache_folder().is_ok_and(|folder| ISTIOCTL.found_in(&folder).is_some())
    }

    /// Finds or builds it.
    pub async fn find_or_build() -> anyhow::Result<Self> {
        Ok(Self { program: ISTIOCTL.find_or_build("").await?.folder.join("istioctl") })
    }

    /// Its program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// What the injector makes of a file, with `injector`, `mesh` and `values` as its settings, all three files in `folder`.
    pub async fn inject(&self, folder: &Path, file: &Path) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        // Without a revision it asks a cluster for one.
        command.args(["kube-inject", "--revision", "default"]);
        for (flag, name) in
            [("--injectConfigFile", "injector"), ("--meshConfigFile", "mesh"), ("--valuesFile", "values")]
        {
            command.arg(flag).arg(folder.join(name));
        }
        command.arg("--filename").arg(file);
        // What the values set in istiod's environment, where the injector runs otherwise.
        command.env("ENABLE_NATIVE_SIDECARS", "true");
        text_of(command).await
    }

    /// `istioctl validate`: what istiod's webhook would say.
    ///
    /// # Errors
    ///
    /// What it finds wrong.
    pub async fn validate(&self, file: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["validate", "--filename"]).arg(file);
        text_of(command).await.map(drop)
    }
}

async fn text_of(mut command: Command) -> anyhow::Result<String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    // A cluster of the user's is none of its business.
    command.env("KUBECONFIG", "/nonexistent").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output())
        .await
        .with_context(|| format!("{name} does not end: it may be waiting for a cluster"))?
        .with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}", both(&output));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{name} wrote no UTF-8"))
}

fn both(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modules_pin_the_versions_that_they_are_called_by() {
        assert!(HELM.go_mod.contains(&format!("helm.sh/helm/v3 v{}", HELM.version)));
        assert!(ISTIOCTL.go_mod.contains(&format!("istio.io/istio {}", ISTIOCTL.version)));
    }
}
