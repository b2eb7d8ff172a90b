//! SPIRE's own command line where it is real, the same facts from the Server API where it is not.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, bail};
use entente_bundle::{Bundle, SpiffeId, TrustDomain, document};
use tokio::process::Command;

use crate::domain::Domain;

/// What was asked, and what was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// As a person would type it.
    pub command_line: String,
    /// Its standard output.
    pub text: String,
}

/// `bundle show -format spiffe`: the own bundle as a document.
pub async fn bundle_show(stock: Option<&Path>, domain: &Domain) -> anyhow::Result<Answer> {
    match stock {
        Some(program) => spire_server(program, domain, &["bundle", "show"], &["-format", "spiffe"]).await,
        None => Ok(from_api("Bundle/GetBundle", domain, Some(domain.api().bundle().await?))),
    }
}

/// `bundle list -format spiffe -id …`: a federated bundle as a document.
pub async fn bundle_list(
    stock: Option<&Path>,
    domain: &Domain,
    foreign: &TrustDomain,
) -> anyhow::Result<Answer> {
    let id = foreign.id_string();
    match stock {
        Some(program) => {
            spire_server(program, domain, &["bundle", "list"], &["-format", "spiffe", "-id", &id]).await
        }
        None => {
            Ok(from_api("Bundle/GetFederatedBundle", domain, domain.api().federated_bundle(foreign).await?))
        }
    }
}

/// `federation list`; the stand-in has no such command.
pub async fn federation_list(program: &Path, domain: &Domain) -> anyhow::Result<Answer> {
    spire_server(program, domain, &["federation", "list"], &[]).await
}

/// `entry show -spiffeID …`; the stand-in has no such command.
pub async fn entry_show(program: &Path, domain: &Domain, id: &SpiffeId) -> anyhow::Result<Answer> {
    spire_server(program, domain, &["entry", "show"], &["-spiffeID", &id.to_string()]).await
}

async fn spire_server(
    program: &Path,
    domain: &Domain,
    words: &[&str],
    options: &[&str],
) -> anyhow::Result<Answer> {
    let socket = domain.api().socket().display().to_string();
    let arguments = [words, &["-socketPath", &socket], options].concat();
    let command_line = format!("spire-server {}", arguments.join(" "));
    let output = Command::new(program)
        .args(&arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {command_line}"))?;
    if !output.status.success() {
        bail!("{command_line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(Answer { command_line, text: String::from_utf8_lossy(&output.stdout).into_owned() })
}

fn from_api(call: &str, domain: &Domain, bundle: Option<Bundle>) -> Answer {
    let text = bundle
        .map_or_else(String::new, |bundle| String::from_utf8_lossy(&document::render(&bundle)).into_owned());
    Answer { command_line: format!("(Server API) {call} on {}", domain.api().socket().display()), text }
}
