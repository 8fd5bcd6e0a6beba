//! The same cases for the state of the world: what a client asks for, what it refuses, and how it comes back.

use super::*;

/// A client of the state of the world: it says all its names each time, and the version it took last.
pub struct World {
    pub client: Client,
    open: Vec<Response>,
    names: BTreeMap<Kind, BTreeSet<String>>,
    said: BTreeMap<Kind, (String, String)>,
}

impl World {
    /// A client whose stream is old enough to be settled.
    pub fn new(snapshot: &Arc<Snapshot>) -> Self {
        let mut peer = Self::fresh(snapshot);
        peer.client.settle();
        peer
    }

    /// A client whose stream is new.
    pub fn fresh(snapshot: &Arc<Snapshot>) -> Self {
        let mut client = Client::new(Variant::World, "graticule");
        client.offer(Arc::clone(snapshot));
        Self {
            client,
            open: Vec::new(),
            names: BTreeMap::new(),
            said: BTreeMap::new(),
        }
    }

    fn say(&mut self, kind: Kind, error: Option<String>) -> Vec<Note> {
        let node = Node {
            id: "envoy".to_owned(),
            cluster: "graticule".to_owned(),
        };
        let node = self.client.node().is_none().then_some(node);
        let names = self.names.entry(kind).or_default().iter().cloned().collect();
        let (version, nonce) = self.said.entry(kind).or_default().clone();
        let request = WorldRequest {
            node,
            names,
            version,
            nonce,
            error,
        };
        self.client.request_world(kind, request)
    }

    pub fn subscribe(&mut self, kind: Kind, names: &[&str]) {
        self.names.entry(kind).or_default().extend(owned(names));
        self.say(kind, None);
    }

    pub fn unsubscribe(&mut self, kind: Kind, names: &[&str]) {
        let known = self.names.entry(kind).or_default();
        known.retain(|name| !names.contains(&name.as_str()));
        self.say(kind, None);
    }

    /// Asks anew on a new stream, with the version that it took on an earlier one.
    pub fn come_back(&mut self, kind: Kind, names: &[&str], version: &str) {
        self.said.insert(kind, (version.to_owned(), String::new()));
        self.subscribe(kind, names);
    }

    /// The version it took last.
    pub fn version(&self, kind: Kind) -> String {
        self.said[&kind].0.clone()
    }

    pub fn offer(&mut self, snapshot: &Arc<Snapshot>) {
        self.client.offer(Arc::clone(snapshot));
    }

    pub fn answers(&mut self) -> Vec<String> {
        let answers = self.client.answers();
        let brief = brief(&answers);
        self.open.extend(answers);
        brief
    }

    fn close(&mut self, kind: Kind) -> Response {
        let index = self.open.iter().position(|answer| answer.kind == kind);
        self.open.remove(index.expect("an open answer"))
    }

    pub fn acknowledge(&mut self, kind: Kind) {
        let Response { version, nonce, .. } = self.close(kind);
        self.said.insert(kind, (version, nonce));
        assert_eq!(self.say(kind, None), [Note::Acknowledged(kind)]);
    }

    pub fn refuse(&mut self, kind: Kind) -> Vec<Note> {
        let nonce = self.close(kind).nonce;
        self.said.entry(kind).or_default().1 = nonce;
        self.say(kind, Some("it is not good".to_owned()))
    }

    /// Acknowledges all that comes, except answers of that kind.
    pub fn acknowledge_all_but(&mut self, kind: Kind) {
        loop {
            self.answers();
            let Some(other) = self.open.iter().map(|answer| answer.kind).find(|open| *open != kind) else {
                return;
            };
            self.acknowledge(other);
        }
    }

    pub fn settle(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            all.extend(self.answers());
            let Some(answer) = self.open.first() else { return all };
            self.acknowledge(answer.kind);
        }
    }
}

