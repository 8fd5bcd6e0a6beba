//! The same order for the state of the world: a removal is an answer without the resource, and what stays is repeated as the
//! client took it.

use super::world::{World, attached};
use super::*;

#[test]
fn a_first_sight_goes_in_order() {
    let mut peer = World::fresh(&front("1"));
    peer.subscribe(Kind::Route, &["web"]);
    peer.subscribe(Kind::Listener, &[]);
    peer.subscribe(Kind::Endpoints, &["a"]);
    peer.subscribe(Kind::Cluster, &[]);
    assert_eq!(peer.answers(), ["cds a@1", "eds a@1", "lds web@1"]);
    peer.acknowledge(Kind::Endpoints);
    assert_eq!(peer.answers(), NOTHING, "routes wait for the cluster to be warm");
    peer.acknowledge(Kind::Cluster);
    assert_eq!(peer.answers(), ["rds web@1"]);
    assert_eq!(peer.settle(), NOTHING);
}

/// A front whose routes lead to cluster `b` in place of `a`.
fn moved() -> Arc<Snapshot> {
    snapshot(&[
        (Kind::Cluster, "b", "1", &[(Kind::Endpoints, "b")]),
        (Kind::Endpoints, "b", "1", &[]),
        (Kind::Listener, "web", "1", &[(Kind::Route, "web")]),
        (Kind::Route, "web", "2", &[(Kind::Cluster, "b")]),
    ])
}

#[test]
fn make_before_break() {
    let mut peer = attached(&front("1"));
    peer.offer(&moved());
    assert_eq!(peer.answers(), ["cds a@1 b@1"], "the union");
    assert_eq!(peer.answers(), NOTHING);
    peer.acknowledge(Kind::Cluster);
    peer.subscribe(Kind::Endpoints, &["b"]);
    assert_eq!(peer.answers(), ["eds b@1"]);
    peer.acknowledge(Kind::Endpoints);
    assert_eq!(peer.answers(), ["rds web@2"]);
    assert_eq!(
        peer.answers(),
        NOTHING,
        "the old cluster stays until the routes are taken"
    );
    peer.acknowledge(Kind::Route);
    assert_eq!(peer.settle(), ["cds b@1"], "the pruned");
    peer.unsubscribe(Kind::Endpoints, &["a"]);
    assert_eq!(peer.settle(), NOTHING);
}

#[test]
fn a_refused_route_keeps_the_cluster_it_leads_to() {
    let mut peer = attached(&front("1"));
    peer.offer(&moved());
    peer.answers();
    peer.acknowledge(Kind::Cluster);
    peer.subscribe(Kind::Endpoints, &["b"]);
    peer.answers();
    peer.acknowledge(Kind::Endpoints);
    assert_eq!(peer.answers(), ["rds web@2"]);
    peer.refuse(Kind::Route);
    assert_eq!(peer.settle(), NOTHING, "the accepted routes still lead to it");
}

#[test]
fn routes_to_a_refused_new_cluster_are_not_sent() {
    let mut peer = attached(&front("1"));
    peer.offer(&moved());
    assert_eq!(peer.answers(), ["cds a@1 b@1"]);
    peer.refuse(Kind::Cluster);
    peer.subscribe(Kind::Endpoints, &["b"]);
    assert_eq!(peer.settle(), ["eds b@1"]);
}

#[test]
fn a_changed_cluster_gets_its_endpoints_again_and_others_do_not() {
    let content = |version| {
        snapshot(&[
            (Kind::Cluster, "a", version, &[(Kind::Endpoints, "a")]),
            (Kind::Cluster, "b", "1", &[(Kind::Endpoints, "b")]),
            (Kind::Endpoints, "a", "1", &[]),
            (Kind::Endpoints, "b", "1", &[]),
        ])
    };
    let mut peer = World::new(&content("1"));
    peer.subscribe(Kind::Cluster, &[]);
    peer.subscribe(Kind::Endpoints, &["a", "b"]);
    assert_eq!(peer.settle(), ["cds a@1 b@1", "eds a@1 b@1"]);
    peer.offer(&content("2"));
    assert_eq!(peer.answers(), ["cds a@2 b@1", "eds a@1"]);
    assert_eq!(peer.settle(), NOTHING);
}

