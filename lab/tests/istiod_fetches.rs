//! istiod's own fetch code against our bundle endpoint: which listener it takes, which it cannot, and what it believes then.

mod support;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use entente_bundle::{Bundle, TrustDomain};
use entente_lab::checks::{ensure, eventually, reason_of};
use entente_lab::compare::fingerprints;
use entente_lab::istio::{Fetch, Fetched};
use entente_lab::lab::{Lab, Options};
use entente_lab::spire::Kind;
use entente_lab::story::Step;
use entente_lab::timeline::Timeline;

/// istiod's own patience with an endpoint that does not answer.
const ISTIOD_PATIENCE: Duration = Duration::from_secs(10);
const NO_PATIENCE: Duration = Duration::ZERO;
const PATIENCE: Duration = Duration::from_secs(30);

/// None where neither SPIRE nor the code can be had; in CI that is a failure.
async fn fetch_code() -> Option<Fetch> {
    let there = Fetch::is_there() || entente_lab_parts::go().is_some();
    let there = support::can_have(there, "what istiod fetches", "Istio's code", "install Go");
    if !there || !support::can_tell(Kind::Real) {
        return None;
    }
    Some(Fetch::find_or_build().await.unwrap_or_else(|error| panic!("no fetch code: {}", reason_of(&error))))
}

async fn refused(
    fetch: &Fetch,
    domain: &TrustDomain,
    url: &str,
    authorities: &Path,
    reason: &str,
) -> anyhow::Result<()> {
    let fetched = fetch.fetch(domain, url, authorities, NO_PATIENCE).await?;
    ensure(fetched.roots.is_empty() && fetched.said.contains(reason), || {
        format!("expected a refusal with {reason:?}: {fetched:?}")
    })
}

fn believes(fetched: &Fetched, bundle: &Bundle) -> anyhow::Result<()> {
    let expected = fingerprints(bundle);
    ensure(!expected.is_empty() && fetched.roots == expected, || {
        format!("it believes {:?}, SPIRE says {expected:?}: {}", fetched.roots, fetched.said.trim())
    })
}

async fn what_it_refuses(lab: &Lab, fetch: &Fetch) -> anyhow::Result<()> {
    let (one, domain) = (&lab.one, lab.one.trust_domain());
    // What SPIRE's agent was let in with: the roots of cluster1.org as PEM.
    let spire_roots = one.home().file("agent-bootstrap.pem");

    // Believing SPIRE's roots is not enough: an SVID names neither an address nor a host.
    let by_address = one.spiffe_url();
    refused(fetch, domain, &by_address, &spire_roots, "doesn't contain any IP SANs").await?;
    let by_name = by_address.replace("127.0.0.1", "localhost");
    refused(fetch, domain, &by_name, &spire_roots, "not valid for any names").await?;
    // The web authority of somebody else.
    refused(fetch, domain, &one.web_url_by_name(), &lab.two.web().ca_file, "unknown authority").await
}

/// Every fetch is a new look: istiod keeps nothing of ours but the roots.
async fn what_it_follows(lab: &Lab, fetch: &Fetch) -> anyhow::Result<()> {
    let (one, url) = (&lab.one, lab.one.web_url_by_name());
    let held = async || fetch.fetch(one.trust_domain(), &url, &one.web().ca_file, ISTIOD_PATIENCE).await;
    let first = held().await?;
    believes(&first, &one.api().bundle().await?)?;
    let old = one.api().x509_authorities().await?.active;
    let new = one.api().prepare_x509_authority().await?;
    let both = eventually("istiod's code fetches both authorities", PATIENCE, async || {
        let fetched = held().await?;
        ensure(fetched.roots.len() == 2, || format!("it has {} roots", fetched.roots.len())).map(|()| fetched)
    })
    .await?;
    believes(&both, &one.api().bundle().await?)?;
    one.api().activate_x509_authority(&new).await?;
    one.api().taint_x509_authority(&old).await?;
    one.api().revoke_x509_authority(&old).await?;
    let last = eventually("istiod's code fetches the new authority alone", PATIENCE, async || {
        let fetched = held().await?;
        ensure(fetched.roots.len() == 1, || format!("it has {} roots", fetched.roots.len())).map(|()| fetched)
    })
    .await?;
    believes(&last, &one.api().bundle().await?)?;
    ensure(last.roots != first.roots, || "the root is the one from before the rotation".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn istiods_code_takes_the_web_listener_and_no_other_and_follows_a_rotation() {
    let _turn = support::turn().await;
    let Some(fetch) = fetch_code().await else { return };
    let lab = support::lab_after(Kind::Real, &[Step::Start]).await;
    let tried = async {
        what_it_refuses(&lab, &fetch).await?;
        what_it_follows(&lab, &fetch).await
    };
    if let Err(error) = tried.await {
        support::give_up(lab, &error).await;
    }
    lab.stop(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn istiods_code_waits_for_an_endpoint_that_has_no_bundle_yet() {
    let _turn = support::turn().await;
    let Some(fetch) = fetch_code().await else { return };
    let options = Options { spire: Some(Kind::Real), ..Options::default() };
    let mut lab = Lab::prepare(&options, Timeline::new().quiet()).await.expect("a lab");
    if let Err(error) = before_and_after(&mut lab, &fetch).await {
        support::give_up(lab, &error).await;
    }
    lab.stop(false).await;
}

async fn before_and_after(lab: &mut Lab, fetch: &Fetch) -> anyhow::Result<()> {
    lab.one.start_endpoint()?;
    let (url, domain) = (lab.one.web_url_by_name(), lab.one.trust_domain().clone());
    let authorities = lab.one.web().ca_file.clone();
    eventually("an endpoint without a bundle is refused", PATIENCE, async || {
        refused(fetch, &domain, &url, &authorities, "unexpected status: 503").await
    })
    .await?;
    // The bundle comes while istiod tries again.
    let (bundle, fetched) =
        tokio::join!(lab.one.start_server(), fetch.fetch(&domain, &url, &authorities, ISTIOD_PATIENCE),);
    let fetched = fetched.context("the fetch that waits")?;
    ensure(fetched.said.contains("503"), || format!("it met no 503: {}", fetched.said))?;
    believes(&fetched, &bundle?)
}
