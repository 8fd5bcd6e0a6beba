//! One client of the xDS protocol, as a state machine: requests and snapshots go in, the answers to send now come out.
//! One answer per kind is on its way at a time, so a slow client costs one answer of memory and gets the newest content
//! when it is ready for it.
//!
//! The protocol has two variants. In the incremental one (delta) an answer has what changed and names what went. In the other,
//! state of the world, an answer with listeners or clusters has all of them, and what is not in it goes; one with routes or
//! endpoints has those that changed, and nothing tells that one went. What is to be sent is decided in the same way for both;
//! only requests are read and answers are written in two.
//!
//! The order that keeps a client whole while things change:
//!
//! - secrets, clusters, endpoints, listeners, routes are sent in this order;
//! - what needs a secret that the client asks for goes when the client has acknowledged that secret;
//! - a route goes only when the client has acknowledged the clusters it leads to, and their endpoints;
//! - a removal goes only when nothing that the client has, or may have, mentions the resource any more;
//! - a cluster that was sent is followed by its endpoints, even unchanged ones: Envoy waits for them.
//!
//! What a client refuses is not sent again until its content changes, except that an answer of several resources is
//! sent once more in single ones, to find the bad among them; in an answer that has everything, such a single one stands beside
//! all that the client took. As long as it took nothing, nobody knows what it has: then it is sent everything, or nothing.
//!
//! What it does not know: sockets, time, what is in a resource. Words of the protocol: an answer is acknowledged (ACK)
//! or refused (NACK) by the next request that carries its nonce; refused is what has an error, nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::resources::{Kind, Reference, Resource, Snapshot};

mod held;
#[cfg(test)]
mod hostile;
mod lane;
#[cfg(test)]
mod simulation;
mod standing;
#[cfg(test)]
mod tests;
mod watch;

use lane::{Lane, Verdict};
pub use standing::{Rejected, Standing, Status, Sync};

/// What a client says of a refusal is cut to so many characters.
const WORDS: usize = 4096;

/// Which of its two variants a client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// The incremental one.
    #[default]
    Delta,
    /// State of the world.
    World,
}

impl Variant {
    /// A short name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::World => "state of the world",
        }
    }

    /// What answers of a kind carry. The protocol has listeners and clusters whole: those kinds of which silence asks for
    /// everything.
    const fn carries(self, kind: Kind) -> Carries {
        match self {
            Self::Delta => Carries::Changes,
            Self::World if kind.silence_is_wildcard() => Carries::Everything,
            Self::World => Carries::News,
        }
    }
}

/// What the answers of a kind carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carries {
    /// What is new and changed, and the names of what went.
    Changes,
    /// Everything; what is not there goes.
    Everything,
    /// What is new and changed.
    News,
}

/// Who a client is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The client's own name.
    pub id: String,
    /// What it belongs to.
    pub cluster: String,
}

/// A request in the incremental variant, of one kind.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Who asks; guaranteed on the first request of a stream only.
    pub node: Option<Node>,
    /// Names to watch from now on; `*` is everything.
    pub subscribe: Vec<String>,
    /// Names to watch no longer.
    pub unsubscribe: Vec<String>,
    /// Names and versions that the client has from an earlier stream; counts on the first request of a kind only.
    pub initial_versions: BTreeMap<String, String>,
    /// The answer that this request speaks of; empty for none.
    pub nonce: String,
    /// Why that answer is refused.
    pub error: Option<String>,
}

/// A request in the variant of the state of the world, of one kind.
#[derive(Clone, Debug, Default)]
pub struct WorldRequest {
    /// Who asks; guaranteed on the first request of a stream only.
    pub node: Option<Node>,
    /// All the names to watch; `*` is everything.
    pub names: Vec<String>,
    /// The version of the answer that it took last, maybe on an earlier stream; empty for none. It tells that a client comes
    /// back, and no more.
    pub version: String,
    /// The answer that this request speaks of; empty for none.
    pub nonce: String,
    /// Why that answer is refused.
    pub error: Option<String>,
}

/// An answer to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The kind of its resources.
    pub kind: Kind,
    /// What the client will call it by. Unique per stream and kind.
    pub nonce: String,
    /// What a client of the state of the world has once it took this; empty in the incremental variant.
    pub version: String,
    /// New and changed resources, or all of them where the variant wants that, in the order of names.
    pub resources: Vec<Resource>,
    /// Names that do not exist (any more). None where the variant cannot name them.
    pub removed: Vec<String>,
}

/// An answer that a client refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The client's words.
    pub message: String,
    /// Name and version of everything in the answer; the version of a removal is empty.
    pub resources: Vec<(String, String)>,
}

/// What a request brought to light.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The client is known and will be served.
    Admitted(Node),
    /// The client is of another cluster, or has not said who it is: it is not answered.
    Unknown(Node),
    /// The client took our last answer of that kind.
    Acknowledged(Kind),
    /// The client refused our last answer of that kind.
    Refused(Kind, Rejection),
    /// The client asks for more names of that kind than anybody needs: it gets no more answers.
    Excessive(Kind),
}

