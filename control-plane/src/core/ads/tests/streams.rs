//! Nonces, nodes, and clients that come back.

use super::*;

#[test]
fn nonces_are_counted_per_stream_and_kind() {
    let mut peer = Peer::new(&front("1"));
    peer.subscribe(Kind::Cluster, &[]);
    peer.subscribe(Kind::Listener, &[]);
    peer.answers();
    let nonces: Vec<_> = peer
        .open
        .iter()
        .map(|answer| (answer.kind, answer.nonce.as_str()))
        .collect();
    assert_eq!(nonces, [(Kind::Cluster, "1"), (Kind::Listener, "1")]);
}

#[test]
fn a_stale_nonce_acknowledges_nothing_but_its_subscription_counts() {
    let mut peer = Peer::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &["a"]);
    peer.answers();
    let stale = Request {
        nonce: "17".to_owned(),
        subscribe: owned(&["b"]),
        ..Request::default()
    };
    assert_eq!(peer.request(Kind::Cluster, stale), []);
    assert_eq!(peer.answers(), NOTHING, "the first answer is still open");
    assert_eq!(peer.settle(), ["cds b@1"]);
}

#[test]
fn a_foreign_nonce_on_a_new_stream_is_no_hindrance() {
    let mut peer = Peer::new(&clusters(&[("a", "1")]));
    let request = Request {
        nonce: "from another life".to_owned(),
        ..Request::default()
    };
    peer.request(Kind::Cluster, request);
    assert_eq!(peer.settle(), ["cds a@1"]);
}

