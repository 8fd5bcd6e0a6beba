//! Text is compressed on its way to clients that take it so.

use envoy_types::pb::envoy::config::core::v3::{RuntimeFeatureFlag, TypedExtensionConfig};
use envoy_types::pb::envoy::extensions::compression::brotli::compressor::v3::Brotli;
use envoy_types::pb::envoy::extensions::compression::gzip::compressor::v3::Gzip;
use envoy_types::pb::envoy::extensions::compression::zstd::compressor::v3::Zstd;
use envoy_types::pb::envoy::extensions::filters::http::compressor::v3::{Compressor, compressor};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher};

use super::listener::http_filter;
use super::{any, number, truth};
use crate::config::{Algorithm, Front};

/// One filter for each algorithm.
pub fn filters(front: &Front) -> Vec<HttpFilter> {
    let compression = &front.compression;
    let filter = |algorithm: &Algorithm| {
        let (name, library) = match algorithm {
            Algorithm::Br => ("brotli", any(&Brotli::default())),
            Algorithm::Zstd => ("zstd", any(&Zstd::default())),
            Algorithm::Gzip => ("gzip", any(&Gzip::default())),
        };
        let common = compressor::CommonDirectionConfig {
            enabled: Some(RuntimeFeatureFlag {
                default_value: truth(true),
                ..Default::default()
            }),
            min_content_length: number(compression.min_size),
            content_type_matcher: compression
                .content_types
                .iter()
                .map(|media_type| exactly(media_type))
                .collect(),
            ..Default::default()
        };
        let responses = compressor::ResponseDirectionConfig {
            common_config: Some(common),
            // The bytes are others then, though they say the same (RFC 9110, section 8.8.1).
            weaken_etag_on_compress: true,
            ..Default::default()
        };
        let filter = Compressor {
            compressor_library: Some(TypedExtensionConfig {
                name: name.to_owned(),
                typed_config: Some(library),
            }),
            response_direction_config: Some(responses),
            // Else the first that the client names, and most name gzip first.
            choose_first: compression.algorithms.first() == Some(algorithm),
            ..Default::default()
        };
        http_filter(&format!("envoy.filters.http.compressor.{name}"), &filter)
    };
    compression.algorithms.iter().map(filter).collect()
}

fn exactly(media_type: &str) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::Exact(media_type.to_owned())),
        ignore_case: true,
    }
}
