//! What the control plane tells of pins, between the link that hears it and the task that applies it; and back, how far
//! that has come and what was wrong. It knows no projects.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use graticule_proto::v1::{AgentState, FleetPins};
use tokio::sync::watch;

/// The longest text of what is wrong with a project, in characters.
const LONGEST: usize = 500;

/// Both ways; clones share them.
#[derive(Debug, Clone)]
pub struct FleetPinsHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// What was told on this stream; `None` before the first word.
    told: watch::Sender<Option<FleetPins>>,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    applied: u64,
    lost: BTreeMap<String, String>,
}

impl Default for FleetPinsHandle {
    fn default() -> Self {
        let (told, noted) = (watch::channel(None).0, Mutex::default());
        let inner = Arc::new(Inner { told, noted });
        Self { inner }
    }
}

impl FleetPinsHandle {
    fn noted<T>(&self, work: impl FnOnce(&mut Noted) -> T) -> T {
        work(&mut self.inner.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new stream begins: nothing has been told on it.
    pub fn begin(&self) {
        self.inner.told.send_modify(|told| {
            *told = None;
            self.noted(|noted| noted.applied = 0);
        });
    }

    /// Takes what the control plane tells.
    pub fn take(&self, told: FleetPins) {
        self.inner.told.send_replace(Some(told));
    }

    /// What was told, for who applies it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<FleetPins>> {
        self.inner.told.subscribe()
    }

    /// What was told has been applied, unless something else has been told meanwhile.
    pub fn applied(&self, what: &FleetPins) {
        let told = self.inner.told.borrow();
        if told.as_ref() == Some(what) {
            self.noted(|noted| noted.applied = what.revision);
        }
    }

    /// The revision that has been applied on this stream; 0 before the first.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.noted(|noted| noted.applied)
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

    /// A state as it may be sent on this stream: one that was made before what was told now has been applied must not look
    /// as if it had been.
    #[must_use]
    pub fn sent(&self, mut state: AgentState) -> AgentState {
        if state.pins_revision != self.revision() {
            state.pins_revision = 0;
        }
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

    #[test]
    fn only_what_was_told_last_on_this_stream_counts_as_applied() {
        let handle = FleetPinsHandle::default();
        let state = |pins_revision| AgentState {
            pins_revision,
            ..AgentState::default()
        };
        handle.begin();
        handle.take(told(5));
        handle.take(told(6));
        handle.applied(&told(5));
        assert_eq!(handle.revision(), 0);
        handle.applied(&told(6));
        assert_eq!(handle.revision(), 6);
        assert_eq!(handle.sent(state(6)).pins_revision, 6);
        // A new stream, perhaps to a control plane that counts anew.
        handle.begin();
        handle.applied(&told(6));
        assert_eq!((handle.revision(), handle.sent(state(6)).pins_revision), (0, 0));
        handle.take(told(2));
        handle.applied(&told(2));
        assert_eq!(handle.sent(state(6)).pins_revision, 0);
        assert_eq!(handle.sent(state(2)).pins_revision, 2);
    }

    #[test]
    fn a_problem_is_short_and_lasts_as_long_as_the_pin() {
        let handle = FleetPinsHandle::default();
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
