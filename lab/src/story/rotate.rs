//! Step 5: a rotation of authorities in cluster1.org, while a client of cluster2.org goes on calling.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, bail};
use entente_bundle::{BundleSet, SpiffeId};

use super::PATIENCE;
use super::talk::check_calls;
use crate::checks::{ensure, eventually, line_in, see};
use crate::domain::Domain;
use crate::impostor::{Impostor, Svid};
use crate::lab::Lab;
use crate::log_file::LogFile;
use crate::server_api::holds;
use crate::spire::Kind;
use crate::tls_probe;
use crate::workloads::OneCall;

pub(super) async fn run(lab: &mut Lab) -> anyhow::Result<()> {
    let (server, client) = lab.pair()?;
    let (server_id, server_address, calls) = (server.spiffe_id.clone(), server.address, client.mark());
    let client_log = client.log();
    let old = lab.one.api().x509_authorities().await?.active;

    let impostor = believed_impostor(lab, &server_id, &old).await?;
    let before = client_log.mark();
    let new = prepare(lab, &lab.one, &lab.two).await?;
    // SPIRE holds it; the client has it once its agent has looked, and calls may fail if it is used before that.
    line_in(&client_log, before, &["bundle advanced", lab.one.trust_domain().as_str()], PATIENCE).await?;
    lab.timeline.held("helloworld-client's agent has handed it on");
    replace(lab, &old, &new, server_address).await?;
    revoke(lab, &old).await?;
    refused_now(lab, &impostor, &old).await?;
    let answered = one_call(lab, server_address).await?;
    ensure(answered.answered, || {
        format!("helloworld-server itself is refused now: {}", answered.logged.trim())
    })?;
    lab.timeline.held("helloworld-server itself is answered as before");
    check_calls(lab, &calls, "through the whole rotation").await
}

/// Somebody once got an SVID for `server_id`, and has it still. While its authority is good, so is the SVID.
async fn believed_impostor(lab: &Lab, server_id: &SpiffeId, authority: &str) -> anyhow::Result<Impostor> {
    let stolen = Svid::mint(&lab.one, server_id).await?;
    let signer = tls_probe::authority_of(stolen.leaf()?)?;
    ensure(signer == authority, || {
        format!("the server signed with {signer} although {authority} is active")
    })?;
    let bundles = BundleSet::from_iter([lab.two.api().bundle().await?]);
    let impostor = Impostor::start(&stolen, bundles).await?;
    let believed = one_call(lab, impostor.address).await?;
    ensure(believed.answered, || {
        format!("an SVID of the active authority is refused: {}", believed.logged.trim())
    })?;
    lab.timeline.held(&format!(
        "an impostor with an SVID for {server_id}, signed by {}, is believed as yet",
        short(authority)
    ));
    Ok(impostor)
}

/// Activates `new` and taints `old`; waits until everybody in cluster1.org has left the old one.
async fn replace(lab: &Lab, old: &str, new: &str, server: SocketAddr) -> anyhow::Result<()> {
    lab.one.api().activate_x509_authority(new).await?;
    let agent_log = LogFile::new(lab.one.home().agent_log());
    let before_taint = agent_log.mark();
    let start = Instant::now();
    lab.one.api().taint_x509_authority(old).await?;
    wait_for_signer(lab.one.spiffe_address(), new, "the bundle endpoint, as SPIRE Server,").await?;
    lab.timeline.held_after(
        &format!("{} activated and the old one tainted: the endpoint presents it", short(new)),
        start.elapsed(),
    );
    wait_for_signer(server, new, "helloworld-server").await?;
    lab.timeline.held_after("helloworld-server presents an SVID of the new authority", start.elapsed());
    if lab.means.spire.kind() == Kind::Embedded {
        lab.timeline.left_out("the agent has an SVID of the new authority");
    } else {
        // The agent must have left the old authority before that is revoked, or its server would not know it any more.
        line_in(&agent_log, before_taint, &["Successfully rotated agent SVID"], PATIENCE).await?;
        lab.timeline.held_after("SPIRE's agent has an SVID of the new authority", start.elapsed());
    }
    Ok(())
}

