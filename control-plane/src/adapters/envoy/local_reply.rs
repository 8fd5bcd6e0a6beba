//! What clients see of Envoy's own errors (no agent there, timed out, malformed request): an OGC exception document of
//! the service they asked, or JSON when they asked none. All of them name the request's id.

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, AndFilter, ComparisonFilter, HeaderFilter, StatusCodeFilter, access_log_filter, comparison_filter,
};
use envoy_types::pb::envoy::config::core::v3::{RuntimeUInt32, SubstitutionFormatString, substitution_format_string};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    LocalReplyConfig, ResponseMapper,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher};

use super::inline;

/// The end of every message: what Envoy calls the cause, and the name of the request.
const CAUSE: &str = "HTTP status %RESPONSE_CODE%, %RESPONSE_CODE_DETAILS%, request id %REQ(X-REQUEST-ID)%";

/// What is said first: for what a client can change by itself, and for everything else.
const MESSAGES: [(Option<u32>, &str); 5] = [
    (Some(413), "The body of this request is larger than this server takes"),
    (
        Some(414),
        "The URL of this request is longer than this server takes, send it as a POST form",
    ),
    (Some(429), "Too many requests, try again after the time in Retry-After"),
    (
        Some(431),
        "The headers of this request are larger than this server takes",
    ),
    (None, "The map server did not answer this request"),
];

/// The mappers, in the order in which the first that fits is taken.
pub fn config() -> LocalReplyConfig {
    LocalReplyConfig {
        mappers: MESSAGES
            .into_iter()
            .flat_map(|(status, message)| mappers(status, message))
            .collect(),
        body_format: None,
    }
}

fn mappers(status: Option<u32>, message: &str) -> [ResponseMapper; 4] {
    let wms = format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<ServiceExceptionReport version="1.3.0" xmlns="http://www.opengis.net/ogc">
  <ServiceException>{message}: {CAUSE}</ServiceException>
</ServiceExceptionReport>
"#
    );
    let ows = |version: &str, namespace: &str| {
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<ows:ExceptionReport version="{version}" xmlns:ows="{namespace}">
  <ows:Exception exceptionCode="NoApplicableCode">
    <ows:ExceptionText>{message}: {CAUSE}</ows:ExceptionText>
  </ows:Exception>
</ows:ExceptionReport>
"#
        )
    };
    let json = format!(
        r#"{{"code": "%RESPONSE_CODE%", "description": "{message}: %RESPONSE_CODE_DETAILS%", "request_id": "%REQ(X-REQUEST-ID)%"}}
"#
    );
    let wfs = ows("1.1.0", "http://www.opengis.net/ows");
    let wmts = ows("1.1.0", "http://www.opengis.net/ows/1.1");
    let asks = |names: &str| match status {
        Some(status) => both(with_status(comparison_filter::Op::Eq, status), asks_service(names)),
        None => asks_service(names),
    };
    let any = match status {
        Some(status) => with_status(comparison_filter::Op::Eq, status),
        None => with_status(comparison_filter::Op::Ge, 400),
    };
    [
        mapper(asks("wms"), "text/xml; charset=utf-8", &wms),
        mapper(asks("wfs|wcs"), "text/xml; charset=utf-8", &wfs),
        mapper(asks("wmts"), "text/xml; charset=utf-8", &wmts),
        mapper(any, "application/json", &json),
    ]
}

fn mapper(filter: AccessLogFilter, content_type: &str, text: &str) -> ResponseMapper {
    let format = SubstitutionFormatString {
        content_type: content_type.to_owned(),
        format: Some(substitution_format_string::Format::TextFormatSource(inline(text))),
        ..Default::default()
    };
    ResponseMapper {
        filter: Some(filter),
        body_format_override: Some(format),
        ..Default::default()
    }
}

/// The query has SERVICE= one of these, in any letter case.
fn asks_service(names: &str) -> AccessLogFilter {
    let pattern = RegexMatcher {
        regex: format!(r"(?is).*[?&]service=(?:{names})(?:[&#].*)?"),
        ..Default::default()
    };
    let header = HeaderMatcher {
        name: ":path".to_owned(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(string_matcher::MatchPattern::SafeRegex(pattern)),
            ..Default::default()
        })),
        ..Default::default()
    };
    filter(access_log_filter::FilterSpecifier::HeaderFilter(HeaderFilter {
        header: Some(header),
    }))
}

fn with_status(op: comparison_filter::Op, status: u32) -> AccessLogFilter {
    let status = RuntimeUInt32 {
        default_value: status,
        runtime_key: format!("graticule.local_reply.status_{status}"),
    };
    let comparison = ComparisonFilter {
        op: op as i32,
        value: Some(status),
    };
    filter(access_log_filter::FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
        comparison: Some(comparison),
    }))
}

fn both(one: AccessLogFilter, other: AccessLogFilter) -> AccessLogFilter {
    filter(access_log_filter::FilterSpecifier::AndFilter(AndFilter {
        filters: vec![one, other],
    }))
}

const fn filter(specifier: access_log_filter::FilterSpecifier) -> AccessLogFilter {
    AccessLogFilter {
        filter_specifier: Some(specifier),
    }
}
