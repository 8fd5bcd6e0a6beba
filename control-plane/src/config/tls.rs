//! `[front.tls]`: HTTPS for clients; and what of TLS and access in the whole tree can be checked without its files.

use std::net::SocketAddr;
use std::path::PathBuf;

use graticule_daemon::config::ADDRESS;
use graticule_daemon::tls::{TlsClient, TlsError, TlsServer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, Unusable, loopback};

/// `[front.tls]`: HTTPS for clients. Envoy is given certificates by the control plane, which reads them again when the files
/// change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FrontTls {
    /// Whether there is HTTPS; left out: when `cert_file` or `auto` is set.
    #[schemars(extend("examples" = [false]))]
    pub enabled: Option<bool>,
    /// Where Envoy takes HTTPS; the same as `front.listen` for HTTPS alone.
    #[schemars(extend("x-expected" = ADDRESS))]
    pub listen: SocketAddr,
    /// The port as clients see it, for redirects and HTTP/3; 0: that of `listen`.
    pub public_port: u16,
    /// The PEM file of the certificate, followed by those of the authorities between it and the root.
    pub cert_file: PathBuf,
    /// The PEM file of the certificate's private key.
    pub key_file: PathBuf,
    /// The PEM file of authorities. When it is set, only clients with a certificate that one of them has signed are served.
    pub client_ca_file: PathBuf,
    /// Whether the control plane signs a certificate itself at its start, for development.
    pub auto: bool,
    /// The oldest version of TLS that is spoken.
    pub min_version: MinVersion,
    /// Whether there is HTTP/3 on the same port (UDP), which answers over HTTPS tell clients of.
    pub http3: bool,
    /// Whether requests to `front.listen` are led to HTTPS and not answered.
    pub redirect_http: bool,
    /// For how long, in seconds, browsers are to come by HTTPS only (Strict-Transport-Security); 0: nothing is said.
    pub hsts_max_age: u32,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MinVersion {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

impl Default for FrontTls {
    fn default() -> Self {
        Self {
            enabled: None,
            listen: loopback(9443),
            public_port: 0,
            cert_file: PathBuf::new(),
            key_file: PathBuf::new(),
            client_ca_file: PathBuf::new(),
            auto: false,
            min_version: MinVersion::default(),
            http3: false,
            redirect_http: false,
            hsts_max_age: 0,
        }
    }
}

impl FrontTls {
    /// Whether there is HTTPS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.enabled
            .unwrap_or(self.auto || !self.cert_file.as_os_str().is_empty())
    }

    /// Whether clients without a certificate are refused.
    #[must_use]
    pub fn asks_clients(&self) -> bool {
        self.is_on() && !self.client_ca_file.as_os_str().is_empty()
    }

    /// The port as clients see it.
    #[must_use]
    pub const fn seen_port(&self) -> u16 {
        match self.public_port {
            0 => self.listen.port(),
            port => port,
        }
    }

    fn check(&self) -> Result<(), Unusable> {
        if self.is_on() && self.auto {
            let named = [("cert_file", &self.cert_file), ("key_file", &self.key_file)];
            if let Some((name, file)) = named.into_iter().find(|(_, file)| !file.as_os_str().is_empty()) {
                return Err(Unusable::Value {
                    key: format!("front.tls.{name}"),
                    value: file.display().to_string(),
                    problem: "front.tls.auto makes a certificate of its own: remove one of the two".to_owned(),
                });
            }
        } else {
            self.as_port().check("front.tls")?;
        }
        if self.is_on() && self.http3 && self.asks_clients() {
            return Err(Unusable::Value {
                key: "front.tls.http3".to_owned(),
                value: "true".to_owned(),
                problem:
                    "Envoy asks for no client certificates over HTTP/3: turn it off, or remove front.tls.client_ca_file"
                        .to_owned(),
            });
        }
        for (key, set) in [("http3", self.http3), ("redirect_http", self.redirect_http)] {
            if set && !self.is_on() {
                return Err(Unusable::Value {
                    key: format!("front.tls.{key}"),
                    value: "true".to_owned(),
                    problem: "there is no HTTPS: set front.tls.cert_file and key_file, or auto for development"
                        .to_owned(),
                });
            }
        }
        Ok(())
    }

    fn as_port(&self) -> TlsServer {
        TlsServer {
            enabled: self.enabled,
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            client_ca_file: self.client_ca_file.clone(),
        }
    }
}

impl From<TlsError> for Unusable {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl Config {
    /// Checks TLS and access of every port.
    ///
    /// # Errors
    /// The first thing that cannot be used.
    pub(super) fn check_tls(&self) -> Result<(), Unusable> {
        self.front.tls.check()?;
        for (pool, settings) in &self.pools {
            let key = format!("pools.{pool}.tls");
            settings.tls.check(&key)?;
            if settings.tls.is_set() && settings.tls.ca_file.as_os_str().is_empty() {
                let problem =
                    "it is not set: name the PEM file of the authority that has signed the agents' certificates";
                return Err(TlsError::of(format!("{key}.ca_file"), problem).into());
            }
        }
        for (key, tls, access, listen) in [
            ("xds", &self.xds.tls, &self.xds.access, self.xds.listen),
            ("fleet", &self.fleet.tls, &self.fleet.access, self.fleet.listen),
        ] {
            tls.check(&format!("{key}.tls"))?;
            access.check(&format!("{key}.access"), tls, (&format!("{key}.listen"), listen))?;
        }
        Ok(())
    }

