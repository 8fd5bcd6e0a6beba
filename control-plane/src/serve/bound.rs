//! Puts the control plane together: binds every port, starts the hub and the servers, and says where they listen.
//! Tests start the same thing on port 0.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer;
use graticule_daemon::access::{Door, Table};
use graticule_daemon::config::ConfigError;
use graticule_daemon::ops::{self, Ops};
use graticule_daemon::ready::Readiness;
use graticule_daemon::tls::{Gauges, TlsError};
use graticule_proto::access;
use graticule_proto::v1::AgentWelcome;
use graticule_proto::v1::fleet_admin_server::FleetAdminServer;
use graticule_proto::v1::fleet_link_server::FleetLinkServer;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::ads::XdsPort;
use super::calls::Switchboard;
use super::clients::Clients;
use super::csds::StatusPort;
use super::discovery;
use super::fleet::FleetPort;
use super::hub::{Event, Hub};
use super::keeping;
use super::live::{Live, heed_level};
use super::pins::Keeper;
use super::proxy::Proxy;
use super::renewing;
use super::status;
use crate::adapters::layers::Layers;
use crate::adapters::openapi;
use crate::adapters::secrets::Secrets;
use crate::adapters::store::{Store, StoreError};
use crate::config::Config;
use crate::core::settings::Settings;
use crate::metrics::Metrics;

/// How often the far end of a gRPC connection is asked for a sign of life, and how long it may take to give one. What
/// has gone without a word is noticed within the sum.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// Why the control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration with what operators have set over it cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// A port could not be had.
    #[error("cannot listen on {address} ({key}): {problem}; is another control plane running?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The key that sets it.
        key: &'static str,
        /// What the system said.
        problem: std::io::Error,
    },
    /// What the fleet is to keep loaded cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that depends on nothing outside failed; a defect of this program.
    #[error("cannot start: {0}")]
    Internal(String),
}

impl BuildError {
    /// Whether somebody has to repair something first, so that trying again is of no use.
    #[must_use]
    pub const fn has_to_be_repaired(&self) -> bool {
        match self {
            Self::Config(_) | Self::Unusable(_) => true,
            Self::Store(error) => !error.may_pass(),
            Self::Listen { .. } | Self::Internal(_) => false,
        }
    }
}

/// Where the control plane listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For Envoy.
    pub xds: SocketAddr,
    /// For agents and tools.
    pub fleet: SocketAddr,
    /// For Prometheus and people.
    pub status: SocketAddr,
}

/// A running control plane.
#[derive(Debug)]
pub struct Bound {
    /// Where it listens.
    pub addresses: Addresses,
    /// Where its configuration is changed.
    pub live: Live,
    /// What it still waits for.
    pub readiness: Readiness,
    stop: CancellationToken,
    servers: JoinSet<()>,
    store: Store,
}

impl Bound {
    /// Closes every stream, lets what runs finish and returns when all is still. Envoys and agents go on with what they
    /// know and come back.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.servers.join_next().await.is_some() {}
        // Streams that are just ending hold it for a moment longer, and write nothing.
        self.store.release();
    }
}

/// The same as [`build_from`] with a configuration that no file can change.
///
/// # Errors
/// The same.
pub async fn build(config: Config) -> Result<Bound, BuildError> {
    build_from(Layers::Fixed(Box::new(config))).await
}

