//! Secrets: asked for when something that needs them has come, sent before or with it, taken away after all of it.

use super::*;

/// A front whose listener needs the secret `site`, and whose cluster needs the secret `fleet`.
fn secured(version: &str) -> Arc<Snapshot> {
    snapshot(&[
        (Kind::Secret, "site", version, &[]),
        (Kind::Secret, "fleet", version, &[]),
        (
            Kind::Cluster,
            "a",
            "1",
            &[(Kind::Endpoints, "a"), (Kind::Secret, "fleet")],
        ),
        (Kind::Endpoints, "a", "1", &[]),
        (
            Kind::Listener,
            "web",
            "1",
            &[(Kind::Route, "web"), (Kind::Secret, "site")],
        ),
        (Kind::Route, "web", "1", &[(Kind::Cluster, "a")]),
    ])
}

fn attached() -> Peer {
    let mut peer = Peer::new(&secured("1"));
    for (kind, names) in [
        (Kind::Secret, &["site", "fleet"][..]),
        (Kind::Cluster, &[]),
        (Kind::Endpoints, &["a"]),
        (Kind::Listener, &[]),
        (Kind::Route, &["web"]),
    ] {
        peer.subscribe(kind, names);
    }
    peer.settle();
    peer
}

#[test]
fn a_first_sight_does_not_wait_for_secrets_that_nobody_can_know_of() {
    let mut peer = Peer::fresh(&secured("1"));
    peer.subscribe(Kind::Cluster, &[]);
    peer.subscribe(Kind::Listener, &[]);
    assert_eq!(peer.answers(), ["cds a@1", "lds web@1"]);
    peer.subscribe(Kind::Secret, &["fleet", "site"]);
    assert_eq!(peer.answers(), ["sds fleet@1 site@1"]);
    peer.acknowledge(Kind::Secret);
    assert_eq!(peer.answers(), NOTHING);
}

#[test]
fn silence_asks_for_no_secret() {
    let mut peer = Peer::new(&secured("1"));
    peer.subscribe(Kind::Secret, &[]);
    assert_eq!(peer.answers(), NOTHING);
}

#[test]
fn a_route_waits_for_the_secret_of_its_cluster() {
    let mut peer = Peer::new(&secured("1"));
    for (kind, names) in [
        (Kind::Cluster, &[][..]),
        (Kind::Endpoints, &["a"]),
        (Kind::Route, &["web"]),
    ] {
        peer.subscribe(kind, names);
    }
    assert_eq!(peer.answers(), ["cds a@1", "eds a@1"]);
    peer.subscribe(Kind::Secret, &["fleet"]);
    assert_eq!(peer.answers(), ["sds fleet@1"]);
    peer.acknowledge(Kind::Cluster);
    peer.acknowledge(Kind::Endpoints);
    assert_eq!(peer.answers(), NOTHING, "without its secret no agent can be reached");
    peer.acknowledge(Kind::Secret);
    assert_eq!(peer.answers(), ["rds web@1"]);
}

#[test]
fn a_changed_secret_goes_alone() {
    let mut peer = attached();
    peer.offer(&secured("2"));
    assert_eq!(peer.settle(), ["sds fleet@2 site@2"]);
}

#[test]
fn what_needs_a_secret_that_is_asked_for_waits_for_it() {
    let mut peer = Peer::new(&secured("1"));
    peer.subscribe(Kind::Secret, &["site"]);
    peer.subscribe(Kind::Listener, &[]);
    assert_eq!(
        peer.answers(),
        ["sds site@1", "lds"],
        "whoever asks for everything is answered"
    );
    peer.acknowledge(Kind::Listener);
    assert_eq!(peer.answers(), NOTHING);
    peer.acknowledge(Kind::Secret);
    assert_eq!(peer.settle(), ["lds web@1"]);
}

#[test]
fn a_secret_goes_when_neither_clusters_nor_listeners_need_it() {
    let mut peer = attached();
    // The listener and the cluster go over to one secret that both need.
    let both = [(Kind::Endpoints, "a"), (Kind::Secret, "new")];
    peer.offer(&snapshot(&[
        (Kind::Secret, "new", "1", &[]),
        (Kind::Cluster, "a", "2", &both),
        (Kind::Endpoints, "a", "1", &[]),
        (
            Kind::Listener,
            "web",
            "2",
            &[(Kind::Route, "web"), (Kind::Secret, "new")],
        ),
        (Kind::Route, "web", "1", &[(Kind::Cluster, "a")]),
    ]));
    assert_eq!(
        peer.answers(),
        ["cds a@2", "eds a@1", "lds web@2"],
        "the old secrets stay"
    );
    peer.subscribe(Kind::Secret, &["new"]);
    assert_eq!(peer.answers(), ["sds new@1"]);
    peer.acknowledge(Kind::Secret);
    assert_eq!(peer.answers(), NOTHING, "what is on its way may be refused");
    peer.acknowledge(Kind::Cluster);
    assert_eq!(peer.answers(), ["sds -fleet"], "the listener may still need the other");
    peer.acknowledge(Kind::Secret);
    peer.acknowledge(Kind::Listener);
    assert_eq!(peer.settle(), ["sds -site"]);
}

#[test]
fn a_refused_secret_leaves_the_one_before_and_holds_nothing_up() {
    let mut peer = attached();
    let content = |secret, listener| {
        snapshot(&[
            (Kind::Secret, "site", secret, &[]),
            (Kind::Secret, "fleet", "1", &[]),
            (
                Kind::Cluster,
                "a",
                "1",
                &[(Kind::Endpoints, "a"), (Kind::Secret, "fleet")],
            ),
            (Kind::Endpoints, "a", "1", &[]),
            (
                Kind::Listener,
                "web",
                listener,
                &[(Kind::Route, "web"), (Kind::Secret, "site")],
            ),
            (Kind::Route, "web", "1", &[(Kind::Cluster, "a")]),
        ])
    };
    peer.offer(&content("bad", "1"));
    assert_eq!(peer.answers(), ["sds site@bad"]);
    peer.refuse(Kind::Secret);
    assert_eq!(peer.answers(), NOTHING);
    peer.offer(&content("bad", "2"));
    assert_eq!(peer.answers(), ["lds web@2"], "the client has a secret of that name");
    peer.offer(&content("3", "2"));
    assert_eq!(peer.settle(), ["sds site@3"]);
}
