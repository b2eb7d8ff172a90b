//! The command line: what can be asked for, in clap's words. Each command has a file of its own.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::logging::LogFormat;

mod fetch;
mod serve;
mod show;
mod status;

/// Serves the bundle of one SPIFFE trust domain, and fetches those of others.
#[derive(Debug, Parser)]
#[command(name = "bundle-endpoint", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service.
    Serve(ServeArgs),
    /// Show every relationship in both directions; exit 1 when one is unhealthy.
    Status(StatusArgs),
    /// Fetch one bundle and verify everything about it, as a person would use curl.
    #[command(
        after_help = "Exit codes:\n  0  all was verified\n  1  asked rightly, and refused or failed\n  \
                            2  asked wrongly: an option, a URL or a file cannot be used; nobody was asked"
    )]
    Fetch(FetchArgs),
}

#[derive(Args, Clone, Debug)]
struct LogArgs {
    /// How log lines look (they go to stderr).
    #[arg(long, global = true, value_enum, env = "BUNDLE_ENDPOINT_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// What to log, in the words of RUST_LOG, which wins.
    #[arg(long, global = true, env = "BUNDLE_ENDPOINT_LOG_LEVEL")]
    log_level: Option<String>,
}

#[derive(Args, Debug)]
struct ServeArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args, Debug)]
struct StatusArgs {
    /// Ask the endpoint that runs with this configuration file.
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// Ask this admin listener.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    admin: String,
    /// How to show it.
    #[arg(long, value_enum, default_value_t)]
    output: StatusOutput,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum StatusOutput {
    Json,
    #[default]
    Text,
}

#[derive(Args, Debug)]
struct FetchArgs {
    /// The bundle endpoint.
    url: String,
    /// How the endpoint proves itself. It is never guessed from the URL.
    #[arg(long, value_enum)]
    profile: ProfileArg,
    /// Whose bundle it is; with https_spiffe, the trust domain of the endpoint SPIFFE ID where this is left out.
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// https_spiffe: the ID that the endpoint must present.
    #[arg(long, value_name = "ID", required_if_eq("profile", "https_spiffe"))]
    endpoint_spiffe_id: Option<String>,
    /// https_spiffe: the bundle of that ID's trust domain, as SPIFFE JSON or PEM.
    #[arg(long, value_name = "FILE", required_if_eq("profile", "https_spiffe"))]
    bundle: Option<PathBuf>,
    /// https_web: the only authorities to trust, as PEM; the system's where this is left out.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["endpoint_spiffe_id", "bundle"])]
    ca_file: Option<PathBuf>,
    /// Follow redirects, to https only.
    #[arg(long)]
    follow_redirects: bool,
    /// What goes to stdout.
    #[arg(long, value_enum, default_value_t)]
    output: FetchOutput,
    /// For the whole fetch.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    timeout: humantime::Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProfileArg {
    #[value(name = "https_spiffe")]
    HttpsSpiffe,
    #[value(name = "https_web")]
    HttpsWeb,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum FetchOutput {
    /// The document, byte for byte; the summary goes to stderr.
    #[default]
    Document,
    /// The summary only.
    Summary,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// It did what was asked.
    Well,
    /// It was refused or failed; the reason was printed.
    Badly,
    /// What was asked for makes no sense; the reason was printed.
    Misused,
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Well => Self::SUCCESS,
            Ended::Badly => Self::from(1),
            Ended::Misused => Self::from(2),
        }
    }
}

impl Cli {
    /// Runs the command to its end.
    pub fn run(self) -> ExitCode {
        let ended = match self.command {
            Command::Serve(args) => serve::run(&args, &self.log),
            Command::Status(args) => status::run(&args, &self.log),
            Command::Fetch(args) => fetch::run(&args, &self.log),
        };
        ended.into()
    }
}

/// For commands that print their result: only warnings are logged unless more is asked for.
fn start_quiet_logging(log: &LogArgs) -> Result<(), Ended> {
    crate::logging::start(log.log_level.as_deref().or(Some("warn")), log.log_format.unwrap_or_default())
        .map_err(misused)
}

fn misused(problem: impl std::fmt::Display) -> Ended {
    complain(problem);
    Ended::Misused
}

fn failed(problem: impl std::fmt::Display) -> Ended {
    complain(problem);
    Ended::Badly
}

fn complain(problem: impl std::fmt::Display) {
    // Where nobody reads it, the exit code must do; `eprintln` would panic.
    let _ = writeln!(std::io::stderr(), "bundle-endpoint: {problem}");
}

/// To stdout; whoever reads it may have gone, which is an error and no panic.
fn print(text: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()
}

/// A runtime for one short command.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Ended> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let done = runtime.block_on(work);
    // Whatever else still waits, for instance for a name server, is not waited for.
    runtime.shutdown_background();
    Ok(done)
}
