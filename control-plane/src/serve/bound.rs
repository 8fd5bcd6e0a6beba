//! Puts the control plane together: binds every port, starts the hub and the servers, and says where they listen.
//! Tests start the same thing on port 0.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use futures::StreamExt as _;
use graticule_daemon::ops::{self, Ops};
use graticule_daemon::ready::Readiness;
use graticule_proto::v1::fleet_admin_server::FleetAdminServer;
use graticule_proto::v1::fleet_link_server::FleetLinkServer;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::ads::XdsPort;
use super::clients::Clients;
use super::fleet::FleetPort;
use super::hub::Hub;
use super::pins::Keeper;
use super::status;
use crate::adapters::store::{self, Claim, Store, StoreError};
use crate::config::{Config, Unusable};
use crate::metrics::Metrics;

/// How often the far end of a gRPC connection is asked for a sign of life, and how long it may take to give one. What
/// has gone without a word is noticed within the sum.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// Why the control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Unusable(#[from] Unusable),
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
    stop: CancellationToken,
    servers: JoinSet<()>,
    /// The store is this one's until all is still.
    _claim: Claim,
}

impl Bound {
    /// Closes every stream, lets what runs finish and returns when all is still. Envoys and agents go on with what they
    /// know and come back.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.servers.join_next().await.is_some() {}
    }
}

/// Binds every port and starts.
///
/// # Errors
/// When the configuration or the store cannot be used or a port cannot be had.
pub async fn build(config: Config) -> Result<Bound, BuildError> {
    config.check()?;
    let xds = listen(config.xds.listen, "xds.listen").await?;
    let fleet = listen(config.fleet.listen, "fleet.listen").await?;
    let status = listen(config.status.listen, "status.listen").await?;
    let addresses = Addresses {
        xds: address(&xds)?,
        fleet: address(&fleet)?,
        status: address(&status)?,
    };

    let directory = store::directory(&config.store.dir, addresses.fleet.port())?;
    let (store, claim, desired) = Store::open(&directory)?;
    tracing::info!(file = %store.path().display(), projects = desired.pins.len(), "the pins of the fleet are known");

    let registry = Registry::new();
    let metrics = Metrics::register(&registry).map_err(|error| BuildError::Internal(error.to_string()))?;
    let readiness = Readiness::new();
    let stop = CancellationToken::new();
    let config = Arc::new(config);
    let synced = readiness.wait_for("the fleet to be known (sync window)");
    let hub = Hub::start(
        Arc::clone(&config),
        desired.clone(),
        metrics.clone(),
        synced,
        stop.clone(),
    );
    let keeper = Keeper::new(store, desired, hub.clone());
    let clients = Clients::new(metrics.clone());

    let mut servers = JoinSet::new();
    let envoys = AggregatedDiscoveryServiceServer::new(XdsPort {
        hub: hub.clone(),
        clients: clients.clone(),
        metrics,
        node_cluster: config.xds.node_cluster.clone(),
        stop: stop.clone(),
    });
    servers.spawn(serve(server().add_service(envoys), xds, stop.clone()));

    let port = FleetPort::new(hub.clone(), keeper, Arc::clone(&config), &run_id(), stop.clone());
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<FleetLinkServer<FleetPort>>().await;
    health.set_serving::<FleetAdminServer<FleetPort>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(graticule_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| BuildError::Internal(error.to_string()))?;
    let router = server()
        .add_service(FleetLinkServer::new(port.clone()))
        .add_service(FleetAdminServer::new(port))
        .add_service(health_service)
        .add_service(reflection);
    servers.spawn(serve(router, fleet, stop.clone()));

    let ops = Ops {
        registry,
        readiness,
        // Every gauge is brought up to date where the thing it counts changes.
        refresh: Arc::new(|| {}),
        pages: Arc::new(move |path| {
            status::page(
                path,
                &hub.roster.borrow(),
                &hub.quarantine.borrow(),
                &hub.pins.borrow(),
                &clients.list(),
                hub.snapshot.borrow().is_some(),
            )
        }),
    };
    servers.spawn(ops::serve(status, ops, stop.clone()));
    Ok(Bound {
        addresses,
        stop,
        servers,
        _claim: claim,
    })
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

async fn serve(router: tonic::transport::server::Router, listener: TcpListener, stop: CancellationToken) {
    // A change is one small message that must not wait for more (Nagle).
    let incoming = TcpListenerStream::new(listener).inspect(|stream| {
        if let Ok(stream) = stream {
            let _ = stream.set_nodelay(true);
        }
    });
    if let Err(error) = router
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
    {
        tracing::error!(%error, "a gRPC port ended");
    }
}

/// Differs from start to start, and from process to process on one machine.
fn run_id() -> String {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{:x}-{:x}", std::process::id(), since.as_nanos())
}
