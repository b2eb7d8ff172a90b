//! Which sources an image comes from: revision and time of the last commit.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Why the sources are not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProvenanceError {
    /// git did not run.
    #[error("cannot run git")]
    Git(#[source] io::Error),
    /// git answered with a failure.
    #[error(
        "git {command} failed in {folder}: {message}; outside a checkout set SOURCE_DATE_EPOCH and give --revision"
    )]
    Refused {
        /// What was asked.
        command: String,
        /// Where.
        folder: PathBuf,
        /// What it said.
        message: String,
    },
    /// The time is no number.
    #[error("{value:?} is no time in seconds since 1970")]
    Time {
        /// What stood there.
        value: String,
    },
}

/// Where the sources stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// Hash of the commit, with `-modified` behind it if the files differ from it.
    pub revision: String,
    /// Time of the commit, or `SOURCE_DATE_EPOCH`, in seconds since 1970.
    pub created: u64,
    /// Where the sources can be had, if git knows an address for everybody.
    pub source: Option<String>,
}

impl Provenance {
    /// Asks git about a checkout; `SOURCE_DATE_EPOCH` and a given revision spare the question.
    pub fn of(workspace: &Path, revision: Option<String>) -> Result<Self, ProvenanceError> {
        let created = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(value) if !value.is_empty() => value,
            _ => git(workspace, &["log", "-1", "--format=%ct"])?,
        };
        let created = created.parse().map_err(|_| ProvenanceError::Time { value: created })?;
        let revision = match revision {
            Some(revision) => revision,
            None => {
                let commit = git(workspace, &["rev-parse", "HEAD"])?;
                // Manifests are in no image, and building the plugin writes its checksum into them.
                let status = ["status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)deploy"];
                let modified = !git(workspace, &status)?.is_empty();
                if modified { format!("{commit}-modified") } else { commit }
            }
        };
        let origin = git(workspace, &["remote", "get-url", "origin"]).ok();
        Ok(Self { revision, created, source: origin.as_deref().and_then(public_address) })
    }
    /// The time as labels have it.
    pub fn created_text(&self) -> String {
        rfc3339(self.created)
    }
}

/// Seconds since 1970 as people read them.
pub(crate) fn rfc3339(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

/// An address that a reader of the label can open, without the credentials that may stand in it.
fn public_address(origin: &str) -> Option<String> {
    let rest = origin.strip_prefix("https://")?;
    let (host, path) = rest.split_once('/')?;
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    Some(format!("https://{host}/{}", path.trim_end_matches(".git")))
}

fn git(folder: &Path, arguments: &[&str]) -> Result<String, ProvenanceError> {
    let output = Command::new("git").arg("-C").arg(folder).args(arguments).output();
    let output = output.map_err(ProvenanceError::Git)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(ProvenanceError::Refused {
        command: arguments.join(" "),
        folder: folder.to_owned(),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_the_remote_do_not_get_into_the_label() {
        let address = public_address("https://user:secret@example.org/entente.git");
        assert_eq!(address.as_deref(), Some("https://example.org/entente"));
    }

    #[test]
    fn an_address_that_only_we_can_open_is_left_out() {
        for origin in ["/srv/git/entente", "git@example.org:entente.git", "file:///srv/entente"] {
            assert_eq!(public_address(origin), None, "{origin}");
        }
    }

    #[test]
    fn a_changed_source_shows_in_the_revision_and_a_checksum_in_the_manifests_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| std::fs::write(folder.path().join(path), content).unwrap();
        std::fs::create_dir(folder.path().join("deploy")).unwrap();
        write("source", "one");
        write("deploy/checksum", "one");
        git(folder.path(), &["init", "--quiet"]).unwrap();
        git(folder.path(), &["add", "."]).unwrap();
        let author = ["-c", "user.name=a", "-c", "user.email=a@example.org"];
        let commit = ["commit", "--quiet", "--no-verify", "-m", "one"];
        git(folder.path(), &[author.as_slice(), &commit].concat()).unwrap();
        let commit = git(folder.path(), &["rev-parse", "HEAD"]).unwrap();
        let revision = || Provenance::of(folder.path(), None).unwrap().revision;
        write("deploy/checksum", "changed");
        assert_eq!(revision(), commit);
        write("source", "changed");
        assert_eq!(revision(), format!("{commit}-modified"));
    }

    #[test]
    fn outside_a_checkout_the_way_out_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let refused = git(folder.path(), &["rev-parse", "HEAD"]).unwrap_err();
        assert!(refused.to_string().contains("SOURCE_DATE_EPOCH"), "{refused}");
    }
}