fn endpoints(content: &[(&str, &str)]) -> Arc<Snapshot> {
    let content: Vec<_> = content
        .iter()
        .map(|(name, version)| (Kind::Endpoints, *name, *version, &[][..]))
        .collect();
    snapshot(&content)
}

#[test]
fn a_wildcard_gets_everything_once() {
    let mut peer = World::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &["*"]);
    assert_eq!(peer.settle(), ["cds a@1 b@1"]);
    assert_eq!(peer.settle(), NOTHING);
}

#[test]
fn silence_is_a_wildcard_for_clusters_and_listeners_only() {
    let mut peer = World::new(&front("1"));
    for kind in Kind::ALL {
        peer.subscribe(kind, &[]);
    }
    assert_eq!(peer.settle(), ["cds a@1", "lds web@1"]);
}

#[test]
fn clusters_and_listeners_are_always_sent_whole() {
    let mut peer = World::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.settle();
    peer.offer(&clusters(&[("a", "1"), ("b", "2"), ("c", "1")]));
    assert_eq!(peer.settle(), ["cds a@1 b@2 c@1"]);
    peer.offer(&clusters(&[("a", "1"), ("b", "2"), ("c", "1")]));
    assert_eq!(peer.settle(), NOTHING);
}

#[test]
fn of_endpoints_and_routes_only_what_changed_is_sent() {
    let mut peer = World::new(&endpoints(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Endpoints, &["a", "b"]);
    assert_eq!(peer.settle(), ["eds a@1 b@1"]);
    peer.offer(&endpoints(&[("a", "1"), ("b", "2")]));
    assert_eq!(peer.settle(), ["eds b@2"]);
}

#[test]
fn a_removal_is_what_the_next_answer_lacks() {
    let mut peer = World::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.settle();
    peer.offer(&clusters(&[("a", "1")]));
    assert_eq!(peer.settle(), ["cds a@1"]);
    peer.offer(&clusters(&[("a", "1"), ("b", "1")]));
    assert_eq!(peer.settle(), ["cds a@1 b@1"]);
}

#[test]
fn an_empty_answer_deletes_everything() {
    let mut peer = World::new(&clusters(&[("a", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.settle();
    peer.offer(&clusters(&[]));
    assert_eq!(peer.settle(), ["cds"]);
    peer.offer(&clusters(&[]));
    assert_eq!(peer.settle(), NOTHING);
}

#[test]
fn a_wildcard_over_nothing_is_answered_once() {
    let mut peer = World::new(&clusters(&[]));
    peer.subscribe(Kind::Cluster, &[]);
    assert_eq!(peer.settle(), ["cds"]);
}

#[test]
fn endpoints_that_went_are_not_told_of_and_are_sent_when_they_come_again() {
    let mut peer = World::new(&endpoints(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Endpoints, &["a", "b"]);
    peer.settle();
    peer.offer(&endpoints(&[("b", "1")]));
    assert_eq!(peer.settle(), NOTHING, "an answer without it would say nothing");
    peer.offer(&endpoints(&[("a", "1"), ("b", "1")]));
    assert_eq!(peer.settle(), ["eds a@1"]);
}

#[test]
fn silence_means_everything_until_the_first_explicit_name() {
    let mut peer = World::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.settle();
    peer.subscribe(Kind::Cluster, &["b"]);
    assert_eq!(peer.settle(), ["cds b@1"]);
    peer.offer(&clusters(&[("a", "2"), ("b", "2")]));
    assert_eq!(peer.settle(), ["cds b@2"]);
    peer.unsubscribe(Kind::Cluster, &["b"]);
    peer.offer(&clusters(&[("a", "3"), ("b", "3")]));
    assert_eq!(peer.settle(), NOTHING, "an empty list is no wildcard any more");
}

#[test]
fn an_explicit_wildcard_stays_beside_names_and_can_be_taken_back() {
    let mut peer = World::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &["*", "a"]);
    peer.settle();
    peer.offer(&clusters(&[("a", "2"), ("b", "2")]));
    assert_eq!(peer.settle(), ["cds a@2 b@2"]);
    peer.unsubscribe(Kind::Cluster, &["*"]);
    peer.offer(&clusters(&[("a", "3"), ("b", "3")]));
    assert_eq!(peer.settle(), ["cds a@3"]);
}

#[test]
fn a_named_subset_gets_no_more_than_that() {
    let mut peer = World::new(&clusters(&[("a", "1"), ("b", "1"), ("c", "1")]));
    peer.subscribe(Kind::Cluster, &["a", "c"]);
    assert_eq!(peer.settle(), ["cds a@1 c@1"]);
    peer.offer(&clusters(&[("a", "1"), ("b", "2"), ("c", "1")]));
    assert_eq!(peer.settle(), NOTHING);
}

#[test]
fn names_can_be_added_one_by_one() {
    let mut peer = World::new(&endpoints(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Endpoints, &["a"]);
    assert_eq!(peer.settle(), ["eds a@1"]);
    peer.subscribe(Kind::Endpoints, &["b"]);
    assert_eq!(peer.settle(), ["eds b@1"], "and `a` not again");
}

#[test]
fn a_missing_cluster_is_answered_by_its_absence_and_sent_when_it_comes() {
    let mut peer = World::new(&clusters(&[("a", "1")]));
    peer.subscribe(Kind::Cluster, &["a"]);
    peer.settle();
    peer.subscribe(Kind::Cluster, &["b"]);
    assert_eq!(peer.settle(), ["cds a@1"]);
    peer.offer(&clusters(&[("a", "1"), ("b", "1")]));
    assert_eq!(peer.settle(), ["cds a@1 b@1"]);
}

#[test]
fn missing_endpoints_are_awaited_in_silence() {
    let mut peer = World::new(&endpoints(&[]));
    peer.subscribe(Kind::Endpoints, &["a"]);
    assert_eq!(peer.settle(), NOTHING);
    peer.offer(&endpoints(&[("a", "1")]));
    assert_eq!(peer.settle(), ["eds a@1"]);
}

#[test]
fn a_name_that_is_dropped_and_taken_again_is_sent_again() {
    let mut peer = World::new(&endpoints(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Endpoints, &["a", "b"]);
    peer.settle();
    peer.unsubscribe(Kind::Endpoints, &["a"]);
    peer.offer(&endpoints(&[("a", "2"), ("b", "1")]));
    assert_eq!(peer.settle(), NOTHING);
    peer.subscribe(Kind::Endpoints, &["a"]);
    assert_eq!(peer.settle(), ["eds a@2"]);
}

#[test]
fn a_repeated_request_gets_no_answer() {
    let mut peer = World::new(&clusters(&[("a", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.settle();
    assert_eq!(peer.say(Kind::Cluster, None), []);
    assert_eq!(peer.settle(), NOTHING);
}

#[test]
fn a_refusal_parks_the_content_until_it_changes() {
    let mut peer = World::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.settle();
    let took = peer.version(Kind::Cluster);
    peer.offer(&clusters(&[("a", "bad"), ("b", "1")]));
    assert_eq!(peer.answers(), ["cds a@bad b@1"]);
    let resources = vec![("a".to_owned(), "bad".to_owned())];
    let rejection = Rejection {
        message: "it is not good".to_owned(),
        resources,
    };
    assert_eq!(peer.refuse(Kind::Cluster), [Note::Refused(Kind::Cluster, rejection)]);
    assert_eq!(peer.answers(), NOTHING, "no loop");
    assert_eq!(peer.version(Kind::Cluster), took, "the last accepted stays");
    peer.offer(&clusters(&[("a", "bad"), ("b", "2")]));
    assert_eq!(peer.settle(), ["cds a@1 b@2"], "others go on, beside the last accepted");
    peer.offer(&clusters(&[("a", "3"), ("b", "2")]));
    assert_eq!(peer.settle(), ["cds a@3 b@2"]);
    assert!(peer.client.standing()[0].refused.is_empty());
}

#[test]
fn a_refusal_of_several_is_traced_to_the_bad_one() {
    let mut peer = World::new(&clusters(&[("old", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.settle();
    peer.offer(&clusters(&[("a", "1"), ("b", "bad"), ("old", "1")]));
    assert_eq!(peer.answers(), ["cds a@1 b@bad old@1"]);
    peer.refuse(Kind::Cluster);
    assert_eq!(peer.answers(), ["cds a@1 old@1"]);
    peer.acknowledge(Kind::Cluster);
    assert_eq!(peer.answers(), ["cds a@1 b@bad old@1"]);
    peer.refuse(Kind::Cluster);
    assert_eq!(peer.settle(), NOTHING);
    assert_eq!(peer.client.standing()[0].refused, ["b"]);
}

#[test]
fn refused_endpoints_are_traced_to_the_bad_ones() {
    let mut peer = World::new(&endpoints(&[("a", "1"), ("b", "bad")]));
    peer.subscribe(Kind::Endpoints, &["a", "b"]);
    assert_eq!(peer.answers(), ["eds a@1 b@bad"]);
    peer.refuse(Kind::Endpoints);
    assert_eq!(peer.answers(), ["eds a@1"]);
    peer.acknowledge(Kind::Endpoints);
    assert_eq!(peer.answers(), ["eds b@bad"]);
    peer.refuse(Kind::Endpoints);
    assert_eq!(peer.settle(), NOTHING);
}

#[test]
fn a_first_answer_that_is_refused_waits_for_other_content_and_then_goes_whole() {
    let mut peer = World::new(&clusters(&[("a", "1"), ("b", "bad")]));
    peer.subscribe(Kind::Cluster, &[]);
    assert_eq!(peer.answers(), ["cds a@1 b@bad"]);
    peer.refuse(Kind::Cluster);
    assert_eq!(
        peer.answers(),
        NOTHING,
        "a part of it would take the rest from a client that came back"
    );
    peer.offer(&clusters(&[("a", "1"), ("b", "bad")]));
    assert_eq!(peer.answers(), NOTHING);
    peer.offer(&clusters(&[("a", "1"), ("b", "2")]));
    assert_eq!(peer.settle(), ["cds a@1 b@2"]);
    assert!(peer.client.standing()[0].refused.is_empty());
}

#[test]
fn a_refused_removal_is_not_repeated() {
    let mut peer = World::new(&clusters(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    peer.settle();
    peer.offer(&clusters(&[("a", "1")]));
    assert_eq!(peer.answers(), ["cds a@1"]);
    peer.refuse(Kind::Cluster);
    assert_eq!(peer.answers(), NOTHING);
    peer.offer(&clusters(&[("a", "1"), ("b", "1")]));
    assert_eq!(peer.settle(), ["cds a@1 b@1"]);
}

#[test]
fn an_empty_error_message_is_a_refusal_too() {
    let mut peer = World::new(&clusters(&[("a", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    let nonce = peer.client.answers().remove(0).nonce;
    peer.said.insert(Kind::Cluster, (String::new(), nonce));
    assert!(matches!(
        peer.say(Kind::Cluster, Some(String::new()))[..],
        [Note::Refused(..)]
    ));
}

#[test]
fn a_stale_request_is_ignored_whole() {
    let mut peer = World::new(&endpoints(&[("a", "1"), ("b", "1")]));
    peer.subscribe(Kind::Endpoints, &["a"]);
    peer.settle();
    peer.offer(&endpoints(&[("a", "2"), ("b", "1")]));
    assert_eq!(peer.answers(), ["eds a@2"]);
    peer.subscribe(Kind::Endpoints, &["b"]);
    assert_eq!(peer.answers(), NOTHING, "it was said before `a@2` had come");
    peer.acknowledge(Kind::Endpoints);
    assert_eq!(peer.settle(), ["eds b@1"], "and is said again with the next one");
}

#[test]
fn a_request_before_the_first_answer_counts() {
    let mut client = Client::new(Variant::World, "");
    let request = |names: &[&str]| WorldRequest {
        node: Some(Node {
            id: "x".to_owned(),
            cluster: String::new(),
        }),
        names: owned(names),
        ..WorldRequest::default()
    };
    client.request_world(Kind::Endpoints, request(&["a"]));
    client.request_world(Kind::Endpoints, request(&["a", "b"]));
    client.offer(endpoints(&[("a", "1"), ("b", "1")]));
    assert_eq!(brief(&client.answers()), ["eds a@1 b@1"]);
    assert_eq!(client.answers(), []);
}

#[test]
fn a_foreign_nonce_on_a_new_stream_is_no_hindrance() {
    let mut peer = World::new(&clusters(&[("a", "1")]));
    peer.said
        .insert(Kind::Cluster, (String::new(), "from another life".to_owned()));
    peer.subscribe(Kind::Cluster, &[]);
    assert_eq!(peer.settle(), ["cds a@1"]);
}

#[test]
fn one_answer_is_open_at_a_time_and_the_next_has_the_newest() {
    let mut peer = World::new(&clusters(&[("a", "1")]));
    peer.subscribe(Kind::Cluster, &[]);
    assert_eq!(peer.answers(), ["cds a@1"]);
    for version in ["2", "3", "4"] {
        peer.offer(&clusters(&[("a", version)]));
        assert_eq!(peer.answers(), NOTHING);
    }
    peer.acknowledge(Kind::Cluster);
    assert_eq!(peer.settle(), ["cds a@4"]);
}

/// A client that took all of a front; its versions are what it comes back with.
pub fn attached(snapshot: &Arc<Snapshot>) -> World {
    let mut peer = World::new(snapshot);
    let names = [&[][..], &["a"], &[], &["web"]];
    for (kind, names) in PLAIN.into_iter().zip(names) {
        peer.subscribe(kind, names);
    }
    peer.settle();
    peer
}

#[test]
fn a_returning_client_is_sent_everything_once() {
    let before = attached(&front("1"));
    let mut peer = World::fresh(&front("1"));
    let names = [&[][..], &["a"], &[], &["web"]];
    for (kind, names) in PLAIN.into_iter().zip(names) {
        peer.come_back(kind, names, &before.version(kind));
    }
    assert_eq!(
        peer.settle(),
        ["cds a@1", "eds a@1", "lds web@1", "rds web@1"],
        "it may have lost some since it took that version, or taken some of what it refused"
    );
    peer.client.settle();
    assert_eq!(peer.settle(), NOTHING);
    let synced = |status: &Status| status.sync == Sync::Synced;
    assert!(
        peer.client.resources().iter().all(synced),
        "{:?}",
        peer.client.resources()
    );
}

#[test]
fn a_returning_client_asks_for_a_name_more() {
    let before = attached(&front("1"));
    let mut peer = World::fresh(&endpoints(&[("a", "1"), ("b", "1")]));
    peer.come_back(Kind::Endpoints, &["a", "b"], &before.version(Kind::Endpoints));
    assert_eq!(peer.settle(), ["eds a@1 b@1"]);
}

#[test]
fn a_client_may_come_back_before_there_is_a_snapshot() {
    let before = attached(&front("1"));
    let mut peer = World::fresh(&front("1"));
    peer.client = Client::new(Variant::World, "graticule");
    peer.come_back(Kind::Cluster, &[], &before.version(Kind::Cluster));
    assert_eq!(peer.answers(), NOTHING);
    peer.offer(&front("1"));
    assert_eq!(peer.settle(), ["cds a@1"]);
}

#[test]
fn nothing_is_sent_to_an_unknown_node() {
    let mut client = Client::new(Variant::World, "graticule");
    client.offer(front("1"));
    let notes = client.request_world(Kind::Cluster, WorldRequest::default());
    assert!(matches!(notes[..], [Note::Unknown(_)]));
    assert_eq!(client.answers(), []);
}
