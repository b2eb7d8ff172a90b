//! Other people's programs for the lab and for tests: built once per machine, in the lab's cache.

mod build_group;
mod cache;
mod go_module;

use std::io::Write as _;

pub use build_group::BuildGroup;
pub use cache::{cache, lock};
pub use go_module::{Built, GoModule, GoProgram, go};
use sha2::{Digest as _, Sha256};

/// SHA-256 in lower-case hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// To the terminal, also from inside a test, whose harness keeps what macros print.
pub fn tell(line: &str) {
    // Nobody to read it is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}
