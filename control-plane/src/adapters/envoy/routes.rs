//! RDS: each pool's hosts lead to its cluster. Safe requests are tried on another agent whenever one fails them; what
//! may change data is tried again only where it cannot have begun.

use std::collections::BTreeMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, header_matcher,
    retry_policy, route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher};

use super::{FRONT, PROJECT_HEADER, RETRY_HEADER, any, cluster_name, duration, number};
use crate::config::{Front, Pool, seconds};

/// Retried for every request: the agent has not seen it, or says that it did nothing about it.
const RETRY_UNSEEN: &str = "connect-failure,refused-stream,reset-before-request,retriable-headers";

/// Retried for safe requests also: the agent went away in the middle.
const RETRY_SAFE: &str = "connect-failure,refused-stream,reset-before-request,retriable-headers,reset";

/// One retry: with two, a request that kills workers would kill three.
const RETRIES: u32 = 1;

/// How often the load balancer may draw until it has an agent that was not tried yet. A hash mostly draws the same;
/// with 3 draws, one agent of three being down gave 5 % errors.
const DRAWS: i64 = 30;

const BACK_OFF: Duration = Duration::from_millis(5);
const BACK_OFF_MOST: Duration = Duration::from_millis(50);

/// What clients may not say when no proxy in front of Envoy is trusted. Envoy itself sees to `X-Forwarded-For` and
/// `X-Forwarded-Proto`.
const FORWARDED: [&str; 4] = [
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "forwarded",
];

/// The routes of every pool.
pub fn routes(front: &Front, pools: &BTreeMap<String, Pool>) -> RouteConfiguration {
    let untrusted = if front.trusted_hops == 0 {
        FORWARDED.as_slice()
    } else {
        &[]
    };
    RouteConfiguration {
        name: FRONT.to_owned(),
        virtual_hosts: pools
            .iter()
            .map(|(name, pool)| virtual_host(front, name, pool))
            .collect(),
        request_headers_to_remove: untrusted.iter().map(|name| (*name).to_owned()).collect(),
        response_headers_to_remove: vec![RETRY_HEADER.to_owned()],
        // Hosts are compared as clients know them; the port is the one they reached us by.
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

fn virtual_host(front: &Front, name: &str, pool: &Pool) -> VirtualHost {
    let safe = HeaderMatcher {
        name: ":method".to_owned(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(string_matcher::MatchPattern::SafeRegex(RegexMatcher {
                regex: "GET|HEAD|OPTIONS".to_owned(),
                ..Default::default()
            })),
            ..Default::default()
        })),
        ..Default::default()
    };
    VirtualHost {
        name: cluster_name(name),
        domains: pool.hosts.clone(),
        routes: vec![
            route(front, name, "safe", vec![safe], RETRY_SAFE),
            route(front, name, "other", Vec::new(), RETRY_UNSEEN),
        ],
        ..Default::default()
    }
}

fn route(front: &Front, pool: &str, what: &str, headers: Vec<HeaderMatcher>, retry_on: &str) -> Route {
    let by_project = route_action::HashPolicy {
        terminal: true,
        policy_specifier: Some(route_action::hash_policy::PolicySpecifier::Header(
            route_action::hash_policy::Header {
                header_name: PROJECT_HEADER.to_owned(),
                ..Default::default()
            },
        )),
    };
    let action = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster_name(pool))),
        timeout: duration(seconds(front.request_timeout)),
        hash_policy: front.affinity.then_some(by_project).into_iter().collect(),
        retry_policy: Some(retry(retry_on)),
        ..Default::default()
    };
    Route {
        name: format!("{pool}/{what}"),
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
            headers,
            ..Default::default()
        }),
        action: Some(route::Action::Route(action)),
        ..Default::default()
    }
}

fn retry(retry_on: &str) -> RetryPolicy {
    RetryPolicy {
        retry_on: retry_on.to_owned(),
        num_retries: number(RETRIES),
        retriable_headers: vec![HeaderMatcher {
            name: RETRY_HEADER.to_owned(),
            header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::PresentMatch(true)),
            ..Default::default()
        }],
        retry_host_predicate: vec![retry_policy::RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(retry_policy::retry_host_predicate::ConfigType::TypedConfig(any(
                &PreviousHostsPredicate {},
            ))),
        }],
        host_selection_retry_max_attempts: DRAWS,
        retry_back_off: Some(retry_policy::RetryBackOff {
            base_interval: duration(BACK_OFF),
            max_interval: duration(BACK_OFF_MOST),
        }),
        ..Default::default()
    }
}
