//! Another authority of cluster1 takes the old one's place, as an operator has it done: each step is one command in cluster1,
//! and is over when cluster2 has followed.

use anyhow::Context;

use super::{At, SPIRE_SERVER, Walk};
use crate::checks::ensure;

/// Both authorities, while one follows the other.
pub(super) struct Rotation<'a> {
    pub(super) one: At<'a>,
    pub(super) two: At<'a>,
    old: String,
    new: String,
}

impl<'a> Rotation<'a> {
    /// The new authority is made, and known in cluster2. It signs nothing yet.
    pub(super) async fn prepare(walk: &mut Walk<'a>, folder: &'static str) -> anyhow::Result<Self> {
        let one = At { cluster: &walk.clusters.one, folder };
        let two = At { cluster: &walk.clusters.two, folder };
        let shown = walk.run(one, &format!("{SPIRE_SERVER} localauthority x509 show")).await?;
        let prepared = walk.run(one, &format!("{SPIRE_SERVER} localauthority x509 prepare")).await?;
        let [old, new] = [&shown, &prepared].map(|answer| field(answer, "Authority ID").map(str::to_owned));
        let nobody = "the answer names no authority";
        let rotation = Self { one, two, old: old.context(nobody)?, new: new.context(nobody)? };
        ensure(rotation.old != rotation.new, || format!("{} is the old authority", rotation.new))?;
        held(walk, two, 2, "cluster2 holds both authorities").await?;
        Ok(rotation)
    }
    /// From now on the new authority signs.
    pub(super) async fn activate(&self, walk: &mut Walk<'_>) -> anyhow::Result<()> {
        self.local_authority(walk, "activate", &self.new).await
    }
    /// Every SVID of the old authority is to be renewed before its time; whether it was is for the caller to find out.
    pub(super) async fn taint(&self, walk: &mut Walk<'_>) -> anyhow::Result<()> {
        self.local_authority(walk, "taint", &self.old).await
    }
    /// Nobody believes the old authority any more, in cluster2 neither.
    pub(super) async fn revoke(&self, walk: &mut Walk<'_>) -> anyhow::Result<()> {
        self.renew_webhook(walk).await?;
        self.local_authority(walk, "revoke", &self.old).await?;
        held(walk, self.two, 1, "cluster2 has forgotten the old one").await
    }
    /// The controller manager keeps its webhook's certificate for half a day, tainted or not; with the authority revoked, the API
    /// server would take no ClusterSPIFFEID any more.
    async fn renew_webhook(&self, walk: &mut Walk<'_>) -> anyhow::Result<()> {
        walk.run(self.one, "kubectl rollout restart -n spire deployment/spire-server").await?;
        walk.rolled_out(self.one.cluster, "spire", "deployment/spire-server").await
    }

    async fn local_authority(
        &self,
        walk: &mut Walk<'_>,
        command: &str,
        authority: &str,
    ) -> anyhow::Result<()> {
        let line = format!("{SPIRE_SERVER} localauthority x509 {command} -authorityID {authority}");
        walk.run(self.one, &line).await.map(drop)
    }
}

/// How many of cluster1's authorities `at` holds, by SPIRE's own words.
async fn held(walk: &mut Walk<'_>, at: At<'_>, authorities: usize, what: &str) -> anyhow::Result<()> {
    let line =
        format!("{SPIRE_SERVER} bundle list -id spiffe://cluster1.org -format spiffe | grep -c x509-svid");
    counts(walk, at, &line, authorities, what).await
}

/// Waits until a command answers with this number.
pub(super) async fn counts(
    walk: &mut Walk<'_>,
    at: At<'_>,
    line: &str,
    count: usize,
    what: &str,
) -> anyhow::Result<()> {
    let counted = walk.until(at, line, what, |answer| {
        ensure(answer.stdout.trim() == count.to_string(), || format!("it counts {:?}", answer.stdout.trim()))
    });
    counted.await.map(drop)
}

/// `Name: value` in the answer of a command of SPIRE's.
fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let line = answer.lines().find_map(|line| line.trim().strip_prefix(name))?;
    Some(line.trim_start_matches([' ', ':']).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_the_spacing() {
        let answer = "Prepared X.509 authority:\n  Authority ID: abc\n  Expires at: never\n";
        assert_eq!(field(answer, "Authority ID"), Some("abc"));
        assert_eq!(field("Authority ID             : abc", "Authority ID"), Some("abc"));
        assert_eq!(field(answer, "Colour"), None);
    }
}
