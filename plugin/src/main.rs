//! `entente-plugin`: started by SPIRE Server. By hand it explains itself, and installs itself.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use entente_bundle::causes::chain;
use entente_plugin::arguments::{self, Command};
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

const HELP: &str = "\
Keeps SPIRE trust domains federated: takes SPIRE Server's bundle out, puts foreign ones in.
SPIRE Server starts it, as plugin type BundlePublisher (or Notifier, for servers that still use it).

  entente-plugin install DIR   copy this program into DIR and print plugin_cmd and plugin_checksum for server.conf
  entente-plugin --version
  entente-plugin --help

  plugin_args = [\"--role\", \"publisher\"] (or \"notifier\") in server.conf tells the type where a stray
  environment variable of SPIRE Server names the other one too.";

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let command = match arguments::parse(words) {
        Ok(command) => command,
        Err(problem) if is_plugin() => {
            hclog::install();
            return refused(&format!("plugin_args cannot be used: {problem}"));
        }
        Err(problem) => {
            eprintln!("entente-plugin: {problem}");
            return ExitCode::from(2);
        }
    };
    match command {
        Command::Help => println!("{HELP}"),
        Command::Install { folder } => return install_into(&folder),
        Command::Serve { role } => return serve(role),
        Command::Version => println!("entente-plugin {}", env!("CARGO_PKG_VERSION")),
    }
    ExitCode::SUCCESS
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

fn is_plugin() -> bool {
    handshake::role(variable, None) != Err(RoleError::NotAPlugin)
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
        Err(problem) => refused(&chain(&problem)),
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
            eprintln!("entente-plugin: {}", chain(&problem));
            ExitCode::FAILURE
        }
    }
}
