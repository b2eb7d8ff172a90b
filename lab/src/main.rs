//! `lab`: tells the story of a federation on this machine, or keeps it up for a person to try.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use entente_lab::checks::{reason_of, seconds};
use entente_lab::embedded;
use entente_lab::lab::{Lab, Options};
use entente_lab::sabotage::Sabotage;
use entente_lab::story::{self, Step};
use entente_lab::timeline::Timeline;
use entente_lab::{up, warden};
use tokio::signal::unix::{SignalKind, signal};

/// Two SPIFFE trust domains on this machine, federated through Entente.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell the whole story once; exit 0 only if every step held.
    Run {
        #[command(flatten)]
        options: Options,
        /// Damage something in mid-story, to see that it is noticed.
        #[arg(long, value_enum, hide = true)]
        sabotage: Option<Sabotage>,
        /// Keep the folder also after success.
        #[arg(long)]
        keep: bool,
    },
    /// Bring both trust domains up, print what to try, and stay until Ctrl-C.
    Up {
        #[command(flatten)]
        options: Options,
    },
    /// The stand-in for spire-server.
    #[command(hide = true)]
    EmbeddedServer {
        /// JSON.
        #[arg(long)]
        config: PathBuf,
        /// Only ask the plugins about their configuration.
        #[arg(long)]
        validate: bool,
    },
    /// The stand-in for spire-agent.
    #[command(hide = true)]
    EmbeddedAgent {
        /// JSON.
        #[arg(long)]
        config: PathBuf,
    },
    /// How the stand-in starts a plugin: becomes that program, which is killed when the stand-in dies.
    #[command(hide = true)]
    EmbeddedExec {
        program: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Kills what a lab leaves running.
    #[command(hide = true)]
    Warden,
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run { options, sabotage, keep } => run(&options, sabotage, keep).await,
        Command::Up { options } => stay_up(&options).await,
        Command::EmbeddedServer { config, validate: true } => validate(config).await,
        Command::EmbeddedServer { config, validate: false } => {
            embedded::run_server(config).await.map(|()| true)
        }
        Command::EmbeddedAgent { config } => embedded::run_agent(config).await.map(|()| true),
        Command::EmbeddedExec { program, arguments } => Err(embedded::exec_with_parent(&program, &arguments)),
        Command::Warden => warden::watch().map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: {}", reason_of(&error));
            ExitCode::FAILURE
        }
    }
}

async fn validate(config: PathBuf) -> anyhow::Result<bool> {
    embedded::validate_server(config).await?;
    println!("SPIRE server configuration file is valid.");
    Ok(true)
}

/// True when every step held.
async fn run(options: &Options, sabotage: Option<Sabotage>, keep: bool) -> anyhow::Result<bool> {
    let told = async {
        let mut lab = Lab::prepare(options, Timeline::new()).await?;
        let told = tokio::select! {
            told = story::tell(&mut lab, &Step::ALL, sabotage) => told,
            interrupted = told_to_stop() => Err(interrupted),
        };
        let memory = told.and_then(|()| story::check_memory(&lab));
        summarise(lab, memory, keep).await
    };
    told.await
}

async fn summarise(lab: Lab, memory: anyhow::Result<String>, keep: bool) -> anyhow::Result<bool> {
    let total = seconds(lab.timeline.elapsed());
    match &memory {
        Ok(memory) => lab.timeline.summary(true, &format!("every step held, {total} in all; {memory}")),
        Err(error) => {
            lab.timeline.summary(false, &format!("the story ended after {total}: {}", reason_of(error)))
        }
    }
    let ok = memory.is_ok();
    if let Some(folder) = lab.stop(keep || !ok).await {
        println!("configurations and logs are in {}", folder.display());
    }
    Ok(ok)
}

/// The steps that set things up, and then nothing until Ctrl-C.
async fn stay_up(options: &Options) -> anyhow::Result<bool> {
    let mut lab = Lab::prepare(options, Timeline::new().quiet()).await?;
    let steps = [Step::Start, Step::Federate, Step::Talk];
    let told = tokio::select! {
        told = story::tell(&mut lab, &steps, None) => told,
        interrupted = told_to_stop() => Err(interrupted),
    };
    if let Err(error) = told {
        lab.timeline.summary(false, &format!("the lab is not up: {}", reason_of(&error)));
        if let Some(folder) = lab.stop(true).await {
            println!("configurations and logs are in {}", folder.display());
        }
        return Ok(false);
    }
    println!("{}", up::guide(&lab));
    told_to_stop().await;
    println!("\nstopping");
    lab.stop(options.dir.is_some()).await;
    Ok(true)
}

/// Waits for Ctrl-C or SIGTERM; either way everything that was started is ended.
async fn told_to_stop() -> anyhow::Error {
    let signals = signal(SignalKind::interrupt())
        .and_then(|interrupt| Ok((interrupt, signal(SignalKind::terminate())?)));
    match signals {
        Ok((mut interrupt, mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => anyhow::anyhow!("interrupted"),
                _ = terminate.recv() => anyhow::anyhow!("terminated"),
            }
        }
        Err(error) => anyhow::Error::new(error).context("cannot listen for signals"),
    }
}
