//! The protocol, case by case. Each case ends with "and nothing more is sent than needed": the machine has no further
//! answer.

use super::*;
use crate::core::resources::Reference;

mod order;
mod refusals;
mod secrets;
mod standing;
mod streams;
mod subscriptions;
mod world;
mod world_order;

/// The kinds of a front that needs no secret.
const PLAIN: [Kind; 4] = [Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::Route];

/// A resource: (kind, name, version, what it mentions).
pub type Piece<'a> = (Kind, &'a str, &'a str, &'a [(Kind, &'a str)]);

pub fn snapshot(content: &[Piece<'_>]) -> Arc<Snapshot> {
    let resource = |(kind, name, version, refs): &Piece<'_>| {
        let refs = refs
            .iter()
            .map(|(kind, name)| Reference {
                kind: *kind,
                name: (*name).to_owned(),
            })
            .collect();
        let (name, version) = ((*name).to_owned(), (*version).to_owned());
        (
            *kind,
            Resource {
                name,
                version,
                body: bytes::Bytes::new(),
                refs,
                confidential: false,
                provisional: false,
            },
        )
    };
    Arc::new(Snapshot::new(content.iter().map(resource)).unwrap())
}

/// A front with one pool: cluster and endpoints `a`, listener and routes `web`, all at one version.
fn front(version: &str) -> Arc<Snapshot> {
    snapshot(&[
        (Kind::Cluster, "a", version, &[(Kind::Endpoints, "a")]),
        (Kind::Endpoints, "a", version, &[]),
        (Kind::Listener, "web", version, &[(Kind::Route, "web")]),
        (Kind::Route, "web", version, &[(Kind::Cluster, "a")]),
    ])
}

/// Clusters only.
fn clusters(content: &[(&str, &str)]) -> Arc<Snapshot> {
    let content: Vec<_> = content
        .iter()
        .map(|(name, version)| (Kind::Cluster, *name, *version, &[][..]))
        .collect();
    snapshot(&content)
}

/// What an answer is in short: kind, resources as `name@version`, removed names as `-name`.
fn brief(answers: &[Response]) -> Vec<String> {
    let one = |answer: &Response| {
        let resources = answer.resources.iter().map(|r| format!(" {}@{}", r.name, r.version));
        let removed = answer.removed.iter().map(|name| format!(" -{name}"));
        answer.kind.to_string() + &resources.chain(removed).collect::<String>()
    };
    answers.iter().map(one).collect()
}

/// A client with a hand on its requests, which acknowledges on demand.
struct Peer {
    client: Client,
    open: Vec<Response>,
}

impl Peer {
    /// A client whose stream is old enough to be settled.
    fn new(snapshot: &Arc<Snapshot>) -> Self {
        let mut peer = Self::fresh(snapshot);
        peer.client.settle();
        peer
    }

    /// A client whose stream is new.
    fn fresh(snapshot: &Arc<Snapshot>) -> Self {
        let mut client = Client::new(Variant::Delta, "graticule");
        client.offer(Arc::clone(snapshot));
        Self {
            client,
            open: Vec::new(),
        }
    }

    fn request(&mut self, kind: Kind, request: Request) -> Vec<Note> {
        let node = Node {
            id: "envoy".to_owned(),
            cluster: "graticule".to_owned(),
        };
        // As Envoy does it: the node on the first request only.
        let node = self.client.node().is_none().then_some(node);
        self.client.request(kind, Request { node, ..request })
    }

    fn subscribe(&mut self, kind: Kind, names: &[&str]) {
        self.request(
            kind,
            Request {
                subscribe: owned(names),
                ..Request::default()
            },
        );
    }

    fn unsubscribe(&mut self, kind: Kind, names: &[&str]) {
        self.request(
            kind,
            Request {
                unsubscribe: owned(names),
                ..Request::default()
            },
        );
    }

    fn come_back(&mut self, kind: Kind, names: &[&str], has: &[(&str, &str)]) {
        let initial_versions = has.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.request(
            kind,
            Request {
                subscribe: owned(names),
                initial_versions,
                ..Request::default()
            },
        );
    }

    fn offer(&mut self, snapshot: &Arc<Snapshot>) {
        self.client.offer(Arc::clone(snapshot));
    }

    /// The answers that are sent now.
    fn answers(&mut self) -> Vec<String> {
        let answers = self.client.answers();
        let brief = brief(&answers);
        self.open.extend(answers);
        brief
    }

    fn acknowledge(&mut self, kind: Kind) {
        let notes = self.reply(kind, None);
        assert_eq!(notes, [Note::Acknowledged(kind)]);
    }

    fn refuse(&mut self, kind: Kind) -> Vec<Note> {
        self.reply(kind, Some("it is not good".to_owned()))
    }

    fn reply(&mut self, kind: Kind, error: Option<String>) -> Vec<Note> {
        let index = self
            .open
            .iter()
            .position(|answer| answer.kind == kind)
            .expect("an open answer");
        let nonce = self.open.remove(index).nonce;
        self.request(
            kind,
            Request {
                nonce,
                error,
                ..Request::default()
            },
        )
    }

    /// Acknowledges everything until nothing more comes; gives all that came.
    fn settle(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            all.extend(self.answers());
            let Some(answer) = self.open.first() else { return all };
            self.acknowledge(answer.kind);
        }
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

const NOTHING: [String; 0] = [];
