//! What is taken, what is refused with which words, and that the same says the same.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::Lua;
use serde_json::json;

use super::*;
use crate::adapters::envoy::tests::snapshot;
use crate::adapters::secrets::Secrets;
use crate::config::Rest;
use crate::core::resources::Reference;

fn with(listeners: Value, clusters: Value, http_filters: Value) -> Config {
    let list = |value: Value| value.as_array().unwrap().clone();
    let fragment = Fragment {
        listeners: list(listeners),
        clusters: list(clusters),
        http_filters: list(http_filters),
        ..Fragment::default()
    };
    Config {
        fragments: BTreeMap::from([("own".to_owned(), fragment)]),
        ..Config::default()
    }
}

fn lua(name: &str, code: &str) -> Value {
    json!({
        "name": name,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": code},
            "stat_prefix": "own",
        },
    })
}

fn cluster() -> Value {
    json!({
        "name": "legacy",
        "type": "STRICT_DNS",
        "connectTimeout": "0.250s",
        "lb_policy": "LEAST_REQUEST",
        "per_connection_buffer_limit_bytes": 32768,
        "load_assignment": {
            "cluster_name": "legacy",
            "endpoints": [{"lb_endpoints": [{"endpoint": {
                "address": {"socket_address": {"address": "legacy.example.org", "port_value": 80}},
            }}]}],
        },
        "metadata": {"filter_metadata": {
            "b": {"deep": {"z": [1, true, null, "x"], "a": 2.5}},
            "a": {"word": "x"},
        }},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 7}},
            },
        },
    })
}

fn listener(port: u16) -> Value {
    json!({
        "name": "side",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "side",
                "cluster": "legacy",
            },
        }]}],
    })
}

#[test]
fn what_envoy_documents_becomes_resources_beside_ours() {
    let config = with(
        json!([listener(9999)]),
        json!([cluster()]),
        json!([lua("own.lua", "function envoy_on_request(h) end")]),
    );
    let snapshot = snapshot(&config, &[], &Secrets::default()).unwrap();
    let body = |kind, name| snapshot.get(kind, name).unwrap().body.clone();
    let cluster = Cluster::decode(body(Kind::Cluster, "legacy")).unwrap();
    assert_eq!(cluster.connect_timeout.unwrap().nanos, 250_000_000);
    assert_eq!(cluster.per_connection_buffer_limit_bytes.unwrap().value, 32_768);
    let metadata = cluster.metadata.unwrap().filter_metadata;
    assert_eq!(metadata.len(), 2);
    assert!(metadata["b"].fields.contains_key("deep"), "{metadata:?}");
    assert_eq!(cluster.typed_extension_protocol_options.len(), 1);
    assert_eq!(cluster.load_assignment.unwrap().endpoints[0].lb_endpoints.len(), 1);
    let listener = Listener::decode(body(Kind::Listener, "side")).unwrap();
    assert_eq!(listener.filter_chains[0].filters.len(), 1);

    // The filter is where the project is known, and before the agents.
    let names: Vec<String> =
        super::super::listener::connection_manager(&config, http_filters(&config).unwrap().filters)
            .http_filters
            .into_iter()
            .map(|filter| filter.name)
            .collect();
    let at = |name: &str| names.iter().position(|other| other == name).unwrap();
    assert!(at("own.lua") > at(super::super::SCRIPT), "{names:?}");
    assert!(at("own.lua") < at("envoy.filters.http.buffer"), "{names:?}");
    let filters = http_filters(&config).unwrap().filters;
    let Some(envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType::TypedConfig(any)) = &filters[0].config_type
    else {
        panic!("{filters:?}");
    };
    assert_eq!(Lua::decode(any.value.as_slice()).unwrap().stat_prefix, "own");
}

#[test]
fn the_same_says_the_same_whatever_the_order_of_keys() {
    let versions: Vec<String> = (0..20)
        .map(|_| {
            // Through text, so that maps are made anew.
            let cluster: Value = serde_json::from_str(&cluster().to_string()).unwrap();
            let config = with(json!([]), json!([cluster]), json!([]));
            resources(&config).unwrap()[0].1.version.clone()
        })
        .collect();
    assert!(versions.windows(2).all(|pair| pair[0] == pair[1]), "{versions:?}");
}

