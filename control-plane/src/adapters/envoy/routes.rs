//! RDS: what each pool claims leads to its cluster, in the order of `core::routing`. Safe requests are tried on another
//! agent whenever one fails them; what may change data is tried again only where it cannot have begun.

use std::collections::BTreeMap;
use std::iter;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, header_value_option};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    header_matcher, retry_policy, route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::LuaPerRoute;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatchAndSubstitute, RegexMatcher, StringMatcher, string_matcher,
};
use envoy_types::pb::google::protobuf::{Any, Struct, Value, value};

use super::timeouts::{Longest, Timeouts, longest, timeouts};
use super::{
    FRONT, KIND_HEADER, Member, PROJECT_HEADER, REFUSED_HEADER, RETRY_HEADER, SCRIPT, any, cluster_name, cors,
    duration, number, placement, rate_limits,
};
use crate::config::{Config, Front, Pool, Routed, routed};
use crate::core::routing::ANY;

/// Retried for every request: the agent has not seen it, or says that it did nothing about it.
const RETRY_UNSEEN: &str = "connect-failure,refused-stream,reset-before-request,retriable-headers";

/// Retried for safe requests also: the agent went away in the middle.
const RETRY_SAFE: &str = "connect-failure,refused-stream,reset-before-request,retriable-headers,reset";

/// One retry: with two, a request that kills workers would kill three.
const RETRIES: u32 = 1;

/// How often the load balancer may draw until it has an agent that was not tried yet. A hash mostly draws the same;
/// with 3 draws, one agent of three being down gave 5 % errors.
const DRAWS: i64 = 30;

/// How long nothing may move on a stream at least, and how much longer than its timeout.
const IDLE: Duration = Duration::from_secs(300);
const IDLE_MARGIN: Duration = Duration::from_secs(5);

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

/// What routes depend on of the agents.
#[derive(Clone, Debug, PartialEq)]
pub struct Needs {
    longest: Longest,
    /// Which projects are placed where.
    table: Option<(String, Any)>,
}

impl Needs {
    /// What these need.
    pub fn of(members: &[Member]) -> Self {
        Self {
            longest: longest(members),
            table: placement::table(members),
        }
    }
}

/// The routes of every pool, host by host.
pub fn routes(config: &Config, pools: &BTreeMap<String, Pool>, needs: &Needs) -> RouteConfiguration {
    let front = &config.front;
    let untrusted = if front.trusted_hops == 0 {
        FORWARDED.as_slice()
    } else {
        &[]
    };
    let own = [KIND_HEADER];
    let virtual_host = |(hosts, list): (Vec<String>, Vec<Routed<'_>>)| {
        let claims = list.iter().flat_map(|routed| of_claim(config, routed, &needs.longest));
        VirtualHost {
            name: hosts.first().cloned().unwrap_or_default(),
            domains: hosts,
            routes: iter::once(too_long()).chain(claims).collect(),
            ..Default::default()
        }
    };
    RouteConfiguration {
        name: FRONT.to_owned(),
        virtual_hosts: routed(pools).into_iter().map(virtual_host).collect(),
        request_headers_to_remove: untrusted.iter().chain(&own).map(|name| (*name).to_owned()).collect(),
        response_headers_to_remove: vec![RETRY_HEADER.to_owned()],
        // What clients said is removed before a route adds its own.
        most_specific_header_mutations_wins: true,
        // Hosts are compared as clients know them; the port is the one they reached us by.
        ignore_port_in_host_matching: true,
        // One entry at most.
        typed_per_filter_config: needs.table.iter().cloned().collect(),
        ..Default::default()
    }
}