#[test]
fn one_answer_is_open_at_a_time_and_the_next_has_the_newest() {
    let mut peer = Peer::new(&clusters(&[("a", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    assert_eq!(peer.answers(), ["cds a@1"]);
    for version in ["2", "3", "4"] {
        peer.offer(&clusters(&[("a", version)]));
        assert_eq!(peer.answers(), NOTHING);
    }
    peer.acknowledge(Kind::Cluster);
    assert_eq!(peer.settle(), ["cds a@4"]);
}

#[test]
fn a_returning_client_that_has_everything_hears_nothing() {
    let mut peer = Peer::fresh(&front("1"));
    peer.come_back(Kind::Cluster, &[], &[("a", "1")]);
    peer.come_back(Kind::Endpoints, &["a"], &[("a", "1")]);
    peer.come_back(Kind::Listener, &[], &[("web", "1")]);
    peer.come_back(Kind::Route, &["web"], &[("web", "1")]);
    assert_eq!(peer.settle(), NOTHING);
}

#[test]
fn a_returning_client_hears_what_changed_and_what_went() {
    let mut peer = Peer::fresh(&clusters(&[("changed", "2"), ("new", "1"), ("same", "1")]));
    peer.come_back(Kind::Cluster, &[], &[("changed", "1"), ("same", "1"), ("gone", "1")]);
    assert_eq!(
        peer.settle(),
        ["cds changed@2 new@1"],
        "routes it has not spoken of may still need `gone`"
    );
    peer.client.settle();
    assert_eq!(peer.settle(), ["cds -gone"]);
}

#[test]
fn what_a_client_brought_along_is_not_counted_on_once_its_successor_is_on_its_way() {
    let mut peer = Peer::new(&snapshot(&[
        (Kind::Cluster, "a", "2", &[(Kind::Endpoints, "a")]),
        (Kind::Endpoints, "a", "1", &[]),
        (Kind::Listener, "web", "1", &[(Kind::Route, "web")]),
        (Kind::Route, "web", "2", &[(Kind::Cluster, "a")]),
    ]));
    peer.come_back(Kind::Endpoints, &["a"], &[("a", "1")]);
    peer.come_back(Kind::Listener, &[], &[("web", "1")]);
    peer.come_back(Kind::Cluster, &[], &[("a", "1")]);
    assert_eq!(peer.answers(), ["cds a@2", "eds a@1"]);
    peer.come_back(Kind::Route, &["web"], &[("web", "1")]);
    peer.acknowledge(Kind::Endpoints);
    assert_eq!(
        peer.answers(),
        NOTHING,
        "it may have been waiting for its endpoints when the stream broke"
    );
    peer.acknowledge(Kind::Cluster);
    assert_eq!(peer.settle(), ["rds web@2"]);
}

/// A front with endpoints at this version, and all else at "1".
fn front_with_endpoints(version: &str) -> Arc<Snapshot> {
    snapshot(&[
        (Kind::Cluster, "a", "1", &[(Kind::Endpoints, "a")]),
        (Kind::Endpoints, "a", version, &[]),
        (Kind::Listener, "web", "1", &[(Kind::Route, "web")]),
        (Kind::Route, "web", "1", &[(Kind::Cluster, "a")]),
    ])
}

/// The same, where nobody has told yet what endpoints it has.
fn provisional(version: &str) -> Arc<Snapshot> {
    let mut snapshot = Arc::unwrap_or_clone(front_with_endpoints(version));
    snapshot.mark_provisional(Kind::Endpoints, &["a".to_owned()].into());
    Arc::new(snapshot)
}

fn came_back_with_endpoints(snapshot: &Arc<Snapshot>, clusters: &str) -> Peer {
    let mut peer = Peer::fresh(snapshot);
    peer.come_back(Kind::Cluster, &["*"], &[("a", clusters)]);
    peer.come_back(Kind::Endpoints, &["a"], &[("a", "before")]);
    peer.come_back(Kind::Listener, &["*"], &[("web", "1")]);
    peer.come_back(Kind::Route, &["web"], &[("web", "before")]);
    peer
}

#[test]
fn a_returning_client_keeps_what_it_has_in_the_place_of_what_nobody_has_told_yet() {
    let mut peer = came_back_with_endpoints(&provisional("1"), "1");
    assert_eq!(peer.settle(), ["rds web@1"], "and nothing waits for it");
    let status = peer
        .client
        .resources()
        .into_iter()
        .find(|one| one.kind == Kind::Endpoints);
    let status = status.unwrap();
    assert_eq!((status.version.as_str(), status.sync), ("before", Sync::Synced));
    // Now it is told, be it the same.
    peer.offer(&front("1"));
    assert_eq!(peer.settle(), ["eds a@1"]);
    // What it has been told here is not kept against what is told later.
    peer.offer(&provisional("2"));
    assert_eq!(peer.settle(), ["eds a@2"]);
}

#[test]
fn what_nobody_has_told_yet_goes_to_a_new_client_and_after_a_cluster_that_waits_for_it() {
    let mut new = Peer::new(&provisional("1"));
    for kind in [Kind::Cluster, Kind::Listener] {
        new.subscribe(kind, &["*"]);
    }
    new.subscribe(Kind::Endpoints, &["a"]);
    assert!(new.settle().contains(&"eds a@1".to_owned()));
    new.offer(&provisional("2"));
    assert_eq!(new.settle(), ["eds a@2"]);
    let mut peer = came_back_with_endpoints(&provisional("1"), "before");
    assert!(peer.settle().contains(&"eds a@1".to_owned()));
}

#[test]
fn a_returning_client_asks_for_a_name_that_has_gone() {
    let mut peer = Peer::fresh(&clusters(&[]));
    peer.come_back(Kind::Endpoints, &["gone"], &[("gone", "1")]);
    peer.client.settle();
    assert_eq!(peer.settle(), ["eds -gone"]);
}

#[test]
fn nothing_is_sent_before_there_is_a_snapshot() {
    let mut client = Client::new(Variant::Delta, "");
    let node = Some(Node {
        id: "x".to_owned(),
        cluster: String::new(),
    });
    client.request(
        Kind::Cluster,
        Request {
            node,
            ..Request::default()
        },
    );
    assert_eq!(client.answers(), []);
    client.offer(clusters(&[("a", "1")]));
    assert_eq!(brief(&client.answers()), ["cds a@1"]);
}

#[test]
fn the_node_is_read_from_the_first_request_only() {
    let mut client = Client::new(Variant::Delta, "graticule");
    let node = |cluster: &str| {
        Some(Node {
            id: "x".to_owned(),
            cluster: cluster.to_owned(),
        })
    };
    let request = |node| Request {
        node,
        ..Request::default()
    };
    assert!(matches!(
        client.request(Kind::Cluster, request(node("graticule")))[..],
        [Note::Admitted(_)]
    ));
    assert_eq!(client.request(Kind::Listener, request(node("else"))), []);
    assert_eq!(client.node().unwrap().cluster, "graticule");
}

#[test]
fn an_unknown_node_waits() {
    for node in [
        None,
        Some(Node::default()),
        Some(Node {
            id: "x".to_owned(),
            cluster: "else".to_owned(),
        }),
    ] {
        let mut client = Client::new(Variant::Delta, "graticule");
        client.offer(clusters(&[("a", "1")]));
        let notes = client.request(
            Kind::Cluster,
            Request {
                node,
                ..Request::default()
            },
        );
        assert!(matches!(notes[..], [Note::Unknown(_)]));
        assert_eq!(client.answers(), []);
    }
}
