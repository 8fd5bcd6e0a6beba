//! What one client is known to have, to want and to refuse of one kind of resource. The rules that span kinds are in
//! the parent module.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Rejection, Request};
use crate::core::resources::{Kind, Reference, Resource, Snapshot};

/// The name that asks for everything.
pub const WILDCARD: &str = "*";

/// A version of a resource that a client has, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its version.
    pub version: String,
    /// What it mentions; `None` when the client brought it along from an earlier control plane.
    pub refs: Option<Arc<[Reference]>>,
    /// The client refused an answer with its removal, and may have carried that out all the same.
    pub may_have_left: bool,
}

impl Held {
    fn of(resource: &Resource) -> Self {
        Self {
            version: resource.version.clone(),
            refs: Some(Arc::clone(&resource.refs)),
            may_have_left: false,
        }
    }

    /// Whether it mentions the resource, or might.
    fn may_mention(&self, kind: Kind, name: &str) -> bool {
        self.refs
            .as_ref()
            .is_none_or(|refs| refs.iter().any(|r| r.kind == kind && r.name == name))
    }
}

/// What a client asked for.
#[derive(Clone, Debug, Default)]
struct Watch {
    everything: bool,
    /// It asked for everything by saying nothing, which its first explicit name ends.
    by_silence: bool,
    names: BTreeSet<String>,
}

impl Watch {
    fn covers(&self, name: &str) -> bool {
        self.everything || self.names.contains(name)
    }
}

/// An answer that the client has not yet acknowledged or refused.
#[derive(Clone, Debug)]
struct Flight {
    nonce: String,
    sent: BTreeMap<String, Held>,
    removed: BTreeSet<String>,
}

/// Something that the client refused.
#[derive(Clone, Debug)]
struct Refusal {
    /// The version; `None` for a removal.
    held: Option<Held>,
    /// It was refused by itself, so it is not sent again until the content changes. Refused in company it may be
    /// innocent, and is sent once more, alone.
    alone: bool,
}

impl Refusal {
    /// Whether it tells against sending this version, or with `None` the removal.
    fn forbids(&self, version: Option<&str>) -> bool {
        self.alone && self.held.as_ref().map(|held| held.version.as_str()) == version
    }
}

/// What a request said of the answer before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It said nothing of an answer of ours that is still open.
    Nothing,
    /// The client took it.
    Acknowledged,
    /// The client refused it.
    Refused(Rejection),
}

/// One client and one kind.
#[derive(Clone, Debug, Default)]
pub struct Lane {
    watch: Option<Watch>,
    /// What the client acknowledged, or said it has when it came.
    held: BTreeMap<String, Held>,
    /// What it refused. It may have it all the same: some clients take what is good of an answer they refuse.
    refused: BTreeMap<String, Refusal>,
    /// To be sent whatever the client is thought to have.
    owed: BTreeSet<String>,
    /// An answer is due even when there is nothing to put in it.
    answer_owed: bool,
    flight: Option<Flight>,
    serial: u64,
}

impl Lane {
    /// Whether the client has asked for anything of this kind.
    pub const fn watched(&self) -> bool {
        self.watch.is_some()
    }

    /// Whether the client asked for this resource.
    pub fn covers(&self, name: &str) -> bool {
        self.watch.as_ref().is_some_and(|w| w.covers(name))
    }

    /// Whether the client has acknowledged some version of it, and no removal makes that doubtful: one on its way, or
    /// one that it refused and may have carried out all the same.
    pub fn holds(&self, name: &str) -> bool {
        let leaves = self.flight.as_ref().is_some_and(|flight| flight.removed.contains(name));
        !leaves && self.held.get(name).is_some_and(|held| !held.may_have_left)
    }

    /// What the client has acknowledged.
    pub const fn held(&self) -> &BTreeMap<String, Held> {
        &self.held
    }

    /// The names of what it refused and has not taken since.
    pub fn refused(&self) -> impl Iterator<Item = &str> {
        self.refused.keys().map(String::as_str)
    }

