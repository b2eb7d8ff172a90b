//! One running Envoy with an entry in a trust domain, the requests that go through it, and what it believes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use entente_bundle::{Bundle, SpiffeId, TrustDomain};
use entente_lab_parts::sha256;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use super::bootstrap::{BUNDLES, SVID, bootstrap};
use crate::checks::{ensure, eventually, see};
use crate::compare::fingerprints;
use crate::domain::Domain;
use crate::http::{self, Reply, Request, Trust};
use crate::layout::write;
use crate::log_file::LogFile;
use crate::ports;
use crate::process::{Launch, Process};
use crate::products::put_aside;
use crate::server_api::NewEntry;

/// From entry or bundle over SPIRE's agent to the secret.
const DEADLINE: Duration = Duration::from_secs(30);

/// What a proxy does.
#[derive(Clone, Copy, Debug)]
pub enum Role<'a> {
    /// Takes mutual TLS from one ID and hands plain HTTP to the application.
    Inbound {
        /// Where that listens.
        application: SocketAddr,
        /// The only caller.
        allowed: &'a SpiffeId,
    },
    /// Takes plain HTTP and hands it to another proxy in mutual TLS.
    Outbound {
        /// Where that listens.
        upstream: SocketAddr,
        /// What it must be.
        server: &'a SpiffeId,
    },
}

/// A running proxy. Dropping it ends it.
#[derive(Debug)]
pub struct Envoy {
    /// Its registration entry.
    pub entry_id: String,
    /// Where it listens.
    pub address: SocketAddr,
    admin: SocketAddr,
    process: Process,
}

impl Envoy {
    /// Registers it as `id` and starts it; waits until it has its certificate, and the bundles of its own domain and of `foreign`.
    pub async fn start(
        domain: &Domain,
        program: &Path,
        id: &SpiffeId,
        foreign: &TrustDomain,
        role: Role<'_>,
    ) -> anyhow::Result<Self> {
        // The agent tells one proxy from another by the name of its program.
        let name = format!("envoy{}", id.path().replace('/', "-"));
        let home = domain.home();
        let own_program = home.file(&name);
        put_aside(program, &own_program)?;
        let uid = rustix::process::geteuid().as_raw();
        let entry = NewEntry {
            spiffe_id: id.clone(),
            parent_id: domain.node_id()?,
            selectors: vec![
                ("unix", format!("uid:{uid}")),
                ("unix", format!("path:{}", own_program.display())),
            ],
            federates_with: vec![foreign.clone()],
        };
        let entry_id = domain.api().create_entry(&entry).await?;

        let (admin, address) = (ports::loopback(ports::free()?), ports::loopback(ports::free()?));
        let config = home.file(&format!("{name}.json"));
        let bootstrap = bootstrap(id, &role, &home.agent_socket(), admin, address);
        write(&config, serde_json::to_vec_pretty(&bootstrap)?)?;
        let process = Launch::new(&name, &own_program, home.file(&format!("{name}.log")))
            .stdout(home.file(&format!("{name}.out")))
            .args([
                "-c",
                &config.display().to_string(),
                "--disable-hot-restart",
                "--concurrency",
                "1",
                "--file-flush-interval-msec",
                "100",
            ])
            .start()?;
        let envoy = Self { entry_id, address, admin, process };
        let held = domain.api().federated_bundle(foreign).await?.context("no bundle is held")?;
        envoy.wait_until_it_believes(&[domain.api().bundle().await?, held]).await?;
        Ok(envoy)
    }

    /// Waits until the agent has given it exactly these bundles.
    pub async fn wait_until_it_believes(&self, bundles: &[Bundle]) -> anyhow::Result<()> {
        let wanted = bundles
            .iter()
            .map(|bundle| (bundle.trust_domain().to_string(), BTreeSet::from_iter(fingerprints(bundle))));
        let wanted = wanted.collect::<BTreeMap<_, _>>();
        let names = wanted.keys().map(String::as_str).collect::<Vec<_>>().join(" and ");
        let what = format!("{} has the bundles of {names}", self.process.name());
        let believes = eventually(&what, DEADLINE, async || {
            self.process.check_alive()?;
            let believed = self.bundles().await?;
            ensure(believed == wanted, || format!("it has {believed:?}, not {wanted:?}"))
        });
        believes.await.map_err(|error| see(error, self.log().path()))
    }

    /// SHA-256 of the roots that it has for each trust domain. Fails when the agent gave it all in one list, and before it gave any.
    async fn bundles(&self) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
        const BY_TRUST_DOMAIN: &str =
            "/secret/validation_context/custom_validator_config/typed_config/trust_domains";
        let url = format!("http://{}/config_dump?resource=dynamic_active_secrets", self.admin);
        let reply = http::ask(&Request::get(&url, Trust::Default)).await?;
        let dump: Value = serde_json::from_slice(&reply.body).context("the dump is no JSON")?;
        let secrets = dump.get("configs").and_then(Value::as_array).context("no secret has come")?;
        let secret = |name| secrets.iter().find(|secret| secret.get("name").is_some_and(|own| own == name));
        secret(SVID).context("no certificate has come")?;
        let bundles = secret(BUNDLES).context("no bundle has come")?;
        let domains = bundles.pointer(BY_TRUST_DOMAIN).and_then(Value::as_array);
        let domains =
            domains.with_context(|| format!("the bundles are not one for each domain: {bundles}"))?;
        domains.iter().map(roots_of).collect()
    }

    /// A plain HTTP request to it.
    pub async fn get(&self) -> anyhow::Result<Reply> {
        http::ask(&Request::get(&format!("http://{}/", self.address), Trust::Default)).await
    }
    /// Its access log: a line for each request, and one for each connection.
    pub fn access_log(&self) -> LogFile {
        self.process.stdout()
    }
    /// What it says about itself.
    pub fn log(&self) -> LogFile {
        self.process.log()
    }
    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// Name and roots of one trust domain in the dump.
fn roots_of(domain: &Value) -> anyhow::Result<(String, BTreeSet<String>)> {
    let name = domain.get("name").and_then(Value::as_str).context("a bundle without trust domain")?;
    let pem = domain.pointer("/trust_bundle/inline_bytes").and_then(Value::as_str);
    let pem = BASE64_STANDARD.decode(pem.context("a bundle without content")?).context("no base64")?;
    let roots = CertificateDer::pem_slice_iter(&pem).map(|root| Ok(sha256(&root?)));
    Ok((name.to_owned(), roots.collect::<anyhow::Result<_>>()?))
}
