//! `[rest]`: the administration of the fleet as REST, by a listener of Envoy's of its own. Who may do what is asked on the fleet port,
//! so there is no listener before that asks for tokens.
//!
//! What it does not know: the methods and their paths, Envoy's messages, what stands in files.

use std::net::SocketAddr;

use graticule_daemon::tls::{TlsClient, TlsError, TlsServer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::balance::is_address;
use super::{Config, FleetConfig, Unusable, loopback};
use crate::core::views::DEFAULT;

/// `[rest]`: the administration of the fleet as REST. Envoy translates between JSON and the fleet port's gRPC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rest {
    /// Whether Envoys have the listener. It needs `fleet.access` with a token of the role `full` or `read`.
    pub enabled: bool,
    /// Where Envoys take requests: HTTPS with `tls`, else HTTP.
    pub listen: SocketAddr,
    /// The listener may be reached from other machines without TLS, where tokens can be read by who listens in.
    pub insecure: bool,
    /// Where Envoys reach the fleet port, `HOST:PORT` with a name or an IP address; empty: `fleet.listen`.
    pub fleet: String,
    /// How Envoys speak with the fleet port where that has TLS. A `server_name` left empty is the host of `fleet`.
    pub fleet_tls: TlsClient,
    /// HTTPS of the listener. Its `client_ca_file` is a gate besides the tokens: certificates of clients have no role here.
    pub tls: TlsServer,
    /// The views whose Envoys have the listener, `default` for Envoys of no view; none means every view.
    pub views: Vec<String>,
}

impl Default for Rest {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: loopback(9903),
            insecure: false,
            fleet: String::new(),
            fleet_tls: TlsClient::default(),
            tls: TlsServer::default(),
            views: Vec::new(),
        }
    }
}

impl Rest {
    /// Host and port where Envoys reach the fleet port. Call it on a configuration that was checked.
    #[must_use]
    pub fn upstream(&self, fleet: &FleetConfig) -> (String, u16) {
        let named = self.fleet.rsplit_once(':').and_then(|(host, port)| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Some((host.to_owned(), port.parse().ok()?))
        });
        named.unwrap_or_else(|| (fleet.listen.ip().to_string(), fleet.listen.port()))
    }

    /// The name that the fleet port's certificate must have.
    #[must_use]
    pub fn server_name(&self, fleet: &FleetConfig) -> String {
        match self.fleet_tls.server_name.as_str() {
            "" => self.upstream(fleet).0,
            name => name.to_owned(),
        }
    }

    /// Whether Envoys of a view have the listener, if there is one.
    pub(super) fn is_for(&self, view: &str) -> bool {
        self.views.is_empty() || self.views.iter().any(|name| name == view)
    }

    fn check_gate(&self, fleet: &FleetConfig) -> Result<(), Unusable> {
        let access = &fleet.access;
        if !access.has_tokens() {
            let problem = if access.certificates.is_empty() {
                "whoever reached the listener could do everything: name a token of the fleet port first, with \
                 fleet.access.full_token_file or fleet.access.read_token_file"
            } else {
                "the fleet port knows certificates alone, and those of clients end at Envoy: name a token besides, with \
                 fleet.access.full_token_file or fleet.access.read_token_file"
            };
            return Err(unusable("enabled", "true", problem));
        }
        if !self.listen.ip().is_loopback() && !self.tls.is_on() && !self.insecure {
            let problem = "it can be reached from other machines, and tokens would be sent in the clear: configure rest.tls; or have \
                           it listen on loopback; or, where only trusted machines reach it, set rest.insecure to true";
            return Err(unusable("listen", &self.listen.to_string(), problem));
        }
        Ok(())
    }

    fn check_upstream(&self, fleet: &FleetConfig) -> Result<(), Unusable> {
        if !self.fleet.is_empty() && !is_address(&self.fleet) {
            let problem = "write it as HOST:PORT, with an IP address or a name, as in `control-plane:18001`";
            return Err(unusable("fleet", &self.fleet, problem));
        }
        if self.fleet.is_empty() && (fleet.listen.ip().is_unspecified() || fleet.listen.port() == 0) {
            let problem = format!(
                "fleet.listen is {}, which is no address to call: name the one where Envoys reach it, as in `control-plane:18001`",
                fleet.listen
            );
            return Err(unusable("fleet", "", &problem));
        }
        let tls = &self.fleet_tls;
        tls.check("rest.fleet_tls")?;
        let of = |name: &str, problem: &str| Err(TlsError::of(format!("rest.fleet_tls.{name}"), problem).into());
        if !fleet.tls.is_on() {
            return if tls.is_set() {
                of(
                    "ca_file",
                    "the fleet port speaks plaintext: remove rest.fleet_tls, or configure fleet.tls",
                )
            } else {
                Ok(())
            };
        }
        if tls.ca_file.as_os_str().is_empty() {
            let problem = "it is not set, and the fleet port has TLS: name the PEM file of the authority that has signed its certificate";
            return of("ca_file", problem);
        }
        if fleet.tls.asks_clients() && !tls.shows_certificate() {
            let problem = "it is not set, and the fleet port asks for certificates: name the PEM file of one for Envoy, whose \
                           name has no role in fleet.access.certificates";
            return of("cert_file", problem);
        }
        if tls.shows_certificate() && fleet.access.certificates.contains_key("*") {
            let problem = "fleet.access.certificates has a role for any certificate, so also for this one, and whoever reached the \
                           listener would have it: name those that have roles one by one";
            return of("cert_file", problem);
        }
        Ok(())
    }
}