    /// Whether it was refused in company and must go alone now.
    pub fn is_suspect(&self, name: &str) -> bool {
        self.refused.get(name).is_some_and(|refusal| !refusal.alone)
    }

    /// Whether an answer waits for the client's word.
    pub const fn in_flight(&self) -> bool {
        self.flight.is_some()
    }

    /// Whether anything that the client has or may have mentions the resource.
    pub fn may_mention(&self, kind: Kind, name: &str) -> bool {
        let sent = self.flight.iter().flat_map(|f| f.sent.values());
        let doubtful = self.refused.values().filter_map(|refusal| refusal.held.as_ref());
        self.held
            .values()
            .chain(sent)
            .chain(doubtful)
            .any(|h| h.may_mention(kind, name))
    }

    /// Whether it must be sent whatever the client is thought to have.
    pub fn owes(&self, name: &str) -> bool {
        self.owed.contains(name)
    }

    /// The resource must reach the client once more, if it asks for it: a client that returns may do so in a moment.
    pub fn resend(&mut self, name: &str) {
        if self.covers(name) || !self.watched() {
            self.owed.insert(name.to_owned());
        }
    }

    /// Takes a request apart: its word on our last answer, then its subscriptions. A stale or foreign nonce is no
    /// word on anything, but the subscriptions beside it count.
    pub fn take(&mut self, kind: Kind, request: Request) -> Verdict {
        let verdict = self.settle_flight(&request);
        if self.watch.is_none() {
            self.open(kind, request);
        } else {
            self.change(&request.subscribe, &request.unsubscribe);
        }
        verdict
    }

    fn settle_flight(&mut self, request: &Request) -> Verdict {
        let Some(flight) = self.flight.take_if(|f| f.nonce == request.nonce) else {
            return Verdict::Nothing;
        };
        // Whatever of it is left: what was refused beside something else may be innocent.
        let alone = flight.sent.len() + flight.removed.len() == 1;
        // Names it no longer asks for are its own business.
        let watch = self.watch.clone().unwrap_or_default();
        let sent = flight.sent.into_iter().filter(|(name, _)| watch.covers(name));
        if let Some(message) = &request.error {
            let removed = flight
                .removed
                .into_iter()
                .filter(|name| watch.covers(name))
                .map(|name| (name, None));
            let content: Vec<_> = sent.map(|(name, held)| (name, Some(held))).chain(removed).collect();
            let version = |held: &Option<Held>| held.as_ref().map(|held| held.version.clone()).unwrap_or_default();
            let resources = content
                .iter()
                .map(|(name, held)| (name.clone(), version(held)))
                .collect();
            for (name, _) in content.iter().filter(|(_, held)| held.is_none()) {
                if let Some(held) = self.held.get_mut(name) {
                    held.may_have_left = true;
                }
            }
            self.refused
                .extend(content.into_iter().map(|(name, held)| (name, Refusal { held, alone })));
            return Verdict::Refused(Rejection {
                message: message.clone(),
                resources,
            });
        }
        for (name, held) in sent {
            self.refused.remove(&name);
            self.held.insert(name, held);
        }
        for name in flight.removed {
            self.refused.remove(&name);
            self.held.remove(&name);
        }
        Verdict::Acknowledged
    }

    /// The first request of this kind on a stream.
    fn open(&mut self, kind: Kind, request: Request) {
        let by_silence = kind.silence_is_wildcard() && request.subscribe.is_empty();
        let explicit = request.subscribe.iter().any(|name| name == WILDCARD);
        self.answer_owed = (by_silence || explicit) && request.initial_versions.is_empty();
        let names: BTreeSet<String> = request.subscribe.into_iter().filter(|name| name != WILDCARD).collect();
        self.owed.extend(
            names
                .iter()
                .filter(|name| !request.initial_versions.contains_key(*name))
                .cloned(),
        );
        let watch = Watch {
            everything: by_silence || explicit,
            by_silence,
            names,
        };
        let brought = request
            .initial_versions
            .into_iter()
            .filter(|(name, _)| watch.covers(name));
        self.held = brought
            .map(|(name, version)| {
                (
                    name,
                    Held {
                        version,
                        refs: None,
                        may_have_left: false,
                    },
                )
            })
            .collect();
        self.watch = Some(watch);
        self.change(&[], &request.unsubscribe);
    }

