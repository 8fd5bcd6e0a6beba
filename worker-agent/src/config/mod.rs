//! The agent's configuration tree. Where QJazz has the same thing, it has the same name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use graticule_daemon::access::Access;
pub use graticule_daemon::config::ConfigError;
use graticule_daemon::telemetry::Logging;
use graticule_daemon::tls::TlsServer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod aliases;
mod cache;
mod catalog;
mod fleet;
mod lanes;
mod limits;
mod plugins;
mod storage;
mod stores;
mod texts;
mod tls;

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
pub use storage::{PostgreSql, Storage};
pub use stores::{Bucket, Files, Handler, Secret};

/// Everything an operator can decide.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Log output.
    pub logging: Logging,
    /// What the agent listens on and how it treats requests.
    pub server: Server,
    /// The pool of QGIS processes.
    pub worker: Worker,
    /// Answers that are given again.
    pub cache: Cache,
    /// Which projects there are.
    pub catalog: Catalog,
    /// The control plane and how this agent is reached.
    pub fleet: Fleet,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// The HTTP data port, for Envoy.
    pub http_listen: SocketAddr,
    /// The gRPC port: `QgisServer`, `QgisAdmin`, health, reflection.
    pub grpc_listen: SocketAddr,
    /// `/metrics`, `/healthz` and `/readyz`.
    pub metrics_listen: SocketAddr,
    /// TLS of the HTTP data port; the control plane's `pools.NAME.tls` has Envoy speak it.
    pub http_tls: TlsServer,
    /// TLS of the gRPC port.
    pub grpc_tls: TlsServer,
    /// Who may do what on the gRPC port. Clients that ask for maps have the role `peer`.
    pub access: Access,
    /// A request must have answered after so many seconds, waiting included.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub timeout: f64,
    /// The same for single services and requests, such as `"WMS/GetPrint" = 50.0`, or `"wfs3" = 30.0` for all of an API.
    #[schemars(extend("additionalProperties" = seconds_schema()))]
    pub timeouts: BTreeMap<String, f64>,
    /// How often a request may lead to another one of this server, as when a project has a layer of this server's own WMS.
    pub max_loop_depth: u32,
    /// The largest request body, in bytes.
    pub max_body_size: usize,
    /// After SIGTERM, requests that run have so many seconds to finish.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub shutdown_grace_period: f64,
    /// After SIGTERM, so many seconds are given to Envoy to hear of it before the ports close. Only with a control plane.
    #[schemars(range(min = 0, max = 60))]
    pub drain_delay: f64,
}

/// `[worker]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// Names the agent in the fleet, in logs and in the header `x-graticule-agent`; made of host name and HTTP port when empty.
    pub name: String,
    /// How many QGIS processes; when 0, one for each processor, and no more than the memory has room for.
    #[schemars(range(max = 1024))]
    pub num_processes: usize,
    /// How many requests may wait for one.
    pub max_waiting_requests: usize,
    /// A start may take so many seconds.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub process_start_timeout: f64,
    /// A cancelled request has so many seconds to stop before its worker is killed.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub cancel_timeout: f64,
    /// The agent exits when failed workers within the window, over configured ones, are more than this.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub max_failure_pressure: f64,
    /// A failure counts for so many seconds.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub failure_window: f64,
    /// How workers are started.
    pub start_method: StartMethod,
    /// The Python that has QGIS's bindings: the distribution's.
    pub python: PathBuf,
    /// Pins are kept here; `graticule-<http port>` in the user's state directory when empty.
    pub state_dir: PathBuf,
    /// Temporary files of the agent and its workers; a fresh directory that is removed at the end when empty.
    pub runtime_dir: PathBuf,
    /// What workers may use.
    pub memory: Memory,
    /// When sound workers are replaced.
    pub recycle: Recycle,
    /// Which requests are heavy, and what they may take.
    pub lanes: Lanes,
    /// Requests that kill workers.
    pub quarantine: Quarantine,
    /// What workers may do.
    pub isolation: Isolation,
    /// How storages of projects are spoken to.
    pub storage: Storage,
    /// What QGIS is told.
    pub qgis: Qgis,
}

/// How workers are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StartMethod {
    /// Forked from a zygote: milliseconds, and shared memory.
    Fork,
    /// Each a process of its own: half a second, and about 200 MB each.
    Spawn,
}

/// `[worker.qgis]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Qgis {
    /// How many projects a worker keeps loaded besides pinned ones.
    #[schemars(range(min = 1))]
    pub max_projects: usize,
    /// Serve a project's good layers when others are bad.
    pub ignore_bad_layers: bool,
    /// Open layers read-only; loads large projects about four times faster. Turn it off for WFS transactions.
    pub force_readonly_layers: bool,
    /// Believe the extents and types that the project file states.
    pub trust_layer_metadata: bool,
    /// Leave print layouts out; `GetPrint` then fails.
    pub disable_getprint: bool,
    /// Let a zygote draw one throwaway map before it is forked from: first maps are faster and take less memory.
    pub warm_up: bool,
    /// Headers of clients that reach QGIS and its plugins besides those that QGIS reads; `name*` means all that begin so.
    pub forward_headers: Vec<String>,
    /// QGIS's server plugins.
    pub plugins: Plugins,
    /// Where projects are.
    pub projects: Projects,
}

