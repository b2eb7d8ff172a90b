//! The few words that the program understands, read without a library: SPIRE keeps one of us resident beside every server, and
//! each page of code that is touched stays in its memory.

use std::path::PathBuf;

use crate::handshake::Role;

/// What the program is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Print what there is to know.
    Help,
    /// Copy the program into a folder.
    Install {
        /// Has to exist.
        folder: PathBuf,
    },
    /// Serve SPIRE Server.
    Serve {
        /// Breaks the tie when the environment names both plugin types.
        role: Option<Role>,
    },
    /// Print the version.
    Version,
}

/// Why the words make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// `install` alone.
    #[error("install needs the folder to install into")]
    NoFolder,
    /// `--role` alone.
    #[error("--role needs publisher or notifier after it")]
    NoRole,
    /// A word that is not known, or one too many.
    #[error(
        "unexpected argument {0:?}; known are --role publisher|notifier, install DIR, --version and --help"
    )]
    Unexpected(String),
    /// `--role` with something else after it.
    #[error("--role takes publisher or notifier, found {0:?}")]
    UnknownRole(String),
}

/// Reads the words after the program's name.
pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Command, ArgumentError> {
    let mut words = words.into_iter();
    let command = match words.next().as_deref() {
        None => Command::Serve { role: None },
        Some("--help" | "-h" | "help") => Command::Help,
        Some("--version" | "-V") => Command::Version,
        Some("install") => Command::Install { folder: words.next().ok_or(ArgumentError::NoFolder)?.into() },
        Some("--role") => {
            let role = words.next().ok_or(ArgumentError::NoRole)?;
            Command::Serve { role: Some(parse_role(&role)?) }
        }
        Some(word) => match word.strip_prefix("--role=") {
            Some(role) => Command::Serve { role: Some(parse_role(role)?) },
            None => return Err(ArgumentError::Unexpected(word.to_owned())),
        },
    };
    match words.next() {
        None => Ok(command),
        Some(word) => Err(ArgumentError::Unexpected(word)),
    }
}

fn parse_role(word: &str) -> Result<Role, ArgumentError> {
    match word {
        "notifier" => Ok(Role::Notifier),
        "publisher" => Ok(Role::Publisher),
        _ => Err(ArgumentError::UnknownRole(word.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Command, ArgumentError> {
        parse(words.iter().map(|&word| word.to_owned()))
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(read(&["--rule", "notifier"]), Err(ArgumentError::Unexpected("--rule".into())));
        assert_eq!(read(&["--role"]), Err(ArgumentError::NoRole));
        assert_eq!(read(&["--role", "Notifier"]), Err(ArgumentError::UnknownRole("Notifier".into())));
        assert_eq!(read(&["install"]), Err(ArgumentError::NoFolder));
        assert_eq!(read(&["install", "a", "b"]), Err(ArgumentError::Unexpected("b".into())));
    }

    #[test]
    fn every_known_form_is_understood() {
        assert_eq!(read(&[]), Ok(Command::Serve { role: None }));
        for words in [&["--role", "notifier"][..], &["--role=notifier"]] {
            assert_eq!(read(words), Ok(Command::Serve { role: Some(Role::Notifier) }));
        }
        assert_eq!(read(&["install", "/opt"]), Ok(Command::Install { folder: "/opt".into() }));
        assert_eq!(read(&["--version"]), Ok(Command::Version));
        assert_eq!(read(&["--help"]), Ok(Command::Help));
    }
}
