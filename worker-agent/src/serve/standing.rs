//! What operators and signals have decided of this agent: whether it takes requests, and what it says of its health.
//! Nothing of this outlives the agent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

/// How long it is waited that everybody is told of a decision.
const TELLING: Duration = Duration::from_secs(1);

/// What was decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// It was told to stop.
    pub stopping: bool,
    /// It was drained, and takes nothing new from then on.
    pub drained: Option<Instant>,
    /// An operator has set its health to error, and said why.
    pub in_error: Option<String>,
}

/// What `/readyz` says while an agent is stopping.
pub const STOPPING: &str = "a new start: the agent is stopping";

/// While it is drained.
pub const DRAINED: &str = "resume: an operator has drained the agent";

/// While its health was set to error.
pub const IN_ERROR: &str = "an operator, who has set its health to error";

impl Word {
    /// Whether the control plane is told that the agent is draining.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.stopping || self.drained.is_some()
    }

    /// What keeps it from being ready, if one of these does.
    #[must_use]
    pub fn awaits(&self) -> Option<String> {
        match &self.in_error {
            _ if self.stopping => Some(STOPPING.to_owned()),
            _ if self.drained.is_some() => Some(DRAINED.to_owned()),
            Some(reason) if reason.is_empty() => Some(IN_ERROR.to_owned()),
            Some(reason) => Some(format!("{IN_ERROR}: {reason}")),
            None => None,
        }
    }
}

/// The agent's word; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Standing(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    word: Mutex<Word>,
    /// There is a word that has not been told.
    news: Notify,
    /// How often the word has been told.
    tellings: watch::Sender<u64>,
}

impl Standing {
    /// From now on the agent says that it takes nothing new; its ports are closed by who stops it.
    pub fn stop(&self) {
        self.word().stopping = true;
        self.0.news.notify_one();
    }

    /// Has the agent take nothing new after `delay`; says whether it was drained before.
    pub fn drain(&self, now: Instant, delay: Duration) -> bool {
        let mut word = self.word();
        let before = word.drained;
        word.drained = before.or(Some(now + delay));
        self.0.news.notify_one();
        before.is_some()
    }

    /// Ends a drain; says whether there was one, or nothing when the agent is stopping.
    #[must_use]
    pub fn resume(&self) -> Option<bool> {
        let mut word = self.word();
        self.0.news.notify_one();
        (!word.stopping).then(|| word.drained.take().is_some())
    }

    /// Sets the health to error, with the reason, or back; says whether it was in error before.
    pub fn set_error(&self, reason: Option<String>) -> bool {
        let before = std::mem::replace(&mut self.word().in_error, reason);
        self.0.news.notify_one();
        before.is_some()
    }

    /// Whether what comes now is refused, unless something that runs already asks for it.
    #[must_use]
    pub fn refuses(&self, now: Instant) -> bool {
        self.word().drained.is_some_and(|from| from <= now)
    }

    /// What was decided.
    #[must_use]
    pub fn get(&self) -> Word {
        self.word().clone()
    }

    /// Waits for a decision of which nobody has been told.
    pub async fn news(&self) {
        self.0.news.notified().await;
    }

    /// What [`Self::get`] gave a moment ago has been told to everybody.
    pub fn told(&self) {
        self.0.tellings.send_modify(|tellings| *tellings += 1);
    }

    /// Waits until what is decided now has been told: to the control plane's stream, to who asks for the agent's health.
    pub async fn until_told(&self) {
        let mut tellings = self.0.tellings.subscribe();
        let so_far = *tellings.borrow_and_update();
        self.0.news.notify_one();
        // The next one may have begun before the decision; the one after it cannot have. Without anybody who tells, as in an
        // agent that has ended, there is nothing to wait for.
        let twice = tellings.wait_for(|now| now.wrapping_sub(so_far) >= 2);
        let _ = tokio::time::timeout(TELLING, twice).await;
    }

    fn word(&self) -> MutexGuard<'_, Word> {
        self.0.word.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_refuses_after_its_delay_until_it_is_ended() {
        let (standing, now) = (Standing::default(), Instant::now());
        let delay = Duration::from_secs(1);
        assert!(!standing.refuses(now) && !standing.get().is_draining());
        assert!(!standing.drain(now, delay));
        assert!(standing.get().is_draining() && !standing.refuses(now) && standing.refuses(now + delay));
        // A second one does not give more time.
        assert!(standing.drain(now + delay, delay) && standing.refuses(now + delay));
        assert_eq!((standing.resume(), standing.resume()), (Some(true), Some(false)));
        assert!(!standing.refuses(now + delay) && !standing.get().is_draining());
    }

    #[test]
    fn the_weightiest_reason_is_told_and_stopping_cannot_be_undone() {
        let standing = Standing::default();
        assert_eq!(standing.get().awaits(), None);
        assert!(!standing.set_error(Some("disk".into())));
        assert_eq!(standing.get().awaits(), Some(format!("{IN_ERROR}: disk")));
        assert!(!standing.refuses(Instant::now()) && !standing.get().is_draining());
        standing.drain(Instant::now(), Duration::ZERO);
        assert_eq!(standing.get().awaits().as_deref(), Some(DRAINED));
        standing.stop();
        assert_eq!(standing.get().awaits().as_deref(), Some(STOPPING));
        assert_eq!(standing.resume(), None);
        assert!(standing.set_error(None) && standing.get().is_draining());
    }
}
