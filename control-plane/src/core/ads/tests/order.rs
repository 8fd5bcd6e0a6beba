//! Additions before what needs them, removals after what needed them, and endpoints after their cluster.

use super::*;

#[test]
fn removals_wait_for_what_a_returning_client_still_uses() {
    let mut peer = Peer::fresh(&front("2"));
    peer.come_back(Kind::Cluster, &[], &[("a", "2"), ("old", "1")]);
    assert_eq!(peer.answers(), NOTHING);
    peer.come_back(Kind::Endpoints, &["a", "old"], &[("a", "2"), ("old", "1")]);
    peer.come_back(Kind::Listener, &[], &[("web", "2")]);
    peer.come_back(Kind::Route, &["web"], &[("web", "1")]);
    assert_eq!(
        peer.answers(),
        ["rds web@2"],
        "its routes of an unknown version may lead to `old`"
    );
    peer.acknowledge(Kind::Route);
    assert_eq!(peer.answers(), ["cds -old"]);
    peer.acknowledge(Kind::Cluster);
    assert_eq!(peer.settle(), ["eds -old"]);
}

#[test]
fn a_first_sight_goes_in_order() {
    let mut peer = Peer::fresh(&front("1"));
    peer.subscribe(Kind::Route, &["web"]);
    peer.subscribe(Kind::Listener, &[]);
    peer.subscribe(Kind::Endpoints, &["a"]);
    peer.subscribe(Kind::Cluster, &[]);
    assert_eq!(peer.answers(), ["cds a@1", "eds a@1", "lds web@1"]);
    peer.acknowledge(Kind::Endpoints);
    assert_eq!(
        peer.answers(),
        NOTHING,
        "Envoy acknowledges a cluster when it is warm; routes wait for it"
    );
    peer.acknowledge(Kind::Cluster);
    assert_eq!(peer.answers(), ["rds web@1"]);
}

#[test]
fn routes_wait_for_the_endpoints_of_their_clusters() {
    let mut peer = Peer::new(&front("1"));
    for (kind, names) in [
        (Kind::Cluster, &[][..]),
        (Kind::Endpoints, &["a"]),
        (Kind::Route, &["web"]),
    ] {
        peer.subscribe(kind, names);
    }
    peer.answers();
    peer.acknowledge(Kind::Cluster);
    assert_eq!(peer.answers(), NOTHING);
    peer.acknowledge(Kind::Endpoints);
    assert_eq!(peer.answers(), ["rds web@1"]);
}

