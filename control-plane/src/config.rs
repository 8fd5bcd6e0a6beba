//! The control plane's configuration: one typed tree with defaults. How its layers (file, environment) come together
//! is the business of `graticule_daemon::config`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use graticule_daemon::access::Access;
use graticule_daemon::config::{ADDRESS, Alias};
use graticule_daemon::telemetry::Logging;
use graticule_daemon::tls::{TlsError, TlsServer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::fleet::Timing;
use crate::core::routing;

mod balance;
mod cors;
mod fragments;
mod front;
mod pools;
mod rest;
mod tls;
mod views;

pub use balance::{Ejection, HealthCheck, MOST_REPLICAS};
pub use cors::{Cors, Origins};
pub use fragments::Fragment;
pub use front::{Algorithm, Compression, Front, Limits};
pub use pools::{Pool, PoolRoute, Rate, Routed, routed};
pub use rest::Rest;
pub use tls::{FrontTls, MinVersion};
pub use views::{UnusableView, View};

/// Names that QJazz has for keys of ours; docs/from-qjazz.md lists them with the rest.
pub const ALIASES: &[Alias] = &[
    Alias {
        name: "server.address",
        key: "front.listen",
    },
    Alias {
        name: "server.backends_request_timeout",
        key: "front.request_timeout",
    },
    Alias {
        name: "server.enable_tls",
        key: "front.tls.enabled",
    },
    Alias {
        name: "server.tls_cert_file",
        key: "front.tls.cert_file",
    },
    Alias {
        name: "server.tls_key_file",
        key: "front.tls.key_file",
    },
];

/// The pool that agents belong to unless they say otherwise.
pub const DEFAULT_POOL: &str = "default";

/// Everything that can be configured. Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is logged, and how.
    pub logging: Logging,
    /// The port for Envoy: docs/xds.md.
    pub xds: Xds,
    /// The port for agents and tools, and the patience with agents.
    pub fleet: FleetConfig,
    /// The port for Prometheus and people.
    pub status: Status,
    /// Where pins, settings and the quarantine are kept: docs/control-plane.md.
    pub store: StoreConfig,
    /// What Envoy does for clients of every pool: docs/front.md.
    pub front: Front,
    /// The administration of the fleet as REST, by a listener of Envoy's.
    pub rest: Rest,
    /// Pools of agents and what requests they serve, by pool name. None at all means one pool, `default`, for every host.
    #[schemars(extend("examples" = [{"maps": {"hosts": ["maps.example.org"]}}]))]
    pub pools: BTreeMap<String, Pool>,
    /// Envoys that are told something else than the rest, by the name of the view: docs/xds.md. None: all are told the same.
    #[schemars(extend("examples" = [{"edge": {"nodes": ["edge-*"], "pools": ["maps"]}}]))]
    pub views: BTreeMap<String, View>,
    /// Envoy's configuration in its own words, for what has no key here, by names of your own: docs/front.md.
    #[schemars(extend("examples" = [{"own": {"views": ["default"]}}]))]
    pub fragments: BTreeMap<String, Fragment>,
}

/// `[xds]`: the port for Envoy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Xds {
    /// Where Envoy finds its configuration (gRPC).
    #[schemars(extend("x-expected" = ADDRESS))]
    pub listen: SocketAddr,
    /// Envoys whose `node.cluster` is this are served, others wait; empty serves all.
    pub node_cluster: String,
    /// TLS of the port: docs/tls.md.
    pub tls: TlsServer,
    /// Who may do what on the port: docs/tls.md. Envoys have the role `peer`. While no token and no certificate is named,
    /// whoever reaches the port may do everything.
    pub access: Access,
}

impl Default for Xds {
    fn default() -> Self {
        Self {
            listen: loopback(18000),
            node_cluster: "graticule".to_owned(),
            tls: TlsServer::default(),
            access: Access::default(),
        }
    }
}

