//! The resources as a whole, in a form people can review, and what must hold of them.

use std::fmt::Write as _;

use envoy_types::pb::envoy::config::{cluster, endpoint, listener as listener_pb, route};
use envoy_types::pb::envoy::extensions::filters::http::grpc_json_transcoder::v3::GrpcJsonTranscoder;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_filter,
};
use prost::Message;

use super::*;
use crate::config::{PoolRoute, Rate};
use crate::core::resources::Snapshot;
use crate::core::views::DEFAULT;

fn member(id: &str, pool: &str, port: u16, told: Told) -> Member {
    let address = SocketAddr::from(([10, 0, 0, 7], port));
    Member {
        id: id.into(),
        pool: pool.into(),
        address,
        told,
        longest_timeout: Duration::ZERO,
        weight: 100,
        placed: std::sync::Arc::default(),
    }
}

fn members() -> Vec<Member> {
    vec![
        member("a", "default", 1, Told::Healthy),
        member("b", "default", 2, Told::Draining),
        member("c", "default", 3, Told::None),
        member("d", "elsewhere", 4, Told::Healthy),
    ]
}

/// A message as text, without what is not set.
fn rendered<M: Message + Default + std::fmt::Debug>(body: &[u8]) -> String {
    let text = format!("{:#?}", M::decode(body).unwrap());
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines() {
        let value = line.trim_start().split_once(": ").map_or("", |(_, value)| value);
        let unset = matches!(value, "None," | "[]," | "{}," | "\"\"," | "false," | "0,");
        // Bytes of packed messages, one number a line; what they say is rendered beside them.
        let byte = line.trim().trim_end_matches(',').parse::<u8>().is_ok();
        if !unset && !byte {
            lines.push(line);
        }
    }
    lines.join("\n")
}

/// What Envoys are told that no view is for.
pub fn snapshot(config: &Config, members: &[Member], secrets: &Secrets) -> Result<Snapshot, Vec<Inconsistency>> {
    let problem = |unfit: Vec<Unfit>| unfit.into_iter().map(|unfit| unfit.problem).collect::<Vec<_>>();
    let views = views(config, members, secrets).map_err(problem)?;
    Ok((**views.get(DEFAULT).unwrap()).clone())
}

fn published(config: &Config, members: &[Member]) -> String {
    let snapshot = snapshot(config, members, &Secrets::default()).unwrap();
    let mut text = String::new();
    for kind in Kind::ALL {
        for resource in snapshot.of(kind) {
            text += &shown(kind, resource);
        }
    }
    text
}

fn shown(kind: Kind, resource: &Resource) -> String {
    let refs: Vec<String> = resource.refs.iter().map(|r| format!("{} {}", r.kind, r.name)).collect();
    let body = match kind {
        // A key is shown to nobody.
        Kind::Secret => String::new(),
        Kind::Cluster => rendered::<cluster::v3::Cluster>(&resource.body),
        Kind::Endpoints => rendered::<endpoint::v3::ClusterLoadAssignment>(&resource.body),
        Kind::Listener => rendered::<listener_pb::v3::Listener>(&resource.body),
        Kind::Route => rendered::<route::v3::RouteConfiguration>(&resource.body),
    };
    let Resource { name, version, .. } = resource;
    format!(
        "# {kind} {name}, version {version}, refers to [{}]\n{body}\n\n",
        refs.join(", ")
    )
}

#[test]
fn what_envoy_is_told_by_default() {
    insta::assert_snapshot!(published(&Config::default(), &members()));
}

#[test]
fn how_http_is_spoken_with_clients() {
    let mut config = Config::default();
    config.front.access_log = "stdout".to_owned();
    let mut manager = listener::connection_manager(&config, Vec::new());
    // Its fields have a test of their own, with a real Envoy.
    assert_eq!(manager.access_log.len(), 1);
    manager.access_log.clear();
    insta::assert_snapshot!(rendered::<HttpConnectionManager>(&manager.encode_to_vec()));
}

