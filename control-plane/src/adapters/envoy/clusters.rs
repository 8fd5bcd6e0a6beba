//! CDS: one cluster per pool. It depends on the configuration alone, so that what churns (the agents) never makes
//! Envoy warm a cluster anew.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::{
    self as cluster_v3, CircuitBreakers, Cluster, circuit_breakers, cluster,
};
use envoy_types::pb::envoy::config::core::v3 as core_v3;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{self as upstream, http_protocol_options as options};
use envoy_types::pb::envoy::r#type::v3::Percent;

use super::{any, cluster_name, duration, health, number, over_ads};
use crate::config::{Front, Pool, seconds};

/// Idle connections are closed by Envoy before an agent does it (after ten seconds), because a request that meets a
/// closing connection fails.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests at once, per cluster. The agents' own queues are the bound that matters.
const MAX_REQUESTS: u32 = 4096;

/// Retries at once that are always allowed: more than one busy agent has in flight, so that all of them find another
/// agent when it dies.
const MIN_RETRIES: u32 = 1000;

/// In percent of the average: an agent that has twice its share of the requests in flight passes new ones on. Lower
/// values break the affinity of projects to agents.
const HASH_BALANCE_FACTOR: u32 = 200;

/// The cluster of a pool.
pub fn cluster(front: &Front, name: &str, pool: &Pool) -> Cluster {
    Cluster {
        name: cluster_name(name),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(cluster::EdsClusterConfig {
            eds_config: Some(over_ads()),
            ..Default::default()
        }),
        connect_timeout: duration(seconds(front.connect_timeout)),
        lb_policy: if front.affinity {
            cluster::LbPolicy::Maglev as i32
        } else {
            cluster::LbPolicy::LeastRequest as i32
        },
        health_checks: health::checks(pool),
        outlier_detection: health::ejection(pool),
        // An agent that the control plane no longer tells of is gone, whatever a check said of it last.
        ignore_health_on_host_removal: true,
        common_lb_config: Some(cluster::CommonLbConfig {
            healthy_panic_threshold: Some(Percent {
                value: pool.health_check.panic_threshold,
            }),
            // By default Envoy keeps a change of health or weight back for up to a second when another one has just been made.
            update_merge_window: duration(Duration::ZERO),
            consistent_hashing_lb_config: front.affinity.then(|| {
                cluster::common_lb_config::ConsistentHashingLbConfig {
                    hash_balance_factor: number(HASH_BALANCE_FACTOR),
                    ..Default::default()
                }
            }),
            ..Default::default()
        }),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![thresholds()],
            ..Default::default()
        }),
        // One entry only: the order of a map's entries in the encoded bytes is left to chance.
        typed_extension_protocol_options: HashMap::from([(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            any(&http1()),
        )]),
        ..Default::default()
    }
}

fn thresholds() -> circuit_breakers::Thresholds {
    circuit_breakers::Thresholds {
        max_connections: number(MAX_REQUESTS),
        max_pending_requests: number(MAX_REQUESTS),
        max_requests: number(MAX_REQUESTS),
        retry_budget: Some(circuit_breakers::thresholds::RetryBudget {
            budget_percent: Some(Percent { value: 25.0 }),
            min_retry_concurrency: number(MIN_RETRIES),
            ..Default::default()
        }),
        ..cluster_v3::circuit_breakers::Thresholds::default()
    }
}

/// HTTP/1.1 towards agents: it moves large answers faster than HTTP/2 does.
fn http1() -> upstream::HttpProtocolOptions {
    let http1 =
        options::explicit_http_config::ProtocolConfig::HttpProtocolOptions(core_v3::Http1ProtocolOptions::default());
    upstream::HttpProtocolOptions {
        common_http_protocol_options: Some(core_v3::HttpProtocolOptions {
            idle_timeout: duration(IDLE_TIMEOUT),
            ..Default::default()
        }),
        upstream_protocol_options: Some(options::UpstreamProtocolOptions::ExplicitHttpConfig(
            options::ExplicitHttpConfig {
                protocol_config: Some(http1),
            },
        )),
        ..Default::default()
    }
}
