//! Go's way of giving flags: one dash or two, the value after `=` or as the next argument.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;

/// What was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flags(BTreeMap<String, String>);

/// Why arguments were refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// Not a flag at all.
    #[error("{0:?} is no flag")]
    NotAFlag(String),
    /// None that this role has.
    #[error("flag -{0} is not known here")]
    Unknown(String),
    /// It ends the line without a value.
    #[error("flag -{0} needs a value")]
    NoValue(String),
    /// It must be given.
    #[error("flag -{0} is missing")]
    Missing(&'static str),
    /// Its value is not of the right kind.
    #[error("flag -{name}: {value:?} is no {kind}")]
    Wrong {
        /// Which one.
        name: &'static str,
        /// What was given.
        value: String,
        /// What it should be.
        kind: &'static str,
    },
}

impl Flags {
    /// Reads `arguments`, of which only `known` ones are taken. The last of two wins, as in Go.
    ///
    /// # Errors
    ///
    /// At the first argument that is no known flag with a value.
    pub fn read(arguments: impl Iterator<Item = String>, known: &[&str]) -> Result<Self, FlagError> {
        let mut arguments = arguments;
        let mut flags = BTreeMap::new();
        while let Some(argument) = arguments.next() {
            let dashed = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
            let Some(flag) = dashed.filter(|flag| !flag.is_empty()) else {
                return Err(FlagError::NotAFlag(argument));
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (flag.to_owned(), None),
            };
            if !known.contains(&name.as_str()) {
                return Err(FlagError::Unknown(name));
            }
            let Some(value) = value.or_else(|| arguments.next()) else {
                return Err(FlagError::NoValue(name));
            };
            flags.insert(name, value);
        }
        Ok(Self(flags))
    }
    /// The value of a flag.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
    /// The value of a flag that must be given.
    ///
    /// # Errors
    ///
    /// When it was not.
    pub fn required(&self, name: &'static str) -> Result<&str, FlagError> {
        self.get(name).ok_or(FlagError::Missing(name))
    }
    /// The value of a flag that is a port.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn port(&self, name: &'static str) -> Result<Option<u16>, FlagError> {
        self.parsed(name, "port")
    }
    /// The value of a flag that is an IP address with a port.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn address(&self, name: &'static str) -> Result<Option<SocketAddr>, FlagError> {
        self.parsed(name, "IP:port")
    }
    fn parsed<T: FromStr>(&self, name: &'static str, kind: &'static str) -> Result<Option<T>, FlagError> {
        let wrong = |value: &str| FlagError::Wrong { name, value: value.to_owned(), kind };
        self.get(name).map(|value| value.parse().map_err(|_| wrong(value))).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Flags, FlagError> {
        Flags::read(arguments.iter().map(|one| (*one).to_owned()), &["socket", "port"])
    }

    #[test]
    fn one_dash_two_dashes_equals_and_space_are_all_the_same() {
        for arguments in [
            &["-socket", "/s", "-port", "1"][..],
            &["--socket=/s", "-port=1"],
            &["-socket=/t", "--port", "1", "-socket", "/s"],
        ] {
            let flags = read(arguments).expect("flags");
            assert_eq!((flags.required("socket"), flags.port("port")), (Ok("/s"), Ok(Some(1))));
        }
    }

    #[test]
    fn what_is_no_flag_is_refused() {
        assert_eq!(read(&["socket"]), Err(FlagError::NotAFlag("socket".to_owned())));
        assert_eq!(read(&["-"]), Err(FlagError::NotAFlag("-".to_owned())));
        assert_eq!(read(&["-colour", "red"]), Err(FlagError::Unknown("colour".to_owned())));
        assert_eq!(read(&["-socket"]), Err(FlagError::NoValue("socket".to_owned())));
        assert_eq!(read(&[]).expect("none").required("socket"), Err(FlagError::Missing("socket")));
        let port = read(&["-port", "70000"]).expect("read").port("port");
        assert_eq!(port, Err(FlagError::Wrong { name: "port", value: "70000".to_owned(), kind: "port" }));
    }
}