/// One client on one stream.
#[derive(Clone, Debug)]
pub struct Client {
    variant: Variant,
    node_cluster: String,
    node: Option<Node>,
    admitted: bool,
    snapshot: Option<Arc<Snapshot>>,
    lanes: BTreeMap<Kind, Lane>,
    /// A kind that it has not asked for is none it has.
    settled: bool,
}

impl Client {
    /// A client that has said nothing. Those whose node belongs to `node_cluster` are served; when that is empty, all.
    #[must_use]
    pub fn new(variant: Variant, node_cluster: &str) -> Self {
        let lanes = Kind::ALL.into_iter().map(|kind| (kind, Lane::new(variant, kind)));
        Self {
            variant,
            node_cluster: node_cluster.to_owned(),
            node: None,
            admitted: false,
            snapshot: None,
            lanes: lanes.collect(),
            settled: false,
        }
    }

    /// A request of the incremental variant has come.
    pub fn request(&mut self, kind: Kind, mut request: Request) -> Vec<Note> {
        let notes = self.meet(request.node.take());
        request.error = request.error.map(cut);
        self.hear(kind, notes, |lane| lane.take(request))
    }

    /// A request of the state of the world has come.
    pub fn request_world(&mut self, kind: Kind, mut request: WorldRequest) -> Vec<Note> {
        let notes = self.meet(request.node.take());
        request.error = request.error.map(cut);
        self.hear(kind, notes, |lane| lane.take_world(request))
    }

    /// Who it is is what it says first.
    fn meet(&mut self, said: Option<Node>) -> Vec<Note> {
        if self.node.is_some() {
            return Vec::new();
        }
        let node = said.unwrap_or_default();
        self.admitted = !node.id.is_empty() && (self.node_cluster.is_empty() || node.cluster == self.node_cluster);
        self.node = Some(node.clone());
        vec![if self.admitted {
            Note::Admitted(node)
        } else {
            Note::Unknown(node)
        }]
    }

    fn hear(&mut self, kind: Kind, mut notes: Vec<Note>, said: impl FnOnce(&mut Lane) -> Verdict) -> Vec<Note> {
        let Some(lane) = self.lanes.get_mut(&kind) else {
            return notes;
        };
        match said(lane) {
            Verdict::Nothing => {}
            Verdict::Acknowledged => notes.push(Note::Acknowledged(kind)),
            Verdict::Refused(rejection) => notes.push(Note::Refused(kind, rejection)),
        }
        if lane.is_excessive() {
            self.admitted = false;
            notes.push(Note::Excessive(kind));
        }
        notes
    }

    /// This is what there is from now on.
    pub fn offer(&mut self, snapshot: Arc<Snapshot>) {
        let changed = match &self.snapshot {
            Some(before) if Arc::ptr_eq(before, &snapshot) => return,
            Some(before) => snapshot.changed_since(before),
            None => None,
        };
        for (kind, lane) in &mut self.lanes {
            let changed = changed.map(|changed| changed.get(kind).map_or(&[][..], Vec::as_slice));
            lane.look_at(changed);
        }
        self.snapshot = Some(snapshot);
    }

    /// The stream is old enough: a client that returns has asked for all that it had by now. Before, it may have
    /// things of a kind it has not spoken of yet, and these may lead to what is to be removed, or need what is to come.
    pub fn settle(&mut self) {
        self.settled = true;
        self.lanes.values_mut().for_each(Lane::settle);
    }

    /// The answers to send now, in this order. Empty until the client is admitted and there is a snapshot.
    pub fn answers(&mut self) -> Vec<Response> {
        let Some(snapshot) = self.snapshot.clone().filter(|_| self.admitted) else {
            return Vec::new();
        };
        for lane in self.lanes.values_mut() {
            lane.recognise(&snapshot);
        }
        // What one kind lets go of can free another that was looked at before it.
        let passes = Kind::ALL.into_iter().flat_map(|_| Kind::ALL);
        passes.filter_map(|kind| self.answer(kind, &snapshot)).collect()
    }

    fn answer(&mut self, kind: Kind, snapshot: &Snapshot) -> Option<Response> {
        let lane = self.lanes.get(&kind).filter(|lane| lane.is_due())?;
        if lane.is_blank() {
            let all = lane.anew(snapshot).map(|all| all.into_iter().cloned().collect());
            self.lanes.get_mut(&kind)?.looked(BTreeSet::new());
            return self.send(kind, snapshot, all?, Vec::new(), true);
        }
        let open = lane.open(snapshot);
        let news = open.lacking.iter().map(|r| &r.name);
        let mut waiting: BTreeSet<String> = news.chain(&open.has).chain(&open.asks).cloned().collect();
        let lacking = open.lacking.into_iter();
        let resources: Vec<Resource> = lacking.filter(|r| self.may_add(kind, r, snapshot)).cloned().collect();
        let has = open.has.into_iter().filter(|name| self.may_remove(kind, name));
        let mut removed: Vec<String> = has.chain(open.asks).collect();
        removed.sort();
        let lane = self.lanes.get_mut(&kind)?;
        let (resources, removed) = if lane.carries() == Carries::News {
            lane.forget(&removed);
            waiting.retain(|name| !removed.contains(name));
            select(lane, resources, Vec::new())
        } else {
            select(lane, resources, removed)
        };
        for name in resources.iter().map(|r| &r.name).chain(&removed) {
            waiting.remove(name);
        }
        lane.looked(waiting);
        self.send(kind, snapshot, resources, removed, false)
    }

