//! The administration of the fleet as REST: a listener of its own with Envoy's transcoder between JSON and gRPC, its routes, and
//! the way to the fleet port. Methods and paths are those of the contracts (`google.api.http`); who may do what is asked on the
//! fleet port, to which `Authorization` travels as it is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, ComparisonFilter, StatusCodeFilter, access_log_filter, comparison_filter,
};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use envoy_types::pb::envoy::config::core::v3::{
    self as core_v3, HeaderValue, HeaderValueOption, KeepaliveSettings, RuntimeUInt32, SubstitutionFormatString,
    address as core_address, header_value_option, socket_address, substitution_format_string,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::grpc_json_transcoder::v3::{
    GrpcJsonTranscoder,
    grpc_json_transcoder::{DescriptorSet, PrintOptions, RequestValidationOptions, UrlUnescapeSpec},
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, LocalReplyConfig, Rds, ResponseMapper, http_connection_manager as hcm,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{self as upstream, http_protocol_options as options};
use envoy_types::pb::google::protobuf::{Any, Struct, Value, value};
use graticule_proto::v1::fleet_admin_server;
use prost::{Message as _, Name as _};
use prost_types::FileDescriptorSet;

use super::listener::{self, http_filter};
use super::{Kind, Resource, address, any, canonical, duration, number, over_ads, refers, resource, tls};
use crate::adapters::secrets::{FLEET_AUTHORITY, FLEET_CERTIFICATE, REST_CERTIFICATE, REST_CLIENTS};
use crate::config::{Config, MinVersion, seconds};
use crate::core::resources::Reference;

/// The listener, its routes and its cluster.
pub const REST: &str = "rest";

/// What translates.
const TRANSCODER: &str = "envoy.filters.http.grpc_json_transcoder";

/// What clients may send, in bytes: as much as an agent takes of one call.
const MAX_REQUEST: u32 = 1024 * 1024;

/// What one answer, or one message of a stream, may have, in bytes. What Envoys are told of a large fleet is the largest.
const MAX_RESPONSE: u32 = 32 * 1024 * 1024;

/// How long an answer that is no stream may take: longer than the control plane waits for an agent.
const TIMEOUT: Duration = Duration::from_secs(185);

/// A stream on which nothing has been said for so long is ended: whoever asked may have gone without a word.
const IDLE: Duration = Duration::from_secs(3600);

/// How often the fleet port is asked for a sign of life, and how long it may take to give one.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// The codes of gRPC that fit the statuses of errors which Envoy itself answers; 2 (unknown) for any other.
const CODES: [(u32, u32); 7] = [(400, 3), (404, 5), (408, 4), (413, 8), (431, 8), (503, 14), (504, 4)];

/// The numbers of the fields that lead from the connection manager to the fields of replies: `local_reply_config`, `mappers`,
/// `body_format_override`, `json_format`, `fields`.
const REPLY_FIELDS: [u64; 5] = [38, 1, 4, 2, 1];

/// The methods that answer with a stream.
static STREAMS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let files = FileDescriptorSet::decode(graticule_proto::BARE_DESCRIPTORS).unwrap_or_default();
    let services = files.file.into_iter().flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().map(move |service| (package.clone(), service))
    });
    let ours = services.filter(|(package, service)| format!("{package}.{}", service.name()) == SERVICE);
    let methods = ours.flat_map(|(_, service)| service.method);
    let streams = methods.filter(|method| method.server_streaming());
    streams.map(|method| method.name().to_owned()).collect()
});

const SERVICE: &str = fleet_admin_server::SERVICE_NAME;

/// Everything of it; nothing where it is not wanted.
pub fn resources(config: &Config) -> Vec<(Kind, Resource)> {
    if !config.rest.enabled {
        return Vec::new();
    }
    let secret = |name: &str| refers(Kind::Secret, name.to_owned());
    let of_port = &config.rest.tls;
    let shown = of_port.is_on().then(|| secret(REST_CERTIFICATE));
    let asked = of_port.asks_clients().then(|| secret(REST_CLIENTS));
    let refs: Vec<Reference> = shown
        .into_iter()
        .chain(asked)
        .chain([refers(Kind::Route, REST.to_owned())])
        .collect();
    let mut all = vec![(Kind::Listener, resource(REST.to_owned(), &listener(config), refs))];

    let leads_to = vec![refers(Kind::Cluster, REST.to_owned())];
    all.push((Kind::Route, resource(REST.to_owned(), &routes(), leads_to)));

    let mut refs = Vec::new();
    if config.fleet.tls.is_on() {
        refs.push(secret(FLEET_AUTHORITY));
        refs.extend(
            config
                .rest
                .fleet_tls
                .shows_certificate()
                .then(|| secret(FLEET_CERTIFICATE)),
        );
    }
    all.push((Kind::Cluster, resource(REST.to_owned(), &cluster(config), refs)));
    all
}