/// What the script has found too long goes nowhere.
fn too_long() -> Route {
    Route {
        name: "refused/414".to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
            headers: vec![claimed_header(REFUSED_HEADER, "414")],
            ..Default::default()
        }),
        action: Some(route::Action::DirectResponse(DirectResponseAction {
            status: 414,
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// The routes for what one pool claims.
fn of_claim(config: &Config, routed: &Routed<'_>, longest: &Longest) -> Vec<Route> {
    let timeouts = timeouts(config, routed.name, routed.pool, longest);
    leaves(config, routed, &timeouts, "", &[])
}

/// The last step of every way: for each kind of request with a timeout of its own, and for all others, a route for safe
/// requests, and one for those that may change something. `part` names what `also` asks of a request besides the claim.
fn leaves(config: &Config, routed: &Routed<'_>, timeouts: &Timeouts, part: &str, also: &[HeaderMatcher]) -> Vec<Route> {
    let mut routes = Vec::new();
    let mut both = |kind: &str, asks: Option<HeaderMatcher>, safe_time: Duration, other_time: Duration| {
        let safe = header_regex(":method", "GET|HEAD|OPTIONS");
        for (what, method, retry_on, time) in [
            ("safe", Some(safe), RETRY_SAFE, safe_time),
            ("other", None, RETRY_UNSEEN, other_time),
        ] {
            let headers = also.iter().cloned().chain(asks.clone()).chain(method).collect();
            let name = format!("{}/{part}{kind}{what}", routed.name);
            routes.push(route(config, routed, name, headers, retry_on, time));
        }
    };
    for (kind, time) in &timeouts.kinds {
        let asks = if kind.contains('/') {
            claimed_header(KIND_HEADER, kind)
        } else {
            header_regex(KIND_HEADER, &format!("{kind}/.*"))
        };
        both(&format!("{kind}/"), Some(asks), *time, *time);
    }
    both("", None, timeouts.others, timeouts.longest);
    routes
}

fn route(
    config: &Config,
    routed: &Routed<'_>,
    name: String,
    also: Vec<HeaderMatcher>,
    retry_on: &str,
    timeout: Duration,
) -> Route {
    let (front, pool) = (&config.front, routed.pool);
    let by_project = route_action::HashPolicy {
        terminal: true,
        policy_specifier: Some(route_action::hash_policy::PolicySpecifier::Header(
            route_action::hash_policy::Header {
                header_name: PROJECT_HEADER.to_owned(),
                ..Default::default()
            },
        )),
    };
    let stripped = routed.route.stripped();
    let action = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster_name(routed.name))),
        timeout: duration(timeout),
        // Without, a stream on which nothing moves is cut after five minutes, whatever the timeout.
        idle_timeout: duration(timeout.max(IDLE) + IDLE_MARGIN),
        hash_policy: front.affinity.then_some(by_project).into_iter().collect(),
        retry_policy: Some(retry(retry_on)),
        regex_rewrite: stripped.map(without_prefix),
        ..Default::default()
    };
    let path = match routed.route.path() {
        "/" => route_match::PathSpecifier::Prefix("/".to_owned()),
        path => route_match::PathSpecifier::PathSeparatedPrefix(path.to_owned()),
    };
    let claimed = routed
        .route
        .headers
        .iter()
        .map(|(name, value)| claimed_header(name, value));
    let per_filter = stripped.map(script_context).into_iter();
    Route {
        name,
        r#match: Some(RouteMatch {
            path_specifier: Some(path),
            headers: claimed.chain(also).collect(),
            ..Default::default()
        }),
        action: Some(route::Action::Route(action)),
        metadata: rate_limits::of_route(routed.name, pool),
        request_headers_to_add: stripped
            .map(|prefix| forwarded_prefix(front, prefix))
            .into_iter()
            .collect(),
        response_headers_to_add: cors::varies(&pool.cors).into_iter().collect(),
        typed_per_filter_config: per_filter.chain([cors::of_route(&pool.cors)]).collect(),
        ..Default::default()
    }
}

/// Where in a route configuration the one map is that has more than one entry: virtual hosts, routes, and what each says
/// to filters.
pub const MAP: [u64; 3] = [2, 3, 13];

/// `/maps/ows/world` and `/maps` become `/ows/world` and `/`. The query is not touched.
fn without_prefix(prefix: &str) -> RegexMatchAndSubstitute {
    let escaped = prefix.chars().fold(String::new(), |text, c| {
        if c.is_ascii_alphanumeric() || "/-_~%".contains(c) {
            text + &c.to_string()
        } else {
            text + "\\" + &c.to_string()
        }
    });
    RegexMatchAndSubstitute {
        pattern: Some(RegexMatcher {
            regex: format!("^{escaped}/?(.*)$"),
            ..Default::default()
        }),
        substitution: r"/\1".to_owned(),
    }
}

/// Agents write links as clients know them: with the prefix, behind the one that a trusted proxy took off before.
fn forwarded_prefix(front: &Front, prefix: &str) -> HeaderValueOption {
    let before = if front.trusted_hops == 0 {
        ""
    } else {
        "%REQ(X-FORWARDED-PREFIX)%"
    };
    HeaderValueOption {
        header: Some(HeaderValue {
            key: "x-forwarded-prefix".to_owned(),
            value: format!("{before}{}", prefix.replace('%', "%%")),
            ..Default::default()
        }),
        append_action: header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..Default::default()
    }
}

/// The script sees the path as the client wrote it, and looks for the project behind the prefix.
fn script_context(prefix: &str) -> (String, Any) {
    let value = Value {
        kind: Some(value::Kind::StringValue(prefix.to_owned())),
    };
    let context = LuaPerRoute {
        filter_context: Some(Struct {
            fields: [("prefix".to_owned(), value)].into(),
        }),
        ..Default::default()
    };
    (SCRIPT.to_owned(), any(&context))
}

fn claimed_header(name: &str, value: &str) -> HeaderMatcher {
    let specifier = if value == ANY {
        header_matcher::HeaderMatchSpecifier::PresentMatch(true)
    } else {
        string_match(string_matcher::MatchPattern::Exact(value.to_owned()))
    };
    HeaderMatcher {
        name: name.to_lowercase(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}

fn header_regex(name: &str, regex: &str) -> HeaderMatcher {
    let regex = RegexMatcher {
        regex: regex.to_owned(),
        ..Default::default()
    };
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(string_match(string_matcher::MatchPattern::SafeRegex(regex))),
        ..Default::default()
    }
}

const fn string_match(pattern: string_matcher::MatchPattern) -> header_matcher::HeaderMatchSpecifier {
    header_matcher::HeaderMatchSpecifier::StringMatch(StringMatcher {
        match_pattern: Some(pattern),
        ignore_case: false,
    })
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
