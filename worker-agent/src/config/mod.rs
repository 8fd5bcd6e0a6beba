//! The agent's configuration tree. Where QJazz has the same thing, it has the same name.

use std::path::Path;
use std::time::Duration;

pub use graticule_daemon::config::ConfigError;
use graticule_daemon::config::join;
use graticule_daemon::telemetry::Logging;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod aliases;
mod cache;
mod catalog;
mod fleet;
mod lanes;
mod limits;
mod plugins;
mod qgis;
mod server;
mod storage;
mod stores;
mod texts;
mod tls;
mod worker;

use crate::adapters::memory::Machine;
use crate::core::locate::SearchPaths;
use crate::core::ogc::{ClassRules, Classes, RuleError};
use crate::core::pool::{self, MOST_WORKERS, Policy};

pub use aliases::ALIASES;
pub use cache::Cache;
pub use catalog::Catalog;
pub use fleet::{Addresses, Fleet};
pub use lanes::{Lanes, Rule, Share};
pub use limits::{Isolation, Memory, Quarantine, Recycle};
pub use plugins::{Allowed, Paths, Plugins};
pub use qgis::{Projects, Qgis};
pub use server::Server;
pub use storage::{PostgreSql, Storage};
pub use stores::{Bucket, Files, Handler, Secret};
pub use worker::{StartMethod, Worker};

/// Everything an operator can decide.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is logged, and how.
    pub logging: Logging,
    /// What the agent listens on and how it treats requests.
    pub server: Server,
    /// The pool of QGIS processes.
    pub worker: Worker,
    /// Answers that are given again, and requests that share one render: docs/cache.md.
    pub cache: Cache,
    /// Which projects there are, at `/catalog`: docs/catalog.md.
    pub catalog: Catalog,
    /// The control plane and how this agent is reached.
    pub fleet: Fleet,
}

fn wrong(key: &str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Invalid {
        origin: "configuration".into(),
        key: key.into(),
        problem: problem.into(),
    }
}

/// The key of one search path.
pub(crate) fn search_path_key(location: &str) -> String {
    join(&["worker", "qgis", "projects", "search_paths", location].map(str::to_owned))
}

fn share(share: Share) -> pool::Share {
    pool::Share {
        guaranteed: share.guaranteed,
        maximum: share.maximum,
    }
}

/// Seconds that make sense as a bound: more than nothing, at most a day.
fn seconds(key: &str, value: f64) -> Result<Duration, ConfigError> {
    const DAY: f64 = 86_400.0;
    if value > 0.0 && value <= DAY {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(wrong(
            key,
            format!("expected more than 0 and at most {DAY} seconds, found {value}"),
        ))
    }
}

impl Config {
    /// The number of workers after defaults.
    #[must_use]
    pub fn workers(&self) -> usize {
        match self.worker.num_processes {
            0 => {
                // The control group's quota is counted in.
                let processors = std::thread::available_parallelism().map_or(1, usize::from);
                let memory = Machine::find(Path::new("/")).ok().map(|machine| machine.total());
                pool::workers_for(processors, memory)
            }
            configured => configured,
        }
    }

    /// What the pool is to keep to.
    ///
    /// # Errors
    /// The first value that is out of its range.
    pub fn policy(&self) -> Result<Policy, ConfigError> {
        let worker = &self.worker;
        if worker.num_processes > MOST_WORKERS {
            return Err(wrong(
                "worker.num_processes",
                format!("expected at most {MOST_WORKERS}"),
            ));
        }
        if !worker.max_failure_pressure.is_finite() || worker.max_failure_pressure <= 0.0 {
            return Err(wrong("worker.max_failure_pressure", "expected a number above 0"));
        }
        if worker.qgis.max_projects == 0 {
            return Err(wrong("worker.qgis.max_projects", "expected at least 1"));
        }
        Ok(Policy {
            workers: self.workers(),
            max_waiting: worker.max_waiting_requests,
            start_timeout: seconds("worker.process_start_timeout", worker.process_start_timeout)?,
            grace: seconds("worker.cancel_timeout", worker.cancel_timeout)?,
            failure_window: seconds("worker.failure_window", worker.failure_window)?,
            max_failure_pressure: worker.max_failure_pressure,
            fork: worker.start_method == StartMethod::Fork,
            max_projects: worker.qgis.max_projects,
            interactive: share(worker.lanes.interactive),
            heavy: share(worker.lanes.heavy),
            max_depth: self.server.max_loop_depth,
            memory: worker.memory.limits()?,
            warm_up: worker.qgis.warm_up,
            max_requests: Some(worker.recycle.max_requests).filter(|most| *most > 0),
            max_age: worker.recycle.max_age()?,
            seed: u64::from(std::process::id()),
        })
    }

