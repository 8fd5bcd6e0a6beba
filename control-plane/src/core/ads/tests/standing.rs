//! What people and tools are told of a client.

use super::*;

fn words(peer: &Client) -> Vec<(String, String, Sync)> {
    let resources = peer.resources().into_iter();
    resources
        .map(|status| (status.name, status.version, status.sync))
        .collect()
}

fn is(name: &str, version: &str, sync: Sync) -> (String, String, Sync) {
    (name.to_owned(), version.to_owned(), sync)
}

#[test]
fn each_resource_is_told_with_the_version_that_the_client_took() {
    let mut peer = Peer::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &["*", "missing"]);
    assert_eq!(
        words(&peer.client),
        [
            is("a", "", Sync::NotSent),
            is("b", "", Sync::NotSent),
            is("missing", "", Sync::Absent)
        ]
    );
    peer.answers();
    assert_eq!(
        words(&peer.client)[0],
        is("a", "", Sync::Stale),
        "sent, and not yet taken"
    );
    peer.settle();
    assert_eq!(words(&peer.client)[0], is("a", "1", Sync::Synced));
    peer.offer(&clusters(&[("a", "2"), ("b", "1")]));
    assert_eq!(
        words(&peer.client),
        [
            is("a", "1", Sync::Stale),
            is("b", "1", Sync::Synced),
            is("missing", "", Sync::Absent)
        ]
    );
}

#[test]
fn a_refusal_is_told_with_the_clients_words_and_what_it_keeps() {
    let mut peer = Peer::new(&clusters(&[("a", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.settle();
    peer.offer(&clusters(&[("a", "bad")]));
    peer.answers();
    peer.refuse(Kind::Cluster);
    let refused = Some(Rejected {
        message: "it is not good".to_owned(),
        version: "bad".to_owned(),
    });
    let told = Status {
        kind: Kind::Cluster,
        name: "a".to_owned(),
        version: "1".to_owned(),
        sync: Sync::Error,
        refused,
    };
    assert_eq!(peer.client.resources(), [told]);
    peer.offer(&clusters(&[("a", "3")]));
    peer.settle();
    assert_eq!(words(&peer.client), [is("a", "3", Sync::Synced)]);
}

#[test]
fn the_words_of_a_refusal_are_kept_up_to_a_length() {
    let mut peer = Peer::new(&clusters(&[("a", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.answers();
    peer.reply(Kind::Cluster, Some("ü".repeat(100_000)));
    let refused = peer.client.resources()[0].refused.clone().unwrap();
    assert_eq!(refused.message.chars().count(), WORDS);
}

#[test]
fn a_client_that_asks_for_too_many_names_gets_no_more_answers() {
    let mut peer = Peer::new(&clusters(&[("a", "1")]));
    let names: Vec<String> = (0..100_000).map(|n| format!("name-{n}")).collect();
    let request = Request {
        subscribe: names,
        ..Request::default()
    };
    let notes = peer.request(Kind::Cluster, request);
    assert_eq!(notes.last(), Some(&Note::Excessive(Kind::Cluster)));
    assert_eq!(peer.answers(), NOTHING);
}
