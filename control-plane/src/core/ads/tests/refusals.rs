//! What a client refuses is parked, remembered and traced.

use super::*;

#[test]
fn a_refusal_parks_the_content_until_it_changes() {
    let mut peer = Peer::new(&clusters(&[("a", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.settle();
    peer.offer(&clusters(&[("a", "bad")]));
    assert_eq!(peer.answers(), ["cds a@bad"]);
    let resources = vec![("a".to_owned(), "bad".to_owned())];
    let rejection = Rejection {
        message: "it is not good".to_owned(),
        resources,
    };
    assert_eq!(peer.refuse(Kind::Cluster), [Note::Refused(Kind::Cluster, rejection)]);
    assert_eq!(peer.answers(), NOTHING, "no loop");
    let standing = &peer.client.standing()[0];
    assert_eq!(
        standing.held,
        [("a".to_owned(), "1".to_owned())],
        "the last accepted is remembered"
    );
    assert_eq!(standing.refused, ["a"]);
    peer.offer(&clusters(&[("a", "bad"), ("b", "1")]));
    assert_eq!(peer.settle(), ["cds b@1"], "others go on");
    peer.offer(&clusters(&[("a", "3"), ("b", "1")]));
    assert_eq!(peer.settle(), ["cds a@3"]);
    assert!(peer.client.standing()[0].refused.is_empty());
}

#[test]
fn going_back_to_the_accepted_content_after_a_refusal_is_sent() {
    let mut peer = Peer::new(&clusters(&[("a", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.settle();
    peer.offer(&clusters(&[("a", "bad")]));
    peer.answers();
    peer.refuse(Kind::Cluster);
    // The client may have taken some of it before it stumbled.
    peer.offer(&clusters(&[("a", "1")]));
    assert_eq!(peer.settle(), ["cds a@1"]);
}

#[test]
fn a_refusal_of_several_is_traced_to_the_bad_one() {
    let mut peer = Peer::new(&clusters(&[("gone", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.settle();
    peer.offer(&clusters(&[("a", "1"), ("b", "bad"), ("c", "1")]));
    assert_eq!(peer.answers(), ["cds a@1 b@bad c@1 -gone"]);
    peer.refuse(Kind::Cluster);
    assert_eq!(peer.answers(), ["cds a@1"]);
    peer.acknowledge(Kind::Cluster);
    assert_eq!(peer.answers(), ["cds b@bad"]);
    peer.refuse(Kind::Cluster);
    assert_eq!(peer.settle(), ["cds c@1", "cds -gone"]);
    assert_eq!(peer.client.standing()[0].refused, ["b"]);
}

#[test]
fn what_was_refused_beside_something_that_was_dropped_meanwhile_may_be_innocent() {
    let mut peer = Peer::new(&clusters(&[("a", "1"), ("b", "bad")]));
    peer.subscribe(Kind::Cluster, &["a", "b"]);
    assert_eq!(peer.answers(), ["cds a@1 b@bad"]);
    peer.unsubscribe(Kind::Cluster, &["b"]);
    peer.refuse(Kind::Cluster);
    assert_eq!(peer.settle(), ["cds a@1"]);
}

#[test]
fn a_refused_removal_is_not_repeated() {
    let mut peer = Peer::new(&clusters(&[("a", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.settle();
    peer.offer(&clusters(&[]));
    assert_eq!(peer.answers(), ["cds -a"]);
    peer.refuse(Kind::Cluster);
    assert_eq!(peer.answers(), NOTHING);
    peer.offer(&clusters(&[("a", "1")]));
    assert_eq!(peer.settle(), ["cds a@1"]);
}

#[test]
fn an_empty_error_message_is_a_refusal_too() {
    let mut peer = Peer::new(&clusters(&[("a", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.answers();
    assert!(matches!(
        peer.reply(Kind::Cluster, Some(String::new()))[..],
        [Note::Refused(..)]
    ));
}

#[test]
fn a_refused_first_content_can_be_asked_for_again() {
    let mut peer = Peer::new(&clusters(&[("a", "bad")]));
    peer.subscribe(Kind::Cluster, &["a"]);
    peer.answers();
    peer.refuse(Kind::Cluster);
    assert_eq!(peer.answers(), NOTHING);
    peer.subscribe(Kind::Cluster, &["a"]);
    assert_eq!(peer.answers(), ["cds a@bad"]);
}
