//! What clients see of Envoy's own errors (no agent there, timed out, malformed request): an OGC exception document of
//! the service they asked, or JSON when they asked none. All of them name the request's id.

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, ComparisonFilter, HeaderFilter, StatusCodeFilter, access_log_filter, comparison_filter,
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

/// The mappers, in the order in which the first that fits is taken.
pub fn config() -> LocalReplyConfig {
    let wms = format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<ServiceExceptionReport version="1.3.0" xmlns="http://www.opengis.net/ogc">
  <ServiceException>The map server did not answer this request: {CAUSE}</ServiceException>
</ServiceExceptionReport>
"#
    );
    let ows = |version: &str, namespace: &str| {
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<ows:ExceptionReport version="{version}" xmlns:ows="{namespace}">
  <ows:Exception exceptionCode="NoApplicableCode">
    <ows:ExceptionText>The map server did not answer this request: {CAUSE}</ows:ExceptionText>
  </ows:Exception>
</ows:ExceptionReport>
"#
        )
    };
    let json = r#"{"code": "%RESPONSE_CODE%", "description": "The map server did not answer this request: %RESPONSE_CODE_DETAILS%", "request_id": "%REQ(X-REQUEST-ID)%"}
"#;
    let wfs = ows("1.1.0", "http://www.opengis.net/ows");
    let wmts = ows("1.1.0", "http://www.opengis.net/ows/1.1");
    LocalReplyConfig {
        mappers: vec![
            mapper(asks_service("wms"), "text/xml; charset=utf-8", &wms),
            mapper(asks_service("wfs|wcs"), "text/xml; charset=utf-8", &wfs),
            mapper(asks_service("wmts"), "text/xml; charset=utf-8", &wmts),
            mapper(any_error(), "application/json", json),
        ],
        body_format: None,
    }
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

fn any_error() -> AccessLogFilter {
    let least = RuntimeUInt32 {
        default_value: 400,
        runtime_key: "graticule.local_reply.least_status".to_owned(),
    };
    let comparison = ComparisonFilter {
        op: comparison_filter::Op::Ge as i32,
        value: Some(least),
    };
    filter(access_log_filter::FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
        comparison: Some(comparison),
    }))
}

const fn filter(specifier: access_log_filter::FilterSpecifier) -> AccessLogFilter {
    AccessLogFilter {
        filter_specifier: Some(specifier),
    }
}