fn unusable(key: &str, value: &str, problem: &str) -> Unusable {
    Unusable::Value {
        key: format!("rest.{key}"),
        value: value.to_owned(),
        problem: problem.to_owned(),
    }
}

impl Config {
    /// Checks the listener for REST.
    ///
    /// # Errors
    /// The first thing of it that cannot be used.
    pub(super) fn check_rest(&self) -> Result<(), Unusable> {
        let rest = &self.rest;
        rest.tls.check("rest.tls")?;
        let known = |view: &String| view == DEFAULT || self.views.contains_key(view);
        if let Some(view) = rest.views.iter().find(|view| !known(view)) {
            let problem = "there is no such view; name one of `views`, or `default`";
            return Err(unusable("views", view, problem));
        }
        if !rest.enabled {
            return Ok(());
        }
        rest.check_gate(&self.fleet)?;
        rest.check_upstream(&self.fleet)?;
        for (view, config) in self.by_view() {
            let (rest, front) = (&config.rest, &config.front);
            let https = front.tls.is_on().then_some(front.tls.listen);
            let taken = [("listen", Some(front.listen)), ("tls.listen", https)];
            let shared = taken.iter().find(|(_, address)| *address == Some(rest.listen));
            if let (true, Some((key, _))) = (rest.enabled, shared) {
                let of = if view == DEFAULT {
                    String::new()
                } else {
                    format!(" in view `{view}`")
                };
                let problem = format!("front.{key} is the same{of}: take another port");
                return Err(unusable("listen", &rest.listen.to_string(), &problem));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use graticule_daemon::access::Role;

    use super::*;
    use crate::config::View;

    /// With a token, and on.
    fn with(change: impl FnOnce(&mut Config)) -> Result<(), String> {
        let mut config = Config::default();
        config.fleet.access.full_token_file = "/token".into();
        config.rest.enabled = true;
        change(&mut config);
        config.check().map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_off_by_default_and_on_with_a_token() {
        assert!(!Rest::default().enabled);
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(
            with(|config| {
                let access = &mut config.fleet.access;
                (access.full_token_file, access.read_token) = ("".into(), "0123456789abcdef".to_owned().into());
            }),
            Ok(())
        );
    }

    #[test]
    fn what_cannot_be_used_is_named_with_the_remedy() {
        for (says, change) in [
            (
                "`rest.enabled` has `true`: whoever reached the listener could do everything",
                (|config| config.fleet.access.full_token_file = "".into()) as fn(&mut Config),
            ),
            ("`rest.enabled` has `true`: whoever reached", |config| {
                // What agents show lets nobody look.
                let access = &mut config.fleet.access;
                (access.full_token_file, access.peer_token_file) = ("".into(), "/peer".into());
            }),
            (
                "`rest.enabled` has `true`: the fleet port knows certificates alone",
                |config| {
                    config.fleet.access.full_token_file = "".into();
                    config.fleet.access.certificates = [("ops".to_owned(), Role::Full)].into();
                    let tls = &mut config.fleet.tls;
                    (tls.cert_file, tls.key_file, tls.client_ca_file) = ("/c".into(), "/k".into(), "/ca".into());
                },
            ),
            ("`rest.listen` has `0.0.0.0:9903`: it can be reached", |config| {
                config.rest.listen.set_ip([0, 0, 0, 0].into());
            }),
            (
                "`rest.listen` has `127.0.0.1:9080`: front.listen is the same",
                |config| {
                    config.rest.listen = config.front.listen;
                },
            ),
            ("front.tls.listen is the same in view `edge`", |config| {
                config.front.tls.auto = true;
                let view = View {
                    nodes: vec!["e".to_owned()],
                    tls_listen: Some(config.rest.listen),
                    ..View::default()
                };
                config.views.insert("edge".to_owned(), view);
            }),
            ("`rest.fleet` has ``: fleet.listen is 0.0.0.0:18001", |config| {
                config.fleet.listen.set_ip([0, 0, 0, 0].into());
                config.fleet.access.insecure = true;
            }),
            ("`rest.fleet` has `http://x`: write it as HOST:PORT", |config| {
                config.rest.fleet = "http://x".to_owned();
            }),
            ("`rest.fleet_tls.ca_file`: the fleet port speaks plaintext", |config| {
                config.rest.fleet_tls.ca_file = "/ca".into();
            }),
            (
                "`rest.fleet_tls.ca_file`: it is not set, and the fleet port has TLS",
                |config| {
                    (config.fleet.tls.cert_file, config.fleet.tls.key_file) = ("/c".into(), "/k".into());
                },
            ),
            (
                "`rest.fleet_tls.cert_file`: it is not set, and the fleet port asks",
                |config| {
                    let tls = &mut config.fleet.tls;
                    (tls.cert_file, tls.key_file, tls.client_ca_file) = ("/c".into(), "/k".into(), "/ca".into());
                    config.rest.fleet_tls.ca_file = "/ca".into();
                },
            ),
            (
                "`rest.fleet_tls.cert_file`: fleet.access.certificates has a role for any",
                |config| {
                    let tls = &mut config.fleet.tls;
                    (tls.cert_file, tls.key_file, tls.client_ca_file) = ("/c".into(), "/k".into(), "/ca".into());
                    config.fleet.access.certificates = [("*".to_owned(), Role::Read)].into();
                    let tls = &mut config.rest.fleet_tls;
                    (tls.ca_file, tls.cert_file, tls.key_file) = ("/ca".into(), "/e".into(), "/e".into());
                },
            ),
            ("`rest.tls.client_ca_file`: /ca: it counts only with", |config| {
                config.rest.tls.client_ca_file = "/ca".into();
            }),
            ("`rest.views` has `edge`: there is no such view", |config| {
                config.rest.views = vec!["edge".to_owned()];
            }),
        ] {
            let said = with(change).unwrap_err();
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn where_the_fleet_port_is_reached_and_by_which_name() {
        let mut config = Config::default();
        let of = |config: &Config| {
            let (host, port) = config.rest.upstream(&config.fleet);
            (host, port, config.rest.server_name(&config.fleet))
        };
        let said = |host: &str, port, name: &str| (host.to_owned(), port, name.to_owned());
        assert_eq!(of(&config), said("127.0.0.1", 18001, "127.0.0.1"));
        config.rest.fleet = "[::1]:7".to_owned();
        assert_eq!(of(&config), said("::1", 7, "::1"));
        config.rest.fleet = "control-plane:18001".to_owned();
        assert_eq!(of(&config), said("control-plane", 18001, "control-plane"));
        config.rest.fleet_tls.server_name = "cp.example.org".to_owned();
        assert_eq!(of(&config).2, "cp.example.org");
    }

    #[test]
    fn views_have_it_where_it_is_wanted_and_on_a_port_of_their_own() {
        let mut config = Config::default();
        config.rest.enabled = true;
        let own = "127.0.0.1:9999".parse().unwrap();
        for (name, rest_listen) in [("edge", None), ("inner", Some(own))] {
            let view = View {
                nodes: vec![name.to_owned()],
                rest_listen,
                ..View::default()
            };
            config.views.insert(name.to_owned(), view);
        }
        let has = |config: &Config| -> Vec<(String, SocketAddr)> {
            let views = config.by_view().into_iter();
            views
                .filter(|(_, config)| config.rest.enabled)
                .map(|(view, config)| (view, config.rest.listen))
                .collect()
        };
        let usual = Rest::default().listen;
        let said = |view: &str, listen| (view.to_owned(), listen);
        assert_eq!(
            has(&config),
            [said("default", usual), said("edge", usual), said("inner", own)]
        );
        config.rest.views = vec!["inner".to_owned()];
        assert_eq!(has(&config), [said("inner", own)]);
        config.rest.views = vec![DEFAULT.to_owned()];
        assert_eq!(has(&config), [said("default", usual)]);
    }
}
