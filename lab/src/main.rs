//! `lab`: tells the story of a federation on this machine, or keeps it up for a person to try.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use entente_lab::checks::reason_of;
use entente_lab::embedded;
use entente_lab::lab::{Lab, Options};
use entente_lab::sabotage::Sabotage;
use entente_lab::stop_signals::StopSignals;
use entente_lab::story::{self, Step};
use entente_lab::timeline::{self, Timeline};
use entente_lab::{kubernetes, up, warden};
use tokio::runtime::Runtime;

/// How often a lab that is up looks whether everything runs.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

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
    /// Start two real Kubernetes clusters and walk the walkthrough on them.
    Kubernetes {
        #[command(flatten)]
        options: kubernetes::Options,
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

fn main() -> ExitCode {
    match Runtime::new().context("cannot start the runtime").and_then(start) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nobody to read it is no reason to panic.
            let _ = writeln!(std::io::stderr(), "lab: {}", reason_of(&error));
            ExitCode::FAILURE
        }
    }
}

fn start(runtime: Runtime) -> anyhow::Result<bool> {
    let done = runtime.block_on(perform(Arguments::parse().command));
    // A thread may still wait for another lab's lock.
    runtime.shutdown_background();
    done
}

async fn perform(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Run { options, sabotage, keep } => run(&options, sabotage, keep).await,
        Command::Up { options } => stay_up(&options).await,
        Command::Kubernetes { options } => kubernetes::run(&options).await,
        Command::EmbeddedServer { config, validate: true } => validate(config).await,
        Command::EmbeddedServer { config, validate: false } => {
            embedded::run_server(config).await.map(|()| true)
        }
        Command::EmbeddedAgent { config } => embedded::run_agent(config).await.map(|()| true),
        Command::EmbeddedExec { program, arguments } => Err(embedded::exec_with_parent(&program, &arguments)),
        Command::Warden => warden::watch().map(|()| true),
    }
}

async fn validate(config: PathBuf) -> anyhow::Result<bool> {
    embedded::validate_server(config).await?;
    println!("SPIRE server configuration file is valid.");
    Ok(true)
}

/// Everything is found or built, unless a signal comes first.
async fn prepared(
    options: &Options,
    timeline: Timeline,
    stop_signals: &mut StopSignals,
) -> anyhow::Result<Lab> {
    tokio::select! {
        lab = Lab::prepare(options, timeline) => lab,
        stopped = stop_signals.received() => Err(stopped),
    }
}

/// True when every step held.
async fn run(options: &Options, sabotage: Option<Sabotage>, keep: bool) -> anyhow::Result<bool> {
    let mut stop_signals = StopSignals::listen()?;
    let mut lab = prepared(options, Timeline::new(), &mut stop_signals).await?;
    let told = tokio::select! {
        told = story::tell(&mut lab, &Step::ALL, sabotage) => told,
        stopped = stop_signals.received() => Err(stopped),
    };
    let memory = told.and_then(|()| story::check_memory(&lab));
    Ok(summarise(lab, memory, keep).await)
}

async fn summarise(lab: Lab, memory: anyhow::Result<String>, keep: bool) -> bool {
    let times = lab.timeline.times();
    let left_out = match lab.timeline.count_left_out() {
        0 => String::new(),
        count => format!("; {count} checks left out, they need real SPIRE"),
    };
    match &memory {
        Ok(memory) => lab.timeline.summary(true, &format!("every step held{left_out}; {times}; {memory}")),
        Err(error) => lab.timeline.summary(false, &format!("the story ended: {}; {times}", reason_of(error))),
    }
    let ok = memory.is_ok();
    stop(lab, keep || !ok).await;
    ok
}

/// Ends the lab and says where its folder is, if that stays.
async fn stop(lab: Lab, keep: bool) {
    if let Some(folder) = lab.stop(keep).await {
        timeline::print(&format!("configurations and logs are in {}", folder.display()));
    }
}

/// The steps that set things up, and then nothing until Ctrl-C. True when nothing ended before that.
async fn stay_up(options: &Options) -> anyhow::Result<bool> {
    let mut stop_signals = StopSignals::listen()?;
    let mut lab = prepared(options, Timeline::new().quiet(), &mut stop_signals).await?;
    let steps = [Step::Start, Step::Federate, Step::Talk];
    let told = tokio::select! {
        told = story::tell(&mut lab, &steps, None) => told,
        stopped = stop_signals.received() => Err(stopped),
    };
    if let Err(error) = told {
        lab.timeline.summary(false, &format!("the lab is not up: {}", reason_of(&error)));
        stop(lab, true).await;
        return Ok(false);
    }
    lab.timeline.say(&up::guide(&lab)?);
    let ended = watch(&mut lab, &mut stop_signals).await;
    lab.timeline.say("\nstopping");
    if ended > 0 {
        let processes = if ended == 1 { "process" } else { "processes" };
        lab.timeline.summary(false, &format!("{ended} {processes} ended that should have stayed"));
    }
    stop(lab, options.dir.is_some() || ended > 0).await;
    Ok(ended == 0)
}

/// Until a signal comes. Answers how many processes ended meanwhile though nobody stopped them.
async fn watch(lab: &mut Lab, stop_signals: &mut StopSignals) -> usize {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    let mut ended = 0;
    loop {
        tokio::select! {
            _ = stop_signals.received() => return ended,
            _ = looks.tick() => ended += lab.tell_of_ended(),
        }
    }
}
