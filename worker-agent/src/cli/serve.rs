//! `serve` and `check-config`.

use std::path::Path;
use std::process::ExitCode;

use graticule_daemon::config::ConfigError;
use graticule_daemon::{EXIT_USAGE, config, shutdown, telemetry};

use super::{EXIT_GAVE_UP, EXIT_REFUSED};
use crate::adapters::storage::{Storage, postgresql_servers};
use crate::app::{self, Outcome};
use crate::config::Config;
use crate::core::postgresql::{Connections, connections};

/// Reads the configuration and everything that can be checked of it without starting anything.
fn load(conf: Option<&Path>) -> Result<Config, ConfigError> {
    let config: Config = config::load(conf, std::env::vars())?;
    config.policy()?;
    config.classes()?;
    config.shutdown_grace()?;
    Storage::check(&config.search_paths()?, &config.worker.storage)?;
    config.worker.quarantine.rule()?;
    config.sharing_rules()?;
    config.plugins()?;
    config.catalog.hidden()?;
    config.worker.isolation.check()?;
    config.worker.isolation.environment()?;
    app::worker_user(&config)?;
    Ok(config)
}

pub(super) fn check(conf: Option<&Path>) -> ExitCode {
    match load(conf) {
        Ok(config) => {
            println!("the configuration is sound: {} workers", config.workers());
            if let Some(connections) = count_connections(&config) {
                println!("{connections}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => usage(&error),
    }
}

/// What an agent with this configuration may ask of PostgreSQL; nothing when no project is there.
fn count_connections(config: &Config) -> Option<Connections> {
    let own = &config.worker.storage.postgresql;
    let servers = postgresql_servers(&config.search_paths().ok()?);
    connections(&servers, config.workers(), own.max_connections, !own.channel.is_empty())
}

pub(super) fn serve(conf: Option<&Path>) -> ExitCode {
    let config = match load(conf) {
        Ok(config) => config,
        Err(error) => return usage(&error),
    };
    if let Err(problem) = telemetry::init(&config.logging) {
        return usage(&problem);
    }
    match run(&config) {
        Ok(Outcome::Stopped) => ExitCode::SUCCESS,
        Ok(Outcome::GaveUp { pressure }) => {
            eprintln!(
                "worker-agent: failure pressure {pressure:.2} is above its limit; see the log for why workers failed"
            );
            ExitCode::from(EXIT_GAVE_UP)
        }
        Err(error) => {
            eprintln!("worker-agent: {error:#}");
            ExitCode::from(EXIT_REFUSED)
        }
    }
}

fn usage(problem: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("worker-agent: {problem}");
    ExitCode::from(EXIT_USAGE)
}

fn run(config: &Config) -> anyhow::Result<Outcome> {
    // The environment holds secrets that workers do not get; those of the same user could read it from `/proc` else.
    nix::sys::prctl::set_dumpable(false)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let bound = app::build(config).await?;
        tracing::info!(
            agent = bound.name,
            http = %bound.http,
            grpc = %bound.grpc,
            metrics = %bound.metrics,
            workers = config.workers(),
            "worker-agent {}",
            env!("CARGO_PKG_VERSION")
        );
        let stop = async {
            match shutdown::signalled().await {
                Ok(signal) => tracing::info!(signal, "told to stop"),
                Err(error) => tracing::error!(%error, "signals cannot be heard, so the agent stops"),
            }
        };
        Ok(bound.run(stop).await)
    })
}
