//! EDS: the agents of a pool, and what is told of each. This is what churns.

use envoy_types::pb::envoy::config::core::v3::HealthStatus;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};

use super::{Member, address, cluster_name, number};
use crate::core::fleet::Told;

/// The endpoints of a pool with these members, in their order. Those that drain are told of while somebody else can take requests:
/// when no agent is healthy Envoy may send to whom it knows of (`health_check.panic_threshold`), and they want nothing new.
pub fn assignment(pool: &str, members: &[&Member]) -> ClusterLoadAssignment {
    let lb_endpoints: Vec<LbEndpoint> = if members.iter().any(|member| member.told == Told::Healthy) {
        members.iter().copied().filter_map(endpoint).collect()
    } else {
        Vec::new()
    };
    // No locality at all rather than an empty one when nobody is there.
    let locality = LocalityLbEndpoints {
        lb_endpoints,
        ..Default::default()
    };
    ClusterLoadAssignment {
        cluster_name: cluster_name(pool),
        endpoints: if locality.lb_endpoints.is_empty() {
            Vec::new()
        } else {
            vec![locality]
        },
        ..Default::default()
    }
}

fn endpoint(member: &Member) -> Option<LbEndpoint> {
    // Never DEGRADED: when every agent is, hash load balancing answers 503.
    let health = match member.told {
        Told::Healthy => HealthStatus::Healthy,
        Told::Draining => HealthStatus::Draining,
        Told::None => return None,
    };
    let endpoint = Endpoint {
        address: Some(address(member.address)),
        ..Default::default()
    };
    Some(LbEndpoint {
        health_status: health as i32,
        load_balancing_weight: number(member.weight),
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    })
}
