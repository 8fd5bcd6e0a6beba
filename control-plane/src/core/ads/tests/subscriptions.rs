//! Asking for names and for everything, and no longer asking.

use super::*;

#[test]
fn a_wildcard_gets_everything_once() {
    let mut peer = Peer::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &["*"]);
    assert_eq!(peer.settle(), ["cds a@1 b@1"]);
    assert_eq!(peer.settle(), NOTHING);
}

#[test]
fn silence_is_a_wildcard_for_clusters_and_listeners_only() {
    let mut peer = Peer::new(&front("1"));
    for kind in Kind::ALL {
        peer.subscribe(kind, &[]);
    }
    assert_eq!(peer.settle(), ["cds a@1", "lds web@1"]);
}

#[test]
fn silence_means_everything_until_the_first_explicit_name() {
    let mut peer = Peer::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.settle();
    peer.subscribe(Kind::Cluster, &["b"]);
    assert_eq!(peer.settle(), ["cds b@1"]);
    peer.offer(&clusters(&[("a", "2"), ("b", "2")]));
    assert_eq!(peer.settle(), ["cds b@2"]);
}

#[test]
fn an_explicit_wildcard_stays_beside_names() {
    let mut peer = Peer::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &["*", "a"]);
    peer.settle();
    peer.offer(&clusters(&[("a", "2"), ("b", "2")]));
    assert_eq!(peer.settle(), ["cds a@2 b@2"]);
}

#[test]
fn a_wildcard_over_nothing_is_answered_once() {
    let mut peer = Peer::new(&clusters(&[]));
    peer.subscribe(Kind::Cluster, &[]);
    assert_eq!(peer.settle(), ["cds"]);
}

#[test]
fn only_what_changed_is_sent() {
    let mut peer = Peer::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.settle();
    peer.offer(&clusters(&[("a", "1"), ("b", "2"), ("c", "1")]));
    assert_eq!(peer.settle(), ["cds b@2 c@1"]);
    peer.offer(&clusters(&[("a", "1"), ("b", "2"), ("c", "1")]));
    assert_eq!(peer.settle(), NOTHING);
}

#[test]
fn a_removed_resource_is_reported_and_may_come_again() {
    let mut peer = Peer::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.settle();
    peer.offer(&clusters(&[("a", "1")]));
    assert_eq!(peer.settle(), ["cds -b"]);
    peer.offer(&clusters(&[("a", "1"), ("b", "1")]));
    assert_eq!(peer.settle(), ["cds b@1"]);
}

#[test]
fn a_named_subset_gets_no_more_than_that() {
    let mut peer = Peer::new(&clusters(&[("a", "1"), ("b", "1"), ("c", "1")]));
    peer.subscribe(Kind::Cluster, &["a", "c"]);
    assert_eq!(peer.settle(), ["cds a@1 c@1"]);
    peer.offer(&clusters(&[("a", "1"), ("b", "2"), ("c", "1")]));
    assert_eq!(peer.settle(), NOTHING);
}

#[test]
fn names_can_be_added_one_by_one() {
    let mut peer = Peer::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &["a"]);
    assert_eq!(peer.settle(), ["cds a@1"]);
    peer.subscribe(Kind::Cluster, &["b"]);
    assert_eq!(peer.settle(), ["cds b@1"]);
}

#[test]
fn a_missing_name_is_reported_removed_and_sent_when_it_comes() {
    let mut peer = Peer::new(&clusters(&[]));
    peer.subscribe(Kind::Cluster, &["a"]);
    assert_eq!(peer.settle(), ["cds -a"]);
    peer.offer(&clusters(&[("a", "1")]));
    assert_eq!(peer.settle(), ["cds a@1"]);
}

#[test]
fn a_resubscription_is_answered_at_the_same_version() {
    let mut peer = Peer::new(&clusters(&[("a", "1")]));
    peer.subscribe(Kind::Cluster, &["a", "b"]);
    peer.settle();
    peer.subscribe(Kind::Cluster, &["a", "b"]);
    assert_eq!(peer.settle(), ["cds a@1 -b"]);
}

#[test]
fn an_unsubscribed_name_is_sent_no_more() {
    let mut peer = Peer::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &["a", "b"]);
    peer.settle();
    peer.unsubscribe(Kind::Cluster, &["a"]);
    peer.offer(&clusters(&[("a", "2"), ("b", "2")]));
    assert_eq!(peer.settle(), ["cds b@2"]);
}

#[test]
fn after_the_last_unsubscription_there_is_silence() {
    let mut peer = Peer::new(&clusters(&[("a", "1")]));
    peer.subscribe(Kind::Cluster, &["a"]);
    peer.settle();
    peer.unsubscribe(Kind::Cluster, &["a"]);
    peer.offer(&clusters(&[("a", "2"), ("b", "1")]));
    assert_eq!(peer.settle(), NOTHING, "an empty list is no wildcard any more");
}

#[test]
fn a_wildcard_can_be_unsubscribed() {
    let mut peer = Peer::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &["*", "a"]);
    peer.settle();
    peer.unsubscribe(Kind::Cluster, &["*"]);
    peer.offer(&clusters(&[("a", "2"), ("b", "2")]));
    assert_eq!(peer.settle(), ["cds a@2"]);
}

#[test]
fn unsubscribing_a_name_under_a_wildcard_is_answered() {
    let mut peer = Peer::new(&clusters(&[("a", "1")]));
    peer.subscribe(Kind::Cluster, &["*", "a", "missing"]);
    peer.settle();
    peer.unsubscribe(Kind::Cluster, &["a", "missing"]);
    assert_eq!(peer.settle(), ["cds a@1 -missing"]);
}

#[test]
fn a_name_unsubscribed_while_its_answer_is_open_is_not_remembered() {
    let mut peer = Peer::new(&clusters(&[("a", "1")]));
    peer.subscribe(Kind::Cluster, &["a"]);
    peer.answers();
    peer.unsubscribe(Kind::Cluster, &["a"]);
    peer.acknowledge(Kind::Cluster);
    assert!(peer.client.standing()[0].held.is_empty());
}