#[test]
fn what_is_asked_for_over_the_same_stream_must_be_there() {
    let listener = |routes: &str| {
        json!({
            "name": "second",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 9998}},
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": "second",
                    "rds": {"route_config_name": routes, "config_source": {"ads": {}, "resource_api_version": "V3"}},
                },
            }]}],
        })
    };
    let config = with(json!([listener("front")]), json!([]), json!([]));
    let snapshot_of = |config: &Config| snapshot(config, &[], &Secrets::default());
    let refs = snapshot_of(&config)
        .unwrap()
        .get(Kind::Listener, "second")
        .unwrap()
        .refs
        .clone();
    let (kind, name) = (Kind::Route, "front".to_owned());
    assert_eq!(*refs, [Reference { kind, name }]);
    let config = with(json!([listener("nowhere")]), json!([]), json!([]));
    let said = format!("{:?}", snapshot_of(&config).unwrap_err());
    assert!(said.contains("nowhere"), "{said}");
    let config = with(json!([listener("front"), listener("front")]), json!([]), json!([]));
    assert!(format!("{:?}", snapshot_of(&config).unwrap_err()).contains("Duplicate"));
}

#[test]
fn what_filters_ask_for_over_the_same_stream_must_be_there() {
    let asks_for = |secret: &str| {
        json!([{
            "name": "envoy.filters.http.credential_injector",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.oauth2.v3.OAuth2",
                "config": {"credentials": {"token_secret": {
                    "name": secret,
                    "sds_config": {"ads": {}, "resource_api_version": "V3"},
                }}},
            },
        }])
    };
    let mut config = with(json!([]), json!([]), asks_for("nobody"));
    let said = format!("{:?}", snapshot(&config, &[], &Secrets::default()).unwrap_err());
    assert!(said.contains("nobody"), "{said}");
    // The same for HTTPS, where what only leads there has no filters.
    config.front.tls.auto = true;
    let secrets = Secrets::read(&config, &Secrets::default()).unwrap();
    let said = format!("{:?}", snapshot(&config, &[], &secrets).unwrap_err());
    assert!(said.contains("front-tls") && said.contains("nobody"), "{said}");
    config.fragments = with(json!([]), json!([]), asks_for("front/certificate")).fragments;
    assert!(snapshot(&config, &[], &secrets).is_ok());
}

#[test]
fn listeners_mention_the_clusters_that_fragments_name() {
    let script = "function envoy_on_request(h) h:httpCall(\"legacy\", {}, \"\", 1000) end";
    let mut other = cluster();
    other["name"] = json!("other");
    let mirror = json!({
        "name": "mirror",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "grpc_service": {"envoy_grpc": {"cluster_name": "pool/default"}},
        },
    });
    let config = with(
        json!([listener(9999)]),
        json!([cluster(), other]),
        json!([lua("own.lua", script), mirror]),
    );
    let snapshot = snapshot(&config, &[], &Secrets::default()).unwrap();
    let named = |listener: &str| -> Vec<String> {
        let listener = snapshot.get(Kind::Listener, listener).unwrap();
        let clusters = listener.refs.iter().filter(|r| r.kind == Kind::Cluster);
        clusters.map(|r| r.name.clone()).collect()
    };
    assert_eq!(named("side"), ["legacy"]);
    assert_eq!(named("front"), ["legacy", "pool/default"]);
}