    /// Writes an answer: these resources are new, these go; `anew` when it is all that the client will have.
    fn send(
        &mut self,
        kind: Kind,
        snapshot: &Snapshot,
        mut resources: Vec<Resource>,
        removed: Vec<String>,
        anew: bool,
    ) -> Option<Response> {
        let lane = self.lanes.get_mut(&kind)?;
        // What the client has to have anew, and whether it may have nothing of it at all.
        let told = |lane: &Lane, r: &Resource| (Arc::clone(&r.refs), !lane.holds(snapshot, &r.name));
        let mut news: Vec<(Arc<[Reference]>, bool)> = resources.iter().map(|r| told(lane, r)).collect();
        let nonce = lane.send(&resources, &removed, anew)?;
        let mut version = String::new();
        if lane.carries() == Carries::Everything && !anew {
            for (resource, doubtful) in lane.rest(&resources, &removed) {
                if doubtful {
                    news.push(told(lane, &resource));
                }
                resources.push(resource);
            }
            resources.sort_by(|a, b| a.name.cmp(&b.name));
        }
        if self.variant == Variant::World {
            version = match lane.carries() {
                Carries::Everything => lane::version_of(&resources),
                _ => lane.version(snapshot),
            };
        }
        if kind == Kind::Cluster
            && let Some(endpoints) = self.lanes.get_mut(&Kind::Endpoints)
            && (endpoints.watched() || !self.settled)
        {
            for (refs, lost) in &news {
                for endpoint in refs.iter().filter(|r| r.kind == Kind::Endpoints) {
                    endpoints.resend(&endpoint.name, *lost);
                }
            }
        }
        let removed = if self.variant == Variant::Delta {
            removed
        } else {
            Vec::new()
        };
        Some(Response {
            kind,
            nonce,
            version,
            resources,
            removed,
        })
    }

    /// Whether the client has everything that the resource leads to and that is sent before it.
    fn may_add(&self, kind: Kind, resource: &Resource, snapshot: &Snapshot) -> bool {
        let earlier = resource.refs.iter().filter(|r| r.kind < kind);
        earlier.into_iter().all(|r| {
            let Some(lane) = self.lanes.get(&r.kind).filter(|lane| lane.watched()) else {
                // Nobody asks for a secret before hearing of what needs it.
                return r.kind == Kind::Secret || self.settled;
            };
            if !lane.covers(&r.name) {
                return true;
            }
            let leads_to = snapshot.get(r.kind, &r.name).into_iter().flat_map(|r| r.refs.iter());
            lane.holds(snapshot, &r.name)
                && leads_to
                    .into_iter()
                    .all(|next| match self.lanes.get(&next.kind).filter(|lane| lane.watched()) {
                        Some(lane) => !lane.covers(&next.name) || lane.holds(snapshot, &next.name),
                        None => self.settled,
                    })
        })
    }

    /// Whether nothing that the client has or may have mentions the resource.
    fn may_remove(&self, kind: Kind, name: &str) -> bool {
        // A cluster that was sent waits for its endpoints and must hear that there are none; Envoy lets the cluster
        // before it keep those it had.
        let awaited = kind == Kind::Endpoints && self.lanes.get(&kind).is_some_and(|lane| lane.owes(name));
        kind.referrers().iter().all(
            |referrer| match self.lanes.get(referrer).filter(|lane| lane.watched()) {
                Some(lane) => awaited || !lane.may_mention(kind, name),
                None => self.settled,
            },
        )
    }

    /// Who the client is, once it has said so.
    #[must_use]
    pub const fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Which variant it speaks.
    #[must_use]
    pub const fn variant(&self) -> Variant {
        self.variant
    }
}

/// The beginning of a client's words.
fn cut(words: String) -> String {
    if words.len() <= WORDS {
        return words;
    }
    words.chars().take(WORDS).collect()
}

/// What goes into one answer: all that is above suspicion; when nothing is, one suspect alone. So one bad resource does
/// not keep the good ones from a client that refuses answers as a whole.
fn select(lane: &Lane, resources: Vec<Resource>, removed: Vec<String>) -> (Vec<Resource>, Vec<String>) {
    let (mut suspects, clear): (Vec<_>, Vec<_>) = resources.into_iter().partition(|r| lane.is_suspect(&r.name));
    let (mut to_remove, clear_to_remove): (Vec<_>, Vec<_>) =
        removed.into_iter().partition(|name| lane.is_suspect(name));
    if !clear.is_empty() || !clear_to_remove.is_empty() {
        return (clear, clear_to_remove);
    }
    suspects.truncate(1);
    to_remove.truncate(usize::from(suspects.is_empty()));
    (suspects, to_remove)
}
