//! The whole istiod, on a real API server: bundles of our endpoints by URL in its mesh configuration. Heavy: only where
//! ENTENTE_LAB_ISTIOD is set.

mod support;

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use entente_lab::checks::{ensure, eventually};
use entente_lab::compare::fingerprints;
use entente_lab::domain::Domain;
use entente_lab::http::{self, Request, Trust};
use entente_lab::istio::Istiod;
use entente_lab::kubernetes::ControlPlane;
use entente_lab::lab::Lab;
use entente_lab::layout::write;
use entente_lab::log_file::Mark;
use entente_lab::spire::Kind;

const PATIENCE: Duration = Duration::from_secs(30);

async fn believes(istiod: &Istiod, since: Mark, domain: &Domain) -> anyhow::Result<()> {
    let (roots, expected) = (istiod.new_roots(since).await?, fingerprints(&domain.api().bundle().await?));
    ensure(roots == expected, || format!("istiod believes {roots:?}, SPIRE says {expected:?}"))?;
    println!("   istiod believes {} roots of {}: {}", roots.len(), domain.trust_domain(), roots.join(", "));
    Ok(())
}

/// What the endpoint serves is what SPIRE says, so that what istiod fetches next is known.
async fn served_is_current(domain: &Domain) -> anyhow::Result<()> {
    let wanted = domain.api().bundle().await?.x509_authorities().len();
    eventually("the endpoint serves the newest bundle", PATIENCE, async || {
        let reply =
            http::ask(&Request::get(&domain.web_url(), Trust::CaFile(domain.web().ca_file.clone()))).await?;
        let served = reply.text().matches("x509-svid").count();
        ensure(served == wanted, || format!("{served} authorities are served, {wanted} expected"))
    })
    .await
}

async fn accepted_and_followed(lab: &Lab, istiod: &Istiod) -> anyhow::Result<()> {
    let (one, log) = (&lab.one, istiod.log());
    believes(istiod, Mark::default(), one).await.context("at the start")?;

    one.api().prepare_x509_authority().await?;
    served_is_current(one).await?;
    let mark = log.mark();
    // The same endpoint, written differently: only a list that changed makes istiod look before its half hour is over.
    istiod.set_urls(&[one.web_url_by_name().trim_end_matches('/').to_owned()])?;
    believes(istiod, mark, one).await.context("after an authority was prepared and the list of URLs changed")
}

/// An SVID names no address. What istiod cannot fetch it stops believing.
async fn https_spiffe_is_refused(lab: &Lab, istiod: &Istiod) -> anyhow::Result<()> {
    let mark = istiod.log().mark();
    istiod.set_urls(&[lab.one.spiffe_url()])?;
    let roots = istiod.new_roots(mark).await?;
    ensure(roots.is_empty(), || format!("istiod still believes {roots:?}"))?;
    let line = istiod.says(mark, &["unable to fetch trust Anchors", "doesn't contain any IP SANs"]).await?;
    println!("   {line}");
    Ok(())
}

/// An endpoint that has no bundle yet is asked again, and believed when it has one.
async fn an_early_endpoint_is_waited_for(lab: &mut Lab, istiod: &Istiod) -> anyhow::Result<()> {
    lab.two.start_endpoint()?;
    let mark = istiod.log().mark();
    istiod.set_urls(&[lab.two.web_url_by_name()])?;
    let line = istiod.says(mark, &["unexpected status: 503", "retry in"]).await?;
    println!("   {line}");
    lab.two.start_server().await?;
    believes(istiod, mark, &lab.two).await
}

async fn all(lab: &mut Lab, plane: &ControlPlane) -> anyhow::Result<()> {
    let authorities = lab.folder().join("istiod-authorities.pem");
    let both = [&lab.one, &lab.two].map(|domain| std::fs::read_to_string(&domain.web().ca_file));
    write(&authorities, both.into_iter().collect::<Result<String, _>>()?)?;
    let istiod = Istiod::start(lab.folder(), plane, &authorities, &[lab.one.web_url_by_name()]).await?;
    accepted_and_followed(lab, &istiod).await?;
    https_spiffe_is_refused(lab, &istiod).await?;
    an_early_endpoint_is_waited_for(lab, &istiod).await?;
    istiod.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn istiod_believes_our_web_listener_and_no_other() {
    let _turn = support::turn().await;
    if std::env::var_os("ENTENTE_LAB_ISTIOD").is_none() {
        // Past the test harness, which shows the output of failed tests only.
        let _ = writeln!(
            std::io::stderr(),
            "left out: the whole istiod, which takes minutes to build: set ENTENTE_LAB_ISTIOD=1"
        );
        return;
    }
    let mut lab = support::lab_after(Kind::Real, &[]).await;
    let plane = ControlPlane::start(lab.folder()).await.expect("an API server");
    let tried = async {
        lab.one.start_endpoint()?;
        lab.one.start_server().await?;
        lab.one.wait_until_ready(PATIENCE).await?;
        all(&mut lab, &plane).await
    };
    if let Err(error) = tried.await {
        support::give_up(lab, &error).await;
    }
    plane.stop().await;
    lab.stop(false).await;
}
