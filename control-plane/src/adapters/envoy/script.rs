//! The script that reads a request for Envoy: which project it is for, what it asks, and what of it may be logged.

use envoy_types::pb::envoy::extensions::filters::http::lua::v3::Lua;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;

use super::listener::http_filter;
use super::{SCRIPT, inline};
use crate::config::Front;

/// The script; what it is configured with stands in its first lines.
const TEXT: &str = include_str!("project_key.lua");

/// The filter that runs it.
pub fn filter(front: &Front) -> HttpFilter {
    let settings = format!(
        "local MOST_URL_BYTES = {}\nlocal LOGGED = {}\n",
        front.limits.max_url_length,
        !front.access_log.is_empty()
    );
    let script = Lua {
        default_source_code: Some(inline(&format!("{settings}{TEXT}"))),
        ..Default::default()
    };
    http_filter(SCRIPT, &script)
}
