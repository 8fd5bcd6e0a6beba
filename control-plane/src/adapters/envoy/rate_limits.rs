//! How often a pool may be asked, by all clients together and by one address. The buckets are Envoy's own, for each
//! Envoy anew, and are shared by all routes of a pool.

use envoy_types::pb::envoy::config::core::v3::{Metadata, RuntimeFeatureFlag, RuntimeFractionalPercent};
use envoy_types::pb::envoy::config::route::v3::{RateLimit, rate_limit};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{
    LocalRateLimitDescriptor, rate_limit_descriptor::Entry,
};
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::envoy::r#type::metadata::v3::MetadataKey;
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_key::{PathSegment, path_segment};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, TokenBucket, fractional_percent::DenominatorType};
use envoy_types::pb::google::protobuf::{Struct, UInt64Value, Value, value};

use super::listener::http_filter;
use super::{duration, number, truth};
use crate::config::{Config, Front, Pool, Rate, seconds};

/// Addresses whose buckets are remembered, for each pool; the one not seen for longest is forgotten, and begins anew.
const ADDRESSES: u32 = 10_000;

/// A customer's network, in IPv6.
const IPV6_NETWORK: u32 = 64;

/// Where a route's metadata names its pool.
const NAMESPACE: &str = "graticule";
const POOL: &str = "pool";
const ADDRESS: &str = "masked_remote_address";

/// The filter with every pool's buckets; none where no pool has a limit.
pub fn filter(config: &Config) -> Option<HttpFilter> {
    let entry = |key: &str, value: &str| Entry {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    let pools = config.effective_pools();
    let mut descriptors = Vec::new();
    for (name, pool) in pools.iter() {
        let all = bucket(&pool.rate_limit).map(|bucket| (vec![entry(POOL, name)], bucket));
        // Without a value it stands for every address.
        let each = bucket(&pool.client_rate_limit).map(|bucket| (vec![entry(POOL, name), entry(ADDRESS, "")], bucket));
        descriptors.extend(
            [all, each]
                .into_iter()
                .flatten()
                .map(|(entries, bucket)| LocalRateLimitDescriptor {
                    entries,
                    token_bucket: Some(bucket),
                    ..Default::default()
                }),
        );
    }
    let limit = LocalRateLimit {
        stat_prefix: "pools".to_owned(),
        filter_enabled: always(),
        filter_enforced: always(),
        max_dynamic_descriptors: number(ADDRESSES),
        enable_retry_after_header: true,
        always_consume_default_token_bucket: truth(false),
        rate_limits: takes(),
        descriptors,
        ..Default::default()
    };
    (!limit.descriptors.is_empty()).then(|| http_filter("envoy.filters.http.local_ratelimit", &limit))
}

/// What a request takes from: the bucket of its route's pool, and that of its address there.
fn takes() -> Vec<RateLimit> {
    let pool = rate_limit::action::ActionSpecifier::Metadata(rate_limit::action::MetaData {
        descriptor_key: POOL.to_owned(),
        metadata_key: Some(MetadataKey {
            key: NAMESPACE.to_owned(),
            path: vec![PathSegment {
                segment: Some(path_segment::Segment::Key(POOL.to_owned())),
            }],
        }),
        source: rate_limit::action::meta_data::Source::RouteEntry as i32,
        ..Default::default()
    });
    let address = rate_limit::action::ActionSpecifier::MaskedRemoteAddress(rate_limit::action::MaskedRemoteAddress {
        v6_prefix_mask_len: number(IPV6_NETWORK),
        ..Default::default()
    });
    let limit = |actions: Vec<rate_limit::action::ActionSpecifier>| RateLimit {
        actions: actions
            .into_iter()
            .map(|action| rate_limit::Action {
                action_specifier: Some(action),
            })
            .collect(),
        ..Default::default()
    };
    vec![limit(vec![pool.clone()]), limit(vec![pool, address])]
}

/// The mark by which the filter knows a route's pool; none where the pool has no limit.
pub fn of_route(name: &str, pool: &Pool) -> Option<Metadata> {
    let limited = pool.rate_limit.requests > 0 || pool.client_rate_limit.requests > 0;
    let value = Value {
        kind: Some(value::Kind::StringValue(name.to_owned())),
    };
    let mark = Struct {
        fields: [(POOL.to_owned(), value)].into(),
    };
    limited.then(|| Metadata {
        filter_metadata: [(NAMESPACE.to_owned(), mark)].into(),
        ..Default::default()
    })
}

/// The bound on clients' connections; none where there is none.
pub fn connections(front: &Front) -> Option<ConnectionLimit> {
    let most = front.limits.max_connections;
    (most > 0).then(|| ConnectionLimit {
        stat_prefix: super::FRONT.to_owned(),
        max_connections: Some(UInt64Value { value: u64::from(most) }),
        runtime_enabled: Some(RuntimeFeatureFlag {
            default_value: truth(true),
            runtime_key: "graticule.connection_limit.enabled".to_owned(),
        }),
        ..Default::default()
    })
}

fn bucket(rate: &Rate) -> Option<TokenBucket> {
    (rate.requests > 0).then(|| TokenBucket {
        max_tokens: if rate.burst == 0 { rate.requests } else { rate.burst },
        tokens_per_fill: number(rate.requests),
        fill_interval: duration(seconds(rate.per)),
    })
}

fn always() -> Option<RuntimeFractionalPercent> {
    Some(RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator: 100,
            denominator: DenominatorType::Hundred as i32,
        }),
        runtime_key: String::new(),
    })
}
