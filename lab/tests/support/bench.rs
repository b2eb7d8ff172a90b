//! Real SPIRE's own `validate` commands, on configurations with our plugin in them.

use std::path::Path;

use entente_lab::layout::write;
use entente_lab::products::Products;
use entente_lab::spire::{Kind, PluginProgram, install};
use tempfile::TempDir;
use tokio::process::Command;

use super::can_tell;

/// Real SPIRE, our plugin, and a folder for what a configuration names.
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) spire: install::Programs,
    pub(crate) plugin: PluginProgram,
}

impl Bench {
    /// None where real SPIRE is left out.
    pub(crate) async fn set_up() -> Option<Self> {
        if !can_tell(Kind::Real) {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("lab-").tempdir().expect("a folder");
        let spire = install::find_or_build(None).await.expect("real SPIRE");
        let products = Products::build_into(&folder.path().join("bin")).await.expect("the programs");
        Some(Self { spire, plugin: products.plugin(), folder })
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// `PROGRAM validate FLAGS -config CONF`: exit code and all that is printed.
    pub(crate) async fn validate(
        &self,
        program: &Path,
        flags: &[&str],
        environment: impl IntoIterator<Item = (String, String)>,
        conf: &str,
    ) -> (Option<i32>, String) {
        let path = self.path("validated.conf");
        write(Path::new(&path), conf).expect("a write");
        let output = Command::new(program)
            .arg("validate")
            .args(flags)
            .args(["-config", &path])
            .envs(environment)
            .env("TMPDIR", self.folder.path())
            .kill_on_drop(true)
            .output()
            .await
            .expect("SPIRE runs");
        let printed = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (output.status.code(), printed.concat())
    }
}
