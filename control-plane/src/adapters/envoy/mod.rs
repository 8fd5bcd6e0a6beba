//! Envoy's resources as pure functions of the configuration and the fleet: the same input gives the same bytes, and
//! the version of a resource is a hash of its bytes.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3 as core_v3;
use envoy_types::pb::google::protobuf::{self, Any};
use prost::{Message, Name};
use sha2::{Digest as _, Sha256};

use crate::config::Config;
use crate::core::fleet::{Agent, Told};
use crate::core::resources::{Inconsistency, Kind, Reference, Resource, Snapshot};

mod access_log;
mod clusters;
mod endpoints;
mod listener;
mod local_reply;
mod routes;
#[cfg(test)]
mod tests;

/// The listener and its routes.
const FRONT: &str = "front";

/// The request header that names the project a request is for; see `project_key.lua`.
pub const PROJECT_HEADER: &str = "x-graticule-project";

/// The response header with which an agent asks for its answer to be replaced by another agent's.
pub const RETRY_HEADER: &str = "x-agent-retry";

/// An agent as Envoy's resources need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: String,
    /// Its pool.
    pub pool: String,
    /// Where its data port is.
    pub address: SocketAddr,
    /// What Envoy is to be told of it.
    pub told: Told,
}

impl<S> From<&Agent<S>> for Member {
    fn from(agent: &Agent<S>) -> Self {
        let identity = &agent.identity;
        let (id, pool) = (identity.id.clone(), identity.pool.clone());
        Self {
            id,
            pool,
            address: identity.data_address,
            told: agent.told(),
        }
    }
}

/// Everything that Envoy is to be told.
///
/// # Errors
/// What would make it inconsistent; then nothing of it may be published.
pub fn snapshot(config: &Config, members: &[Member]) -> Result<Snapshot, Vec<Inconsistency>> {
    let pools = config.effective_pools();
    let clusters = pools.keys().map(|pool| {
        let refs = vec![refers(Kind::Endpoints, cluster_name(pool))];
        (
            Kind::Cluster,
            resource(cluster_name(pool), &clusters::cluster(&config.front, pool), refs),
        )
    });
    let endpoints = pools.keys().map(|pool| {
        (
            Kind::Endpoints,
            resource(cluster_name(pool), &endpoints::assignment(pool, members), Vec::new()),
        )
    });
    let listener = resource(
        FRONT.to_owned(),
        &listener::listener(&config.front),
        vec![refers(Kind::Route, FRONT.to_owned())],
    );
    let leads_to = pools
        .keys()
        .map(|pool| refers(Kind::Cluster, cluster_name(pool)))
        .collect();
    let routes = resource(FRONT.to_owned(), &routes::routes(&config.front, &pools), leads_to);
    Snapshot::new(
        clusters
            .chain(endpoints)
            .chain([(Kind::Listener, listener), (Kind::Route, routes)]),
    )
}

/// The name of a pool's cluster, and of its endpoints.
fn cluster_name(pool: &str) -> String {
    format!("pool/{pool}")
}

/// The URL by which xDS calls a kind.
#[must_use]
pub fn type_url(kind: Kind) -> String {
    use envoy_types::pb::envoy::config::{cluster, endpoint, listener, route};
    match kind {
        Kind::Cluster => cluster::v3::Cluster::type_url(),
        Kind::Endpoints => endpoint::v3::ClusterLoadAssignment::type_url(),
        Kind::Listener => listener::v3::Listener::type_url(),
        Kind::Route => route::v3::RouteConfiguration::type_url(),
    }
}

/// The kind that xDS calls by this URL, if we serve it.
#[must_use]
pub fn kind_of(url: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| type_url(*kind) == url)
}

fn refers(kind: Kind, name: String) -> Reference {
    Reference { kind, name }
}

fn resource(name: String, message: &impl Message, mut refs: Vec<Reference>) -> Resource {
    let body = Bytes::from(message.encode_to_vec());
    refs.sort();
    Resource {
        name,
        version: content_version(&body),
        body,
        refs: Arc::from(refs),
    }
}

/// The first 16 hexadecimal digits of the content's SHA-256.
fn content_version(body: &[u8]) -> String {
    Sha256::digest(body)
        .iter()
        .take(8)
        .fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Packs a message the way Envoy's extension points want it.
fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

fn duration(duration: Duration) -> Option<protobuf::Duration> {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let nanos = i32::try_from(duration.subsec_nanos()).unwrap_or(0);
    Some(protobuf::Duration { seconds, nanos })
}

fn number(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}

const fn truth(value: bool) -> Option<protobuf::BoolValue> {
    Some(protobuf::BoolValue { value })
}

fn address(address: SocketAddr) -> core_v3::Address {
    let socket = core_v3::SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(core_v3::socket_address::PortSpecifier::PortValue(u32::from(
            address.port(),
        ))),
        ..Default::default()
    };
    core_v3::Address {
        address: Some(core_v3::address::Address::SocketAddress(socket)),
    }
}

/// The rest comes over the same stream.
fn over_ads() -> core_v3::ConfigSource {
    core_v3::ConfigSource {
        resource_api_version: core_v3::ApiVersion::V3 as i32,
        config_source_specifier: Some(core_v3::config_source::ConfigSourceSpecifier::Ads(
            core_v3::AggregatedConfigSource {},
        )),
        ..Default::default()
    }
}

fn inline(text: &str) -> core_v3::DataSource {
    core_v3::DataSource {
        specifier: Some(core_v3::data_source::Specifier::InlineString(text.to_owned())),
        ..Default::default()
    }
}