    /// What requests are allowed: their lanes and deadlines.
    ///
    /// # Errors
    /// The first value that is out of its range, or rule that cannot be meant.
    pub fn classes(&self) -> Result<Classes, ConfigError> {
        self.worker.lanes.check()?;
        let (server, lanes) = (&self.server, &self.worker.lanes);
        // A default gives way to the same name in other letters.
        let defaults = Server::default().timeouts;
        let spelled_anew = |name: &String, value: &f64| {
            defaults.get(name) == Some(value)
                && server
                    .timeouts
                    .keys()
                    .any(|other| other != name && other.eq_ignore_ascii_case(name))
        };
        let timeouts = server
            .timeouts
            .iter()
            .filter(|(name, value)| !spelled_anew(name, value));
        let rules = ClassRules {
            timeout: seconds("server.timeout", server.timeout)?,
            timeouts: timeouts
                .map(|(name, value)| Ok((name.clone(), seconds(&format!("server.timeouts.{name}"), *value)?)))
                .collect::<Result<_, _>>()?,
            heavy: lanes.rules(),
            max_loop_depth: server.max_loop_depth,
        };
        Classes::new(&rules).map_err(|error| match error {
            RuleError::Timeout { name, problem } => wrong(&format!("server.timeouts.{name}"), problem),
            RuleError::Heavy { index, field, problem } => {
                wrong(&format!("worker.lanes.heavy_rules[{index}].{field}"), problem)
            }
        })
    }

    /// How long requests may run on after SIGTERM.
    ///
    /// # Errors
    /// When it is out of its range.
    pub fn shutdown_grace(&self) -> Result<Duration, ConfigError> {
        seconds("server.shutdown_grace_period", self.server.shutdown_grace_period)
    }

    /// The longest that any request may take, in seconds, the time to stop a late one included.
    #[must_use]
    pub fn longest_timeout(&self) -> f64 {
        self.server.longest_timeout() + self.worker.cancel_timeout
    }

    /// How long the agent waits for pinned projects before it is ready without them.
    ///
    /// # Errors
    /// When it is out of its range.
    pub fn pins_patience(&self) -> Result<Duration, ConfigError> {
        seconds(
            "worker.qgis.projects.pins_patience",
            self.worker.qgis.projects.pins_patience,
        )
    }

