//! The server of the walkthrough. All of it is in the library, where tests reach it.

use std::process::ExitCode;

use clap::Parser;
use entente_workloads::{process, server};

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let options = server::Options::parse();
    process::run(|stop| server::run(options, stop)).await
}
