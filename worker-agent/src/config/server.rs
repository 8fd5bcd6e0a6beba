//! `[server]`: what the agent listens on and how it treats requests.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use graticule_daemon::access::Access;
use graticule_daemon::config::ADDRESS;
use graticule_daemon::tls::TlsServer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

/// What a number of seconds may be.
fn seconds_schema() -> serde_json::Value {
    serde_json::json!({ "type": "number", "format": "double", "exclusiveMinimum": 0, "maximum": 86400 })
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