/// Binds every port and starts.
///
/// # Errors
/// When the configuration or the store cannot be used or a port cannot be had.
pub async fn build_from(layers: Layers) -> Result<Bound, BuildError> {
    let base = layers.read()?;
    // What is needed to find the store cannot be set in the store.
    let config = base.with(&Settings::default()).map_err(BuildError::Unusable)?.config;
    let doors = doors(&config).map_err(|problem| BuildError::Unusable(problem.to_string()))?;
    // Before any port is opened; what the store sets may need other files.
    let secrets = Secrets::read(&config, &Secrets::default());
    let secrets = secrets.map_err(|problem| BuildError::Unusable(problem.to_string()))?;
    let xds = listen(config.xds.listen, "xds.listen").await?;
    let fleet = listen(config.fleet.listen, "fleet.listen").await?;
    let status = listen(config.status.listen, "status.listen").await?;
    let addresses = Addresses {
        xds: address(&xds)?,
        fleet: address(&fleet)?,
        status: address(&status)?,
    };

    let registry = Registry::new();
    let metrics = Metrics::register(&registry).map_err(|error| BuildError::Internal(error.to_string()))?;
    let (store, kept) = Store::open(&config.store, addresses.fleet.port(), metrics.clone()).await?;
    let desired = kept.pins;
    tracing::info!(%store, projects = desired.pins.len(), "the pins of the fleet are known");
    let whole = base.with(&kept.settings).map_err(|problem| {
        BuildError::Unusable(format!(
            "what was set with `control-plane config set` (the document settings in the store {store}) does not go with \
             this configuration: {problem}; correct the configuration, or take it out of that document"
        ))
    })?;
    // The log was begun with what stands below the settings.
    heed_level(&config, &whole.config);
    let config = Arc::clone(&whole.config);
    let secrets = Secrets::read(&config, &secrets);
    let secrets = secrets.map_err(|problem| BuildError::Unusable(problem.to_string()))?;
    let gauges = Gauges::register(&registry).map_err(|error| BuildError::Internal(error.to_string()))?;
    let readiness = Readiness::new();
    let stop = CancellationToken::new();
    let synced = readiness.wait_for("the fleet to be known (sync window)");
    let hub = Hub::start(
        Arc::clone(&config),
        secrets,
        desired.clone(),
        metrics.clone(),
        synced,
        stop.clone(),
    );
    hub.tell(Event::Remembered(Box::new(kept.quarantine))).await;
    let keeper = Keeper::new(store.clone(), desired, hub.clone());
    let live = Live::new(
        layers,
        (base, kept.settings, whole),
        store.clone(),
        hub.clone(),
        metrics.clone(),
    );
    let clients = Clients::new(metrics.clone());
    let switchboard = Switchboard::new(metrics.clone());

    let mut servers = JoinSet::new();
    servers.spawn(keeping::keep_quarantine(
        store.clone(),
        hub.quarantine.clone(),
        stop.clone(),
    ));
    servers.spawn(keeping::follow(
        store.clone(),
        keeper.clone(),
        live.clone(),
        metrics.clone(),
        stop.clone(),
    ));
    servers.spawn(discovery::follow(hub.clone(), stop.clone()));
    servers.spawn(renewing::follow(hub.clone(), gauges.clone(), stop.clone()));
    let envoys = AggregatedDiscoveryServiceServer::new(XdsPort {
        hub: hub.clone(),
        clients: clients.clone(),
        metrics,
        node_cluster: config.xds.node_cluster.clone(),
        stop: stop.clone(),
    });
    let status_of_envoys = ClientStatusDiscoveryServiceServer::new(StatusPort {
        clients: clients.clone(),
        stop: stop.clone(),
    });
    let (fit, fitness) = tonic_health::server::health_reporter();
    // Before the port is open: nobody is to find it well too early.
    fit.set_service_status("", ServingStatus::NotServing).await;
    servers.spawn(say_when_known(hub.clone(), fit, stop.clone()));
    let routes = Routes::new(envoys)
        .add_service(status_of_envoys.clone())
        .add_service(fitness);
    servers.spawn(serve(doors.0, routes, xds, gauges.clone(), stop.clone()));

    let control_plane_id = run_id();
    let welcome = AgentWelcome {
        store_id: kept.identity.unwrap_or_else(|| control_plane_id.clone()),
        control_plane_id,
    };
    let port = FleetPort::new(
        hub.clone(),
        keeper,
        live.clone(),
        switchboard.clone(),
        welcome,
        stop.clone(),
    );
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<FleetLinkServer<FleetPort>>().await;
    health.set_serving::<FleetAdminServer<FleetPort>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(graticule_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| BuildError::Internal(error.to_string()))?;
    let routes = Routes::new(FleetLinkServer::new(port.clone()))
        .add_service(FleetAdminServer::new(port))
        .add_service(Proxy::new(switchboard))
        // For the command line, which knows this port.
        .add_service(status_of_envoys)
        .add_service(health_service)
        .add_service(reflection);
    servers.spawn(serve(doors.1, routes, fleet, gauges, stop.clone()));

    let ops = Ops {
        registry,
        readiness: readiness.clone(),
        // Every gauge is brought up to date where the thing it counts changes.
        refresh: Arc::new(|| {}),
        pages: Arc::new(move |path| {
            if path == openapi::PATH {
                return status::openapi();
            }
            status::page(
                path,
                &hub.roster.borrow(),
                &hub.quarantine.borrow(),
                &hub.pins.borrow(),
                &clients.list(),
                hub.views.borrow().is_some(),
            )
        }),
    };
    servers.spawn(ops::serve(status, ops, stop.clone()));
    Ok(Bound {
        addresses,
        live,
        readiness,
        stop,
        servers,
        store,
    })
}

