//! What control planes tell of the fleet's pins, between the links that hear it and the task that applies it; and back, how
//! far that has come and what was wrong. Which of them counts is decided in
//! [`control_planes`](crate::core::control_planes); here are the lock and the messages. It knows no projects.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use graticule_proto::v1::{AgentState, AgentWelcome, ControlPlaneLink, FleetPins};
use tokio::sync::watch;

use crate::core::control_planes::{ControlPlanes, Counts, Origin, Standing};

/// The longest text of what is wrong with a project, in characters.
const LONGEST: usize = 500;

/// All ways; clones share them.
#[derive(Debug, Clone)]
pub struct FleetPinsHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Where the control planes are, as configured.
    addresses: Vec<String>,
    planes: Mutex<ControlPlanes>,
    /// What counts; `None` before the first word.
    counts: watch::Sender<Option<Counts>>,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    applied: Option<Origin>,
    lost: BTreeMap<String, String>,
}

impl FleetPinsHandle {
    /// For the control planes at these addresses, with what counted before the agent was restarted.
    #[must_use]
    pub fn new(addresses: &[String], before: Option<Counts>) -> Self {
        let counts = watch::channel(before.clone()).0;
        let inner = Inner {
            addresses: addresses.to_vec(),
            planes: Mutex::new(ControlPlanes::new(addresses.len(), before)),
            counts,
            noted: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    fn noted<T>(&self, work: impl FnOnce(&mut Noted) -> T) -> T {
        work(&mut self.inner.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn planes(&self) -> MutexGuard<'_, ControlPlanes> {
        self.inner.planes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut ControlPlanes)) {
        let mut planes = self.planes();
        change(&mut planes);
        // Under the lock, so that no earlier decision comes after a later one.
        self.inner.counts.send_if_modified(|counts| {
            let news = counts.as_ref() != planes.counts();
            *counts = planes.counts().cloned();
            news
        });
    }

    /// The end for the link to the control plane at this place of the configuration.
    #[must_use]
    pub fn link(&self, place: usize) -> PinsLink {
        PinsLink {
            handle: self.clone(),
            place,
        }
    }

    /// What counts, for who applies it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Counts>> {
        self.inner.counts.subscribe()
    }

    /// What counted has been applied, unless something else does meanwhile.
    pub fn applied(&self, what: &Counts) {
        let counts = self.inner.counts.borrow();
        if counts.as_ref() == Some(what) {
            self.noted(|noted| noted.applied = Some(what.origin.clone()));
        }
    }

    /// The revision that has been applied, of whichever store counts; 0 before the first.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.noted(|noted| noted.applied.as_ref().map_or(0, |origin| origin.revision))
    }

    /// Why these projects could not be found when that was tried last.
    pub fn lost(&self, problems: impl IntoIterator<Item = (String, String)>) {
        let problems = problems.into_iter();
        let problems = problems.map(|(project, problem)| (project, problem.chars().take(LONGEST).collect()));
        self.noted(|noted| noted.lost.extend(problems));
    }

    /// Why a project could not be found when that was tried last.
    #[must_use]
    pub fn problem(&self, project: &str) -> Option<String> {
        self.noted(|noted| noted.lost.get(project).cloned())
    }

    /// Only these are pinned: what was wrong with others is forgotten.
    pub fn retain(&self, is_pinned: impl Fn(&str) -> bool) {
        self.noted(|noted| noted.lost.retain(|project, _| is_pinned(project)));
    }

    /// How the agent stands with each control plane, in the order of the configuration.
    #[must_use]
    pub fn standings(&self) -> Vec<(&str, Standing)> {
        let planes = self.planes();
        let addresses = self.inner.addresses.iter().enumerate();
        addresses
            .map(|(place, address)| (address.as_str(), planes.standing(place)))
            .collect()
    }

    /// The same for operators.
    #[must_use]
    pub fn list(&self) -> Vec<ControlPlaneLink> {
        let planes = self.planes();
        let addresses = self.inner.addresses.iter().enumerate();
        let links = addresses.map(|(place, address)| {
            let told = planes.has_told(place);
            let (store_id, pins_revision) = told.map_or_else(Default::default, |told| (told.store, told.revision));
            ControlPlaneLink {
                address: address.clone(),
                standing: planes.standing(place).name().to_owned(),
                store_id,
                pins_revision,
            }
        });
        links.collect()
    }
}

/// The end for one link.
#[derive(Debug, Clone)]
pub struct PinsLink {
    handle: FleetPinsHandle,
    place: usize,
}

