//! The client of the walkthrough. All of it is in the library, where tests reach it.

use std::process::ExitCode;

use clap::Parser;
use entente_workloads::{client, process};

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let options = client::Options::parse();
    process::run(|stop| client::run(options, stop)).await
}
