//! How a client stands, for people and tools.

use super::lane::Lane;
use super::{Client, Kind, Resource};

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

/// Whether a client has what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sync {
    /// It took what there is.
    Synced,
    /// It has been sent nothing of it yet; what it needs before may be missing.
    NotSent,
    /// It has not taken what there is, but may have an older version: an answer waits for its word, or will be sent.
    Stale,
    /// It refused what there is, and keeps what it had.
    Error,
    /// It asks for a name that does not exist.
    Absent,
}

impl Sync {
    /// A word for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::NotSent => "not sent",
            Self::Stale => "stale",
            Self::Error => "refused",
            Self::Absent => "does not exist",
        }
    }
}

/// How a client stands with one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The version that the client took; empty for none.
    pub version: String,
    /// Whether that is what there is.
    pub sync: Sync,
    /// What it refused: its own words, and the version, which is empty for a removal.
    pub refused: Option<Rejected>,
}

/// A version that a client refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The client's words.
    pub message: String,
    /// The version; empty for a removal.
    pub version: String,
}

impl Client {
    /// How the client stands, kind by kind, for those that it asks for.
    #[must_use]
    pub fn standing(&self) -> Vec<Standing> {
        let standing = |(kind, lane): (&Kind, &Lane)| Standing {
            kind: *kind,
            held: lane
                .held()
                .iter()
                .map(|(name, held)| (name.clone(), held.version.clone()))
                .collect(),
            refused: lane.refused().keys().cloned().collect(),
            in_flight: lane.in_flight(),
        };
        let watched = self.lanes.iter().filter(|(_, lane)| lane.watched());
        watched.map(standing).collect()
    }

    /// What there is of that name, as far as it has been offered.
    #[must_use]
    pub fn offered(&self, kind: Kind, name: &str) -> Option<&Resource> {
        self.snapshot.as_ref()?.get(kind, name)
    }

    /// How the client stands with each resource that it asks for, in the order of kinds and names.
    #[must_use]
    pub fn resources(&self) -> Vec<Status> {
        let watched = self.lanes.iter().filter(|(_, lane)| lane.watched());
        watched.flat_map(|(kind, lane)| self.statuses(*kind, lane)).collect()
    }

    fn statuses(&self, kind: Kind, lane: &Lane) -> Vec<Status> {
        let there = self.snapshot.iter().flat_map(|snapshot| snapshot.of(kind));
        let mut names: Vec<&str> = there
            .map(|r| r.name.as_str())
            .filter(|name| lane.covers(name))
            .collect();
        names.extend(lane.held().keys().chain(lane.refused().keys()).map(String::as_str));
        names.extend(lane.names());
        names.sort_unstable();
        names.dedup();
        let status = |name: &str| {
            let there = self.snapshot.as_ref().and_then(|snapshot| snapshot.get(kind, name));
            let held = lane.held().get(name);
            let refused = lane.refused().get(name);
            let sync = match (there, held) {
                // It refused to hear so.
                (None, None) if refused.is_none_or(|refusal| refusal.version().is_empty()) => Sync::Absent,
                _ if refused.is_some() => Sync::Error,
                (Some(there), Some(held)) if held.satisfies(there) => Sync::Synced,
                (_, Some(_)) => Sync::Stale,
                (Some(_), None) if lane.flies(name) => Sync::Stale,
                (Some(_), None) => Sync::NotSent,
                (None, None) => Sync::Absent,
            };
            let refused = refused.map(|refusal| Rejected {
                message: refusal.message.to_string(),
                version: refusal.version().to_owned(),
            });
            Status {
                kind,
                name: name.to_owned(),
                version: held.map(|held| held.version.clone()).unwrap_or_default(),
                sync,
                refused,
            }
        };
        names.into_iter().map(status).collect()
    }
}