/// `[fleet]`: the port for agents and tools, and the patience with agents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FleetConfig {
    /// Where agents attach and tools ask (gRPC).
    #[schemars(extend("x-expected" = ADDRESS))]
    pub listen: SocketAddr,
    /// How long an agent whose stream broke is still told to Envoy, in seconds.
    #[schemars(range(min = 0, max = 60))]
    pub disconnect_grace: f64,
    /// How long after its start, and after the first agent has come, the control plane listens to agents before it tells Envoy
    /// anything, in seconds, so that they can come back first. Five times as long when none comes.
    #[schemars(range(min = 0, max = 60))]
    pub sync_window: f64,
    /// How long an agent may say nothing until its stream counts as broken, in seconds; agents speak every 5.
    #[schemars(range(min = 6, max = 600))]
    pub silence_limit: f64,
    /// TLS of the port: docs/tls.md.
    pub tls: TlsServer,
    /// Who may do what on the port: docs/tls.md. Agents have the role `peer`. While no token and no certificate is named,
    /// whoever reaches the port may do everything.
    pub access: Access,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            listen: loopback(18001),
            disconnect_grace: 0.5,
            sync_window: 2.0,
            silence_limit: 15.0,
            tls: TlsServer::default(),
            access: Access::default(),
        }
    }
}

/// `[status]`: the port for Prometheus and people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Status {
    /// Where `/metrics`, `/healthz`, `/readyz` and the status page are (HTTP).
    #[schemars(extend("x-expected" = ADDRESS))]
    pub listen: SocketAddr,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            listen: loopback(18002),
        }
    }
}

/// `[store]`: what outlives the control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The directory for pins, settings and the quarantine; empty: `graticule-control-plane-<fleet port>` in `$XDG_STATE_HOME`
    /// or `~/.local/state`.
    pub dir: PathBuf,
    /// A PostgreSQL database in the directory's place, which several control planes share, such as
    /// `postgresql://USER:PASSWORD@HOST/DATABASE`; empty: the directory.
    pub url: String,
    /// The PEM file of the authorities that may have signed the database's certificate; empty: the system's.
    pub ca_file: PathBuf,
}

impl StoreConfig {
    fn check(&self) -> Result<(), Unusable> {
        let known = ["postgresql://", "postgres://"]
            .iter()
            .any(|scheme| self.url.starts_with(scheme));
        if !self.url.is_empty() && !known {
            return Err(Unusable::StoreUrl(
                "begins with no known scheme, give it as postgresql://USER:PASSWORD@HOST/DATABASE",
            ));
        }
        if !self.url.is_empty() && !self.dir.as_os_str().is_empty() {
            return Err(Unusable::StoreUrl(
                "and `store.dir` are both set, the store is in one place: remove one of them",
            ));
        }
        Ok(())
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// What in a configuration cannot be used, and what to change.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unusable {
    /// A time outside its range.
    #[error("`{key}` is {value}, set it to a number of seconds from {least} to {most}")]
    Time {
        /// The key.
        key: &'static str,
        /// What it is set to.
        value: f64,
        /// The least that is allowed.
        least: f64,
        /// The most that is allowed.
        most: f64,
    },
    /// A pool's name that cannot be part of a resource's name.
    #[error("`pools.{0}`: the pool's name cannot be used, take letters, digits, `-`, `_` and `.`")]
    PoolName(String),
    /// A pool that no request can reach.
    #[error("`pools.{0}.hosts` is empty or has an empty name, give the pool at least one host, or remove it")]
    NoHost(String),
    /// A store that is in two places, or in none that is known.
    #[error("`store.url` {0}")]
    StoreUrl(&'static str),
    /// A pool that claims no path.
    #[error("`pools.{0}.routes` is empty, leave it out for every path, or remove the pool")]
    NoRoute(String),
    /// Routes that cannot be told apart.
    #[error(transparent)]
    Routes(routing::Conflict),
    /// A value that types allow and that cannot be used.
    #[error("`{key}` has `{value}`: {problem}")]
    Value {
        /// The key.
        key: String,
        /// The value, or the part of it that is meant.
        value: String,
        /// What is wrong, and what to change.
        problem: String,
    },
    /// Something of TLS or access.
    #[error("{0}")]
    Tls(TlsError),
    /// Something in a view.
    #[error(transparent)]
    View(#[from] UnusableView),
}

impl Config {
    /// Checks what types alone cannot.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn check(&self) -> Result<(), Unusable> {
        let times = [
            ("fleet.disconnect_grace", self.fleet.disconnect_grace, 0.0, 60.0),
            ("fleet.sync_window", self.fleet.sync_window, 0.0, 60.0),
            ("fleet.silence_limit", self.fleet.silence_limit, 6.0, 600.0),
            ("front.request_timeout", self.front.request_timeout, 0.1, 86_400.0),
            ("front.connect_timeout", self.front.connect_timeout, 0.01, 60.0),
        ];
        for (key, value, least, most) in times {
            if !(least..=most).contains(&value) {
                return Err(Unusable::Time {
                    key,
                    value,
                    least,
                    most,
                });
            }
        }
        self.store.check()?;
        self.front.check()?;
        pools::check(&self.pools)?;
        fragments::check(self)?;
        self.check_tls()?;
        self.check_views()?;
        self.check_rest()
    }

    /// The pools with their hosts; the one for everything when none is configured.
    #[must_use]
    pub fn effective_pools(&self) -> Cow<'_, BTreeMap<String, Pool>> {
        if self.pools.is_empty() {
            return Cow::Owned(BTreeMap::from([(DEFAULT_POOL.to_owned(), Pool::default())]));
        }
        Cow::Borrowed(&self.pools)
    }

    /// The fleet's limits. Call it on a configuration that was checked.
    #[must_use]
    pub fn timing(&self) -> Timing {
        Timing {
            disconnect_grace: seconds(self.fleet.disconnect_grace),
            sync_window: seconds(self.fleet.sync_window),
            silence_limit: seconds(self.fleet.silence_limit),
        }
    }
}

/// A time as configured. What is no time becomes none; [`Config::check`] refuses it before.
#[must_use]
pub fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}

