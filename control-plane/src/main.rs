//! The control plane's command line: read the configuration, build, run until a signal, drain.

mod healthcheck;
mod pins;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use control_plane::{BuildError, Config, build};
use graticule_daemon::{EXIT_USAGE, config, shutdown, telemetry};

/// How long connections may take to close after a signal.
const DRAIN: Duration = Duration::from_secs(3);

/// The exit code of `healthcheck` when the control plane answers and is not ready; the worker-agent has the same.
const EXIT_NOT_READY: u8 = 2;

/// The exit code of a command that was refused, or whose wish not every agent could fulfil.
const EXIT_REFUSED: u8 = 1;

/// Tells a stock Envoy, over xDS, where every QGIS project is best served.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until SIGTERM or Ctrl-C.
    Serve(ConfigArgs),
    /// Read the configuration, say what is wrong with it, or print it with every default.
    CheckConfig(ConfigArgs),
    /// Ask the control plane that runs here with this configuration whether it is ready; exits 0 when it is, else 2.
    Healthcheck(ConfigArgs),
    /// Projects that every agent keeps loaded.
    #[command(subcommand)]
    Pins(pins::Command),
}

#[derive(Debug, clap::Args)]
struct ConfigArgs {
    /// A TOML file. Variables such as CONF_XDS__LISTEN go before it.
    #[arg(long, value_name = "FILE")]
    conf: Option<PathBuf>,
}

impl ConfigArgs {
    fn load(&self) -> anyhow::Result<Config> {
        let config: Config = config::load(self.conf.as_deref(), std::env::vars())?;
        config.check()?;
        Ok(config)
    }
}

fn main() -> ExitCode {
    let (args, run): (_, fn(Config) -> anyhow::Result<ExitCode>) = match Args::parse().command {
        Command::Serve(args) => (args, serve),
        Command::CheckConfig(args) => (args, print),
        Command::Healthcheck(args) => (args, health),
        Command::Pins(command) => return pins::run(command).unwrap_or_else(|error| fail(&error, EXIT_REFUSED)),
    };
    match args.load() {
        Ok(config) => run(config).unwrap_or_else(|error| fail(&error, 1)),
        Err(error) => fail(&error, EXIT_USAGE),
    }
}

#[tokio::main]
async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    telemetry::init(&config.logging).map_err(anyhow::Error::msg)?;
    let front = config.front.listen;
    let bound = match build(config).await {
        Ok(bound) => bound,
        // As for the configuration: it has to be repaired, and trying again is of no use.
        Err(error @ BuildError::Store(_)) => return Ok(fail(&error.into(), EXIT_USAGE)),
        Err(error) => return Err(error.into()),
    };
    let at = bound.addresses;
    tracing::info!(xds = %at.xds, fleet = %at.fleet, status = %at.status, %front, version = env!("CARGO_PKG_VERSION"), "control plane runs");
    let signal = shutdown::signalled().await.context("cannot listen for signals")?;
    tracing::info!(signal, "stopping; Envoys and agents go on with what they know");
    if tokio::time::timeout(DRAIN, bound.stop()).await.is_err() {
        tracing::warn!("some connections did not close in time");
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "every command takes the configuration in the same way"
)]
fn print(config: Config) -> anyhow::Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(&config)?);
    Ok(ExitCode::SUCCESS)
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "every command takes the configuration in the same way"
)]
fn health(config: Config) -> anyhow::Result<ExitCode> {
    let health = healthcheck::ask(config.status.listen)?;
    println!("{}", health.says);
    Ok(if health.ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_NOT_READY)
    })
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("control-plane: {error:#}");
    ExitCode::from(code)
}