    /// What is secured and how, in sentences.
    #[must_use]
    pub fn says_of_tls(&self) -> Vec<String> {
        let tls = &self.front.tls;
        let mut says = Vec::new();
        says.push(if tls.is_on() {
            let certificate = if tls.auto {
                "a certificate of its own, for development".to_owned()
            } else {
                tls.cert_file.display().to_string()
            };
            let clients = if tls.asks_clients() {
                ", clients need a certificate"
            } else {
                ""
            };
            let http3 = if tls.http3 { ", HTTP/3" } else { "" };
            format!("clients: HTTPS at {} with {certificate}{http3}{clients}", tls.listen)
        } else {
            format!("clients: HTTP at {}", self.front.listen)
        });
        for (port, of, tls, access) in [
            ("Envoys", self.xds.listen, &self.xds.tls, &self.xds.access),
            (
                "agents and tools",
                self.fleet.listen,
                &self.fleet.tls,
                &self.fleet.access,
            ),
        ] {
            says.push(format!("{port} at {of}: {}; {}", tls.says(), access.says(tls)));
        }
        if self.rest.enabled {
            let (rest, access) = (&self.rest, self.fleet.access.says(&self.fleet.tls));
            says.push(format!("REST at {}: {}; {access}", rest.listen, rest.tls.says()));
        }
        let secured = |tls: &TlsClient| if tls.is_set() { "TLS" } else { "plaintext" };
        let pools = self.effective_pools();
        let pools: Vec<String> = pools
            .iter()
            .map(|(pool, of)| format!("{pool} by {}", secured(&of.tls)))
            .collect();
        says.push(format!("Envoy to agents: {}", pools.join(", ")));
        says
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        config
            .check()
            .map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn what_cannot_be_used_is_named_with_the_remedy() {
        let file = || PathBuf::from("/x.pem");
        assert_eq!(said(|config| config.front.tls.auto = true), "");
        assert_eq!(
            said(|config| {
                config.front.tls.cert_file = file();
                config.front.tls.key_file = file();
            }),
            ""
        );
        for (says, change) in [
            (
                "`front.tls.key_file`: it is not set",
                (|config, file| config.front.tls.cert_file = file) as fn(&mut Config, PathBuf),
            ),
            ("`front.tls.cert_file`: it is not set", |config, _| {
                config.front.tls.enabled = Some(true);
            }),
            (
                "`front.tls.client_ca_file`: /x.pem: it counts only with",
                |config, file| {
                    config.front.tls.client_ca_file = file;
                },
            ),
            (
                "`front.tls.cert_file` has `/x.pem`: front.tls.auto makes",
                |config, file| {
                    (config.front.tls.auto, config.front.tls.cert_file) = (true, file);
                },
            ),
            ("`front.tls.http3` has `true`: there is no HTTPS", |config, _| {
                config.front.tls.http3 = true;
            }),
            (
                "`front.tls.redirect_http` has `true`: there is no HTTPS",
                |config, _| {
                    config.front.tls.redirect_http = true;
                },
            ),
            (
                "`front.tls.http3` has `true`: Envoy asks for no client certificates",
                |config, file| {
                    (config.front.tls.auto, config.front.tls.http3) = (true, true);
                    config.front.tls.client_ca_file = file;
                },
            ),
            ("`pools.a.tls.ca_file`: it is not set", |config, _| {
                let tls = TlsClient {
                    server_name: "agent".to_owned(),
                    ..TlsClient::default()
                };
                let pool = super::super::Pool {
                    tls,
                    ..super::super::Pool::default()
                };
                config.pools.insert("a".to_owned(), pool);
            }),
            ("`xds.listen`: the port 0.0.0.0:18000", |config, _| {
                config.xds.listen = "0.0.0.0:18000".parse().unwrap();
            }),
            ("`fleet.listen`: the port 0.0.0.0:18001", |config, _| {
                config.fleet.listen = "0.0.0.0:18001".parse().unwrap();
            }),
            ("`fleet.tls.cert_file`: it is not set", |config, _| {
                config.fleet.tls.enabled = Some(true);
            }),
        ] {
            let said = said(|config| change(config, file()));
            assert!(said.starts_with(says), "{said}");
        }
    }

    #[test]
    fn what_is_secured_is_said() {
        let mut config = Config::default();
        assert_eq!(
            config.says_of_tls(),
            [
                "clients: HTTP at 127.0.0.1:9080",
                "Envoys at 127.0.0.1:18000: plaintext; open to whoever reaches it",
                "agents and tools at 127.0.0.1:18001: plaintext; open to whoever reaches it",
                "Envoy to agents: default by plaintext",
            ]
        );
        config.front.tls.auto = true;
        config.front.tls.http3 = true;
        config.fleet.tls.cert_file = "/c".into();
        config.fleet.access.full_token_file = "/t".into();
        config.rest.enabled = true;
        let says = config.says_of_tls();
        assert_eq!(says[3], "REST at 127.0.0.1:9903: plaintext; roles: full");
        assert_eq!(
            says[0],
            "clients: HTTPS at 127.0.0.1:9443 with a certificate of its own, for development, HTTP/3"
        );
        assert_eq!(
            says[2],
            "agents and tools at 127.0.0.1:18001: TLS, clients need no certificate; roles: full"
        );
    }
}