#[test]
fn a_client_of_routes_alone_is_served_when_its_stream_has_settled() {
    let mut peer = Peer::fresh(&front("1"));
    peer.subscribe(Kind::Route, &["web"]);
    assert_eq!(peer.answers(), NOTHING, "it may be about to say which clusters it has");
    peer.client.settle();
    assert_eq!(peer.settle(), ["rds web@1"]);
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
fn a_cluster_comes_before_a_listener_that_names_it_and_goes_after_it() {
    let named = |cluster: &str, version: &str| {
        let refs = [(Kind::Route, "web"), (Kind::Cluster, cluster)];
        snapshot(&[
            (Kind::Cluster, "a", "1", &[(Kind::Endpoints, "a")]),
            (Kind::Cluster, cluster, "1", &[]),
            (Kind::Endpoints, "a", "1", &[]),
            (Kind::Listener, "web", version, &refs),
            (Kind::Route, "web", "1", &[(Kind::Cluster, "a")]),
        ])
    };
    let mut peer = attached(&named("auth", "1"));
    peer.offer(&named("other", "2"));
    assert_eq!(peer.answers(), ["cds other@1"], "the listener waits for what it names");
    peer.acknowledge(Kind::Cluster);
    assert_eq!(peer.answers(), ["lds web@2"], "what it named stays until it is taken");
    peer.acknowledge(Kind::Listener);
    assert_eq!(peer.settle(), ["cds -auth"]);
}

fn attached(snapshot: &Arc<Snapshot>) -> Peer {
    let mut peer = Peer::new(snapshot);
    let names = [
        (Kind::Cluster, &[][..]),
        (Kind::Endpoints, &["a"]),
        (Kind::Listener, &[]),
        (Kind::Route, &["web"]),
    ];
    for (kind, names) in names {
        peer.subscribe(kind, names);
    }
    peer.settle();
    peer
}

#[test]
fn make_before_break() {
    let mut peer = attached(&front("1"));
    peer.offer(&moved());
    assert_eq!(peer.answers(), ["cds b@1"], "the old cluster stays, the routes wait");
    peer.subscribe(Kind::Endpoints, &["b"]);
    assert_eq!(peer.answers(), ["eds b@1"]);
    peer.acknowledge(Kind::Endpoints);
    assert_eq!(peer.answers(), NOTHING);
    peer.acknowledge(Kind::Cluster);
    assert_eq!(
        peer.answers(),
        ["rds web@2"],
        "the old cluster stays until the routes are taken"
    );
    peer.acknowledge(Kind::Route);
    assert_eq!(peer.answers(), ["cds -a"], "its endpoints stay until it is gone");
    peer.acknowledge(Kind::Cluster);
    assert_eq!(peer.settle(), ["eds -a"]);
}

#[test]
fn a_refused_route_keeps_the_cluster_it_leads_to() {
    let mut peer = attached(&front("1"));
    peer.offer(&moved());
    peer.answers();
    peer.subscribe(Kind::Endpoints, &["b"]);
    peer.answers();
    peer.acknowledge(Kind::Endpoints);
    peer.acknowledge(Kind::Cluster);
    assert_eq!(peer.answers(), ["rds web@2"]);
    peer.refuse(Kind::Route);
    assert_eq!(peer.answers(), NOTHING, "the accepted routes still lead to it");
}

#[test]
fn routes_to_a_refused_new_cluster_are_not_sent() {
    let mut peer = attached(&front("1"));
    peer.offer(&moved());
    peer.answers();
    peer.refuse(Kind::Cluster);
    peer.subscribe(Kind::Endpoints, &["b"]);
    assert_eq!(peer.settle(), ["eds b@1"]);
}

#[test]
fn a_changed_cluster_gets_its_endpoints_again() {
    let mut peer = attached(&front("1"));
    let changed = snapshot(&[
        (Kind::Cluster, "a", "2", &[(Kind::Endpoints, "a")]),
        (Kind::Endpoints, "a", "1", &[]),
        (Kind::Listener, "web", "1", &[(Kind::Route, "web")]),
        (Kind::Route, "web", "1", &[(Kind::Cluster, "a")]),
    ]);
    peer.offer(&changed);
    assert_eq!(
        peer.answers(),
        ["cds a@2", "eds a@1"],
        "at once: the cluster is acknowledged when it is warm"
    );
    assert_eq!(peer.settle(), NOTHING);
}

#[test]
fn endpoints_that_are_on_their_way_are_sent_again_after_their_cluster() {
    let mut peer = attached(&front("1"));
    let content = |cluster, endpoints| {
        snapshot(&[
            (Kind::Cluster, "a", cluster, &[(Kind::Endpoints, "a")]),
            (Kind::Endpoints, "a", endpoints, &[]),
        ])
    };
    peer.unsubscribe(Kind::Route, &["web"]);
    peer.offer(&content("1", "2"));
    assert_eq!(peer.answers(), ["eds a@2", "lds -web"]);
    peer.offer(&content("2", "2"));
    assert_eq!(peer.answers(), ["cds a@2"]);
    peer.acknowledge(Kind::Endpoints);
    assert_eq!(peer.answers(), ["eds a@2"]);
}

#[test]
fn a_returning_client_gets_the_endpoints_of_a_changed_cluster_again() {
    let changed = [
        (Kind::Cluster, "a", "2", &[(Kind::Endpoints, "a")][..]),
        (Kind::Endpoints, "a", "1", &[]),
    ];
    let mut peer = Peer::fresh(&snapshot(&changed));
    peer.come_back(Kind::Cluster, &[], &[("a", "1")]);
    assert_eq!(peer.answers(), ["cds a@2"]);
    peer.come_back(Kind::Endpoints, &["a"], &[("a", "1")]);
    assert_eq!(peer.answers(), ["eds a@1"], "though it has that version");
}

#[test]
fn a_cluster_that_waits_for_endpoints_hears_that_there_are_none() {
    let mut peer = attached(&front("1"));
    peer.unsubscribe(Kind::Route, &["web"]);
    let content = |version| {
        snapshot(&[
            (Kind::Cluster, "a", "2", &[(Kind::Endpoints, "a")]),
            (Kind::Endpoints, "a", version, &[]),
        ])
    };
    peer.offer(&content("2"));
    assert_eq!(peer.answers(), ["cds a@2", "eds a@2", "lds -web"]);
    peer.refuse(Kind::Endpoints);
    peer.subscribe(Kind::Endpoints, &["a"]);
    peer.offer(&snapshot(&[]));
    assert_eq!(
        peer.answers(),
        ["eds -a"],
        "though the cluster on its way mentions them"
    );
}

#[test]
fn several_kinds_on_one_stream_do_not_disturb_each_other() {
    let mut peer = attached(&front("1"));
    let changed = snapshot(&[
        (Kind::Cluster, "a", "1", &[(Kind::Endpoints, "a")]),
        (Kind::Endpoints, "a", "2", &[]),
        (Kind::Listener, "web", "1", &[(Kind::Route, "web")]),
        (Kind::Route, "web", "1", &[(Kind::Cluster, "a")]),
    ]);
    peer.offer(&changed);
    assert_eq!(peer.settle(), ["eds a@2"]);
}
