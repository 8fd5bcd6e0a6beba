//! How often something costly is done again: at once when it is cheap, and never for more than a small part of the time.

use std::time::Duration;

use tokio::time::Instant;

/// For each moment that it takes, so many pass without it.
const REST: u32 = 20;

/// When something costly may be done again.
#[derive(Debug, Default)]
pub struct Pace {
    wanted: bool,
    /// Not before; `None` for at once.
    due: Option<Instant>,
}

impl Pace {
    /// There is a reason to do it again.
    pub const fn want(&mut self) {
        self.wanted = true;
    }

    /// There is a reason that must not wait.
    pub const fn want_now(&mut self) {
        (self.wanted, self.due) = (true, None);
    }

    /// When to do it, if it is wanted.
    pub fn wake(&self, now: Instant) -> Option<Instant> {
        self.wanted.then(|| self.due.unwrap_or(now))
    }

    /// Whether to do it now. If so, [`Self::done`] is to follow.
    pub fn is_due(&self, now: Instant) -> bool {
        self.wake(now).is_some_and(|due| now >= due)
    }

    /// It has been done by `now` and took so long.
    pub fn done(&mut self, now: Instant, took: Duration) {
        (self.wanted, self.due) = (false, Some(now + took * REST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_done_seldom_unless_it_must_not_wait() {
        let now = Instant::now();
        let later = |millis| now + Duration::from_millis(millis);
        let mut pace = Pace::default();
        assert!(!pace.is_due(now), "nobody wants it");
        pace.want();
        assert!(pace.is_due(now));
        pace.done(now, Duration::from_millis(5));
        assert_eq!(pace.wake(later(1)), None);
        pace.want();
        assert_eq!(pace.wake(later(1)), Some(later(100)));
        assert!(!pace.is_due(later(99)) && pace.is_due(later(100)));
        pace.done(later(100), Duration::from_secs(1));
        pace.want_now();
        assert!(pace.is_due(later(100)));
    }
}
