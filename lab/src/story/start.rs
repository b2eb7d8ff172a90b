//! Step 1: both trust domains come up.

use std::time::Instant;

use entente_bundle::Bundle;

use super::{PATIENCE, check_memory};
use crate::checks::ensure;
use crate::domain::Domain;
use crate::endpoint_status::EndpointStatus;
use crate::lab::Lab;

pub(super) async fn run(lab: &mut Lab) -> anyhow::Result<()> {
    let start = Instant::now();
    let (one, two) = tokio::try_join!(bring_up(&mut lab.one), bring_up(&mut lab.two))?;
    for (domain, (bundle, status)) in [(&lab.one, &one), (&lab.two, &two)] {
        let name = domain.trust_domain();
        ensure(!bundle.x509_authorities().is_empty(), || {
            format!("the bundle of {name} has no X.509 authority")
        })?;
        lab.timeline.held(&format!(
            "{name}: {} (pid {}) answers on {}, its bundle has {} X.509 and {} JWT authorities",
            lab.means.spire.kind().server(),
            domain.server()?.pid(),
            domain.api().socket().display(),
            bundle.x509_authorities().len(),
            bundle.jwt_authorities().len(),
        ));
        lab.timeline.held(&format!(
            "{name}: plugin (pid {}) runs, agent listens on {}",
            domain.plugin_pid()?,
            domain.workload_api()
        ));
        lab.timeline.held(&format!(
            "{name}: bundle endpoint (pid {}) is ready, {} link up ({}), {} and {}",
            domain.endpoint()?.pid(),
            status.links(),
            linked_as(domain, status)?,
            domain.spiffe_url(),
            domain.web_url(),
        ));
    }
    lab.timeline.held_after("both trust domains are up", start.elapsed());
    lab.timeline.held(&check_memory(lab)?);
    Ok(())
}

/// How the plugin is linked, and as whom.
fn linked_as(domain: &Domain, status: &EndpointStatus) -> anyhow::Result<String> {
    if !domain.links_over_mtls() {
        return Ok("socket".to_owned());
    }
    let (server, peers) = (domain.trust_domain().spire_server_id().to_string(), status.peers());
    ensure(peers.iter().all(|peer| *peer == server), || {
        format!("linked as {}, expected {server}", peers.join(", "))
    })?;
    Ok(format!("mutual TLS, {server}"))
}

async fn bring_up(domain: &mut Domain) -> anyhow::Result<(Bundle, EndpointStatus)> {
    // The endpoint first: the plugin finds its socket at the first try. Over mutual TLS it needs an SVID before.
    let needs_svid = domain.links_over_mtls();
    if !needs_svid {
        domain.start_endpoint()?;
    }
    let bundle = domain.start_server().await?;
    domain.start_agent().await?;
    if needs_svid {
        domain.register_endpoint().await?;
        domain.start_endpoint()?;
    }
    let status = domain.wait_until_ready(PATIENCE).await?;
    Ok((bundle, status))
}