/// `[worker.qgis.projects]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Projects {
    /// Public location → directory or URL of a storage, such as `"/" = "/srv/projects"`.
    pub search_paths: BTreeMap<String, String>,
    /// A request may name any project file of this machine by its path, whatever the search paths say. Only where every
    /// client is trusted.
    pub allow_direct_path_resolution: bool,
    /// The first request for a project has it loaded; else only projects that are pinned or were checked out are served.
    pub load_project_on_request: bool,
    /// A changed project is loaded by the next request, which waits for that; else between requests, while the old version is
    /// served.
    pub reload_outdated_project_on_request: bool,
    /// For so many seconds after its start the agent is not ready while a pinned project cannot be found.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub pins_patience: f64,
}

/// What [`seconds`] takes.
fn seconds_schema() -> serde_json::Value {
    serde_json::json!({ "type": "number", "format": "double", "exclusiveMinimum": 0, "maximum": 86400 })
}

impl Default for Projects {
    fn default() -> Self {
        Self {
            search_paths: BTreeMap::new(),
            allow_direct_path_resolution: false,
            load_project_on_request: true,
            reload_outdated_project_on_request: false,
            pins_patience: 30.0,
        }
    }
}

impl Server {
    /// The longest that any request may take, in seconds.
    #[must_use]
    pub fn longest_timeout(&self) -> f64 {
        self.timeouts.values().copied().fold(self.timeout, f64::max)
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            http_listen: SocketAddr::from(([127, 0, 0, 1], 23457)),
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], 23456)),
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 23458)),
            http_tls: TlsServer::default(),
            grpc_tls: TlsServer::default(),
            access: Access::default(),
            timeout: 20.0,
            timeouts: BTreeMap::from([("WMS/GetPrint".to_owned(), 50.0)]),
            max_loop_depth: 2,
            max_body_size: 10 * 1024 * 1024,
            shutdown_grace_period: 10.0,
            drain_delay: 0.5,
        }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            name: String::new(),
            num_processes: 0,
            max_waiting_requests: 50,
            process_start_timeout: 30.0,
            cancel_timeout: 3.0,
            max_failure_pressure: 5.0,
            failure_window: 60.0,
            start_method: StartMethod::Fork,
            python: "/usr/bin/python3".into(),
            state_dir: PathBuf::new(),
            runtime_dir: PathBuf::new(),
            memory: Memory::default(),
            recycle: Recycle::default(),
            lanes: Lanes::default(),
            quarantine: Quarantine::default(),
            isolation: Isolation::default(),
            storage: Storage::default(),
            qgis: Qgis::default(),
        }
    }
}

impl Default for Qgis {
    fn default() -> Self {
        Self {
            max_projects: 50,
            ignore_bad_layers: true,
            force_readonly_layers: true,
            trust_layer_metadata: true,
            disable_getprint: false,
            warm_up: true,
            forward_headers: Vec::new(),
            plugins: Plugins::default(),
            projects: Projects::default(),
        }
    }
}

fn wrong(key: &str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Invalid {
        origin: "configuration".into(),
        key: key.into(),
        problem: problem.into(),
    }
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
        SearchPaths::new(paths.iter()).map_err(|error| wrong(KEY, error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// The first TOML tree of the page.
    fn documented() -> String {
        let page = include_str!("../../../docs/configuration.md");
        let start = page.find("```toml\n").expect("the page has a tree") + "```toml\n".len();
        page[start..]
            .split("```")
            .next()
            .expect("a split has a first part")
            .to_owned()
    }

    fn load(text: &str) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "{text}").unwrap();
        graticule_daemon::config::load(Some(file.path()), [])
    }

    #[test]
    fn the_documented_tree_has_every_key_with_its_default() {
        assert_eq!(load(&documented()).unwrap(), Config::default());
        let tree = serde_json::to_value(Config::default()).unwrap();
        let mut keys = Vec::new();
        collect(&tree, &mut keys);
        for key in keys {
            assert!(
                documented().lines().any(|line| line.starts_with(&format!("{key} = "))),
                "`{key}` is not documented"
            );
        }
    }

    fn collect(tree: &serde_json::Value, keys: &mut Vec<String>) {
        for (key, value) in tree.as_object().into_iter().flatten() {
            let inline = documented().lines().any(|line| line.starts_with(&format!("{key} = ")));
            match value.as_object() {
                Some(inner) if !inner.is_empty() && !inline => collect(value, keys),
                _ => keys.push(key.clone()),
            }
        }
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
