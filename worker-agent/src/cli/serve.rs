//! `serve` and `check-config`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use graticule_cli::exit::{GAVE_UP, REFUSED, USAGE};
use graticule_daemon::config::{ConfigError, Loaded, Sources};
use graticule_daemon::{config, service, shutdown, telemetry};
use graticule_proto::v1::{AgentPhase, AgentState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::adapters::memory::Machine;
use crate::adapters::storage::postgresql_servers;
use crate::app::{self, Outcome};
use crate::config::{ALIASES, Config};
use crate::core::postgresql::{Connections, connections};
use crate::live;

/// Where the configuration is read from.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgs {
    /// A TOML, JSON or YAML file, or a URL of one; CONF_ variables go over it
    #[arg(short = 'C', long, value_name = "FILE|URL")]
    conf: Option<String>,
    /// Set one key, over file and variables; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    /// Reads the configuration and checks everything that can be checked of it without starting anything.
    fn load(self) -> Result<(Loaded<Config>, Sources), ConfigError> {
        let sources = Sources::of_process(self.conf, self.set, ALIASES);
        let loaded: Loaded<Config> = config::load_layers(&sources)?;
        live::check(&loaded.config).map_err(|error| loaded.locate(error))?;
        Ok((loaded, sources))
    }
}

pub(super) fn check(args: ConfigArgs, json: bool) -> ExitCode {
    let loaded = match args.load() {
        Ok((loaded, _)) => loaded,
        Err(error) => return usage(&error),
    };
    let config = &loaded.config;
    let means = meaning(config);
    let warnings = [loaded.warnings.clone(), config.tls_warnings()].concat();
    if json {
        let tree = config::redacted(&loaded.tree);
        let shown =
            serde_json::json!({ "config": tree, "origins": loaded.origins, "means": means, "warnings": warnings });
        println!("{shown:#}");
        return ExitCode::SUCCESS;
    }
    print!("{}", config::listing(&loaded.tree, &loaded.origins, None));
    println!("\nthe configuration is sound: {} workers", config.workers());
    means.iter().for_each(|line| println!("{line}"));
    warnings.iter().for_each(|warning| eprintln!("worker-agent: {warning}"));
    ExitCode::SUCCESS
}

/// What the configuration means for memory and connections, in sentences.
fn meaning(config: &Config) -> Vec<String> {
    let mut means = Vec::new();
    if let Ok(machine) = Machine::find(Path::new("/")) {
        let (workers, memory) = (config.workers(), &config.worker.memory);
        let limits = memory.limits().map(|limits| limits.of(machine.total(), workers));
        if let Ok((soft, hard)) = limits {
            let mib = |bytes: u64| bytes >> 20;
            means.push(format!(
                "of {} MiB ({}), each of {workers} workers may use {} MiB and is replaced above {} MiB",
                mib(machine.total()),
                machine.source().name(),
                mib(hard),
                mib(soft)
            ));
        }
    }
    means.extend(config.says_of_tls());
    means.extend(count_connections(config).map(|connections| connections.to_string()));
    means
}

/// What an agent with this configuration may ask of PostgreSQL; nothing when no project is there.
fn count_connections(config: &Config) -> Option<Connections> {
    let own = &config.worker.storage.postgresql;
    let servers = postgresql_servers(&config.search_paths().ok()?);
    connections(&servers, config.workers(), own.max_connections, !own.channel.is_empty())
}

pub(super) fn serve(args: ConfigArgs) -> ExitCode {
    let (loaded, sources) = match args.load() {
        Ok(read) => read,
        Err(error) => return usage(&error),
    };
    if let Err(problem) = telemetry::init(&loaded.config.logging) {
        return usage(&problem);
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if let Err(error) = loaded.keep() {
        tracing::warn!(%error, "no copy of the configuration from the URL can be kept");
    }
    match run(&loaded, sources) {
        Ok(Outcome::Stopped) => ExitCode::SUCCESS,
        Ok(Outcome::GaveUp { pressure }) => {
            eprintln!(
                "worker-agent: failure pressure {pressure:.2} is above its limit; see the log for why workers failed"
            );
            ExitCode::from(GAVE_UP)
        }
        Err(error) => {
            eprintln!("worker-agent: {error:#}");
            ExitCode::from(REFUSED)
        }
    }
}

fn usage(problem: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("worker-agent: {problem}");
    ExitCode::from(USAGE)
}

/// Tells the service manager how the agent stands, until it has ended.
async fn tell(mut state: watch::Receiver<AgentState>) {
    let (mut ready, mut stopping, mut said) = (false, false, String::new());
    loop {
        let now = state.borrow_and_update().clone();
        let line = line(&now);
        let phase = now.phase();
        if phase == AgentPhase::Failing {
            if !std::mem::replace(&mut stopping, true) {
                service::stopping(&line);
            }
        } else if phase == AgentPhase::Ready && !std::mem::replace(&mut ready, true) {
            service::ready(&line);
        } else if line != said {
            service::status(&line);
        }
        said = line;
        // It changes with every request; who looks at a status does not mind a moment.
        tokio::time::sleep(Duration::from_millis(200)).await;
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// How the agent stands, on a line.
fn line(state: &AgentState) -> String {
    let phase = state
        .phase()
        .as_str_name()
        .trim_start_matches("AGENT_PHASE_")
        .to_lowercase();
    let waits = match state.waits_for.as_slice() {
        [] => String::new(),
        awaited => format!("; waits for {}", awaited.join(", ")),
    };
    format!("{phase}: {} of {} workers live{waits}", state.live, state.capacity)
}

fn run(loaded: &Loaded<Config>, sources: Sources) -> anyhow::Result<Outcome> {
    // The environment holds secrets that workers do not get; those of the same user could read it from `/proc` else.
    nix::sys::prctl::set_dumpable(false)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let bound = app::build(loaded, sources).await?;
        tracing::info!(
            agent = bound.name,
            http = %bound.http,
            grpc = %bound.grpc,
            metrics = %bound.metrics,
            workers = loaded.config.workers(),
            "worker-agent {}",
            env!("CARGO_PKG_VERSION")
        );
        let mut signals = shutdown::Signals::listen().context("signals cannot be heard")?;
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let (stop, hurry) = (first.clone().cancelled_owned(), second.clone().cancelled_owned());
        tokio::spawn(async move {
            let signal = signals.next().await;
            tracing::info!(signal, "told to stop");
            service::stopping("draining");
            first.cancel();
            let signal = signals.next().await;
            tracing::info!(signal, "told to hurry");
            second.cancel();
        });
        tokio::spawn(service::watchdog(bound.heart()));
        tokio::spawn(tell(bound.state()));
        let outcome = bound.run(stop, hurry).await;
        Ok(outcome)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_is_awaited() {
        let mut state = AgentState {
            live: 1,
            capacity: 2,
            waits_for: vec!["workers".into()],
            ..AgentState::default()
        };
        state.set_phase(AgentPhase::Starting);
        assert_eq!(line(&state), "starting: 1 of 2 workers live; waits for workers");
        state.waits_for.clear();
        state.set_phase(AgentPhase::Ready);
        assert_eq!(line(&state), "ready: 1 of 2 workers live");
    }
}
