//! Which pages of other origins may read a pool's answers. Envoy answers every preflight itself: one from an origin that
//! may not is answered too, without the headers that a browser looks for, so no agent is bothered with it.

use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, header_value_option};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher};
use envoy_types::pb::google::protobuf::Any;

use super::{any, truth};
use crate::config::Cors;

/// The HTTP filter.
pub const FILTER: &str = "envoy.filters.http.cors";

/// What pages may ask with. Agents and QGIS see to what is allowed of it.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Answers' headers that pages may read besides those that they always may.
const EXPOSED: &str = "content-disposition, content-crs, content-range, etag, link, retry-after, x-graticule-cache, x-graticule-project-version, x-request-id";

/// What a route says to the filter.
pub fn of_route(cors: &Cors) -> (String, Any) {
    let patterns = if cors.origins.all() {
        vec![matcher(".*".to_owned())]
    } else {
        cors.origins.list().iter().map(|origin| matching(origin)).collect()
    };
    let policy = CorsPolicy {
        allow_origin_string_match: patterns,
        allow_methods: METHODS.to_owned(),
        allow_headers: cors.headers.join(", "),
        expose_headers: EXPOSED.to_owned(),
        max_age: cors.max_age.to_string(),
        allow_credentials: cors.credentials.then(|| truth(true)).flatten(),
        forward_not_matching_preflights: truth(false),
        ..Default::default()
    };
    (FILTER.to_owned(), any(&policy))
}

/// Where answers differ by origin, caches must keep them apart.
pub fn varies(cors: &Cors) -> Option<HeaderValueOption> {
    let differs = cors.origins.all() || !cors.origins.list().is_empty();
    differs.then(|| HeaderValueOption {
        header: Some(HeaderValue {
            key: "vary".to_owned(),
            value: "Origin".to_owned(),
            ..Default::default()
        }),
        append_action: header_value_option::HeaderAppendAction::AppendIfExistsOrAdd as i32,
        ..Default::default()
    })
}

fn matching(origin: &str) -> StringMatcher {
    if origin.contains('*') {
        return matcher(pattern(origin));
    }
    StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::Exact(origin.to_owned())),
        ..Default::default()
    }
}

/// `*` stands for whatever a host's name or a port may be made of, and never reaches over `:` or `/`.
fn pattern(origin: &str) -> String {
    origin
        .replace('.', r"\.")
        .replace('+', r"\+")
        .replace('*', "[A-Za-z0-9._-]+")
}

fn matcher(regex: String) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::SafeRegex(RegexMatcher {
            regex,
            ..Default::default()
        })),
        ..Default::default()
    }
}
