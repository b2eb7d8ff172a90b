//! The first words of a plugin: which type it is (magic cookie), and the one line on stdout.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

/// Longest path of a Unix socket: the field of the system call holds 108 bytes, the last of them zero.
pub(crate) const MAX_SOCKET_PATH: usize = 107;

/// The plugin type that the host started us as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Gets bundle-loaded and bundle-updated events.
    Notifier,
    /// Gets every bundle, on each change and each 30 seconds.
    Publisher,
}

impl Role {
    /// Name and value of the magic cookie.
    pub fn cookie(self) -> &'static str {
        match self {
            Self::Notifier => "Notifier",
            Self::Publisher => "BundlePublisher",
        }
    }

    /// Full gRPC name of the type's service.
    pub(crate) fn service_name(self) -> &'static str {
        match self {
            Self::Notifier => "spire.plugin.server.notifier.v1.Notifier",
            Self::Publisher => "spire.plugin.server.bundlepublisher.v1.BundlePublisher",
        }
    }
}

/// Why the plugin does not start as one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    /// Two cookies, and no option to choose.
    #[error(
        "the environment holds the cookies of both plugin types; add plugin_args = [\"--role\", \"publisher\"] (or \"notifier\") to the block in server.conf"
    )]
    Ambiguous,
    /// The option contradicts the only cookie.
    #[error(
        "--role asks for {asked}, but SPIRE Server started this process as {started}; correct or remove plugin_args"
    )]
    Contradicts {
        /// Type that `--role` names.
        asked: &'static str,
        /// Type of the cookie.
        started: &'static str,
    },
    /// Nobody started us as a plugin.
    #[error("not started by SPIRE Server")]
    NotAPlugin,
}

/// Finds the type by the cookies in `variable`; `asked` breaks the tie when a stray one was inherited.
pub fn role(variable: impl Fn(&str) -> Option<OsString>, asked: Option<Role>) -> Result<Role, RoleError> {
    let has = |role: Role| variable(role.cookie()).is_some_and(|value| value == role.cookie());
    let found = match (has(Role::Publisher), has(Role::Notifier)) {
        (true, true) => return asked.ok_or(RoleError::Ambiguous),
        (true, false) => Role::Publisher,
        (false, true) => Role::Notifier,
        (false, false) => return Err(RoleError::NotAPlugin),
    };
    match asked {
        Some(asked) if asked != found => {
            Err(RoleError::Contradicts { asked: asked.cookie(), started: found.cookie() })
        }
        _ => Ok(found),
    }
}

/// The one line that stdout ever carries. Certificate and multiplexing stay empty: SPIRE crashes on the first, never asks for the second.
pub(crate) fn handshake_line(socket: &Path) -> String {
    format!("1|1|unix|{}|grpc|\n", socket.display())
}

/// Tells the host where we listen.
pub(crate) fn announce(socket: &Path) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(handshake_line(socket).as_bytes())?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
    }

    #[test]
    fn without_a_cookie_it_is_no_plugin() {
        assert_eq!(role(environment(&[]), Some(Role::Publisher)), Err(RoleError::NotAPlugin));
        assert_eq!(role(environment(&[("Notifier", "notifier")]), None), Err(RoleError::NotAPlugin));
    }

    #[test]
    fn the_cookie_tells_the_type() {
        let publisher = [("BundlePublisher", "BundlePublisher")];
        assert_eq!(role(environment(&publisher), None), Ok(Role::Publisher));
        assert_eq!(role(environment(&[("Notifier", "Notifier")]), Some(Role::Notifier)), Ok(Role::Notifier));
        assert!(matches!(
            role(environment(&publisher), Some(Role::Notifier)),
            Err(RoleError::Contradicts { .. })
        ));
    }

    #[test]
    fn an_inherited_second_cookie_needs_the_role_option() {
        let both = [("BundlePublisher", "BundlePublisher"), ("Notifier", "Notifier")];
        assert_eq!(role(environment(&both), None), Err(RoleError::Ambiguous));
        assert_eq!(role(environment(&both), Some(Role::Notifier)), Ok(Role::Notifier));
    }

    #[test]
    fn the_handshake_line_has_six_fields_and_an_empty_certificate() {
        let line = handshake_line(Path::new("/tmp/entente-1"));
        assert_eq!(line, "1|1|unix|/tmp/entente-1|grpc|\n");
    }
}
