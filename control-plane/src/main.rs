//! The control plane's command line: read the configuration, build, run until a signal, drain.

mod check;
mod clients;
mod fleet;
mod healthcheck;
mod pins;
mod placements;
mod reload;
mod settings;
mod snapshot;
mod target;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use check::ConfigArgs;
use clap::{Parser, Subcommand};
use control_plane::adapters::openapi;
use control_plane::{Config, Layers, build_from};
use graticule_cli::exit::USAGE;
use graticule_cli::{exit, pages};
use graticule_daemon::client::Secured;
use graticule_daemon::config::Loaded;
use graticule_daemon::ready::Readiness;
use graticule_daemon::{service, shutdown, telemetry};

/// How long connections may take to close after a signal.
const DRAIN: Duration = Duration::from_secs(3);

/// How often it is looked whether the control plane is ready, for the service manager.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Tells a stock Envoy, over xDS, where every QGIS project is best served
#[derive(Debug, Parser)]
#[command(
    name = "control-plane",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 done, 1 refused, 2 not ready, 64 wrong usage, 69 nobody there.

Example: control-plane serve --conf control-plane.toml"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    secured: Secured,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until SIGTERM or Ctrl-C; a second one ends it at once
    #[command(after_help = "Example: control-plane serve --conf control-plane.toml")]
    Serve(ConfigArgs),
    /// Say what the configuration is, where each value comes from, and what is wrong
    #[command(after_help = "Example: control-plane check-config --conf control-plane.toml")]
    CheckConfig {
        #[command(flatten)]
        args: ConfigArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask the control plane that runs here with this configuration whether it is ready
    #[command(
        after_help = "Exits 0 when ready, 2 when not, 69 when nobody answers.\n\nExample: control-plane healthcheck"
    )]
    Healthcheck {
        #[command(flatten)]
        args: ConfigArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show every agent and how it stands, or have agents do something
    Fleet(fleet::Args),
    /// Projects that every agent keeps loaded
    #[command(subcommand, after_help = "Example: control-plane pins list")]
    Pins(pins::Command),
    /// Show what agents serve by decision and not by Envoy's hash, and what each gets
    Placements(placements::Command),
    /// The configuration of the running control plane, and its changes
    #[command(subcommand, after_help = "Example: control-plane config get front")]
    Config(settings::Command),
    /// Show the attached Envoys, what each took and what it refused
    Clients(clients::Command),
    /// Show what Envoys are told, or what would change for them with another configuration
    Snapshot(snapshot::Command),
    /// Print the OpenAPI document of the administration as REST
    #[command(after_help = "Example: control-plane openapi")]
    Openapi,
    /// Print completions for a shell
    #[command(after_help = "Example: control-plane completions bash")]
    Completions(pages::Completions),
    /// Print the manual page, or write one for each command into a folder
    #[command(after_help = "Example: control-plane man /usr/local/share/man/man1")]
    Man(pages::Man),
}

fn main() -> ExitCode {
    let Args { command, secured } = match graticule_cli::parse::<Args>() {
        Ok(args) => args,
        Err(code) => return code,
    };
    secured.remember();
    let done = match command {
        Command::Serve(args) => return start(&args),
        Command::CheckConfig { args, json } => {
            let shown = args.load().map(|loaded| check::show(&loaded, json));
            return shown.unwrap_or_else(|error| fail(&error, USAGE));
        }
        Command::Healthcheck { args, json } => match args.load() {
            Ok(loaded) => health(&loaded.config, json),
            Err(error) => return fail(&error, USAGE),
        },
        Command::Fleet(args) => fleet::run(args),
        Command::Config(command) => settings::run(command),
        Command::Pins(command) => pins::run(command),
        Command::Placements(command) => placements::run(&command),
        Command::Clients(command) => clients::run(&command),
        Command::Snapshot(command) => snapshot::run(command),
        Command::Openapi => openapi::text().map_err(anyhow::Error::from).map(|text| {
            graticule_cli::say(&text);
            ExitCode::SUCCESS
        }),
        Command::Completions(command) => Ok(command.print::<Args>()),
        Command::Man(command) => command.run::<Args>(),
    };
    done.unwrap_or_else(|error| fail(&error, exit::code(&error)))
}

fn start(args: &ConfigArgs) -> ExitCode {
    match args.load() {
        Ok(loaded) => serve(&loaded, Layers::Sources(Box::new(args.sources())))
            .unwrap_or_else(|error| fail(&error, exit::REFUSED)),
        Err(error) => fail(&error, USAGE),
    }
}

#[tokio::main]
async fn serve(loaded: &Loaded<Config>, layers: Layers) -> anyhow::Result<ExitCode> {
    let config = &loaded.config;
    telemetry::init(&config.logging).map_err(anyhow::Error::msg)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if let Err(error) = loaded.keep() {
        tracing::warn!(%error, "no copy of the configuration from the URL can be kept");
    }
    let front = config.front.listen;
    let bound = match build_from(layers).await {
        Ok(bound) => bound,
        // As for the configuration: it has to be repaired, and trying again is of no use.
        Err(error) if error.has_to_be_repaired() => {
            return Ok(fail(&check::located(loaded, &error.to_string()), USAGE));
        }
        Err(error) => return Err(error.into()),
    };
    let at = bound.addresses;
    tracing::info!(xds = %at.xds, fleet = %at.fleet, status = %at.status, %front, version = env!("CARGO_PKG_VERSION"), "control plane runs");
    reload::start(&bound.live)?;
    let mut signals = shutdown::Signals::listen().context("cannot listen for signals")?;
    tokio::spawn(service::watchdog(move || answers(at.status)));
    tokio::spawn(tell(bound.readiness.clone()));
    let signal = signals.next().await;
    tracing::info!(signal, "stopping; Envoys and agents go on with what they know");
    service::stopping("stopping; Envoys and agents go on with what they know");
    tokio::select! {
        stopped = tokio::time::timeout(DRAIN, bound.stop()) => {
            if stopped.is_err() {
                tracing::warn!("some connections did not close in time");
            }
        }
        signal = signals.next() => tracing::warn!(signal, "told again: connections are cut"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells the service manager once nothing is awaited any more.
async fn tell(readiness: Readiness) {
    loop {
        let awaited = readiness.awaited();
        if awaited.is_empty() {
            return service::ready("the fleet is known");
        }
        service::status(&format!("waiting for: {}", awaited.join(", ")));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether the operations port answers, ready or not.
async fn answers(status: SocketAddr) -> bool {
    let asked = tokio::task::spawn_blocking(move || healthcheck::ask(status));
    asked.await.is_ok_and(|answer| answer.is_ok())
}

fn health(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let health = healthcheck::ask(config.status.listen)?;
    graticule_cli::say(&if json {
        format!(
            "{:#}\n",
            serde_json::json!({"ready": health.ready, "says": health.says})
        )
    } else {
        format!("{}\n", health.says)
    });
    Ok(ExitCode::from(if health.ready { exit::DONE } else { exit::NOT_READY }))
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    graticule_cli::complain(&format!("control-plane: {error:#}"));
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use graticule_cli::reference;

    use super::*;

    #[test]
    fn every_command_fits_a_screen_and_has_an_example_that_can_be_typed() {
        Args::command().debug_assert();
        assert_eq!(reference::problems(&Args::command()), Vec::<String>::new());
    }

    #[test]
    fn the_page_of_commands_has_them_all() {
        let page = include_str!("../../docs/cli.md");
        assert_eq!(reference::differences(&Args::command(), page), Vec::<String>::new());
    }
}