#[test]
fn what_envoy_is_told_for_rest() {
    let mut config = Config::default();
    config.fleet.access.full_token_file = "/token".into();
    (config.rest.enabled, config.rest.fleet) = (true, "control-plane:18001".to_owned());
    config.check().unwrap();
    let mut text = String::new();
    for (kind, mut resource) in rest::resources(&config) {
        if kind == Kind::Listener {
            // The descriptors change with every contract, and their bytes say nothing to people.
            let mut listener = listener_pb::v3::Listener::decode(resource.body).unwrap();
            let filter = listener.filter_chains[0].filters.remove(0);
            let Some(listener_pb::v3::filter::ConfigType::TypedConfig(any)) = filter.config_type else {
                panic!("no connection manager")
            };
            let mut manager = HttpConnectionManager::decode(any.value.as_slice()).unwrap();
            let Some(http_filter::ConfigType::TypedConfig(any)) = manager.http_filters[1].config_type.take() else {
                panic!("no transcoder")
            };
            let mut transcoder = GrpcJsonTranscoder::decode(any.value.as_slice()).unwrap();
            transcoder.descriptor_set = None;
            writeln!(text, "{}", rendered::<GrpcJsonTranscoder>(&transcoder.encode_to_vec())).unwrap();
            // Maps are shown in the order of chance.
            let replies = manager.local_reply_config.take().unwrap();
            assert_eq!(replies.mappers.len(), 8);
            writeln!(text, "{}", rendered::<HttpConnectionManager>(&manager.encode_to_vec())).unwrap();
            (resource.body, resource.version) = (listener.encode_to_vec().into(), "of the contracts".to_owned());
        }
        text += &shown(kind, &resource);
    }
    insta::assert_snapshot!(text);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let mut config = Config::default();
    config.front.access_log = "/tmp/access.log".to_owned();
    let pool = Pool {
        routes: vec![PoolRoute {
            prefix: "/maps".to_owned(),
            ..PoolRoute::default()
        }],
        ..Pool::default()
    };
    config.pools = [("default".to_owned(), pool)].into();
    let first = snapshot(&config, &members(), &Secrets::default()).unwrap();
    for _ in 0..20 {
        assert_eq!(snapshot(&config, &members(), &Secrets::default()).unwrap(), first);
    }
}

#[test]
fn a_change_in_the_fleet_changes_endpoints_and_nothing_else() {
    let config = Config::default();
    let (before, after) = (
        snapshot(&config, &[], &Secrets::default()).unwrap(),
        snapshot(&config, &members(), &Secrets::default()).unwrap(),
    );
    for kind in Kind::ALL {
        let same = before.of(kind).eq(after.of(kind));
        assert_eq!(same, kind != Kind::Endpoints, "{kind}");
    }
}

#[test]
fn who_drains_is_told_only_while_somebody_else_takes_requests() {
    let told = |members: &[Member]| {
        let snapshot = snapshot(&Config::default(), members, &Secrets::default()).unwrap();
        let body = &snapshot.get(Kind::Endpoints, "pool/default").unwrap().body;
        let endpoints = endpoint::v3::ClusterLoadAssignment::decode(body.as_ref())
            .unwrap()
            .endpoints;
        endpoints
            .into_iter()
            .map(|locality| locality.lb_endpoints.len())
            .sum::<usize>()
    };
    let members = members();
    assert_eq!((told(&members), told(&members[1..])), (2, 0));
}

#[test]
fn a_placement_changes_routes_and_no_listener() {
    let config = Config::default();
    let before = snapshot(&config, &members(), &Secrets::default()).unwrap();
    let mut placed = members();
    placed[0].placed = std::sync::Arc::new([(key_of("/world"), 0)].into());
    let after = snapshot(&config, &placed, &Secrets::default()).unwrap();
    for kind in Kind::ALL {
        assert_eq!(before.of(kind).eq(after.of(kind)), kind != Kind::Route, "{kind}");
    }
}

#[test]
fn pools_have_clusters_and_hosts_of_their_own() {
    let pool = |host: &str| Pool {
        hosts: vec![host.to_owned()],
        ..Pool::default()
    };
    let pools = [("default", "*"), ("elsewhere", "else.example.org")];
    let pools = pools
        .into_iter()
        .map(|(name, host)| (name.to_owned(), pool(host)))
        .collect();
    let snapshot = snapshot(
        &Config {
            pools,
            ..Config::default()
        },
        &members(),
        &Secrets::default(),
    )
    .unwrap();
    for kind in [Kind::Cluster, Kind::Endpoints] {
        assert_eq!(snapshot.names(kind), ["pool/default", "pool/elsewhere"].into());
    }
    let elsewhere = &snapshot.get(Kind::Endpoints, "pool/elsewhere").unwrap().body;
    let assignment = endpoint::v3::ClusterLoadAssignment::decode(elsewhere.as_ref()).unwrap();
    assert_eq!(assignment.endpoints[0].lb_endpoints.len(), 1);
    let routes =
        route::v3::RouteConfiguration::decode(snapshot.get(Kind::Route, FRONT).unwrap().body.as_ref()).unwrap();
    let hosts: Vec<_> = routes.virtual_hosts.into_iter().flat_map(|host| host.domains).collect();
    assert_eq!(hosts, ["*", "else.example.org"]);
}

