//! TLS and access of the agent's ports and of its way to the control plane: what can be said and checked of them before anything
//! starts.

use graticule_daemon::access::{Door, Table};
use graticule_daemon::tls::{Dial, ServerTls, TlsError};
use graticule_proto::access;

use super::{Config, ConfigError, wrong};

/// What is spoken on the data port.
const HTTP: &[&[u8]] = &[b"h2", b"http/1.1"];

impl Config {
    /// The door of the gRPC port; its files are read.
    ///
    /// # Errors
    /// What of it cannot be used.
    pub fn door(&self) -> Result<Door, ConfigError> {
        let server = &self.server;
        let table = Table {
            open: access::OPEN,
            read: access::READ,
            peer: access::PEER,
        };
        let (tls, access) = (("server.grpc_tls", &server.grpc_tls), ("server.access", &server.access));
        let listen = ("server.grpc_listen", server.grpc_listen);
        Door::open(tls, access, listen, table).map_err(|error| of(&error))
    }

    /// TLS of the data port, where it has any; its files are read.
    ///
    /// # Errors
    /// What of it cannot be used.
    pub fn data_tls(&self) -> Result<Option<ServerTls>, ConfigError> {
        ServerTls::open("server.http_tls", &self.server.http_tls, HTTP).map_err(|error| of(&error))
    }

    /// The way to the control plane; its files are read.
    ///
    /// # Errors
    /// What of it cannot be used.
    pub fn dial(&self) -> Result<Dial, ConfigError> {
        let fleet = &self.fleet;
        let plain = |address: &String| address.starts_with("http://");
        if fleet.tls.is_set() && !fleet.control_plane.is_empty() && fleet.control_plane.iter().all(plain) {
            return Err(wrong(
                "fleet.tls",
                "it counts only where an address of `fleet.control_plane` begins with https://: change that, or remove fleet.tls",
            ));
        }
        let dial = Dial::new(
            "fleet",
            fleet.tls.clone(),
            fleet.token.clone(),
            fleet.token_file.clone(),
        );
        dial.check().map_err(|error| of(&error))?;
        Ok(dial)
    }

    /// What is to be said of certificates, though they are used. Call it on a configuration that was checked.
    #[must_use]
    pub fn tls_warnings(&self) -> Vec<String> {
        let (door, data) = (self.door().ok(), self.data_tls().ok().flatten());
        let of_door = door.as_ref().and_then(Door::warning);
        let of_data = data.as_ref().and_then(ServerTls::warning);
        of_door.into_iter().chain(of_data).map(str::to_owned).collect()
    }

    /// What is secured and how, in sentences.
    #[must_use]
    pub fn says_of_tls(&self) -> Vec<String> {
        let (server, fleet) = (&self.server, &self.fleet);
        let mut says = vec![
            format!("data port {}: {}", server.http_listen, server.http_tls.says()),
            format!(
                "gRPC port {}: {}; {}",
                server.grpc_listen,
                server.grpc_tls.says(),
                server.access.says(&server.grpc_tls)
            ),
        ];
        for address in &*fleet.control_plane {
            let secured = address.starts_with("https://");
            let how = match (secured, fleet.tls.shows_certificate()) {
                (false, _) => "plaintext",
                (true, false) => "TLS",
                (true, true) => "TLS, with a certificate of this agent",
            };
            says.push(format!("to the control plane {address}: {how}"));
        }
        says
    }
}

fn of(error: &TlsError) -> ConfigError {
    wrong(error.key(), error.problem())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named_with_the_remedy() {
        let said = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            let checked = config
                .door()
                .map(drop)
                .and(config.data_tls().map(drop))
                .and(config.dial().map(drop));
            checked.map_or_else(|error| error.to_string(), |()| String::new())
        };
        assert_eq!(said(|_| {}), "");
        for (says, change) in [
            (
                "`server.grpc_tls.key_file`: it is not set",
                (|config| config.server.grpc_tls.cert_file = "/none.pem".into()) as fn(&mut Config),
            ),
            ("`server.http_tls.cert_file`: /none.pem: it cannot be read", |config| {
                config.server.http_tls.cert_file = "/none.pem".into();
                config.server.http_tls.key_file = "/none.pem".into();
            }),
            ("`server.grpc_listen`: the port 0.0.0.0:23456", |config| {
                config.server.grpc_listen = "0.0.0.0:23456".parse().unwrap();
            }),
            (
                "`server.access.read_token_file`: /none.pem: it cannot be read",
                |config| {
                    config.server.access.read_token_file = "/none.pem".into();
                },
            ),
            ("`fleet.tls`: it counts only where", |config| {
                config.fleet.control_plane = "http://127.0.0.1:1".into();
                config.fleet.tls.server_name = "x".into();
            }),
            ("`fleet.tls.ca_file`: /none.pem: it cannot be read", |config| {
                config.fleet.tls.ca_file = "/none.pem".into();
            }),
            ("`fleet.token_file`: /none.pem: it cannot be read", |config| {
                config.fleet.token_file = "/none.pem".into();
            }),
        ] {
            let said = said(change);
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn what_is_secured_is_said() {
        let mut config = Config::default();
        config.fleet.control_plane = "https://control-plane:18001".into();
        config.fleet.tls.cert_file = "/c".into();
        config.server.http_tls.cert_file = "/c".into();
        config.server.http_tls.client_ca_file = "/a".into();
        assert_eq!(
            config.says_of_tls(),
            [
                "data port 127.0.0.1:23457: TLS, clients need a certificate",
                "gRPC port 127.0.0.1:23456: plaintext; open to whoever reaches it",
                "to the control plane https://control-plane:18001: TLS, with a certificate of this agent",
            ]
        );
    }
}
