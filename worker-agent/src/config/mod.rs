//! The agent's configuration tree. Where QJazz has the same thing, it has the same name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use graticule_daemon::access::Access;
pub use graticule_daemon::config::ConfigError;
use graticule_daemon::config::{ADDRESS, join};
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

/// `[server]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// The HTTP data port, for Envoy.
    #[schemars(extend("x-expected" = ADDRESS))]
    pub http_listen: SocketAddr,
    /// The gRPC port: `QgisServer`, `QgisAdmin`, health, reflection.
    #[schemars(extend("x-expected" = ADDRESS))]
    pub grpc_listen: SocketAddr,
    /// The port of `/metrics`, `/healthz` and `/readyz`.
    #[schemars(extend("x-expected" = ADDRESS))]
    pub metrics_listen: SocketAddr,
    /// TLS of the HTTP data port; the control plane's `pools.NAME.tls` has Envoy speak it. docs/tls.md.
    pub http_tls: TlsServer,
    /// TLS of the gRPC port.
    pub grpc_tls: TlsServer,
    /// Who may do what on the gRPC port: docs/tls.md. Clients that ask for maps have the role `peer`. While no token and no
    /// certificate is named, whoever reaches the port may do everything.
    pub access: Access,
    /// A request must have answered after so many seconds, waiting included.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub timeout: f64,
    /// What goes before `server.timeout` for single services and requests, in seconds: `SERVICE/Request`, `SERVICE` or the root
    /// of an API, in any letter case; of an API the request is its method. The longest name that matches counts.
    #[schemars(extend("additionalProperties" = seconds_schema(), "examples" = [{"WFS": 40.0, "wfs3/POST": 30.0}]))]
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
    /// How many QGIS processes; 0: one for each processor, and no more than one for each 512 MiB of memory.
    #[schemars(range(max = 1024))]
    pub num_processes: usize,
    /// How many requests may wait for a worker. What comes over it is answered with 503 and Retry-After, to be tried on
    /// another agent.
    pub max_waiting_requests: usize,
    /// A worker's start may take so many seconds.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub process_start_timeout: f64,
    /// A cancelled request has so many seconds to stop before its worker is killed.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub cancel_timeout: f64,
    /// When failed workers within `failure_window`, over configured workers, are more than this, the agent exits with code 3.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub max_failure_pressure: f64,
    /// A worker's failure counts for so many seconds.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 86400))]
    pub failure_window: f64,
    /// How workers are started.
    pub start_method: StartMethod,
    /// The Python that has QGIS's bindings: the distribution's, for which they are built.
    pub python: PathBuf,
    /// The directory that pins are kept in; empty: `graticule-<http port>` in `$XDG_STATE_HOME` or `~/.local/state`.
    pub state_dir: PathBuf,
    /// The directory for temporary files of the agent and its workers; empty: a fresh one that is removed at the end.
    pub runtime_dir: PathBuf,
    /// What memory workers may use. A worker's memory is what only it uses: its private dirty pages.
    pub memory: Memory,
    /// When sound workers are replaced. Each draws its own limits from the last fifth below these, so that they never go
    /// together.
    pub recycle: Recycle,
    /// Which requests are heavy, and what part of the workers each lane may take: docs/limits.md.
    pub lanes: Lanes,
    /// Requests that kill workers: docs/quarantine.md.
    pub quarantine: Quarantine,
    /// What workers may do: docs/isolation.md.
    pub isolation: Isolation,
    /// How storages of projects are spoken to: docs/projects.md.
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
    /// Open layers read-only; loads large projects about four times faster. Turn it off for WFS transactions; pinned projects
    /// are then loaded by each worker for itself.
    pub force_readonly_layers: bool,
    /// Believe the extents and types that the project file states.
    pub trust_layer_metadata: bool,
    /// Leave print layouts out; `GetPrint` then fails.
    pub disable_getprint: bool,
    /// Let a zygote draw one throwaway map before it is forked from: first maps are faster and take less memory.
    pub warm_up: bool,
    /// Headers of clients that reach QGIS and its plugins besides Accept, Content-Type and X-Qgis-*; `name*` means all that
    /// begin so.
    pub forward_headers: Vec<String>,
    /// QGIS's server plugins: docs/plugins.md.
    pub plugins: Plugins,
    /// Where projects are.
    pub projects: Projects,
}

/// `[worker.qgis.projects]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Projects {
    /// Public location → directory or URL of a storage; at least one has to be set. A location may have dynamic segments, as in
    /// `"/{user}/maps" = "/srv/{user}/maps"`; the longest that matches counts. docs/projects.md.
    #[schemars(extend("examples" = [{"/": "/srv/projects"}]))]
    pub search_paths: BTreeMap<String, String>,
    /// Whether a request may name any project file of this machine by its path, whatever the search paths say. Only where every
    /// client is trusted.
    pub allow_direct_path_resolution: bool,
    /// Whether the first request for a project has it loaded; else only projects that are pinned or were checked out are
    /// served.
    pub load_project_on_request: bool,
    /// Whether a changed project is loaded by the next request, which waits for that; else it is loaded between requests, while
    /// the old version is served.
    pub reload_outdated_project_on_request: bool,
    /// For so many seconds after its start the agent is not ready while a project that was pinned before cannot be found.
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
