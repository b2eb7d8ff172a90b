//! Two real Envoys, one in each trust domain, with certificates and bundles from SPIRE's agents: a plain request passes through both
//! in mutual TLS, goes on passing while an authority rotates, and whoever may not pass is refused.

mod support;

use std::time::Duration;

use anyhow::{Context, bail};
use entente_bundle::SpiffeId;
use entente_lab::checks::{ensure, eventually, line_in, reason_of};
use entente_lab::envoy::{Application, Envoy, Role, install};
use entente_lab::forger;
use entente_lab::impostor::Svid;
use entente_lab::lab::Lab;
use entente_lab::log_file::LogFile;
use entente_lab::spire::Kind;
use entente_lab::story::Step;
use entente_lab::tls_probe;

const PATIENCE: Duration = Duration::from_secs(30);
const CALL_INTERVAL: Duration = Duration::from_millis(200);

/// IDs as Istio wants them, and the proxies that have them.
struct Mesh {
    server_id: SpiffeId,
    client_id: SpiffeId,
    other_id: SpiffeId,
    /// In cluster1.org; lets in `client_id` alone.
    server: Envoy,
    /// In cluster2.org.
    client: Envoy,
    /// In cluster2.org too, and nobody that the server knows.
    other: Envoy,
    _application: Application,
}

impl Mesh {
    async fn start(lab: &Lab) -> anyhow::Result<Self> {
        let program = install::find_or_fetch().await?;
        let id = |domain: &str, name: &str| SpiffeId::new(&format!("spiffe://{domain}/ns/shop/sa/{name}"));
        let (server_id, client_id, other_id) =
            (id("cluster1.org", "server")?, id("cluster2.org", "client")?, id("cluster2.org", "other")?);
        let (one, two) = (lab.one.trust_domain(), lab.two.trust_domain());
        let application = Application::start().await?;
        let inbound = Role::Inbound { application: application.address, allowed: &client_id };
        let server = Envoy::start(&lab.one, &program, &server_id, two, inbound).await?;
        let outbound = Role::Outbound { upstream: server.address, server: &server_id };
        let client = Envoy::start(&lab.two, &program, &client_id, one, outbound).await?;
        let other = Envoy::start(&lab.two, &program, &other_id, one, outbound).await?;
        Ok(Self { server_id, client_id, other_id, server, client, other, _application: application })
    }

    /// Waits until every Envoy has what both SPIRE Servers say about themselves now.
    async fn all_believe(&self, lab: &Lab) -> anyhow::Result<()> {
        let bundles = [lab.one.api().bundle().await?, lab.two.api().bundle().await?];
        for envoy in [&self.server, &self.client, &self.other] {
            envoy.wait_until_it_believes(&bundles).await?;
        }
        Ok(())
    }

    /// A request passes, and everybody on the way says who the others are.
    async fn passes(&self) -> anyhow::Result<()> {
        let (by_server, by_client) = (self.server.access_log().mark(), self.client.access_log().mark());
        let reply = self.client.get().await?;
        ensure(reply.status == 200, || format!("{}: {}", reply.status, reply.text()))?;
        let (server, client) = (format!("By={}", self.server_id), format!("URI={}", self.client_id));
        ensure(reply.text().contains(&server) && reply.text().contains(&client), || {
            format!("the application was told {:?}", reply.text())
        })?;
        let peer = format!("peer={} own={}", self.client_id, self.server_id);
        say(&self.server.access_log(), by_server, &["code=200", &peer, "tls=TLSv1.3"]).await?;
        let peer = format!("upstream_peer={}", self.server_id);
        say(&self.client.access_log(), by_client, &["code=200", &peer]).await
    }
}

/// Waits for a line, and shows it.
async fn say(log: &LogFile, mark: entente_lab::log_file::Mark, needles: &[&str]) -> anyhow::Result<()> {
    let line = line_in(log, mark, needles, PATIENCE).await?;
    println!("     {line}");
    Ok(())
}

/// An ID of the same trust domain that the server was not told of.
async fn another_id_is_refused(mesh: &Mesh) -> anyhow::Result<()> {
    let mark = mesh.server.access_log().mark();
    let reply = mesh.other.get().await?;
    ensure(reply.status == 503, || format!("{} was let in: {}", mesh.other_id, reply.status))?;
    say(&mesh.server.access_log(), mark, &["code=0", "CERTIFICATE_VERIFY_FAILED"]).await
}

/// Whoever has the authority of cluster1.org can speak for all of cluster1.org, and for nobody in cluster2.org.
async fn an_authority_does_not_speak_for_another_domain(lab: &Lab, mesh: &Mesh) -> anyhow::Result<()> {
    let genuine = Svid::mint(&lab.two, &mesh.client_id).await?;
    let answer = forger::call(mesh.server.address, &genuine).await.context("a genuine SVID")?;
    ensure(answer.contains("200"), || format!("a genuine SVID is answered with {answer}"))?;

    let forged = forger::sign(&lab.one, &mesh.client_id).await?;
    let mark = mesh.server.access_log().mark();
    match forger::call(mesh.server.address, &forged).await {
        Ok(answer) => bail!("the authority of cluster1.org speaks for {}: {answer}", mesh.client_id),
        Err(error) => println!("     the forger hears: {}", reason_of(&error)),
    }
    say(&mesh.server.access_log(), mark, &["code=0", "CERTIFICATE_VERIFY_FAILED"]).await
}