#[test]
fn each_mistake_is_named_where_it_stands() {
    let changed = |at: &str, to: Value| {
        let mut cluster = cluster();
        *cluster.pointer_mut(at).unwrap() = to;
        cluster
    };
    let added = |name: &str, to: Value| {
        let mut cluster = cluster();
        cluster[name] = to;
        cluster
    };
    for (cluster, says) in [
        (json!(7), "`fragments.own.clusters[0]`: `name` is missing"),
        (json!({"name": ""}), "`name` is missing"),
        (
            added("conect_timeout", json!("1s")),
            "`fragments.own.clusters[0].conect_timeout`: a Cluster has no such field, did you mean `connect_timeout`?",
        ),
        (added("connect_timeout", json!("1s")), "in two spellings"),
        (added("cluster_type", json!({"name": "x"})), "only one of them can be"),
        (
            changed("/type", json!("DNS")),
            ".type`: expected one of STATIC, STRICT_DNS",
        ),
        (changed("/type", json!(true)), "expected a word, found true"),
        (
            changed("/connectTimeout", json!("fast")),
            "clusters[0].connectTimeout`: ",
        ),
        (changed("/connectTimeout", json!(5)), "clusters[0].connectTimeout`: "),
        (
            changed("/per_connection_buffer_limit_bytes", json!("many")),
            "per_connection_buffer_limit_bytes`: ",
        ),
        (
            changed("/load_assignment", json!([])),
            ".load_assignment`: expected a table of fields, found []",
        ),
        (
            changed("/load_assignment/endpoints", json!({})),
            ".endpoints`: expected a list, found {}",
        ),
        (
            changed(
                "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/port_value",
                json!("x"),
            ),
            "lb_endpoints[0].endpoint.address.socket_address.port_value`: expected a number, found \"x\"",
        ),
        (
            changed("/load_assignment/cluster_name", json!(1)),
            ".load_assignment.cluster_name`: expected a text, found 1",
        ),
        (
            changed(
                "/typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                json!({}),
            ),
            "`@type` is missing",
        ),
        (
            added("ignore_health_on_host_removal", json!("yes")),
            "expected true or false, found \"yes\"",
        ),
    ] {
        let said = check(&with(json!([]), json!([cluster]), json!([])))
            .unwrap_err()
            .to_string();
        assert!(said.contains(says), "{said}\nshould say {says}");
    }
    let filter = |change: &dyn Fn(&mut Value)| {
        let mut filter = lua("own.lua", "");
        change(&mut filter);
        with(json!([]), json!([]), json!([filter]))
    };
    let typed = |url: &str| {
        let url = url.to_owned();
        filter(&move |filter| filter["typed_config"]["@type"] = json!(url))
    };
    let port = Config::default().front.listen.port();
    for (config, says) in [
        (
            typed("x/envoy.no.such.Message"),
            "typed_config.@type`: no message is named `envoy.no.such.Message`",
        ),
        (
            typed("x/envoy.extensions.filters.http.cors.v3.Cors"),
            "a Cors has no such field",
        ),
        (
            filter(&|filter| filter["typed_config"]["default_source_code"]["inlin"] = json!("")),
            "`fragments.own.http_filters[0].typed_config.default_source_code.inlin`: a DataSource has no such field",
        ),
        (
            typed("type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"),
            "the router is there already",
        ),
        (
            with(json!([]), json!([]), json!([lua("a", ""), lua("a", "")])),
            "another filter named `a`",
        ),
        (
            with(json!([listener(port)]), json!([]), json!([])),
            "`fragments.own.listeners[0].address.socket_address.port_value`: 9080 is the port of `front.listen`",
        ),
        (
            {
                let mut config = with(json!([listener(Rest::default().listen.port())]), json!([]), json!([]));
                config.rest.enabled = true;
                config
            },
            "9903 is the port of `rest.listen`",
        ),
        (
            {
                let mut config = with(json!([listener(9443)]), json!([]), json!([]));
                config.front.tls.auto = true;
                config.front.tls.listen = "0.0.0.0:9443".parse().unwrap();
                config
            },
            "9443 is the port of `front.tls.listen`",
        ),
        (
            {
                let mut quic = listener(9443);
                quic["address"]["socket_address"]["protocol"] = json!("UDP");
                let mut config = with(json!([quic]), json!([]), json!([]));
                (config.front.tls.auto, config.front.tls.http3) = (true, true);
                config.front.tls.listen = "0.0.0.0:9443".parse().unwrap();
                config
            },
            "9443 is the port of `front.tls.listen`",
        ),
    ] {
        let said = check(&config).unwrap_err().to_string();
        assert!(said.contains(says), "{said}\nshould say {says}");
    }
}