/// Prepares an authority in `here` and waits until `there`'s SPIRE holds it.
pub(super) async fn prepare(lab: &Lab, here: &Domain, there: &Domain) -> anyhow::Result<String> {
    let start = Instant::now();
    let new = here.api().prepare_x509_authority().await?;
    let what = format!(
        "authority {} prepared in {} is held in {}",
        short(&new),
        here.trust_domain(),
        there.trust_domain()
    );
    let held = eventually(&what, PATIENCE, async || {
        here.check_alive()?;
        there.check_alive()?;
        let held = there.api().federated_bundle(here.trust_domain()).await?.context("no bundle is held")?;
        ensure(holds(&held, &new), || {
            format!("the held bundle has {} X.509 authorities, not it", held.x509_authorities().len())
        })
    });
    held.await.map_err(|error| see(error, &there.home().endpoint_log()))?;
    lab.timeline.held_after(&what, start.elapsed());
    Ok(new)
}

/// Waits until a TLS server presents a certificate that `authority` signed.
async fn wait_for_signer(address: SocketAddr, authority: &str, who: &str) -> anyhow::Result<()> {
    let what = format!("{who} presents a certificate of authority {}", short(authority));
    eventually(&what, PATIENCE, async || {
        let signer = tls_probe::presented_authority(address).await?;
        ensure(signer == authority, || format!("it presents one of {}", short(&signer)))
    })
    .await
}

async fn revoke(lab: &Lab, old: &str) -> anyhow::Result<()> {
    let start = Instant::now();
    lab.one.api().revoke_x509_authority(old).await?;
    let what = format!(
        "authority {} revoked in {} is gone in {}",
        short(old),
        lab.one.trust_domain(),
        lab.two.trust_domain()
    );
    let gone = eventually(&what, PATIENCE, async || {
        let held =
            lab.two.api().federated_bundle(lab.one.trust_domain()).await?.context("no bundle is held")?;
        ensure(!holds(&held, old), || "it is still held".to_owned())
    });
    gone.await.map_err(|error| see(error, &lab.two.home().endpoint_log()))?;
    lab.timeline.held_after(&what, start.elapsed());
    Ok(())
}

/// The impostor's SVID is of the revoked authority: the client says so, and the impostor hears an alert.
async fn refused_now(lab: &mut Lab, impostor: &Impostor, old: &str) -> anyhow::Result<()> {
    let server_id = lab.pair()?.0.spiffe_id.to_string();
    let heard_before = impostor.refusals().len();
    // The agent of cluster2.org looks for changes once a second.
    let call = eventually("the impostor is refused", PATIENCE, async || {
        let call = one_call(lab, impostor.address).await?;
        if call.answered { bail!("an SVID of the revoked authority is still believed") } else { Ok(call) }
    })
    .await?;
    let reason =
        call.logged.lines().find(|line| line.contains(&server_id) && line.contains("unknown_issuer"));
    let reason =
        reason.with_context(|| format!("the client does not say why it refused: {}", call.logged.trim()))?;
    lab.timeline.command(&call.command_line, reason);
    lab.timeline.held(&format!(
        "the impostor's SVID of revoked authority {} is refused, with its ID and the reason",
        short(old)
    ));
    let alert = impostor.hears_alert(heard_before).await?;
    lab.timeline.held(&format!("and the impostor hears: {alert}"));
    Ok(())
}

async fn one_call(lab: &Lab, address: SocketAddr) -> anyhow::Result<OneCall> {
    OneCall::make(&lab.two, &lab.means.products.helloworld_client(), address, None).await
}

/// Enough of an authority's ID to tell it from others.
pub(super) fn short(authority_id: &str) -> &str {
    authority_id.get(..8).unwrap_or(authority_id)
}
