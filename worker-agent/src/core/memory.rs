//! When a worker's memory is worth a precise reading.
//!
//! What counts against a limit is a worker's private dirty memory. To tell it, the kernel walks every page of the process,
//! which stops a QGIS process for some milliseconds. Its anonymous memory costs nothing to read, but holds what is shared
//! with the zygote as well. So the cheap number is looked at often, and the precise one is read when the cheap one has
//! grown, or when the last is old: pages that a forked worker only *writes* become private without any growth.
//!
//! Knows numbers and times, nothing of `/proc` or of what follows from a reading.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::pool::WorkerId;

/// A busy worker's last precise reading is too old after this.
pub const BUSY_AGE: Duration = Duration::from_secs(2);

/// An idle worker's is too old after this.
pub const IDLE_AGE: Duration = Duration::from_secs(10);

/// The part of the limit by which anonymous memory may grow without a new precise reading.
const GROWTH: u64 = 8;

/// A precise reading, with what was known of the worker beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    at: Instant,
    private: u64,
    anonymous: u64,
}

/// The last precise reading of every worker.
#[derive(Debug, Default)]
pub struct Sampler {
    readings: HashMap<WorkerId, Reading>,
}

impl Sampler {
    /// Whether a precise reading of `worker` is due. `anonymous` is its anonymous memory now and `limit` the limit that it
    /// should not pass unseen, both in bytes; `busy` is whether it serves a request.
    #[must_use]
    pub fn due(&self, now: Instant, worker: WorkerId, anonymous: u64, limit: u64, busy: bool) -> bool {
        let Some(last) = self.readings.get(&worker) else {
            return true;
        };
        let oldest = if busy { BUSY_AGE } else { IDLE_AGE };
        now.saturating_duration_since(last.at) >= oldest || anonymous.saturating_sub(last.anonymous) > limit / GROWTH
    }

    /// A precise reading was made: `private` bytes of private dirty memory, with `anonymous` bytes of anonymous memory.
    pub fn read(&mut self, now: Instant, worker: WorkerId, anonymous: u64, private: u64) {
        let reading = Reading {
            at: now,
            private,
            anonymous,
        };
        self.readings.insert(worker, reading);
    }

    /// The private dirty memory of `worker` when it was last read, in bytes.
    #[must_use]
    pub fn private(&self, worker: WorkerId) -> Option<u64> {
        self.readings.get(&worker).map(|reading| reading.private)
    }

    /// The worker has gone.
    pub fn forget(&mut self, worker: WorkerId) {
        self.readings.remove(&worker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const LIMIT: u64 = 800 * MIB;

    fn read_at(start: Instant) -> Sampler {
        let mut sampler = Sampler::default();
        sampler.read(start, 1, 300 * MIB, 20 * MIB);
        sampler
    }

    #[test]
    fn a_worker_never_read_is_due() {
        let start = Instant::now();
        let mut sampler = read_at(start);
        assert!(sampler.due(start, 2, 0, LIMIT, false));
        assert!(!sampler.due(start, 1, 300 * MIB, LIMIT, true));
        assert_eq!((sampler.private(1), sampler.private(2)), (Some(20 * MIB), None));
        sampler.forget(1);
        assert!(sampler.due(start, 1, 300 * MIB, LIMIT, true));
        assert_eq!(sampler.private(1), None);
    }

    #[test]
    fn age_makes_it_due_earlier_for_a_busy_worker() {
        let start = Instant::now();
        let sampler = read_at(start);
        let due = |after: Duration, busy| sampler.due(start + after, 1, 300 * MIB, LIMIT, busy);
        let moment = Duration::from_millis(1);
        assert!(!due(BUSY_AGE.checked_sub(moment).unwrap(), true));
        assert!(due(BUSY_AGE, true));
        assert!(!due(IDLE_AGE.checked_sub(moment).unwrap(), false));
        assert!(due(IDLE_AGE, false));
    }

    #[test]
    fn growth_by_more_than_an_eighth_of_the_limit_makes_it_due() {
        let start = Instant::now();
        let mut sampler = read_at(start);
        assert!(!sampler.due(start, 1, 400 * MIB, LIMIT, false));
        assert!(sampler.due(start, 1, 400 * MIB + 1, LIMIT, false));
        sampler.read(start, 1, 400 * MIB + 1, 120 * MIB);
        assert!(!sampler.due(start, 1, 400 * MIB + 1, LIMIT, true));
        assert!(!sampler.due(start, 1, 10 * MIB, LIMIT, true), "shrinking is no haste");
    }

    #[test]
    fn a_clock_that_seems_to_go_back_does_no_harm() {
        let start = Instant::now();
        let sampler = read_at(start + IDLE_AGE);
        assert!(!sampler.due(start, 1, 300 * MIB, LIMIT, true));
    }
}
