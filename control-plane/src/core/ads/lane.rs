//! What one client is known to have, to want and to refuse of one kind of resource. The rules that span kinds are in
//! the parent module.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::held::{Held, Refusal};
use super::watch::{WILDCARD, Watch};
use super::{Carries, Rejection, Request, Variant, WorldRequest};
use crate::core::resources::{Kind, Resource, Snapshot, set_version};

/// An answer that the client has not yet acknowledged or refused.
#[derive(Clone, Debug)]
struct Flight {
    nonce: String,
    sent: BTreeMap<String, Held>,
    removed: BTreeSet<String>,
    /// It is all that the client will have, whatever it had before.
    anew: bool,
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

/// What may have to be sent, so that what has not changed is not looked at for every change.
#[derive(Clone, Debug)]
enum Look {
    Everything,
    At(BTreeSet<String>),
}

impl Look {
    fn at(&mut self, name: &str) {
        if let Self::At(names) = self {
            names.insert(name.to_owned());
        }
    }
}

/// What a client lacks and has too much.
#[derive(Debug, Default)]
pub struct Open<'a> {
    /// Resources it lacks.
    pub lacking: Vec<&'a Resource>,
    /// Names it has, or may have, that do not exist any more. It may still need them.
    pub has: Vec<String>,
    /// Names it only asks about, that do not exist.
    pub asks: Vec<String>,
}

/// One client and one kind.
#[derive(Clone, Debug)]
pub struct Lane {
    kind: Kind,
    carries: Carries,
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
    look: Look,
    /// Answers carry everything, and the client has not taken one yet: nobody knows what it has.
    blank: bool,
    /// What it refused while that was so, as a whole.
    parked: Option<String>,
}

impl Lane {
    /// Nothing is known yet.
    pub fn new(variant: Variant, kind: Kind) -> Self {
        let carries = variant.carries(kind);
        Self {
            kind,
            carries,
            watch: None,
            held: BTreeMap::new(),
            refused: BTreeMap::new(),
            owed: BTreeSet::new(),
            answer_owed: false,
            flight: None,
            serial: 0,
            look: Look::Everything,
            blank: carries == Carries::Everything,
            parked: None,
        }
    }

    /// What answers of this lane carry.
    pub const fn carries(&self) -> Carries {
        self.carries
    }

    /// Whether the client has asked for anything of this kind.
    pub const fn watched(&self) -> bool {
        self.watch.is_some()
    }

