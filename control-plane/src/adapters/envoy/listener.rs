//! LDS: the one listener that clients reach, and how its connections are handled.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{CidrRange, HttpProtocolOptions};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::Buffer;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager as hcm, http_filter,
};
use prost::{Message, Name};

use super::{
    FRONT, access_log, address, any, compression, cors, duration, local_reply, number, over_ads, placement,
    rate_limits, response_headers, script, tls, truth,
};
use crate::config::Config;

/// A client that has not sent its request's head after this long is disconnected.
const REQUEST_HEADERS_TIMEOUT: Duration = Duration::from_secs(5);

/// The filter that carries requests on.
const ROUTER: &str = "envoy.filters.http.router";

/// The listener on `front.listen`, with the user's own filters; none where that is for HTTPS alone.
pub fn listener(config: &Config, own: &[HttpFilter]) -> Option<Listener> {
    let front = &config.front;
    if front.tls.is_on() && front.tls.listen == front.listen {
        return None;
    }
    let mut manager = connection_manager(config, own.to_vec());
    if front.leads_to_https() {
        manager.route_specifier = Some(tls::redirect(config));
        // Nothing is asked of anybody there.
        manager.http_filters.retain(|filter| filter.name == ROUTER);
    }
    Some(Listener {
        name: FRONT.to_owned(),
        address: Some(address(front.listen)),
        filter_chains: vec![FilterChain {
            filters: filters(config, &manager),
            ..Default::default()
        }],
        ..Default::default()
    })
}

/// What connections pass through.
pub fn filters(config: &Config, manager: &HttpConnectionManager) -> Vec<Filter> {
    let manager = network_filter("envoy.filters.network.http_connection_manager", manager);
    let connections = rate_limits::connections(&config.front)
        .map(|limit| network_filter("envoy.filters.network.connection_limit", &limit));
    connections.into_iter().chain([manager]).collect()
}

/// How HTTP is spoken with clients.
pub fn connection_manager(config: &Config, own: Vec<HttpFilter>) -> HttpConnectionManager {
    let front = &config.front;
    HttpConnectionManager {
        stat_prefix: FRONT.to_owned(),
        route_specifier: Some(hcm::RouteSpecifier::Rds(Rds {
            config_source: Some(over_ads()),
            route_config_name: FRONT.to_owned(),
        })),
        http_filters: http_filters(config, own),
        server_name: "graticule".to_owned(),
        use_remote_address: truth(true),
        xff_num_trusted_hops: front.trusted_hops,
        internal_address_config: Some(nobody_is_internal()),
        generate_request_id: truth(true),
        always_set_request_id_in_response: true,
        normalize_path: truth(true),
        merge_slashes: true,
        // The path only; a query may well say MAP=%2Fworld.
        path_with_escaped_slashes_action: hcm::PathWithEscapedSlashesAction::RejectRequest as i32,
        request_headers_timeout: duration(REQUEST_HEADERS_TIMEOUT),
        max_request_headers_kb: number(front.limits.max_header_size / 1024),
        common_http_protocol_options: Some(HttpProtocolOptions {
            max_headers_count: number(front.limits.max_headers),
            ..Default::default()
        }),
        local_reply_config: Some(local_reply::config()),
        access_log: access_log::loggers(&front.access_log),
        ..Default::default()
    }
}

/// What requests pass through, in this order; answers in the opposite one. The router must be the last.
fn http_filters(config: &Config, own: Vec<HttpFilter>) -> Vec<HttpFilter> {
    let front = &config.front;
    let mut filters = Vec::new();
    filters.extend(response_headers::filter(front));
    filters.extend(compression::filters(front));
    filters.push(http_filter(cors::FILTER, &Cors {}));
    filters.extend(rate_limits::filter(config));
    filters.push(script::filter(front));
    filters.push(placement::filter());
    filters.extend(own);
    filters.push(body_limit(front.limits.max_body_size));
    filters.push(router());
    filters
}

/// Takes bodies of so many bytes, and answers larger ones with 413.
pub fn body_limit(bytes: u32) -> HttpFilter {
    let buffer = Buffer {
        max_request_bytes: number(bytes),
    };
    http_filter("envoy.filters.http.buffer", &buffer)
}

/// The last filter.
pub fn router() -> HttpFilter {
    let router = Router {
        suppress_envoy_headers: true,
        ..Default::default()
    };
    http_filter(ROUTER, &router)
}

/// What a client says in `x-envoy-*` headers and in `x-request-id` is dropped, wherever it sits. An empty list would
/// mean loopback and private networks; the one range here is set aside for addresses that nobody has (RFC 6666).
fn nobody_is_internal() -> hcm::InternalAddressConfig {
    let nobody = CidrRange {
        address_prefix: "100::".to_owned(),
        prefix_len: number(128),
    };
    hcm::InternalAddressConfig {
        cidr_ranges: vec![nobody],
        ..Default::default()
    }
}

pub fn network_filter<M: Message + Name>(name: &str, config: &M) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(any(config))),
    }
}

/// An HTTP filter by its name.
pub fn http_filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}