#[test]
fn without_affinity_nothing_is_hashed_and_the_least_busy_agent_is_taken() {
    let mut config = Config::default();
    config.front.affinity = false;
    let snapshot = snapshot(&config, &members(), &Secrets::default()).unwrap();
    let cluster = &snapshot.get(Kind::Cluster, "pool/default").unwrap().body;
    let cluster = cluster::v3::Cluster::decode(cluster.as_ref()).unwrap();
    assert_eq!(cluster.lb_policy(), cluster::v3::cluster::LbPolicy::LeastRequest);
    let common = cluster.common_lb_config.unwrap();
    assert_eq!(common.consistent_hashing_lb_config, None);
    assert_eq!(common.healthy_panic_threshold.unwrap().value, 1.0);
    let routes = &snapshot.get(Kind::Route, FRONT).unwrap().body;
    let routes = route::v3::RouteConfiguration::decode(routes.as_ref()).unwrap();
    let routes = routes.virtual_hosts.into_iter().flat_map(|host| host.routes);
    for route in routes.filter(|route| !route.name.starts_with("refused/")) {
        let Some(route::v3::route::Action::Route(action)) = route.action else {
            panic!("{} leads nowhere", route.name)
        };
        assert_eq!(action.hash_policy, []);
        assert!(action.retry_policy.is_some());
    }
}

#[test]
fn every_kind_has_a_url_and_the_url_leads_back() {
    for kind in Kind::ALL {
        assert_eq!(kind_of(&type_url(kind)), Some(kind));
    }
    assert_eq!(
        type_url(Kind::Endpoints),
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    );
    assert_eq!(kind_of("type.googleapis.com/envoy.service.runtime.v3.Runtime"), None);
}

#[test]
fn pools_share_hosts_by_prefix_and_header() {
    let mut config = Config::default();
    config.front.trusted_hops = 1;
    let city = Pool {
        hosts: vec!["*".to_owned(), "city.example.org".to_owned()],
        routes: vec![
            PoolRoute {
                prefix: "/ma.ps%20x/".to_owned(),
                ..PoolRoute::default()
            },
            PoolRoute {
                prefix: "/ows/city".to_owned(),
                headers: [
                    ("X-Tenant".to_owned(), "blue".to_owned()),
                    ("x-any".to_owned(), "*".to_owned()),
                ]
                .into(),
                strip_prefix: false,
            },
        ],
        rate_limit: Rate {
            requests: 5,
            ..Rate::default()
        },
        ..Pool::default()
    };
    config.pools = [("default".to_owned(), Pool::default()), ("city".to_owned(), city)].into();
    config.front.timeouts = [("WMS/GetPrint".to_owned(), 120.0)].into();
    assert_eq!(config.check(), Ok(()));
    let snapshot = snapshot(&config, &[], &Secrets::default()).unwrap();
    let routes = &snapshot.get(Kind::Route, FRONT).unwrap().body;
    let routes = route::v3::RouteConfiguration::decode(routes.as_ref()).unwrap();
    assert!(routes.most_specific_header_mutations_wins);
    let hosts: Vec<_> = routes.virtual_hosts.iter().map(|host| host.domains.join(",")).collect();
    assert_eq!(hosts, ["*,city.example.org"], "of both the same is said");
    let host = &routes.virtual_hosts[0];
    let kinds = ["wms/getprint/safe", "wms/getprint/other", "safe", "other"];
    let expected: Vec<String> = ["city", "city", "default"]
        .iter()
        .flat_map(|pool| kinds.map(|kind| format!("{pool}/{kind}")))
        .collect();
    let names: Vec<&str> = host.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names[0], "refused/414");
    assert_eq!(names[1..], expected);

    // The longer prefix comes first.
    let stripped = &host.routes[1];
    let Some(route::v3::route::Action::Route(action)) = &stripped.action else {
        panic!("it leads nowhere")
    };
    let rewrite = action.regex_rewrite.clone().unwrap();
    assert_eq!(
        (rewrite.pattern.unwrap().regex.as_str(), rewrite.substitution.as_str()),
        (r"^/ma\.ps%20x/?(.*)$", r"/\1")
    );
    let prefix = stripped.request_headers_to_add[0].header.clone().unwrap();
    assert_eq!(
        (prefix.key.as_str(), prefix.value.as_str()),
        ("x-forwarded-prefix", "%REQ(X-FORWARDED-PREFIX)%/ma.ps%%20x")
    );
    assert_eq!(
        stripped.typed_per_filter_config.len(),
        2,
        "the script and other origins"
    );
    assert!(stripped.metadata.is_some(), "the mark for the rate limit");

    let kept = &host.routes[5];
    let asks: Vec<&str> = kept
        .r#match
        .iter()
        .flat_map(|asks| &asks.headers)
        .map(|header| header.name.as_str())
        .collect();
    assert_eq!(asks, ["x-tenant", "x-any", KIND_HEADER, ":method"]);
    assert!(kept.request_headers_to_add.is_empty());
    assert!(host.routes[9].metadata.is_none(), "no limit, no mark");
}