fn listener(config: &Config) -> Listener {
    let rest = &config.rest;
    let clients = rest.tls.asks_clients().then_some(REST_CLIENTS);
    let secured = || tls::downstream(MinVersion::Tls12, (REST_CERTIFICATE, clients), &["h2", "http/1.1"]);
    let chain = FilterChain {
        filters: vec![http(config)],
        transport_socket: rest.tls.is_on().then(|| tls::socket(tls::TLS, &secured())),
        ..Default::default()
    };
    Listener {
        name: REST.to_owned(),
        address: Some(address(rest.listen)),
        filter_chains: vec![chain],
        ..Default::default()
    }
}

fn http(config: &Config) -> Filter {
    // Replies have two fields, and the entries of a map are encoded in an order left to chance.
    let manager = canonical::sorted(&connection_manager(config).encode_to_vec(), &REPLY_FIELDS);
    let config = Any {
        type_url: HttpConnectionManager::type_url(),
        value: manager,
    };
    Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }
}

/// HTTP as the front speaks it, with the same limits and access log.
fn connection_manager(config: &Config) -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: REST.to_owned(),
        route_specifier: Some(hcm::RouteSpecifier::Rds(Rds {
            config_source: Some(over_ads()),
            route_config_name: REST.to_owned(),
        })),
        http_filters: vec![listener::body_limit(MAX_REQUEST), transcoder(), listener::router()],
        // A project's name in a path has slashes, and clients that are made from the OpenAPI document encode them.
        path_with_escaped_slashes_action: hcm::PathWithEscapedSlashesAction::KeepUnchanged as i32,
        local_reply_config: Some(local_replies()),
        ..listener::connection_manager(config, Vec::new())
    }
}

fn transcoder() -> HttpFilter {
    let config = GrpcJsonTranscoder {
        descriptor_set: Some(DescriptorSet::ProtoDescriptorBin(
            graticule_proto::BARE_DESCRIPTORS.to_vec(),
        )),
        services: vec![SERVICE.to_owned()],
        print_options: Some(PrintOptions {
            // What is zero, false or empty is said, so that scripts need not know defaults.
            always_print_primitive_fields: true,
            // Fields are named as in the contracts and in what the commands print with --json.
            preserve_proto_field_names: true,
            stream_newline_delimited: true,
            ..Default::default()
        }),
        convert_grpc_status: true,
        url_unescape_spec: UrlUnescapeSpec::AllCharacters as i32,
        request_validation_options: Some(RequestValidationOptions {
            reject_unknown_method: true,
            reject_unknown_query_parameters: true,
            reject_binding_body_field_collisions: true,
        }),
        // Of what has not been translated yet; the filter before it counts all.
        max_request_body_size: number(MAX_REQUEST),
        max_response_body_size: number(MAX_RESPONSE),
        ..Default::default()
    };
    http_filter(TRANSCODER, &config)
}

/// Errors of Envoy's own look like those of the fleet port: `google.rpc.Status` as JSON.
fn local_replies() -> LocalReplyConfig {
    let known = CODES
        .into_iter()
        .map(|(status, code)| mapper(comparison_filter::Op::Eq, status, code));
    LocalReplyConfig {
        mappers: known.chain([mapper(comparison_filter::Op::Ge, 400, 2)]).collect(),
        body_format: None,
    }
}

