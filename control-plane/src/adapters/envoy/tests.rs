//! The resources as a whole, in a form people can review, and what must hold of them.

use std::fmt::Write as _;

use envoy_types::pb::envoy::config::{cluster, endpoint, listener as listener_pb, route};
use prost::Message;

use super::*;
use crate::config::Pool;

fn member(id: &str, pool: &str, port: u16, told: Told) -> Member {
    let address = SocketAddr::from(([10, 0, 0, 7], port));
    Member {
        id: id.to_owned(),
        pool: pool.to_owned(),
        address,
        told,
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

fn published(config: &Config, members: &[Member]) -> String {
    let snapshot = snapshot(config, members).unwrap();
    let mut text = String::new();
    for kind in Kind::ALL {
        for resource in snapshot.of(kind) {
            let refs: Vec<String> = resource.refs.iter().map(|r| format!("{} {}", r.kind, r.name)).collect();
            let body = match kind {
                Kind::Cluster => rendered::<cluster::v3::Cluster>(&resource.body),
                Kind::Endpoints => rendered::<endpoint::v3::ClusterLoadAssignment>(&resource.body),
                Kind::Listener => rendered::<listener_pb::v3::Listener>(&resource.body),
                Kind::Route => rendered::<route::v3::RouteConfiguration>(&resource.body),
            };
            let Resource { name, version, .. } = resource;
            writeln!(
                text,
                "# {kind} {name}, version {version}, refers to [{}]\n{body}\n",
                refs.join(", ")
            )
            .unwrap();
        }
    }
    text
}

#[test]
fn what_envoy_is_told_by_default() {
    insta::assert_snapshot!(published(&Config::default(), &members()));
}

#[test]
fn how_http_is_spoken_with_clients() {
    let mut config = Config::default();
    config.front.access_log = "stdout".to_owned();
    let mut manager = listener::connection_manager(&config.front);
    // Its fields have a test of their own, with a real Envoy.
    assert_eq!(manager.access_log.len(), 1);
    manager.access_log.clear();
    insta::assert_snapshot!(rendered::<
        envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager,
    >(&manager.encode_to_vec()));
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let mut config = Config::default();
    config.front.access_log = "/tmp/access.log".to_owned();
    let first = snapshot(&config, &members()).unwrap();
    for _ in 0..20 {
        assert_eq!(snapshot(&config, &members()).unwrap(), first);
    }
}

#[test]
fn a_change_in_the_fleet_changes_endpoints_and_nothing_else() {
    let config = Config::default();
    let (before, after) = (snapshot(&config, &[]).unwrap(), snapshot(&config, &members()).unwrap());
    for kind in Kind::ALL {
        let same = before.of(kind).eq(after.of(kind));
        assert_eq!(same, kind != Kind::Endpoints, "{kind}");
    }
}

#[test]
fn pools_have_clusters_and_hosts_of_their_own() {
    let pool = |host: &str| Pool {
        hosts: vec![host.to_owned()],
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
    let snapshot = snapshot(&config, &members()).unwrap();
    let cluster = &snapshot.get(Kind::Cluster, "pool/default").unwrap().body;
    let cluster = cluster::v3::Cluster::decode(cluster.as_ref()).unwrap();
    assert_eq!(cluster.lb_policy(), cluster::v3::cluster::LbPolicy::LeastRequest);
    let common = cluster.common_lb_config.unwrap();
    assert_eq!(common.consistent_hashing_lb_config, None);
    assert_eq!(common.healthy_panic_threshold.unwrap().value, 0.0);
    let routes = &snapshot.get(Kind::Route, FRONT).unwrap().body;
    let routes = route::v3::RouteConfiguration::decode(routes.as_ref()).unwrap();
    let routes = routes.virtual_hosts.into_iter().flat_map(|host| host.routes);
    for route in routes {
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