#[test]
fn a_cluster_that_a_refused_answer_may_have_changed_gets_its_endpoints_again() {
    let content = |a, b| {
        snapshot(&[
            (Kind::Cluster, "a", a, &[(Kind::Endpoints, "a")]),
            (Kind::Cluster, "b", b, &[(Kind::Endpoints, "b")]),
            (Kind::Endpoints, "a", "1", &[]),
            (Kind::Endpoints, "b", "1", &[]),
        ])
    };
    let mut peer = World::new(&content("1", "1"));
    peer.subscribe(Kind::Cluster, &[]);
    peer.subscribe(Kind::Endpoints, &["a", "b"]);
    peer.settle();
    peer.offer(&content("2", "bad"));
    assert_eq!(peer.answers(), ["cds a@2 b@bad", "eds a@1 b@1"]);
    peer.acknowledge(Kind::Endpoints);
    peer.refuse(Kind::Cluster);
    assert_eq!(
        peer.answers(),
        ["cds a@2 b@1", "eds a@1 b@1"],
        "`b` may be going back to what it was"
    );
    peer.acknowledge(Kind::Endpoints);
    peer.acknowledge(Kind::Cluster);
    assert_eq!(peer.answers(), ["cds a@2 b@bad", "eds b@1"]);
    peer.acknowledge(Kind::Endpoints);
    peer.refuse(Kind::Cluster);
    assert_eq!(peer.settle(), NOTHING);
}

#[test]
fn a_returning_client_gets_the_endpoints_of_a_changed_cluster_again() {
    let content = |version| {
        snapshot(&[
            (Kind::Cluster, "a", version, &[(Kind::Endpoints, "a")]),
            (Kind::Endpoints, "a", "1", &[]),
        ])
    };
    let mut before = World::new(&content("1"));
    before.subscribe(Kind::Cluster, &[]);
    before.subscribe(Kind::Endpoints, &["a"]);
    before.settle();
    let mut peer = World::fresh(&content("2"));
    peer.come_back(Kind::Cluster, &[], &before.version(Kind::Cluster));
    assert_eq!(peer.answers(), ["cds a@2"]);
    peer.come_back(Kind::Endpoints, &["a"], &before.version(Kind::Endpoints));
    assert_eq!(peer.answers(), ["eds a@1"], "though it has that version");
    assert_eq!(peer.settle(), NOTHING);
}

#[test]
fn routes_of_an_earlier_stream_keep_the_clusters_they_may_lead_to() {
    let two = |route: &'static str| {
        snapshot(&[
            (Kind::Cluster, "a", "1", &[(Kind::Endpoints, "a")]),
            (Kind::Cluster, "b", "1", &[(Kind::Endpoints, "b")]),
            (Kind::Endpoints, "a", "1", &[]),
            (Kind::Endpoints, "b", "1", &[]),
            (Kind::Listener, "web", "1", &[(Kind::Route, "web")]),
            (Kind::Route, "web", route, &[(Kind::Cluster, "b")]),
        ])
    };
    let mut before = World::new(&two("1"));
    for (kind, names) in PLAIN.into_iter().zip([&[][..], &["a", "b"], &[], &["web"]]) {
        before.subscribe(kind, names);
    }
    before.settle();
    // Its routes have changed meanwhile, its clusters have not; then one of these is to go.
    let mut peer = World::fresh(&two("2"));
    peer.come_back(Kind::Cluster, &[], &before.version(Kind::Cluster));
    peer.come_back(Kind::Endpoints, &["a", "b"], &before.version(Kind::Endpoints));
    peer.come_back(Kind::Listener, &[], &before.version(Kind::Listener));
    peer.come_back(Kind::Route, &["web"], &before.version(Kind::Route));
    peer.acknowledge_all_but(Kind::Route);
    peer.offer(&moved());
    assert_eq!(peer.answers(), NOTHING, "the routes that it had may lead to `a`");
    peer.acknowledge(Kind::Route);
    assert_eq!(peer.settle(), ["cds b@1"]);
}
