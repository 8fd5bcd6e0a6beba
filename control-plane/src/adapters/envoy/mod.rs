//! Envoy's resources as pure functions of the configuration and the fleet: the same input gives the same bytes, and
//! the version of a resource is a hash of its bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3 as core_v3;
use envoy_types::pb::google::protobuf::{self, Any};
use prost::{Message, Name};
use sha2::{Digest as _, Sha256};

use crate::adapters::secrets::Secrets;
use crate::config::{Config, Pool};
use crate::core::fleet::{Agent, Told};
use crate::core::resources::{Inconsistency, Kind, Reference, Resource};
use crate::core::weights::STEPS;

mod access_log;
mod canonical;
mod clusters;
mod compression;
mod cors;
mod endpoints;
pub mod fragments;
mod health;
mod listener;
mod local_reply;
mod made;
mod placement;
mod rate_limits;
mod response_headers;
mod rest;
mod routes;
mod script;
mod secrets;
mod summary;
#[cfg(test)]
mod tests;
mod timeouts;
mod tls;
mod views;

pub use made::Made;
pub use placement::key_of;
pub use summary::summary;
pub use timeouts::{Raised, raised};
pub use views::{Unfit, views};

use routes::Needs;

/// The listener and its routes.
const FRONT: &str = "front";

/// The HTTP filter that runs `project_key.lua`.
const SCRIPT: &str = "envoy.filters.http.lua";

/// The request header that names the project a request is for; see `project_key.lua`.
pub const PROJECT_HEADER: &str = "x-graticule-project";

/// The request header in which `project_key.lua` says what is asked for, such as `wms/getmap`.
const KIND_HEADER: &str = "x-graticule-kind";

/// The request header in which `project_key.lua` says with which status a request is to be refused.
const REFUSED_HEADER: &str = "x-graticule-refused";

/// The response header with which an agent asks for its answer to be replaced by another agent's.
pub const RETRY_HEADER: &str = "x-agent-retry";

/// An agent as Envoy's resources need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: Arc<str>,
    /// Its pool.
    pub pool: Arc<str>,
    /// Where its data port is.
    pub address: SocketAddr,
    /// What Envoy is to be told of it.
    pub told: Told,
    /// The longest that it may take for any request, by its own word; zero when it has not said.
    pub longest_timeout: Duration,
    /// Its share of the pool's requests beside that of the others, of 100.
    pub weight: u32,
    /// The projects that are placed on it, by their [keys](key_of), each with how many other agents go before it.
    pub placed: Arc<BTreeMap<String, u32>>,
}

impl<S> From<&Agent<S>> for Member {
    fn from(agent: &Agent<S>) -> Self {
        let identity = &agent.identity;
        Self {
            id: Arc::clone(&identity.id),
            pool: Arc::clone(&identity.pool),
            address: identity.data_address,
            told: agent.told(),
            longest_timeout: identity.longest_timeout,
            weight: STEPS[0],
            placed: Arc::default(),
        }
    }
}

impl Member {
    /// An agent that has not registered and is known by its address alone. Whether it is well, Envoy's own checks find out.
    #[must_use]
    pub fn found(pool: &str, address: SocketAddr) -> Self {
        Self {
            id: address.to_string().into(),
            pool: pool.into(),
            address,
            told: Told::Healthy,
            longest_timeout: Duration::ZERO,
            weight: STEPS[0],
            placed: Arc::default(),
        }
    }
}

/// The agents of each pool, in their order.
fn by_pool(members: &[Member]) -> BTreeMap<&str, Vec<&Member>> {
    let mut pools: BTreeMap<&str, Vec<&Member>> = BTreeMap::new();
    for member in members {
        pools.entry(&member.pool).or_default().push(member);
    }
    pools
}

