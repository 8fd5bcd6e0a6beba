//! How long a database that could not be reached is left alone.

use std::time::{Duration, Instant};

/// After the first failure.
const FIRST: Duration = Duration::from_millis(100);

/// After many.
const LONGEST: Duration = Duration::from_secs(2);

/// The failures in a row, and when the next attempt may be made.
#[derive(Debug, Default)]
pub struct Backoff {
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    times: u32,
    until: Instant,
    why: String,
}

impl Backoff {
    /// Why no attempt is to be made now.
    #[must_use]
    pub fn closed(&self, now: Instant) -> Option<&str> {
        self.failed
            .as_ref()
            .filter(|failed| now < failed.until)
            .map(|failed| failed.why.as_str())
    }

    /// It was reached.
    pub fn reached(&mut self) {
        self.failed = None;
    }

    /// It was not, and why; gives the time to wait, twice as long after each failure, up to two seconds.
    pub fn failed(&mut self, why: String, now: Instant) -> Duration {
        let times = self.failed.as_ref().map_or(0, |failed| failed.times.saturating_add(1));
        let wait = FIRST.saturating_mul(1 << times.min(8)).min(LONGEST);
        self.failed = Some(Failed {
            times,
            until: now + wait,
            why,
        });
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_end_with_success() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        assert_eq!(backoff.closed(now), None);
        let waits: Vec<_> = (0..40)
            .map(|_| backoff.failed("down".into(), now).as_millis())
            .collect();
        assert_eq!(waits[..6], [100, 200, 400, 800, 1600, 2000]);
        assert_eq!(waits[39], 2000);
        assert_eq!(backoff.closed(now + Duration::from_millis(1999)), Some("down"));
        assert_eq!(backoff.closed(now + Duration::from_secs(2)), None);
        backoff.reached();
        assert_eq!(backoff.failed("down".into(), now).as_millis(), 100);
    }
}
