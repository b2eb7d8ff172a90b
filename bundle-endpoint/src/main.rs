//! The `bundle-endpoint` binary: everything is in the library, so that tests run the same code.

use std::process::ExitCode;

use bundle_endpoint::cli::Cli;
use clap::Parser;

fn main() -> ExitCode {
    Cli::parse().run()
}
