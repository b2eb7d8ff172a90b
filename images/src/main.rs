//! `entente-images`: makes the container images of Entente, without a daemon.

mod build;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds programs static and makes images of them.
    Build(Box<build::Options>),
    /// Tells which images there are.
    List,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Build(options) => build::run(&options).await,
        Command::List => {
            for product in &entente_images::PRODUCTS {
                println!("{:<18} {}", product.name, product.title);
            }
            Ok(())
        }
    }
}