    /// The search paths.
    ///
    /// # Errors
    /// When there is none, or one cannot be used.
    pub fn search_paths(&self) -> Result<SearchPaths, ConfigError> {
        const KEY: &str = "worker.qgis.projects.search_paths";
        let paths = &self.worker.qgis.projects.search_paths;
        if paths.is_empty() {
            return Err(wrong(
                KEY,
                "none is set, so no project can be found; set one, such as {\"/\": \"/srv/projects\"}",
            ));
        }
        SearchPaths::new(paths.iter()).map_err(|error| wrong(&search_path_key(error.location()), error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "{text}").unwrap();
        graticule_daemon::config::load(Some(file.path()), [])
    }

    fn reference() -> String {
        graticule_daemon::config::reference::<Config>("worker-agent").unwrap()
    }

    #[test]
    fn the_reference_is_in_the_docs() {
        assert_eq!(
            include_str!("../../../docs/reference/worker-agent.toml"),
            reference(),
            "renew it: cargo run --bin worker-agent -- config reference > docs/reference/worker-agent.toml"
        );
    }

    #[test]
    fn the_reference_changes_nothing_and_its_examples_are_sound() {
        assert_eq!(load(&reference()).unwrap(), Config::default());
        let config = load(&stack::reference::with_examples(&reference())).unwrap();
        crate::live::check(&config).unwrap();
        assert_eq!(config.worker.qgis.projects.search_paths["/"], "/srv/projects");
        assert_eq!(config.worker.storage.s3["maps"].endpoint, "https://s3.example.org");
        assert_eq!(config.worker.storage.custom["depot"].handler, "package.module.Class");
    }

    #[test]
    fn what_cannot_be_used_is_named_with_the_remedy() {
        let said = |change: fn(&mut Config)| {
            let mut config = Config::default();
            config
                .worker
                .qgis
                .projects
                .search_paths
                .insert("/".into(), "/srv".into());
            change(&mut config);
            let checks = [
                config.policy().err(),
                config.classes().err(),
                config.shutdown_grace().err(),
                config.search_paths().err(),
                config.sharing_rules().err(),
            ];
            checks
                .into_iter()
                .flatten()
                .map(|error| error.to_string())
                .collect::<Vec<_>>()
                .join("; ")
        };
        assert_eq!(said(|_| {}), "");
        assert!(said(|config| config.server.timeout = 0.0).contains("`server.timeout`: expected more than 0"));
        assert!(said(|config| config.server.timeout = f64::NAN).contains("server.timeout"));
        assert!(said(|config| config.worker.cancel_timeout = -1.0).contains("worker.cancel_timeout"));
        assert!(said(|config| config.worker.max_failure_pressure = 0.0).contains("above 0"));
        assert!(said(|config| config.worker.num_processes = 5000).contains("at most 1024"));
        assert!(said(|config| config.worker.qgis.max_projects = 0).contains("at least 1"));
        assert!(said(|config| config.worker.qgis.projects.search_paths.clear()).contains("none is set"));
        assert!(said(|config| config.cache.max_age = -1.0).contains("`cache.max_age`: expected 0 (not kept) to"));
        assert!(said(|config| config.cache.map_max_age = f64::NAN).contains("cache.map_max_age"));
        assert!(said(|config| config.cache.vary_headers = vec!["not a name".into()]).contains("`not a name` is no"));
        let vary = |config: &mut Config| config.cache.vary_headers = vec!["x-user".into(), "Accept".into()];
        assert!(said(vary).contains("`cache.vary_headers`: `x-user` does not reach plugins"));
        assert_eq!(
            said(|config| {
                config.cache.vary_headers = vec!["x-user".into(), "host".into()];
                config.worker.qgis.forward_headers = vec!["X-*".into()];
            }),
            ""
        );
        assert_eq!(said(|config| config.cache.max_age = 0.0), "");
        let relative = |config: &mut Config| {
            config
                .worker
                .qgis
                .projects
                .search_paths
                .insert("/x".into(), "relative".into());
        };
        assert!(said(relative).contains("relative"));
    }

    #[test]
    fn what_classes_cannot_be_is_named_with_the_remedy() {
        let said = |text: &str| match load(text).and_then(|config| config.classes()) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        assert_eq!(said(""), "");
        for (text, expected) in [
            (
                "[server.timeouts]\n\"WMS/GetMap\" = 0.0",
                "`server.timeouts.WMS/GetMap`: expected more than 0",
            ),
            (
                "[server.timeouts]\nWFS = nan",
                "`server.timeouts.WFS`: expected a number, found NaN",
            ),
            (
                "[server.timeouts]\nWPS = 1.0",
                "`server.timeouts.WPS`: `WPS` is no service; expected WMS, WFS, WCS, WMTS or wfs3",
            ),
            (
                "[[worker.lanes.heavy_rules]]\nservice = \"WMS\"\n[[worker.lanes.heavy_rules]]\nservice = \"WXS\"",
                "`worker.lanes.heavy_rules[1].service`: `WXS` is no service",
            ),
            (
                "[worker.lanes.heavy]\nmaximum = 1.5",
                "`worker.lanes.heavy.maximum`: expected at least 0 and at most 1, found 1.5",
            ),
            (
                "[worker.lanes.interactive]\nguaranteed = -0.1",
                "`worker.lanes.interactive.guaranteed`: expected at least 0 and at most 1",
            ),
            (
                "[worker.lanes.heavy]\nguaranteed = nan",
                "`worker.lanes.heavy.guaranteed`: expected a number, found NaN",
            ),
            (
                "[worker.lanes.heavy]\nguaranteed = 0.4\nmaximum = 0.3",
                "`worker.lanes.heavy.guaranteed`: 0.4 is more than the lane's maximum of 0.3",
            ),
            (
                "[worker.lanes.heavy]\nguaranteed = 0.75\nmaximum = 1.0",
                "`worker.lanes`: the lanes are guaranteed 1.25 of the workers together",
            ),
        ] {
            assert!(said(text).contains(expected), "{text}: {}", said(text));
        }
        let thirds = "[worker.lanes.interactive]\nguaranteed = 0.7\n[worker.lanes.heavy]\nguaranteed = 0.3";
        assert_eq!(said(thirds), "");
    }

    #[test]
    fn a_timeout_of_ones_own_stands_beside_the_default_ones() {
        let config = load("[server.timeouts]\n\"WMS/GetMap\" = 90.0").unwrap();
        assert_eq!(config.classes().unwrap().longest(), Duration::from_secs(90));
        assert_eq!(config.server.timeouts.len(), 2, "{:?}", config.server.timeouts);
        let config = load("[server.timeouts]\n\"wms/getprint\" = 30.0").unwrap();
        assert_eq!(config.classes().unwrap().longest(), Duration::from_secs(30));
    }
}