/// What depends on the configuration and its files alone.
fn fixed(
    config: &Config,
    pools: &BTreeMap<String, Pool>,
    secrets: &Secrets,
) -> Result<Vec<(Kind, Resource)>, Vec<Inconsistency>> {
    let own = fragments::resources(config).map_err(|faulty| unfit(&faulty))?;
    let own_filters = fragments::http_filters(config).map_err(|faulty| unfit(&faulty))?;
    let filters = own_filters.filters;
    let clusters = pools.iter().map(|(pool, settings)| {
        let mut refs = vec![refers(Kind::Endpoints, cluster_name(pool))];
        refs.extend(tls::pool_secrets(pool, &settings.tls));
        let mut cluster = clusters::cluster(&config.front, pool, settings);
        cluster.transport_socket = tls::upstream(pool, &settings.tls);
        (Kind::Cluster, resource(cluster_name(pool), &cluster, refs))
    });
    let secured = tls::listeners(config, &filters).into_iter();
    let secured = secured.map(|listener| {
        let mut refs = vec![refers(Kind::Route, FRONT.to_owned())];
        refs.extend(tls::front_secrets(config));
        refs.extend(own_filters.refs.iter().cloned());
        let mut listener = resource(listener.name.clone(), &listener, refs);
        listener.confidential = own_filters.confidential;
        (Kind::Listener, listener)
    });
    let secured: Vec<(Kind, Resource)> = secured.collect();
    let plain = listener::listener(config, &filters).map(|listener| {
        // What leads to HTTPS has its one route with it, and no filters.
        let mut refs = Vec::new();
        if !config.front.leads_to_https() {
            refs.push(refers(Kind::Route, FRONT.to_owned()));
            refs.extend(own_filters.refs.iter().cloned());
        }
        let mut listener = resource(FRONT.to_owned(), &listener, refs);
        listener.confidential = own_filters.confidential && !config.front.leads_to_https();
        (Kind::Listener, listener)
    });
    // A view may have fewer pools, and is not told of what belongs to others.
    let mentioned = pools
        .iter()
        .flat_map(|(pool, settings)| tls::pool_secrets(pool, &settings.tls));
    let rest = rest::resources(config);
    let mentioned = mentioned.chain(rest.iter().flat_map(|(_, resource)| resource.refs.to_vec()));
    let mentioned = mentioned.chain(secured.iter().flat_map(|(_, listener)| listener.refs.to_vec()));
    let mentioned: BTreeSet<String> = mentioned.filter(|r| r.kind == Kind::Secret).map(|r| r.name).collect();
    let told = secrets.iter().filter(|(name, _)| mentioned.contains(*name));
    let told = told.map(|(name, material)| {
        let mut secret = resource(name.to_owned(), &secrets::secret(name, material), Vec::new());
        // Private keys are for Envoys alone.
        secret.confidential = true;
        (Kind::Secret, secret)
    });
    Ok(clusters
        .chain(plain)
        .chain(secured)
        .chain(told)
        .chain(rest)
        .chain(own)
        .collect())
}

/// The endpoints of a pool whose agents are these.
fn endpoints_of(pool: &str, members: &[&Member]) -> Resource {
    resource(cluster_name(pool), &endpoints::assignment(pool, members), Vec::new())
}

/// The routes of these pools.
fn routes_of(config: &Config, pools: &BTreeMap<String, Pool>, needs: &Needs) -> Resource {
    let leads_to = pools
        .keys()
        .map(|pool| refers(Kind::Cluster, cluster_name(pool)))
        .collect();
    let routes = routes::routes(config, pools, needs).encode_to_vec();
    encoded(FRONT.to_owned(), canonical::sorted(&routes, &routes::MAP), leads_to)
}

fn unfit(faulty: &fragments::Faulty) -> Vec<Inconsistency> {
    vec![Inconsistency::Fragment(faulty.to_string())]
}

/// The name of a pool's cluster, and of its endpoints.
pub fn cluster_name(pool: &str) -> String {
    format!("pool/{pool}")
}

/// The URL by which xDS calls a kind.
#[must_use]
pub fn type_url(kind: Kind) -> String {
    use envoy_types::pb::envoy::config::{cluster, endpoint, listener, route};
    use envoy_types::pb::envoy::extensions::transport_sockets::tls;
    match kind {
        Kind::Secret => tls::v3::Secret::type_url(),
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

fn resource(name: String, message: &impl Message, refs: Vec<Reference>) -> Resource {
    encoded(name, message.encode_to_vec(), refs)
}

fn encoded(name: String, body: Vec<u8>, mut refs: Vec<Reference>) -> Resource {
    let body = Bytes::from(body);
    refs.sort();
    refs.dedup();
    Resource {
        name,
        version: content_version(&body),
        body,
        refs: Arc::from(refs),
        confidential: false,
        provisional: false,
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