impl PinsLink {
    /// A stream begins with this word of the control plane: nothing has been told on it.
    pub fn begin(&self, welcome: &AgentWelcome) {
        // One from before has told no store: then each run of it is a store of its own.
        let store = match welcome.store_id.as_str() {
            "" => &welcome.control_plane_id,
            store => store,
        };
        self.handle.change(|planes| planes.attached(self.place, store));
    }

    /// The stream has ended.
    pub fn end(&self) {
        self.handle.change(|planes| planes.lost(self.place));
    }

    /// Takes what the control plane tells.
    pub fn take(&self, told: FleetPins) {
        let projects = told.projects.into_iter().collect();
        self.handle
            .change(|planes| planes.told(self.place, told.revision, projects));
    }

    /// How the agent stands with this control plane.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.handle.planes().standing(self.place)
    }

    /// A state as it may be sent on this stream: one that was made before what counts now has been applied must not look
    /// as if it had been, and revisions of another store say nothing here.
    #[must_use]
    pub fn sent(&self, mut state: AgentState) -> AgentState {
        let applied = self.handle.noted(|noted| noted.applied.clone());
        let applied = applied.filter(|origin| origin.revision == state.pins_revision);
        let planes = self.handle.planes();
        state.pins_revision = applied.map_or(0, |origin| planes.taken(self.place, &origin));
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(revision: u64) -> FleetPins {
        let projects = vec!["/world".to_owned()];
        FleetPins { projects, revision }
    }

    fn welcome(store: &str) -> AgentWelcome {
        let (control_plane_id, store_id) = ("run".to_owned(), store.to_owned());
        AgentWelcome {
            control_plane_id,
            store_id,
        }
    }

    fn handle() -> FleetPinsHandle {
        FleetPinsHandle::new(&["http://a".to_owned(), "http://b".to_owned()], None)
    }

    fn state(pins_revision: u64) -> AgentState {
        AgentState {
            pins_revision,
            ..AgentState::default()
        }
    }

    #[test]
    fn only_what_counts_now_is_applied_and_told_on_streams_that_know_it() {
        let handle = handle();
        let (a, b) = (handle.link(0), handle.link(1));
        let now = || handle.watch().borrow().clone().unwrap();
        a.begin(&welcome("s"));
        a.take(told(5));
        let five = now();
        a.take(told(6));
        handle.applied(&five);
        assert_eq!(handle.revision(), 0);
        handle.applied(&now());
        assert_eq!(handle.revision(), 6);
        assert_eq!((a.sent(state(6)).pins_revision, a.sent(state(5)).pins_revision), (6, 0));
        assert_eq!(b.sent(state(6)).pins_revision, 0, "it is not there");
        b.begin(&welcome("s"));
        b.take(told(5));
        assert_eq!(
            b.sent(state(6)).pins_revision,
            6,
            "of its store, and more than it has told"
        );
        // A new stream, to one that counts anew.
        b.end();
        a.begin(&welcome(""));
        assert_eq!(a.sent(state(6)).pins_revision, 0);
        a.take(told(2));
        assert_eq!(now().origin.store, "run");
        handle.applied(&now());
        assert_eq!(a.sent(state(6)).pins_revision, 0);
        assert_eq!(a.sent(state(2)).pins_revision, 2);
    }

    #[test]
    fn how_the_agent_stands_with_each_is_shown() {
        let handle = handle();
        handle.link(0).begin(&welcome("s"));
        handle.link(0).take(told(3));
        handle.link(1).begin(&welcome("other"));
        handle.link(1).take(told(9));
        assert_eq!(
            handle.standings(),
            [("http://a", Standing::Agrees), ("http://b", Standing::OtherStore)]
        );
        let shown = handle.list();
        assert_eq!(
            (shown[1].standing.as_str(), shown[1].store_id.as_str()),
            ("other store", "other")
        );
        assert_eq!(shown[0].pins_revision, 3);
    }

    #[test]
    fn a_problem_is_short_and_lasts_as_long_as_the_pin() {
        let handle = handle();
        handle.lost([
            ("/a".to_owned(), "x".repeat(10_000)),
            ("/b".to_owned(), "no".to_owned()),
        ]);
        assert_eq!(handle.problem("/a").unwrap().len(), LONGEST);
        handle.retain(|project| project == "/b");
        assert_eq!(
            (handle.problem("/a"), handle.problem("/b")),
            (None, Some("no".to_owned()))
        );
    }
}
