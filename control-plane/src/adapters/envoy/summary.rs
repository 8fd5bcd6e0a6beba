//! What a resource says, in a few words for people.

use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use envoy_types::pb::envoy::config::core::v3::{Address, HealthStatus, address, socket_address};
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use prost::Message as _;

use crate::core::resources::Kind;

/// So many endpoints or hosts are named; of more, how many there are.
const NAMED: usize = 8;

/// The summary of an encoded resource; empty when there is none for its kind.
#[must_use]
pub fn summary(kind: Kind, body: &[u8]) -> String {
    let summary = match kind {
        // Nothing of a secret is shown.
        Kind::Secret => Ok(String::new()),
        Kind::Cluster => Cluster::decode(body).map(|cluster| of_cluster(&cluster)),
        Kind::Endpoints => ClusterLoadAssignment::decode(body).map(|assignment| of_endpoints(&assignment)),
        Kind::Listener => Listener::decode(body).map(|listener| at(listener.address.as_ref())),
        Kind::Route => RouteConfiguration::decode(body).map(|routes| of_routes(&routes)),
    };
    summary.unwrap_or_default()
}

fn of_cluster(cluster: &Cluster) -> String {
    let policy = match cluster.lb_policy() {
        cluster::LbPolicy::Maglev => "by project (Maglev)".to_owned(),
        cluster::LbPolicy::LeastRequest => "to the least busy agent".to_owned(),
        other => other.as_str_name().to_lowercase(),
    };
    format!("requests go {policy}")
}

fn of_endpoints(assignment: &ClusterLoadAssignment) -> String {
    let all: Vec<(String, HealthStatus)> = assignment
        .endpoints
        .iter()
        .flat_map(|locality| &locality.lb_endpoints)
        .map(|endpoint| {
            let address = match &endpoint.host_identifier {
                Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) => at(endpoint.address.as_ref()),
                Some(lb_endpoint::HostIdentifier::EndpointName(name)) => name.clone(),
                None => String::new(),
            };
            (address, endpoint.health_status())
        })
        .collect();
    let draining = all
        .iter()
        .filter(|(_, health)| *health == HealthStatus::Draining)
        .count();
    match all.len() {
        0 => "no agent".to_owned(),
        count if count > NAMED => format!("{count} agents, {draining} of them draining"),
        _ => named(all.iter().map(|(address, health)| match health {
            HealthStatus::Draining => format!("{address} (draining)"),
            _ => address.clone(),
        })),
    }
}

fn of_routes(routes: &RouteConfiguration) -> String {
    let hosts: Vec<&String> = routes.virtual_hosts.iter().flat_map(|host| &host.domains).collect();
    match hosts.len() {
        count if count > NAMED => format!("{count} hosts"),
        _ => named(hosts.into_iter().cloned()),
    }
}

fn named(all: impl Iterator<Item = String>) -> String {
    all.collect::<Vec<_>>().join(", ")
}

fn at(address: Option<&Address>) -> String {
    let Some(address::Address::SocketAddress(socket)) = address.and_then(|address| address.address.as_ref()) else {
        return String::new();
    };
    match socket.port_specifier {
        Some(socket_address::PortSpecifier::PortValue(port)) if socket.address.contains(':') => {
            format!("[{}]:{port}", socket.address)
        }
        Some(socket_address::PortSpecifier::PortValue(port)) => format!("{}:{port}", socket.address),
        _ => socket.address.clone(),
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::SocketAddress;
    use envoy_types::pb::envoy::config::endpoint::v3::{Endpoint, LbEndpoint, LocalityLbEndpoints};
    use envoy_types::pb::envoy::config::route::v3::VirtualHost;

    use super::*;

    fn address(address: &str, port: u32) -> Option<Address> {
        let socket = SocketAddress {
            address: address.to_owned(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(port)),
            ..SocketAddress::default()
        };
        Some(Address {
            address: Some(address::Address::SocketAddress(socket)),
        })
    }

    fn agents(health: &[HealthStatus]) -> String {
        let endpoint = |(port, health): (u32, &HealthStatus)| LbEndpoint {
            health_status: *health as i32,
            host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
                address: address("10.0.0.7", port),
                ..Endpoint::default()
            })),
            ..LbEndpoint::default()
        };
        let locality = LocalityLbEndpoints {
            lb_endpoints: (1..).zip(health).map(endpoint).collect(),
            ..LocalityLbEndpoints::default()
        };
        let assignment = ClusterLoadAssignment {
            endpoints: vec![locality],
            ..ClusterLoadAssignment::default()
        };
        summary(Kind::Endpoints, &assignment.encode_to_vec())
    }

    #[test]
    fn agents_are_named_or_counted() {
        let (healthy, draining) = (HealthStatus::Healthy, HealthStatus::Draining);
        assert_eq!(agents(&[]), "no agent");
        assert_eq!(agents(&[healthy, draining]), "10.0.0.7:1, 10.0.0.7:2 (draining)");
        assert_eq!(agents(&[draining; NAMED + 1]), "9 agents, 9 of them draining");
    }

    #[test]
    fn what_people_look_for_is_said() {
        let mut cluster = Cluster::default();
        cluster.set_lb_policy(cluster::LbPolicy::Maglev);
        assert_eq!(
            summary(Kind::Cluster, &cluster.encode_to_vec()),
            "requests go by project (Maglev)"
        );
        let listener = Listener {
            address: address("::1", 9080),
            ..Listener::default()
        };
        assert_eq!(summary(Kind::Listener, &listener.encode_to_vec()), "[::1]:9080");
        let host = VirtualHost {
            domains: vec!["*".to_owned(), "inner.org".to_owned()],
            ..VirtualHost::default()
        };
        let routes = RouteConfiguration {
            virtual_hosts: vec![host],
            ..RouteConfiguration::default()
        };
        assert_eq!(summary(Kind::Route, &routes.encode_to_vec()), "*, inner.org");
        assert_eq!(summary(Kind::Route, b"\xff"), "", "what cannot be read");
        assert_eq!(summary(Kind::Secret, b"key"), "");
    }
}