/// Reads the files of certificates and tokens that a configuration names; gives what is to be said of them though they can be
/// used.
///
/// # Errors
/// What of them cannot be used, with the key.
pub fn check_files(config: &Config) -> Result<Vec<String>, TlsError> {
    let doors = doors(config)?;
    let of_doors = [doors.0.warning(), doors.1.warning()]
        .into_iter()
        .flatten()
        .map(str::to_owned);
    let secrets = Secrets::read(config, &Secrets::default())?;
    Ok(of_doors.chain(secrets.warnings(SystemTime::now())).collect())
}

async fn listen(address: SocketAddr, key: &'static str) -> Result<TcpListener, BuildError> {
    TcpListener::bind(address)
        .await
        .map_err(|problem| BuildError::Listen { address, key, problem })
}

fn address(listener: &TcpListener) -> Result<SocketAddr, BuildError> {
    listener
        .local_addr()
        .map_err(|error| BuildError::Internal(error.to_string()))
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
}

/// The doors of the ports for Envoys and for agents.
fn doors(config: &Config) -> Result<(Door, Door), TlsError> {
    let table = Table {
        open: access::OPEN,
        read: access::READ,
        peer: access::PEER,
    };
    let (xds, fleet) = (&config.xds, &config.fleet);
    let door = |key: &str, tls, access, listen| {
        let of = |name| format!("{key}.{name}");
        Door::open(
            (&of("tls"), tls),
            (&of("access"), access),
            (&of("listen"), listen),
            table,
        )
    };
    Ok((
        door("xds", &xds.tls, &xds.access, xds.listen)?,
        door("fleet", &fleet.tls, &fleet.access, fleet.listen)?,
    ))
}

async fn serve(door: Door, routes: Routes, listener: TcpListener, gauges: Gauges, stop: CancellationToken) {
    if let Err(error) = door.serve(server(), routes, listener, gauges, stop).await {
        tracing::error!(%error, "a gRPC port ended");
    }
}

/// Says on the port for Envoys that they may come, once there is something to tell them: an Envoy that knows several control
/// planes does not wait at one that is just starting.
async fn say_when_known(mut hub: Hub, fit: HealthReporter, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => return,
        known = async { hub.views.wait_for(Option::is_some).await.is_ok() } => if !known { return },
    }
    fit.set_service_status("", ServingStatus::Serving).await;
    stop.cancelled().await;
    fit.set_service_status("", ServingStatus::NotServing).await;
}

/// Differs from start to start, and from process to process on one machine.
fn run_id() -> String {
    let since = SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{:x}-{:x}", std::process::id(), since.as_nanos())
}

#[cfg(test)]
mod tests {
    use graticule_daemon::telemetry;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_level_that_was_set_counts_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere: SocketAddr = ([127, 0, 0, 1], 0).into();
        let mut config = Config::default();
        (config.xds.listen, config.fleet.listen, config.status.listen) = (nowhere, nowhere, nowhere);
        config.store.dir = dir.path().to_owned();
        config.logging.level = "error".to_owned();
        telemetry::init(&config.logging).unwrap();
        assert!(!tracing::enabled!(tracing::Level::WARN));
        let kept = json!({"format": 1, "revision": 1, "settings": {"logging": {"level": "warn"}}});
        std::fs::write(dir.path().join("settings.json"), kept.to_string()).unwrap();
        let bound = build(config).await.unwrap();
        assert!(tracing::enabled!(tracing::Level::WARN));
        bound.stop().await;
    }
}