/// Requests pass all the time: none fails, and nobody is started anew.
async fn rotation_is_followed(lab: &Lab, mesh: &Mesh) -> anyhow::Result<()> {
    tokio::select! {
        rotated = rotate(lab, mesh) => rotated,
        failed = calls_until_one_fails(mesh) => failed,
    }?;
    mesh.passes().await.context("after the rotation")
}

/// Each step of cluster1.org waits until the one before has arrived everywhere, as an operator would wait much longer.
async fn rotate(lab: &Lab, mesh: &Mesh) -> anyhow::Result<()> {
    let api = lab.one.api();
    let old = api.x509_authorities().await?.active;
    let new = api.prepare_x509_authority().await?;
    mesh.all_believe(lab).await.context("after the preparation")?;
    let agent_log = LogFile::new(lab.one.home().agent_log());
    let before = agent_log.mark();
    api.activate_x509_authority(&new).await?;
    api.taint_x509_authority(&old).await?;
    eventually("the Envoy of cluster1.org presents an SVID of the new authority", PATIENCE, async || {
        let signer = tls_probe::presented_authority(mesh.server.address).await?;
        ensure(signer == new, || format!("it presents one of {signer}"))
    })
    .await?;
    line_in(&agent_log, before, &["Successfully rotated agent SVID"], PATIENCE).await?;
    api.revoke_x509_authority(&old).await?;
    mesh.all_believe(lab).await.context("after the revocation")
}

async fn calls_until_one_fails(mesh: &Mesh) -> anyhow::Result<()> {
    for answered in 0_usize.. {
        let marks = [&mesh.client, &mesh.server].map(|envoy| envoy.access_log().mark());
        let reply = mesh.client.get().await?;
        if reply.status != 200 {
            // Whoever refused says why.
            line_in(&mesh.client.access_log(), marks[0], &["code=503"], PATIENCE).await?;
            let said = [
                mesh.client.access_log().lines_since(marks[0]),
                mesh.server.access_log().lines_since(marks[1]),
            ];
            bail!(
                "after {answered} good requests one is answered {}: {}: {said:#?}",
                reply.status,
                reply.text()
            );
        }
        tokio::time::sleep(CALL_INTERVAL).await;
    }
    Ok(())
}

/// The server in cluster1.org still lets the client in; it is the client that no longer believes the server.
async fn defederation_ends_it(lab: &mut Lab, mesh: &Mesh) -> anyhow::Result<()> {
    let foreign = lab.one.trust_domain().clone();
    lab.two.defederate(&foreign)?;
    for envoy in [&mesh.client, &mesh.other] {
        lab.two.api().set_federates_with(&envoy.entry_id, &[]).await?;
    }
    mesh.client.wait_until_it_believes(&[lab.two.api().bundle().await?]).await?;
    let mark = mesh.client.access_log().mark();
    let reply = mesh.client.get().await?;
    ensure(reply.status == 503, || format!("after the end of the federation: {}", reply.status))?;
    say(&mesh.client.access_log(), mark, &["code=503", "CERTIFICATE_VERIFY_FAILED"]).await?;
    eventually("the bundle leaves SPIRE too", PATIENCE, async || {
        let held = lab.two.api().federated_bundle(&foreign).await?;
        ensure(held.is_none(), || format!("the bundle of {foreign} is still held"))
    })
    .await
}

async fn all(lab: &mut Lab) -> anyhow::Result<()> {
    let mesh = Mesh::start(lab).await?;
    mesh.passes().await?;
    another_id_is_refused(&mesh).await.context("another ID of the same domain")?;
    an_authority_does_not_speak_for_another_domain(lab, &mesh).await?;
    rotation_is_followed(lab, &mesh).await?;
    defederation_ends_it(lab, &mesh).await?;
    for envoy in [&mesh.server, &mesh.client, &mesh.other] {
        envoy.process().check_alive()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn real_envoys_talk_across_domains_through_a_rotation_until_defederation() {
    let _turn = support::turn().await;
    let lacking = install::lacking();
    let way_out = lacking.as_deref().unwrap_or_default();
    let there = support::can_have(lacking.is_none(), "two Envoys across trust domains", "Envoy", way_out);
    if !there || !support::can_tell(Kind::Real) {
        return;
    }
    let mut lab = support::lab_after(Kind::Real, &[Step::Start, Step::Federate]).await;
    if let Err(error) = all(&mut lab).await {
        support::give_up(lab, &error).await;
    }
    lab.stop(false).await;
}
