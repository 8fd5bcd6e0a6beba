//! What Envoy is told to find out about agents by itself: active checks of their data ports, and the ejection of those that
//! take no connections. The net under the agents' own word.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection;
use envoy_types::pb::envoy::config::core::v3::{HealthCheck, health_check};

use super::{duration, number, truth};
use crate::config::{self, Pool, seconds};

/// What is asked; agents answer it without a worker.
const PATH: &str = "/readyz";

/// Checks of several Envoys and of many agents drift apart by so many percent.
const JITTER_PERCENT: u32 = 20;

/// Ejected agents are let in again, and others looked at, this often.
const SWEEP: Duration = Duration::from_secs(1);

/// The longest ejection, in times of the first.
const LONGEST: u32 = 10;

/// The active checks of a pool's agents; none when they are off.
pub fn checks(pool: &Pool) -> Vec<HealthCheck> {
    let config::HealthCheck {
        interval,
        timeout,
        failures,
        ..
    } = &pool.health_check;
    if *interval == 0.0 {
        return Vec::new();
    }
    let http = health_check::HttpHealthCheck {
        host: "graticule".to_owned(),
        path: PATH.to_owned(),
        ..Default::default()
    };
    let interval = duration(seconds(*interval));
    vec![HealthCheck {
        timeout: duration(seconds(*timeout)),
        interval,
        interval_jitter_percent: JITTER_PERCENT,
        unhealthy_threshold: number(*failures),
        healthy_threshold: number(1),
        // Else a pool that nobody has asked for anything yet is looked at once a minute.
        no_traffic_interval: interval,
        no_traffic_healthy_interval: interval,
        health_checker: Some(health_check::HealthChecker::HttpHealthCheck(http)),
        ..Default::default()
    }]
}

/// When an agent is left out for a while; never when that is off. Connections that cannot be made count, in a row, and nothing
/// that agents answer: Envoy's other counts take a full agent's 503 for a failure.
pub fn ejection(pool: &Pool) -> Option<OutlierDetection> {
    let config::Ejection {
        failures,
        duration: time,
        max_percent,
    } = &pool.ejection;
    let time = seconds(*time);
    (*failures > 0).then(|| OutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: number(*failures),
        enforcing_consecutive_local_origin_failure: number(100),
        enforcing_local_origin_success_rate: number(0),
        enforcing_consecutive_5xx: number(0),
        enforcing_consecutive_gateway_failure: number(0),
        enforcing_success_rate: number(0),
        interval: duration(SWEEP),
        base_ejection_time: duration(time),
        max_ejection_time: duration(time * LONGEST),
        max_ejection_percent: number(*max_percent),
        // A pool of one agent has nobody else to send to.
        always_eject_one_host: truth(false),
        // That its port answers is no proof: a check needs no worker.
        successful_active_health_check_uneject_host: truth(false),
        ..Default::default()
    })
}