/// Whether a name can stand in resource names, metrics and pages as it is.
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
    (1..=128).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(variables: &[(&str, &str)]) -> Config {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        graticule_daemon::config::load(None, variables).unwrap()
    }

    #[test]
    fn the_defaults_are_usable_and_on_loopback() {
        let config = load(&[]);
        assert_eq!(config, Config::default());
        assert_eq!(config.check(), Ok(()));
        let listen = [
            config.xds.listen,
            config.fleet.listen,
            config.status.listen,
            config.front.listen,
            config.rest.listen,
        ];
        assert!(listen.iter().all(|address| address.ip().is_loopback()));
        assert_eq!(config.effective_pools().keys().collect::<Vec<_>>(), [DEFAULT_POOL]);
    }

    fn reference() -> String {
        graticule_daemon::config::reference::<Config>("control-plane").unwrap()
    }

    #[test]
    fn the_reference_is_in_the_docs() {
        assert_eq!(
            include_str!("../../docs/reference/control-plane.toml"),
            reference(),
            "renew it: cargo run --bin control-plane -- config reference > docs/reference/control-plane.toml"
        );
    }

    #[test]
    fn the_reference_changes_nothing_and_its_examples_are_sound() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("control-plane.toml");
        let load = |text: String| -> Config {
            std::fs::write(&file, text).unwrap();
            graticule_daemon::config::load(Some(&file), []).unwrap()
        };
        assert_eq!(load(reference()), Config::default());
        let config = load(stack::reference::with_examples(&reference()));
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.pools["maps"].hosts, ["maps.example.org"]);
        assert_eq!(config.views["edge"].listen, Some("127.0.0.1:9081".parse().unwrap()));
        assert_eq!(config.fragments["own"].views, ["default"]);
    }

    #[test]
    fn variables_reach_every_depth() {
        let config = load(&[
            ("CONF_FLEET__DISCONNECT_GRACE", "0.25"),
            ("CONF_FRONT__LISTEN", "127.0.0.1:9999"),
            ("CONF_POOLS", r#"{"maps": {"hosts": ["maps.example.org"]}}"#),
        ]);
        assert_eq!(config.timing().disconnect_grace, Duration::from_millis(250));
        assert_eq!(config.front.listen.port(), 9999);
        assert_eq!(config.effective_pools()["maps"].hosts, ["maps.example.org"]);
    }

    #[test]
    fn what_cannot_be_used_is_named_with_the_remedy() {
        let mut config = Config::default();
        config.front.request_timeout = -1.0;
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "`front.request_timeout` is -1, set it to a number of seconds from 0.1 to 86400"
        );
        let two = |a: &str, b: &str| {
            let pool = |host: &str| Pool {
                hosts: vec![host.to_owned()],
                ..Pool::default()
            };
            let pools = BTreeMap::from([("a".to_owned(), pool(a)), ("b".to_owned(), pool(b))]);
            Config {
                pools,
                ..Config::default()
            }
            .check()
        };
        assert_eq!(two("x.org", "y.org"), Ok(()));
        assert!(matches!(two("x.org", "X.org"), Err(Unusable::Routes(_))));
        assert!(matches!(two("x.org", ""), Err(Unusable::NoHost(_))));
        let pools = BTreeMap::from([("a/b".to_owned(), Pool::default())]);
        assert!(matches!(
            Config {
                pools,
                ..Config::default()
            }
            .check(),
            Err(Unusable::PoolName(_))
        ));
    }
}