    /// Whether the client asks for more names than anybody needs.
    pub fn is_excessive(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::is_excessive)
    }

    /// Whether the client asked for this resource.
    pub fn covers(&self, name: &str) -> bool {
        self.watch.as_ref().is_some_and(|w| w.covers(name))
    }

    /// The names that the client asks for one by one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.watch.iter().flat_map(|watch| watch.names()).map(String::as_str)
    }

    /// Whether the client can use some version of it, and no removal makes that doubtful: one on its way, or one that it refused
    /// and may have carried out all the same. What it brought along may not have been ready for use, and never will be once it
    /// has a successor: it counts only as long as it is what there is, and nothing else was sent in its place.
    pub fn holds(&self, snapshot: &Snapshot, name: &str) -> bool {
        let Some(held) = self.held.get(name).filter(|held| !held.may_have_left) else {
            return false;
        };
        let flight = self.flight.as_ref();
        if flight.is_some_and(|flight| flight.removed.contains(name)) {
            return false;
        }
        let followed = flight.is_some_and(|flight| flight.sent.contains_key(name)) || self.refused.contains_key(name);
        let present = || snapshot.get(self.kind, name).is_some_and(|r| held.satisfies(r));
        !held.brought || !followed && present()
    }

    /// What the client has acknowledged.
    pub const fn held(&self) -> &BTreeMap<String, Held> {
        &self.held
    }

    /// What it refused and has not taken since.
    pub const fn refused(&self) -> &BTreeMap<String, Refusal> {
        &self.refused
    }

    /// Whether it was refused in company and must go alone now.
    pub fn is_suspect(&self, name: &str) -> bool {
        self.refused.get(name).is_some_and(|refusal| !refusal.alone)
    }

    /// Whether an answer waits for the client's word.
    pub const fn in_flight(&self) -> bool {
        self.flight.is_some()
    }

    /// Whether this resource is in an answer that waits for the client's word.
    pub fn flies(&self, name: &str) -> bool {
        let flight = self.flight.as_ref();
        flight.is_some_and(|flight| flight.sent.contains_key(name) || flight.removed.contains(name))
    }

    /// Whether anything that the client has or may have mentions the resource.
    pub fn may_mention(&self, kind: Kind, name: &str) -> bool {
        let sent = self.flight.iter().flat_map(|f| f.sent.values());
        let doubtful = self
            .refused
            .values()
            .flat_map(|refusal| refusal.held.iter().chain(&refusal.earlier));
        let mut all = self.held.values().chain(sent).chain(doubtful);
        self.blank || all.any(|h| h.may_mention(kind, name))
    }

    /// Whether it must be sent whatever the client is thought to have.
    pub fn owes(&self, name: &str) -> bool {
        self.owed.contains(name)
    }

    /// The resource must reach the client once more, if it asks for it: a client that returns may do so in a moment. What it
    /// has of it may be `lost`, without a word where it says all its names each time: it may have said nothing in between.
    pub fn resend(&mut self, name: &str, lost: bool) {
        if lost && self.carries == Carries::News {
            self.held.remove(name);
        }
        if self.covers(name) || !self.watched() {
            self.owed.insert(name.to_owned());
            self.look.at(name);
        }
    }

    /// There is another snapshot; `changed` names what is different in it, `None` means that nobody knows.
    pub fn look_at(&mut self, changed: Option<&[String]>) {
        match changed {
            None => self.look = Look::Everything,
            Some(names) => names
                .iter()
                .filter(|name| self.watch.as_ref().is_none_or(|w| w.covers(name)))
                .for_each(|name| self.look.at(name)),
        }
    }

    /// A client that has not asked for anything of this kind by now has nothing of it.
    pub fn settle(&mut self) {
        if self.watch.is_none() {
            self.owed.clear();
        }
    }

    /// Takes a request apart: its word on our last answer, then its subscriptions. A stale or foreign nonce is no
    /// word on anything, but the subscriptions beside it count.
    pub fn take(&mut self, request: Request) -> Verdict {
        let verdict = self.settle_flight(&request.nonce, request.error.as_deref());
        if self.watch.is_none() {
            let Request {
                subscribe,
                unsubscribe,
                initial_versions,
                ..
            } = request;
            let watch = Watch::open(subscribe, self.kind.silence_is_wildcard());
            self.answer_owed = watch.everything() && initial_versions.is_empty();
            self.owed.extend(
                watch
                    .names()
                    .iter()
                    .filter(|name| !initial_versions.contains_key(*name))
                    .cloned(),
            );
            let brought = initial_versions.into_iter().filter(|(name, _)| watch.covers(name));
            self.held = brought.map(|(name, version)| (name, Held::brought(version))).collect();
            self.watch = Some(watch);
            self.change(&[], &unsubscribe);
        } else {
            self.change(&request.subscribe, &request.unsubscribe);
        }
        verdict
    }

    /// The same for a client that says all its names each time. A request that speaks of another answer than our last one
    /// was sent before the client had that, and says nothing that the next one will not say again; so does none that comes
    /// before we have answered at all.
    pub fn take_world(&mut self, request: WorldRequest) -> Verdict {
        if self.serial > 0 && request.nonce != self.serial.to_string() {
            return Verdict::Nothing;
        }
        let verdict = self.settle_flight(&request.nonce, request.error.as_deref());
        if let Some(watch) = &self.watch {
            let (added, dropped) = watch.difference(&request.names);
            self.change(&added, &dropped);
            return verdict;
        }
        let watch = Watch::open(request.names, self.kind.silence_is_wildcard());
        self.answer_owed = watch.everything();
        self.owed.retain(|name| watch.covers(name));
        self.owed.extend(watch.names().iter().cloned());
        if self.carries == Carries::News && !request.version.is_empty() {
            // What it has of these is anybody's guess. The version is that of the last answer it took as a whole; what it lost
            // since, or took of an answer that it refused, is not told by it. So it is sent everything once more.
            let perhaps = Held {
                may_have_left: true,
                ..Held::brought(String::new())
            };
            let names = watch.names().iter();
            self.held = names.map(|name| (name.clone(), perhaps.clone())).collect();
        }
        self.watch = Some(watch);
        self.look = Look::Everything;
        verdict
    }

    fn settle_flight(&mut self, nonce: &str, error: Option<&str>) -> Verdict {
        let Some(flight) = self.flight.take_if(|f| f.nonce == nonce) else {
            return Verdict::Nothing;
        };
        // Whatever of it is left: what was refused beside something else may be innocent. What was sent as a whole is
        // refused as a whole: pieces of it would take the rest from the client.
        let alone = flight.anew || flight.sent.len() + flight.removed.len() == 1;
        // Names it no longer asks for are its own business.
        let watch = self.watch.take().unwrap_or_default();
        let sent = flight.sent.into_iter().filter(|(name, _)| watch.covers(name));
        let verdict = if let Some(message) = error {
            let removed = flight
                .removed
                .into_iter()
                .filter(|name| watch.covers(name))
                .map(|name| (name, None));
            let content: Vec<_> = sent.map(|(name, held)| (name, Some(held))).chain(removed).collect();
            self.refuse(content, alone, message)
        } else {
            if flight.anew {
                (self.blank, self.parked) = (false, None);
                self.held.clear();
                self.refused.clear();
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
        };
        self.watch = Some(watch);
        verdict
    }

    fn refuse(&mut self, content: Vec<(String, Option<Held>)>, alone: bool, message: &str) -> Verdict {
        let version = |held: &Option<Held>| held.as_ref().map(|held| held.version.clone()).unwrap_or_default();
        let resources = content
            .iter()
            .map(|(name, held)| (name.clone(), version(held)))
            .collect();
        let words: Arc<str> = Arc::from(message);
        for (name, held) in content {
            if held.is_none()
                && let Some(held) = self.held.get_mut(&name)
            {
                held.may_have_left = true;
            }
            self.look.at(&name);
            let message = Arc::clone(&words);
            let earlier = self.refused.remove(&name).map(Refusal::all).unwrap_or_default();
            let refusal = Refusal {
                held,
                earlier,
                alone,
                message,
            };
            self.refused.insert(name, refusal);
        }
        let message = message.to_owned();
        Verdict::Refused(Rejection { message, resources })
    }

    fn change(&mut self, subscribe: &[String], unsubscribe: &[String]) {
        let Some(mut watch) = self.watch.take() else { return };
        for name in subscribe {
            if name == WILDCARD {
                self.answer_owed |= !watch.everything();
                self.look = Look::Everything;
            } else {
                self.owed.insert(name.clone());
                self.look.at(name);
            }
            watch.add(name);
        }
        for name in unsubscribe {
            if watch.drop(name) && name != WILDCARD && watch.everything() && self.carries == Carries::Changes {
                // It cannot know whether the wildcard still gives it this one.
                self.owed.insert(name.clone());
                self.look.at(name);
            }
        }
        self.held.retain(|name, _| watch.covers(name));
        self.refused.retain(|name, _| watch.covers(name));
        self.owed.retain(|name| watch.covers(name));
        self.watch = Some(watch);
    }

    /// Whether there may be something to send.
    pub fn is_due(&self) -> bool {
        let looks = match &self.look {
            Look::Everything => true,
            Look::At(names) => !names.is_empty(),
        };
        self.watched() && !self.in_flight() && (looks || self.answer_owed)
    }

    /// What the client lacks and has too much. The caller decides what of it may go now.
    pub fn open<'a>(&self, snapshot: &'a Snapshot) -> Open<'a> {
        let mut open = Open::default();
        let mut look = |name: &str| {
            if !self.covers(name) {
                return;
            }
            if let Some(resource) = snapshot.get(self.kind, name) {
                if self.lacks(resource) {
                    open.lacking.push(resource);
                }
                return;
            }
            let refusal = self.refused.get(name);
            let forbidden = refusal.is_some_and(|refusal| refusal.forbids(None));
            let doubtful = refusal.is_some_and(|refusal| refusal.held.is_some());
            if doubtful || self.held.contains_key(name) && !forbidden {
                open.has.push(name.to_owned());
            } else if self.owed.contains(name) || self.is_suspect(name) {
                open.asks.push(name.to_owned());
            }
        };
        match &self.look {
            Look::At(names) => names.iter().for_each(|name| look(name)),
            Look::Everything => {
                let mut names: BTreeSet<&str> = snapshot.of(self.kind).map(|r| r.name.as_str()).collect();
                names.extend(
                    self.held
                        .keys()
                        .chain(self.refused.keys())
                        .chain(&self.owed)
                        .map(String::as_str),
                );
                names.into_iter().for_each(look);
            }
        }
        open
    }

    fn lacks(&self, resource: &Resource) -> bool {
        self.owed.contains(&resource.name)
            || match self.refused.get(&resource.name) {
                Some(refusal) => !refusal.forbids(Some(&resource.version)),
                None => !self
                    .held
                    .get(&resource.name)
                    .is_some_and(|held| held.satisfies(resource)),
            }
    }

    /// Everything that the client asks for, when nobody knows what it has; `None` when it has refused just that.
    pub fn anew<'a>(&self, snapshot: &'a Snapshot) -> Option<Vec<&'a Resource>> {
        let all: Vec<&Resource> = snapshot.of(self.kind).filter(|r| self.covers(&r.name)).collect();
        (self.parked.as_ref() != Some(&version_of(&all))).then_some(all)
    }

    /// Whether nobody knows what the client has, and answers carry everything.
    pub const fn is_blank(&self) -> bool {
        self.blank
    }

    /// These were looked at and wait for something; all others are as they should be.
    pub fn looked(&mut self, waiting: BTreeSet<String>) {
        self.look = Look::At(waiting);
    }

    /// Names that do not exist and that no answer can tell of.
    pub fn forget(&mut self, names: &[String]) {
        for name in names {
            self.held.remove(name);
            self.refused.remove(name);
            self.owed.remove(name);
        }
    }

    /// What the client is to have beside these, where answers carry everything: what it took, unless it goes. Nothing of it is
    /// new to the client, except what it may have lost or replaced with an answer that it refused: that is marked.
    pub fn rest(&self, resources: &[Resource], removed: &[String]) -> Vec<(Resource, bool)> {
        let leaves: BTreeSet<&String> = resources.iter().map(|r| &r.name).chain(removed).collect();
        let stays = self.held.iter().filter(|(name, _)| !leaves.contains(name));
        stays
            .map(|(name, held)| {
                let doubtful = held.may_have_left || self.refused.contains_key(name);
                let resource = Resource {
                    name: name.clone(),
                    version: held.version.clone(),
                    body: held.body.clone(),
                    refs: held.refs.clone().unwrap_or_default(),
                    // It is on its way to the client, and shown to nobody else.
                    confidential: true,
                    provisional: false,
                };
                (resource, doubtful)
            })
            .collect()
    }

    /// Writes down an answer as sent: what is new in it and what goes. Returns its nonce, or `None` when it is empty and none
    /// is due.
    pub fn send(&mut self, resources: &[Resource], removed: &[String], anew: bool) -> Option<String> {
        if resources.is_empty() && removed.is_empty() && !self.answer_owed && !anew {
            return None;
        }
        self.answer_owed = false;
        for name in resources.iter().map(|r| &r.name).chain(removed) {
            self.owed.remove(name);
        }
        if anew {
            self.parked = Some(version_of(resources));
            self.owed.clear();
        }
        self.serial += 1;
        let nonce = self.serial.to_string();
        let sent = resources.iter().map(|r| (r.name.clone(), Held::of(r, self.carries)));
        self.flight = Some(Flight {
            nonce: nonce.clone(),
            sent: sent.collect(),
            removed: removed.iter().cloned().collect(),
            anew,
        });
        Some(nonce)
    }

    /// The version of all that the client has of what exists, once it has taken the answer on its way.
    pub fn version(&self, snapshot: &Snapshot) -> String {
        let sent = self.flight.as_ref().map(|flight| &flight.sent);
        let mut all: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, held) in self.held.iter().chain(sent.into_iter().flatten()) {
            if snapshot.get(self.kind, name).is_some() {
                all.insert(name, &held.version);
            }
        }
        set_version(all)
    }

    /// Learns what a client has that came with versions of an earlier stream, where they are those of the snapshot.
    pub fn recognise(&mut self, snapshot: &Snapshot) {
        let learn = |(name, held): (&String, &mut Held)| {
            if let Some(known) = snapshot
                .get(self.kind, name)
                .filter(|r| held.refs.is_none() && r.version == held.version)
            {
                held.refs = Some(Arc::clone(&known.refs));
            }
        };
        match &self.look {
            Look::Everything => self.held.iter_mut().for_each(learn),
            Look::At(names) => {
                for name in names {
                    if let Some(held) = self.held.get_mut(name) {
                        learn((name, held));
                    }
                }
            }
        }
    }
}

/// The version of these as a whole.
pub fn version_of<'a, R: std::borrow::Borrow<Resource> + 'a>(resources: impl IntoIterator<Item = &'a R>) -> String {
    set_version(resources.into_iter().map(|r| {
        let resource: &Resource = r.borrow();
        (resource.name.as_str(), resource.version.as_str())
    }))
}
