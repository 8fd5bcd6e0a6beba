//! The command line: the daemon itself, and what operators ask of a running one over gRPC.

mod cache;
mod catalog;
mod client;
mod plugin;
mod quarantine;
mod serve;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The exit code when a running agent refused, or could not be asked.
pub const EXIT_REFUSED: u8 = 1;

/// The exit code of `healthcheck` when the agent answers and is not ready.
pub const EXIT_NOT_READY: u8 = 2;

/// The exit code of `serve` when failure pressure went above its limit; an orchestrator should start the agent anew.
pub const EXIT_GAVE_UP: u8 = 3;

/// Looks after a pool of QGIS processes and serves OGC requests with them.
///
/// Exit codes: 0 done, 1 refused or not reached, 2 not ready (healthcheck), 3 failure pressure above its limit (serve),
/// 64 wrong usage or configuration.
#[derive(Debug, Parser)]
#[command(name = "worker-agent", version, max_term_width = 100)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent until SIGTERM or Ctrl-C. Example: worker-agent serve --conf agent.toml
    Serve {
        /// A TOML file; CONF_ variables go over it
        #[arg(short = 'C', long, value_name = "FILE")]
        conf: Option<PathBuf>,
    },
    /// Read the configuration, say what is wrong with it, and end. Example: worker-agent check-config -C agent.toml
    CheckConfig {
        /// A TOML file; CONF_ variables go over it
        #[arg(short = 'C', long, value_name = "FILE")]
        conf: Option<PathBuf>,
    },
    /// Ask a running agent whether it is ready; exits 0 when it is. Example: worker-agent healthcheck
    Healthcheck {
        #[command(flatten)]
        target: Target,
    },
    /// Show a running agent's workers, queue and pressure. Example: worker-agent stats --json
    Stats {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Set a running agent's number of workers until it ends; nothing in flight is lost. Example: worker-agent resize 8
    Resize {
        /// How many, from 1 to 1024
        workers: u32,
        #[command(flatten)]
        target: Target,
    },
    /// Projects that workers hold, and pins
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Requests that killed workers
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// QGIS's server plugins
    #[command(subcommand)]
    Plugin(PluginCommand),
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    /// Show what is loaded, and why others are not. Example: worker-agent plugin list
    List {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum QuarantineCommand {
    /// Show what is refused, and what is suspected. Example: worker-agent quarantine list --json
    List {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a request through again, on every agent. Example: worker-agent quarantine clear 0123456789abcdef
    Clear {
        /// Which, as `list` shows it
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        fingerprint: Option<String>,
        /// All of them
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Keep a project loaded in every worker, now and after every restart. Example: worker-agent cache pin /world
    Pin {
        /// The project as clients name it
        project: String,
        #[command(flatten)]
        target: Target,
    },
    /// End a pin. Example: worker-agent cache unpin /world
    Unpin {
        /// The project as clients name it
        project: String,
        #[command(flatten)]
        target: Target,
    },
    /// Compare a project with its storage, or load it into every worker. Example: worker-agent cache checkout --pull /world
    Checkout {
        /// The project as clients name it
        project: String,
        /// Load it into every worker, and wait for that
        #[arg(long)]
        pull: bool,
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Have every worker drop a project, and wait until it is gone. Example: worker-agent cache drop /world
    Drop {
        /// The project as clients name it
        project: String,
        #[command(flatten)]
        target: Target,
    },
    /// Look at the storage now; what has changed is loaded anew. Example: worker-agent cache update /world
    Update {
        /// The projects as clients name them; all that are in use when none is named
        projects: Vec<String>,
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Have every worker drop all but pinned projects. Example: worker-agent cache clear
    Clear {
        #[command(flatten)]
        target: Target,
    },
    /// Show what each worker holds, at which version. Example: worker-agent cache dump --json
    Dump {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    #[command(flatten)]
    Catalog(catalog::CatalogCommand),
    /// Show what is loaded and what is pinned. Example: worker-agent cache list
    List {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Which agent to ask.
#[derive(Debug, clap::Args)]
struct Target {
    /// The agent's gRPC address
    #[arg(
        long,
        env = "GRATICULE_AGENT",
        default_value = "127.0.0.1:23456",
        value_name = "HOST:PORT"
    )]
    host: String,
}

impl Args {
    /// Does what was asked.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve { conf } => serve::serve(conf.as_deref()),
            Command::CheckConfig { conf } => serve::check(conf.as_deref()),
            Command::Healthcheck { target } => client::run(client::healthcheck(&target.host)),
            Command::Stats { target, json } => client::run(client::stats(&target.host, json)),
            Command::Resize { workers, target } => client::run(client::resize(&target.host, workers)),
            Command::Cache(CacheCommand::Pin { project, target }) => client::run(client::pin(&target.host, project)),
            Command::Cache(CacheCommand::Unpin { project, target }) => {
                client::run(client::unpin(&target.host, project))
            }
            Command::Cache(CacheCommand::Catalog(command)) => command.run(),
            Command::Cache(CacheCommand::List { target, json }) => client::run(client::list(&target.host, json)),
            Command::Cache(CacheCommand::Checkout {
                project,
                pull,
                target,
                json,
            }) => client::run(cache::check_out(&target, project, pull, json)),
            Command::Cache(CacheCommand::Drop { project, target }) => {
                client::run(cache::drop_project(&target, project))
            }
            Command::Cache(CacheCommand::Update { projects, target, json }) => {
                client::run(cache::update(&target, projects, json))
            }
            Command::Cache(CacheCommand::Clear { target }) => client::run(cache::clear(&target)),
            Command::Cache(CacheCommand::Dump { target, json }) => client::run(cache::dump(&target, json)),
            Command::Quarantine(QuarantineCommand::List { target, json }) => {
                client::run(quarantine::list(&target.host, json))
            }
            Command::Quarantine(QuarantineCommand::Clear {
                fingerprint, target, ..
            }) => client::run(quarantine::clear(&target.host, fingerprint.unwrap_or_default())),
            Command::Plugin(PluginCommand::List { target, json }) => client::run(plugin::list(&target.host, json)),
        }
    }
}
