//! One client of the incremental xDS protocol, as a state machine: requests and snapshots go in, the answers to send
//! now come out. One answer per kind is on its way at a time, so a slow client costs one answer of memory and gets
//! the newest content when it is ready for it.
//!
//! The order that keeps a client whole while things change:
//!
//! - clusters, endpoints, listeners, routes are sent in this order;
//! - a route goes only when the client has acknowledged the clusters it leads to, and their endpoints;
//! - a removal goes only when nothing that the client has, or may have, mentions the resource any more;
//! - a cluster that was sent is followed by its endpoints, even unchanged ones: Envoy waits for them.
//!
//! What a client refuses is not sent again until its content changes, except that an answer of several resources is
//! sent once more in single ones, to find the bad among them.
//!
//! What it does not know: sockets, time, what is in a resource. Words of the protocol: an answer is acknowledged (ACK)
//! or refused (NACK) by the next request that carries its nonce; refused is what has an error, nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::resources::{Kind, Resource, Snapshot};

mod lane;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use lane::{Lane, Verdict};

/// Who a client is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The client's own name.
    pub id: String,
    /// What it belongs to.
    pub cluster: String,
}

/// A request of a client, of one kind.
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

/// An answer to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The kind of its resources.
    pub kind: Kind,
    /// What the client will call it by. Unique per stream and kind.
    pub nonce: String,
    /// New and changed resources, in the order of names.
    pub resources: Vec<Resource>,
    /// Names that do not exist (any more).
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
}

/// How a client stands with one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The kind.
    pub kind: Kind,
    /// Name and acknowledged version of everything it has.
    pub held: Vec<(String, String)>,
    /// Names of what it refused and has not taken since.
    pub refused: Vec<String>,
    /// An answer waits for its word.
    pub in_flight: bool,
}

/// One client on one stream.
#[derive(Clone, Debug)]
pub struct Client {
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
    pub fn new(node_cluster: &str) -> Self {
        Self {
            node_cluster: node_cluster.to_owned(),
            node: None,
            admitted: false,
            snapshot: None,
            lanes: Kind::ALL.into_iter().map(|kind| (kind, Lane::default())).collect(),
            settled: false,
        }
    }

    /// A request has come.
    pub fn request(&mut self, kind: Kind, mut request: Request) -> Vec<Note> {
        let mut notes = Vec::new();
        let said = request.node.take();
        if self.node.is_none() {
            let node = said.unwrap_or_default();
            self.admitted = !node.id.is_empty() && (self.node_cluster.is_empty() || node.cluster == self.node_cluster);
            notes.push(if self.admitted {
                Note::Admitted(node.clone())
            } else {
                Note::Unknown(node.clone())
            });
            self.node = Some(node);
        }
        let lane = self.lanes.entry(kind).or_default();
        match lane.take(kind, request) {
            Verdict::Nothing => {}
            Verdict::Acknowledged => notes.push(Note::Acknowledged(kind)),
            Verdict::Refused(rejection) => notes.push(Note::Refused(kind, rejection)),
        }
        notes
    }

    /// This is what there is from now on.
    pub fn offer(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = Some(snapshot);
    }

    /// The stream is old enough: a client that returns has asked for all that it had by now. Before, it may have
    /// things of a kind it has not spoken of yet, and these may lead to what is to be removed, or need what is to come.
    pub const fn settle(&mut self) {
        self.settled = true;
    }

    /// The answers to send now, in this order. Empty until the client is admitted and there is a snapshot.
    pub fn answers(&mut self) -> Vec<Response> {
        let Some(snapshot) = self.snapshot.clone().filter(|_| self.admitted) else {
            return Vec::new();
        };
        for (kind, lane) in &mut self.lanes {
            lane.recognise(*kind, &snapshot);
        }
        Kind::ALL
            .into_iter()
            .filter_map(|kind| self.answer(kind, &snapshot))
            .collect()
    }

    fn answer(&mut self, kind: Kind, snapshot: &Snapshot) -> Option<Response> {
        let lane = self
            .lanes
            .get(&kind)
            .filter(|lane| lane.watched() && !lane.in_flight())?;
        let lacking = lane.lacking(kind, snapshot).into_iter();
        let resources: Vec<Resource> = lacking.filter(|r| self.may_add(kind, r, snapshot)).cloned().collect();
        let (has, asks) = lane.surplus(kind, snapshot);
        let mut removed: Vec<String> = has
            .into_iter()
            .filter(|name| self.may_remove(kind, name))
            .chain(asks)
            .collect();
        removed.sort();
        let (resources, removed) = select(lane, resources, removed);
        let nonce = self.lanes.get_mut(&kind)?.send(&resources, &removed)?;
        if kind == Kind::Cluster {
            for endpoints in resources
                .iter()
                .flat_map(|r| r.refs.iter())
                .filter(|r| r.kind == Kind::Endpoints)
            {
                self.lanes.entry(Kind::Endpoints).or_default().resend(&endpoints.name);
            }
        }
        Some(Response {
            kind,
            nonce,
            resources,
            removed,
        })
    }

    /// Whether the client has everything that the resource leads to and that is sent before it.
    fn may_add(&self, kind: Kind, resource: &Resource, snapshot: &Snapshot) -> bool {
        let earlier = resource.refs.iter().filter(|r| r.kind < kind);
        earlier.into_iter().all(|r| {
            let Some(lane) = self.lanes.get(&r.kind).filter(|lane| lane.watched()) else {
                return self.settled;
            };
            if !lane.covers(&r.name) {
                return true;
            }
            let leads_to = snapshot.get(r.kind, &r.name).into_iter().flat_map(|r| r.refs.iter());
            lane.holds(&r.name)
                && leads_to
                    .into_iter()
                    .all(|next| match self.lanes.get(&next.kind).filter(|lane| lane.watched()) {
                        Some(lane) => !lane.covers(&next.name) || lane.holds(&next.name),
                        None => self.settled,
                    })
        })
    }

    /// Whether nothing that the client has or may have mentions the resource.
    fn may_remove(&self, kind: Kind, name: &str) -> bool {
        let Some(referrer) = kind.referrer() else { return true };
        // A cluster that was sent waits for its endpoints and must hear that there are none; Envoy lets the cluster
        // before it keep those it had.
        let awaited = kind == Kind::Endpoints && self.lanes.get(&kind).is_some_and(|lane| lane.owes(name));
        match self.lanes.get(&referrer).filter(|lane| lane.watched()) {
            Some(lane) => awaited || !lane.may_mention(kind, name),
            None => self.settled,
        }
    }

    /// Who the client is, once it has said so.
    #[must_use]
    pub const fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// How the client stands, kind by kind.
    #[must_use]
    pub fn standing(&self) -> Vec<Standing> {
        let standing = |(kind, lane): (&Kind, &Lane)| Standing {
            kind: *kind,
            held: lane
                .held()
                .iter()
                .map(|(name, held)| (name.clone(), held.version.clone()))
                .collect(),
            refused: lane.refused().map(str::to_owned).collect(),
            in_flight: lane.in_flight(),
        };
        self.lanes
            .iter()
            .filter(|(_, lane)| lane.watched())
            .map(standing)
            .collect()
    }
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
