//! LDS: the one listener that clients reach, and how its connections are handled.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::Lua;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager as hcm, http_filter,
};
use prost::{Message, Name};

use super::{FRONT, access_log, address, any, duration, inline, local_reply, number, over_ads, truth};
use crate::config::Front;

/// A client that has not sent its request's head after this long is disconnected.
const REQUEST_HEADERS_TIMEOUT: Duration = Duration::from_secs(5);

/// The script that names the project of a request, for hashing.
pub const PROJECT_KEY: &str = include_str!("project_key.lua");

/// The listener on `front.listen`.
pub fn listener(front: &Front) -> Listener {
    let manager = Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(any(&connection_manager(front)))),
    };
    Listener {
        name: FRONT.to_owned(),
        address: Some(address(front.listen)),
        filter_chains: vec![FilterChain {
            filters: vec![manager],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// How HTTP is spoken with clients.
pub fn connection_manager(front: &Front) -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: FRONT.to_owned(),
        route_specifier: Some(hcm::RouteSpecifier::Rds(Rds {
            config_source: Some(over_ads()),
            route_config_name: FRONT.to_owned(),
        })),
        http_filters: vec![
            http_filter("envoy.filters.http.lua", &project_key()),
            http_filter(
                "envoy.filters.http.router",
                &Router {
                    suppress_envoy_headers: true,
                    ..Default::default()
                },
            ),
        ],
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
        local_reply_config: Some(local_reply::config()),
        access_log: access_log::loggers(&front.access_log),
        ..Default::default()
    }
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

fn project_key() -> Lua {
    Lua {
        default_source_code: Some(inline(PROJECT_KEY)),
        ..Default::default()
    }
}

fn http_filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}
