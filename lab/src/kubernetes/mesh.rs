//! What two meshes need beside the clusters: Istio's own programs and charts, a stock Envoy, and the sample's image. Built and
//! packed only for `--istio`.

mod images;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use entente_lab_parts::{GoModule, GoProgram};

use crate::envoy::install as envoy;
use crate::istio::charts::{Charts, Istioctl};
use crate::istio::{self, istiod};
use crate::layout::write;

/// The tag of Istio's images here.
const TAG: &str = "lab";

/// Values for Istio's charts that only the lab needs, by file name.
const VALUES: [(&str, &str); 2] = [
    ("values-istiod.yaml", include_str!("../../istio/values-istiod.yaml")),
    ("values-eastwestgateway.yaml", include_str!("../../istio/values-eastwestgateway.yaml")),
];

const PROXY: GoModule = GoModule {
    name: "Istio's agent",
    version: istio::VERSION,
    place: "istio/proxy-",
    go_mod: include_str!("../../istio/proxy/go.mod"),
    go_sum: include_str!("../../istio/proxy/go.sum"),
    programs: &[GoProgram { file: "pilot-agent", package: "istio.io/istio/pilot/cmd/pilot-agent" }],
    takes: "1 to 2 minutes",
    ..GoModule::PLAIN
};

const AGNHOST: GoModule = GoModule {
    name: "agnhost",
    version: "1.36.3",
    place: "istio/agnhost-",
    go_mod: include_str!("../../istio/agnhost/go.mod"),
    go_sum: include_str!("../../istio/agnhost/go.sum"),
    programs: &[GoProgram { file: "agnhost", package: "k8s.io/kubernetes/test/images/agnhost" }],
    takes: "1 to 2 minutes",
    ..GoModule::PLAIN
};

/// Where everything lies.
#[derive(Debug)]
pub(super) struct Mesh {
    charts: Charts,
    istioctl: PathBuf,
    pilot_discovery: PathBuf,
    pilot_agent: PathBuf,
    envoy: PathBuf,
    agnhost: PathBuf,
}

impl Mesh {
    /// Fails with what has to be done first, where a part is neither here nor to be had.
    pub(super) fn check() -> anyhow::Result<()> {
        let Some(first) = envoy::lacking() else { return Ok(()) };
        bail!("--istio needs Envoy {}: {first}", envoy::VERSION)
    }
    /// Finds or builds every part.
    pub(super) async fn find_or_build() -> anyhow::Result<Self> {
        Ok(Self {
            charts: Charts::find_or_build().await?,
            pilot_discovery: istiod::program().await?,
            pilot_agent: PROXY.find_or_build("").await?.folder.join("pilot-agent"),
            agnhost: AGNHOST.find_or_build("").await?.folder.join("agnhost"),
            istioctl: Istioctl::find_or_build().await?.program().to_owned(),
            envoy: envoy::find_or_fetch().await?,
        })
    }
    /// Folders of what an operator types beside kubectl.
    pub(super) fn tools(&self) -> impl Iterator<Item = &Path> {
        [self.charts.helm(), &self.istioctl].into_iter().filter_map(Path::parent)
    }
    /// Packs the images into tars in `folder`.
    pub(super) fn pack(&self, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
        images::pack(self, folder)
    }
    /// Puts the charts where the README's commands look, as `istio/NAME` from `deploy/istio`; and the lab's values where they are
    /// seen from there in the checkout, too.
    pub(super) fn lay_out(&self, deploy: &Path) -> anyhow::Result<()> {
        let charts = deploy.join("istio/istio");
        std::fs::create_dir_all(&charts).with_context(|| format!("cannot make {}", charts.display()))?;
        for (name, place) in
            [("base", "base"), ("istiod", "istio-control/istio-discovery"), ("gateway", "gateway")]
        {
            let link = charts.join(name);
            std::os::unix::fs::symlink(self.charts.chart(place), &link)
                .with_context(|| format!("cannot make {}", link.display()))?;
        }
        let values = deploy.with_file_name("lab").join("istio");
        std::fs::create_dir_all(&values).with_context(|| format!("cannot make {}", values.display()))?;
        VALUES.iter().try_for_each(|(name, text)| write(&values.join(name), text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modules_pin_the_versions_that_they_are_called_by() {
        assert!(PROXY.go_mod.contains(&format!("istio.io/istio {}", PROXY.version)));
        assert!(AGNHOST.go_mod.contains(&format!("k8s.io/kubernetes v{} ", AGNHOST.version)));
    }

    #[test]
    fn the_values_name_the_tag_that_the_images_have() {
        assert!(VALUES[0].1.contains(&format!("\n  tag: {TAG}\n")));
    }
}
