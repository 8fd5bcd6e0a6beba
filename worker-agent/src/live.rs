//! How a changed configuration takes effect in the parts of a running agent, and what makes one usable at all.

use std::sync::Arc;
use std::time::Duration;

use graticule_daemon::config::ConfigError;
use graticule_daemon::current::Current;
use graticule_daemon::telemetry;
use tokio::sync::watch;

use crate::adapters::quarantine::QuarantineHandle;
use crate::adapters::storage::Storage;
use crate::adapters::supervisor::{Loading, Supervisor};
use crate::app;
use crate::config::Config;
use crate::core::ogc::{Classes, Forwarded};
use crate::serve::answers::Answers;
use crate::serve::catalog::Catalog;
use crate::serve::metrics::Metrics;
use crate::serve::plugins::Plugins;
use crate::serve::settings::Parts;
use crate::serve::state::Configured;

/// Everything that can be checked of a configuration without starting anything.
///
/// # Errors
/// The first value that cannot be used.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    telemetry::filter(&config.logging.level).map_err(|problem| invalid("logging.level", problem))?;
    config.policy()?;
    config.classes()?;
    config.shutdown_grace()?;
    config.pins_patience()?;
    Storage::check(&config.search_paths()?, &config.worker.storage)?;
    config.worker.quarantine.rule()?;
    config.sharing_rules()?;
    config.plugins()?;
    config.catalog.hidden()?;
    config.worker.isolation.check()?;
    config.worker.isolation.environment()?;
    app::worker_user(config)?;
    config.door()?;
    config.data_tls()?;
    config.control_planes()?;
    config.dial()?;
    Ok(())
}

fn invalid(key: &str, problem: String) -> ConfigError {
    ConfigError::Invalid {
        origin: graticule_daemon::config::WHOLE.into(),
        key: key.into(),
        problem,
    }
}

/// When projects are loaded, as configured.
#[must_use]
pub fn loading(config: &Config) -> Loading {
    let projects = &config.worker.qgis.projects;
    Loading {
        load_on_request: projects.load_project_on_request,
        reload_on_request: projects.reload_outdated_project_on_request,
    }
}

/// The parts that take effect while the agent runs.
pub struct Live {
    /// The pool.
    pub supervisor: Supervisor,
    /// Answers that serve more than one request.
    pub answers: Answers,
    /// What requests are allowed.
    pub classes: Current<Classes>,
    /// Which headers reach QGIS.
    pub forwarded: Current<Forwarded>,
    /// Which projects there are.
    pub catalog: Catalog,
    /// Requests that kill workers.
    pub quarantine: QuarantineHandle,
    /// QGIS's server plugins.
    pub plugins: Plugins,
    /// Where projects are.
    pub storage: Storage,
    /// How often projects in use are looked at.
    pub every: watch::Sender<Duration>,
    /// How long requests may run on after SIGTERM.
    pub shutdown_grace: Current<Duration>,
    /// What control planes are told of the configuration.
    pub told: Current<Configured>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Parts for Live {
    fn check(&self, config: &Config) -> Result<(), ConfigError> {
        check(config)
    }

    fn apply(&self, before: &Config, after: &Config) -> Result<(), ConfigError> {
        // All that may fail comes first.
        let (policy, classes) = (after.policy()?, after.classes()?);
        let (rules, limits) = after.sharing_rules()?;
        let rule = after.worker.quarantine.rule()?;
        let shutdown_grace = after.shutdown_grace()?;
        let (timeout, every) = (after.worker.storage.timeout()?, after.worker.storage.check_interval()?);
        if after.catalog != before.catalog {
            self.catalog.adopt(&after.catalog)?;
        }
        if after.logging.level != before.logging.level {
            telemetry::set_level(&after.logging.level).map_err(|problem| invalid("logging.level", problem))?;
        }
        // First, so that Envoy waits longer before requests may take longer.
        self.told.set(Configured::of(after));
        self.metrics.set_failure_limit(policy.max_failure_pressure);
        self.answers.set_grace(policy.grace);
        self.supervisor.adopt(policy, loading(after));
        // What was set by `resize` stays unless the configured number changes.
        if after.worker.num_processes != before.worker.num_processes {
            self.supervisor.resize(after.workers());
        }
        self.classes.set(classes);
        self.forwarded.set(rules.forwarded.clone());
        self.plugins.set_varied(!rules.vary_headers.is_empty());
        if after.cache != before.cache || after.worker.qgis.forward_headers != before.worker.qgis.forward_headers {
            self.answers.adopt(rules, limits);
        }
        if after.worker.quarantine != before.worker.quarantine {
            self.quarantine.set_rule(rule);
        }
        self.storage.adopt(timeout, every);
        self.every
            .send_if_modified(|now| std::mem::replace(now, every) != every);
        self.shutdown_grace.set(shutdown_grace);
        Ok(())
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
