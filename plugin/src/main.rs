//! `entente-plugin`: started by SPIRE Server. By hand it explains itself, and installs itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use entente_plugin::handshake::{self, Role, RoleError};
use entente_plugin::{hclog, install, run};
use tracing::error;

const NOTICE: &str = "\
entente-plugin is a plugin of SPIRE Server, which has to start it:

    BundlePublisher \"entente\" {
        plugin_cmd = \"/opt/entente/entente-plugin\"
        plugin_data { endpoint = \"unix:///run/entente/link.sock\" }
    }

entente-plugin --help tells what it can do by hand.";

/// Plugin of SPIRE Server (types BundlePublisher and Notifier) that keeps trust domains federated.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Plugin type, where the environment names both; for plugin_args in server.conf.
    #[arg(long)]
    role: Option<Role>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copies this program into a folder and prints the plugin_checksum of the copy.
    Install {
        /// An existing folder that SPIRE Server can read.
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // SPIRE shows nothing of what clap prints, so it is told in SPIRE's way.
        Err(problem) if handshake::role(variable, Some(Role::Publisher)) != Err(RoleError::NotAPlugin) => {
            hclog::install();
            return refused(&format!("plugin_args cannot be used: {problem}"));
        }
        Err(problem) => problem.exit(),
    };
    match arguments.command {
        Some(Command::Install { folder }) => install_into(&folder),
        None => serve(arguments.role),
    }
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

fn serve(asked: Option<Role>) -> ExitCode {
    let role = match handshake::role(variable, asked) {
        Ok(role) => role,
        Err(RoleError::NotAPlugin) => {
            eprintln!("{NOTICE}");
            return ExitCode::FAILURE;
        }
        Err(problem) => {
            hclog::install();
            return refused(&problem.to_string());
        }
    };
    hclog::install();
    match run::run(role) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => refused(&format!("{:#}", anyhow::Error::from(problem))),
    }
}

fn refused(reason: &str) -> ExitCode {
    error!(reason, "plugin does not run");
    ExitCode::FAILURE
}

fn install_into(folder: &Path) -> ExitCode {
    match install::install(folder) {
        Ok(installed) => {
            println!("plugin_cmd = {:?}\nplugin_checksum = {:?}", installed.path, installed.sha256);
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("entente-plugin: {:#}", anyhow::Error::from(problem));
            ExitCode::FAILURE
        }
    }
}
