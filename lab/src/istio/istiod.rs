//! The whole istiod, on an API server without nodes, with foreign bundles by URL in its mesh configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use entente_lab_parts::{GoModule, GoProgram, sha256};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::VERSION;
use crate::checks::{ensure, eventually, line_in, see};
use crate::http::{self, Request, Trust};
use crate::kubernetes::ControlPlane;
use crate::layout::write;
use crate::log_file::{LogFile, Mark};
use crate::ports::{self, loopback};
use crate::process::{Launch, Process};

const ISTIOD: GoModule = GoModule {
    name: "istiod",
    version: VERSION,
    place: "istio/istiod-",
    go_mod: include_str!("../../istio/istiod/go.mod"),
    go_sum: include_str!("../../istio/istiod/go.sum"),
    programs: &[GoProgram { file: "pilot-discovery", package: "istio.io/istio/pilot/cmd/pilot-discovery" }],
    takes: "about 5 minutes",
    ..GoModule::PLAIN
};

const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_GRACE: Duration = Duration::from_secs(10);
/// It tries an endpoint for ten seconds with doubling pauses, so the last try comes after some thirteen.
const FETCH_DEADLINE: Duration = Duration::from_secs(40);
/// What it logs when the roots from endpoints are others than before; the certificates follow as PEM.
const NEW_ROOTS: &str = "updating Source SpiffeEndpoints with certs";

/// A running istiod of the mesh of cluster1.org. Dropping it ends it.
#[derive(Debug)]
pub struct Istiod {
    mesh: PathBuf,
    process: Process,
}

impl Istiod {
    /// Finds or builds it and starts it with these URLs of foreign bundles; waits until it is ready. `authorities` are what it believes
    /// beside the roots that it fetches.
    pub async fn start(
        folder: &Path,
        plane: &ControlPlane,
        authorities: &Path,
        urls: &[String],
    ) -> anyhow::Result<Self> {
        let program = program().await?;
        plane.kubectl(&["create", "namespace", "istio-system"]).await?;
        let mesh = folder.join("mesh.yaml");
        write(&mesh, mesh_config(urls))?;
        let (grpc, web, monitoring) =
            (loopback(ports::free()?), loopback(ports::free()?), loopback(ports::free()?));
        let process = Launch::new("istiod", program, folder.join("istiod.log"))
            .args([
                "discovery",
                "--registries=Kubernetes",
                "--httpsAddr=",
                "--secureGRPCAddr=",
                "--ctrlz_port=0",
            ])
            .args([format!("--kubeconfig={}", plane.kubeconfig().display())])
            .args([format!("--meshConfig={}", mesh.display())])
            .args([
                format!("--grpcAddr={grpc}"),
                format!("--httpAddr={web}"),
                format!("--monitoringAddr={monitoring}"),
            ])
            .arg("--log_as_json")
            .env("POD_NAMESPACE", "istio-system")
            .env("POD_NAME", "istiod")
            // Without it no URL is ever fetched.
            .env("ISTIO_MULTIROOT_MESH", "true")
            .env("SSL_CERT_FILE", authorities.display().to_string())
            .env("SSL_CERT_DIR", "/nonexistent")
            .env("NO_PROXY", "*")
            .start()?;
        let istiod = Self { mesh, process };
        let ready = eventually("istiod is ready", START_DEADLINE, async || {
            istiod.process.check_alive()?;
            let reply = http::ask(&Request::get(&format!("http://{web}/ready"), Trust::Default)).await?;
            ensure(reply.status == 200, || format!("/ready says {}", reply.status))
        });
        ready.await.map_err(|error| see(error, istiod.log().path()))?;
        Ok(istiod)
    }
    /// Its log.
    pub fn log(&self) -> LogFile {
        self.process.log()
    }
    /// Changes the URLs. Only others than before make it fetch at once; else it looks every half hour.
    pub fn set_urls(&self, urls: &[String]) -> anyhow::Result<()> {
        write(&self.mesh, mesh_config(urls))
    }
    /// Waits until it says that it now believes other roots from endpoints; SHA-256 of each, in its order.
    pub async fn new_roots(&self, since: Mark) -> anyhow::Result<Vec<String>> {
        let line = line_in(&self.log(), since, &[NEW_ROOTS], FETCH_DEADLINE).await?;
        let line: Value = serde_json::from_str(&line).context("istiod's log is no JSON")?;
        let message = line.get("msg").and_then(Value::as_str).context("a line without message")?;
        let pem = message.strip_prefix(NEW_ROOTS).context("certificates do not follow")?.trim_start();
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(|root| Ok(sha256(&root?))).collect()
    }
    /// Waits for a line of its log with all of `needles`.
    pub async fn says(&self, since: Mark, needles: &[&str]) -> anyhow::Result<String> {
        line_in(&self.log(), since, needles, FETCH_DEADLINE).await
    }
    /// Ends it in good order.
    pub async fn stop(mut self) {
        // If it does not end now it is killed when it is dropped.
        let _ = self.process.terminate(STOP_GRACE).await;
    }
}

/// Finds or builds `pilot-discovery`.
pub(crate) async fn program() -> anyhow::Result<PathBuf> {
    Ok(ISTIOD.find_or_build("").await?.folder.join("pilot-discovery"))
}

/// JSON is YAML.
fn mesh_config(urls: &[String]) -> String {
    let certificates = urls.iter().map(|url| json!({ "spiffeBundleUrl": url })).collect::<Vec<_>>();
    json!({ "trustDomain": "cluster1.org", "caCertificates": certificates }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_pins_the_version_that_it_is_called_by() {
        assert!(ISTIOD.go_mod.contains(&format!("istio.io/istio {VERSION}")), "{}", ISTIOD.go_mod);
    }
}
