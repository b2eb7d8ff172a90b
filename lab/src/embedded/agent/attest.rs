//! Who calls: what the kernel knows about the other end of a Unix socket, as selectors.

use std::collections::BTreeSet;

use entente_proto::spire::api::types as wire;
use tokio::net::unix::UCred;

/// Selectors of one caller, `(type, value)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller(BTreeSet<(String, String)>);

impl Caller {
    /// `unix:uid`, `unix:gid`, and `unix:path` where the process is still there to be looked at.
    pub(super) fn from_credentials(credentials: &UCred) -> Self {
        let path = credentials.pid().and_then(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).ok());
        let values = [
            Some(format!("uid:{}", credentials.uid())),
            Some(format!("gid:{}", credentials.gid())),
            path.map(|path| format!("path:{}", path.display())),
        ];
        Self(values.into_iter().flatten().map(|value| ("unix".to_owned(), value)).collect())
    }

    /// An entry is the caller's when the caller has each of its selectors.
    pub(super) fn has(&self, selectors: &[wire::Selector]) -> bool {
        let has = |one: &wire::Selector| self.0.contains(&(one.r#type.clone(), one.value.clone()));
        !selectors.is_empty() && selectors.iter().all(has)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    fn selector(r#type: &str, value: String) -> wire::Selector {
        wire::Selector { r#type: r#type.to_owned(), value }
    }

    #[tokio::test]
    async fn a_caller_needs_every_selector_of_an_entry() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let caller = Caller::from_credentials(&ours.peer_cred().unwrap());
        let uid = selector("unix", format!("uid:{}", rustix::process::getuid().as_raw()));
        let program = std::env::current_exe().unwrap();
        let path = selector("unix", format!("path:{}", program.display()));
        assert!(!caller.has(&[]));
        assert!(!caller.has(&[selector("unix", "uid:4242".into())]));
        assert!(!caller.has(&[uid.clone(), selector("unix", "path:/bin/other".into())]));
        assert!(!caller.has(&[selector("k8s", uid.value.clone())]));
        assert!(caller.has(&[uid, path]));
    }
}