    fn change(&mut self, subscribe: &[String], unsubscribe: &[String]) {
        let Some(watch) = &mut self.watch else { return };
        for name in subscribe {
            if name == WILDCARD {
                self.answer_owed |= !watch.everything;
                (watch.everything, watch.by_silence) = (true, false);
                continue;
            }
            if watch.by_silence {
                (watch.everything, watch.by_silence) = (false, false);
            }
            watch.names.insert(name.clone());
            self.owed.insert(name.clone());
        }
        for name in unsubscribe {
            if name == WILDCARD {
                (watch.everything, watch.by_silence) = (false, false);
            } else if watch.names.remove(name) && watch.everything {
                // It cannot know whether the wildcard still gives it this one.
                self.owed.insert(name.clone());
            }
        }
        let watch = watch.clone();
        self.held.retain(|name, _| watch.covers(name));
        self.refused.retain(|name, _| watch.covers(name));
        self.owed.retain(|name| watch.covers(name));
    }

    /// The resources that the client lacks, by name. The caller decides which of them may go now.
    pub fn lacking<'a>(&self, kind: Kind, snapshot: &'a Snapshot) -> Vec<&'a Resource> {
        let lacks = |r: &&Resource| {
            self.covers(&r.name)
                && (self.owed.contains(&r.name)
                    || match self.refused.get(&r.name) {
                        Some(refusal) => !refusal.forbids(Some(&r.version)),
                        None => self.held.get(&r.name).is_none_or(|h| h.version != r.version),
                    })
        };
        snapshot.of(kind).filter(lacks).collect()
    }

    /// The names that the client has or asks about and that do not exist: (those it may still need, those it only asks
    /// about).
    pub fn surplus(&self, kind: Kind, snapshot: &Snapshot) -> (Vec<String>, Vec<String>) {
        let gone = |name: &&String| snapshot.get(kind, name).is_none();
        let doubtful = self
            .refused
            .iter()
            .filter(|(_, refusal)| refusal.held.is_some())
            .map(|(name, _)| name);
        let forbidden = |name: &String| self.refused.get(name).is_some_and(|refusal| refusal.forbids(None));
        let has: BTreeSet<&String> = self
            .held
            .keys()
            .filter(|name| !forbidden(name))
            .chain(doubtful)
            .collect();
        let suspects = self.refused.keys().filter(|name| self.is_suspect(name));
        let asks: BTreeSet<&String> = self
            .owed
            .iter()
            .chain(suspects)
            .filter(|name| !has.contains(name))
            .collect();
        (
            has.iter().copied().filter(gone).cloned().collect(),
            asks.iter().copied().filter(gone).cloned().collect(),
        )
    }

    /// Writes down an answer as sent. Returns its nonce, or `None` when it is empty and none is due.
    pub fn send(&mut self, resources: &[Resource], removed: &[String]) -> Option<String> {
        if resources.is_empty() && removed.is_empty() && !self.answer_owed {
            return None;
        }
        self.answer_owed = false;
        for name in resources.iter().map(|r| &r.name).chain(removed) {
            self.owed.remove(name);
        }
        self.serial += 1;
        let nonce = self.serial.to_string();
        let sent = resources.iter().map(|r| (r.name.clone(), Held::of(r))).collect();
        self.flight = Some(Flight {
            nonce: nonce.clone(),
            sent,
            removed: removed.iter().cloned().collect(),
        });
        Some(nonce)
    }

    /// Learns what brought-along versions mention, where they are those of the snapshot.
    pub fn recognise(&mut self, kind: Kind, snapshot: &Snapshot) {
        for (name, held) in self.held.iter_mut().filter(|(_, held)| held.refs.is_none()) {
            if let Some(known) = snapshot.get(kind, name).filter(|r| r.version == held.version) {
                held.refs = Some(Arc::clone(&known.refs));
            }
        }
    }
}
