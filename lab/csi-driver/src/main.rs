//! `entente-lab-csi driver|registrar|pause`, the entry points of the lab's images; the upstream programs' flags follow.

use std::process::ExitCode;

use anyhow::bail;
use entente_lab_csi::driver::Driver;
use entente_lab_csi::flags::Flags;
use entente_lab_csi::registrar::Registrar;
use entente_lab_csi::{driver, pause, registrar};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("entente-lab-csi: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let role = arguments.next().unwrap_or_default();
    let flags = |known: &[&str]| Flags::read(arguments, known);
    match role.as_str() {
        "driver" => {
            let driver = Driver::from_flags(&flags(driver::FLAGS)?, std::env::var("MY_NODE_NAME").ok())?;
            driver.serve(pause::told_to_stop()?).await
        }
        "registrar" => {
            let registrar = Registrar::from_flags(&flags(registrar::FLAGS)?)?;
            registrar.serve(pause::told_to_stop()?).await
        }
        "pause" => pause::run().await,
        other => bail!("{other:?} is no role: driver, registrar or pause"),
    }
}