fn mapper(op: comparison_filter::Op, status: u32, code: u32) -> ResponseMapper {
    let compared = ComparisonFilter {
        op: op as i32,
        value: Some(RuntimeUInt32 {
            default_value: status,
            runtime_key: format!("graticule.rest.status_{status}"),
        }),
    };
    let fields = [
        ("code", value::Kind::NumberValue(f64::from(code))),
        ("message", value::Kind::StringValue("%LOCAL_REPLY_BODY%".to_owned())),
    ];
    let fields = fields.map(|(name, kind)| (name.to_owned(), Value { kind: Some(kind) }));
    let format = SubstitutionFormatString {
        content_type: "application/json".to_owned(),
        format: Some(substitution_format_string::Format::JsonFormat(Struct {
            fields: fields.into(),
        })),
        ..Default::default()
    };
    ResponseMapper {
        filter: Some(AccessLogFilter {
            filter_specifier: Some(access_log_filter::FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
                comparison: Some(compared),
            })),
        }),
        body_format_override: Some(format),
        ..Default::default()
    }
}

/// The routes of requests as they are once they are translated.
fn routes() -> RouteConfiguration {
    let streams = STREAMS.iter().map(|method| {
        let path = route_match::PathSpecifier::Path(format!("/{SERVICE}/{method}"));
        route(method, path, (Duration::ZERO, Some(IDLE)))
    });
    let others = route_match::PathSpecifier::Prefix(format!("/{SERVICE}/"));
    let others = route("calls", others, (TIMEOUT, None));
    let host = VirtualHost {
        name: REST.to_owned(),
        domains: vec!["*".to_owned()],
        routes: streams.chain([others]).collect(),
        ..Default::default()
    };
    let header = |(name, value): (&str, &str)| HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        }),
        append_action: header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..Default::default()
    };
    let headers = [("cache-control", "no-store"), ("x-content-type-options", "nosniff")];
    RouteConfiguration {
        name: REST.to_owned(),
        virtual_hosts: vec![host],
        response_headers_to_add: headers.map(header).into(),
        ..Default::default()
    }
}

fn route(name: &str, path: route_match::PathSpecifier, (timeout, idle): (Duration, Option<Duration>)) -> Route {
    let action = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(REST.to_owned())),
        timeout: duration(timeout),
        idle_timeout: idle.and_then(duration),
        ..Default::default()
    };
    Route {
        name: format!("{REST}/{name}"),
        r#match: Some(RouteMatch {
            path_specifier: Some(path),
            ..Default::default()
        }),
        action: Some(route::Action::Route(action)),
        ..Default::default()
    }
}

/// The fleet port. A name is looked up by Envoy, again and again.
fn cluster(config: &Config) -> Cluster {
    let rest = &config.rest;
    let (host, port) = rest.upstream(&config.fleet);
    let kind = if host.parse::<IpAddr>().is_ok() {
        cluster::DiscoveryType::Static
    } else {
        cluster::DiscoveryType::StrictDns
    };
    Cluster {
        name: REST.to_owned(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(kind as i32)),
        connect_timeout: duration(seconds(config.front.connect_timeout)),
        load_assignment: Some(at(host, port)),
        transport_socket: config.fleet.tls.is_on().then(|| {
            let shows = rest.fleet_tls.shows_certificate().then(|| FLEET_CERTIFICATE.to_owned());
            let name = rest.server_name(&config.fleet);
            // An address is no name to ask for (RFC 6066).
            let sni = if name.parse::<IpAddr>().is_ok() { "" } else { &name };
            tls::calling((FLEET_AUTHORITY.to_owned(), shows), sni, "h2")
        }),
        // One entry only: the order of a map's entries in the encoded bytes is left to chance.
        typed_extension_protocol_options: HashMap::from([(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            any(&http2()),
        )]),
        ..Default::default()
    }
}

fn at(host: String, port: u16) -> ClusterLoadAssignment {
    let socket = core_v3::SocketAddress {
        address: host,
        port_specifier: Some(socket_address::PortSpecifier::PortValue(u32::from(port))),
        ..Default::default()
    };
    let endpoint = Endpoint {
        address: Some(core_v3::Address {
            address: Some(core_address::Address::SocketAddress(socket)),
        }),
        ..Default::default()
    };
    let endpoint = LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    };
    ClusterLoadAssignment {
        cluster_name: REST.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![endpoint],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// gRPC is HTTP/2, and a connection that has gone without a word is noticed while somebody watches.
fn http2() -> upstream::HttpProtocolOptions {
    let http2 = core_v3::Http2ProtocolOptions {
        connection_keepalive: Some(KeepaliveSettings {
            interval: duration(KEEPALIVE.0),
            timeout: duration(KEEPALIVE.1),
            ..Default::default()
        }),
        ..Default::default()
    };
    let explicit = options::ExplicitHttpConfig {
        protocol_config: Some(options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(
            http2,
        )),
    };
    upstream::HttpProtocolOptions {
        upstream_protocol_options: Some(options::UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::tests::snapshot;
    use super::*;
    use crate::adapters::secrets::Secrets;
    use crate::core::resources::Snapshot;

    fn config(change: impl FnOnce(&mut Config)) -> Config {
        let mut config = Config::default();
        config.rest.enabled = true;
        config.fleet.access.full_token_file = "/token".into();
        change(&mut config);
        config.check().unwrap();
        config
    }

    fn told(config: &Config) -> Snapshot {
        snapshot(config, &[], &Secrets::unread(config, &Secrets::default())).unwrap()
    }

    #[test]
    fn it_comes_beside_the_front_and_changes_nothing_of_it() {
        let (without, with) = (told(&Config::default()), told(&config(|_| {})));
        for kind in Kind::ALL {
            let named = matches!(kind, Kind::Listener | Kind::Route | Kind::Cluster);
            let more: BTreeSet<&str> = with.names(kind).difference(&without.names(kind)).copied().collect();
            assert_eq!(more, if named { [REST].into() } else { BTreeSet::new() }, "{kind}");
            assert!(
                without
                    .of(kind)
                    .all(|before| with.get(kind, &before.name) == Some(before))
            );
        }
        for _ in 0..20 {
            assert_eq!(told(&config(|_| {})), with, "the same input gives the same bytes");
        }
    }

    #[test]
    fn every_secret_that_it_needs_is_named() {
        let secured = config(|config| {
            let tls = &mut config.fleet.tls;
            (tls.cert_file, tls.key_file, tls.client_ca_file) = ("/c".into(), "/k".into(), "/ca".into());
            let tls = &mut config.rest.fleet_tls;
            (tls.ca_file, tls.cert_file, tls.key_file) = ("/ca".into(), "/e".into(), "/e".into());
            let tls = &mut config.rest.tls;
            (tls.cert_file, tls.key_file, tls.client_ca_file) = ("/c".into(), "/k".into(), "/ca".into());
        });
        let told = told(&secured);
        let all = [FLEET_AUTHORITY, FLEET_CERTIFICATE, REST_CERTIFICATE, REST_CLIENTS];
        assert_eq!(told.names(Kind::Secret), all.into());
        let refs = |kind| -> Vec<String> {
            let refs = told.get(kind, REST).unwrap().refs.iter();
            refs.filter(|r| r.kind == Kind::Secret)
                .map(|r| r.name.clone())
                .collect()
        };
        assert_eq!(refs(Kind::Listener), [REST_CERTIFICATE, REST_CLIENTS]);
        assert_eq!(refs(Kind::Cluster), [FLEET_AUTHORITY, FLEET_CERTIFICATE]);
    }

    #[test]
    fn a_name_is_looked_up_by_envoy_and_an_address_is_taken_as_it_is() {
        let kind = |fleet: &str| {
            let cluster = cluster(&config(|config| config.rest.fleet = fleet.to_owned()));
            match cluster.cluster_discovery_type {
                Some(cluster::ClusterDiscoveryType::Type(kind)) => cluster::DiscoveryType::try_from(kind).unwrap(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(kind(""), cluster::DiscoveryType::Static);
        assert_eq!(kind("[::1]:18001"), cluster::DiscoveryType::Static);
        assert_eq!(kind("control-plane:18001"), cluster::DiscoveryType::StrictDns);
    }

    #[test]
    fn streams_may_take_as_long_as_they_like() {
        let routes = routes().virtual_hosts.remove(0).routes;
        let timeouts: Vec<(String, i64)> = routes
            .into_iter()
            .map(|route| {
                let Some(route::Action::Route(action)) = route.action else {
                    panic!("{} leads nowhere", route.name)
                };
                (route.name, action.timeout.unwrap().seconds)
            })
            .collect();
        let of = |name: &str| {
            timeouts
                .iter()
                .find(|(route, _)| route == name)
                .map(|(_, seconds)| *seconds)
        };
        assert_eq!((of("rest/WatchAgents"), of("rest/DrainAgents")), (Some(0), Some(0)));
        assert_eq!((of("rest/ListAgents"), of("rest/calls")), (None, Some(185)));
        assert_eq!(timeouts.last().unwrap().0, "rest/calls", "the first that fits is taken");
    }
}
