//! Which worker takes too much memory. A worker above its own limit answers for itself; when the machine runs out, the
//! largest one goes, and only one at a time: the next is judged after the memory was looked at again.

use std::time::{Duration, Instant};

use super::{MemoryLimits, MemoryView};

/// The hard limit that is derived from the machine is never lower, in bytes.
const LEAST_LIMIT: u64 = 256 << 20;

/// Ending a worker below this size would free nothing worth it, in bytes: what fills the machine is something else.
const WORTH_IT: u64 = 64 << 20;

/// The part of the high-water mark from which on memory counts as short.
const NEARLY: f64 = 0.9;

/// How long the kernel is given to count what an ended worker has freed.
const SETTLE: Duration = Duration::from_secs(1);

/// What is known of the machine.
#[derive(Debug, Default)]
pub(super) struct Memory {
    total: u64,
    used: u64,
    /// Before this nobody is judged again.
    settled_at: Option<Instant>,
}

/// What should happen to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// It should go once it has answered.
    Recycle,
    /// It should go now.
    Kill,
}

impl MemoryLimits {
    /// The soft and the hard limit of one of `workers` where the machine has `total` bytes.
    #[must_use]
    pub fn of(&self, total: u64, workers: usize) -> (u64, u64) {
        let mut memory = Memory::default();
        memory.machine(total, 0);
        let view = memory.view(self, workers);
        (view.soft_limit, view.hard_limit)
    }
}

impl Memory {
    pub fn machine(&mut self, total: u64, used: u64) {
        self.total = total;
        self.used = used;
    }

    /// The hard limit of one of `workers`; `None` as long as it cannot be known.
    pub fn hard(&self, limits: &MemoryLimits, workers: usize) -> Option<u64> {
        let derived = || {
            let share = self.mark(limits)? / workers.max(1) as u64;
            Some(share.max(LEAST_LIMIT))
        };
        limits.hard.or_else(derived)
    }

    pub fn soft(&self, limits: &MemoryLimits, workers: usize) -> Option<u64> {
        limits.soft.or_else(|| Some(self.hard(limits, workers)? / 2))
    }

    /// The high-water mark in bytes.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bytes, to about one in a million"
    )]
    fn mark(&self, limits: &MemoryLimits) -> Option<u64> {
        (self.total > 0).then_some((self.total as f64 * limits.high_water_mark) as u64)
    }

    /// What a worker of this size should do, whatever the machine has.
    pub fn judge(&self, limits: &MemoryLimits, workers: usize, bytes: u64) -> Verdict {
        if self.hard(limits, workers).is_some_and(|hard| bytes > hard) {
            Verdict::Kill
        } else if self.soft(limits, workers).is_some_and(|soft| bytes > soft) {
            Verdict::Recycle
        } else {
            Verdict::Fine
        }
    }

    /// Whether memory was so short, for a worker of this size or for the machine, that a SIGKILL from outside was most likely
    /// the kernel's.
    #[allow(clippy::cast_precision_loss, reason = "bytes, to about one in a million")]
    pub fn was_short(&self, limits: &MemoryLimits, workers: usize, bytes: u64) -> bool {
        let large = self.soft(limits, workers).is_some_and(|soft| bytes > soft / 2);
        large || self.used as f64 > self.total as f64 * limits.high_water_mark * NEARLY
    }

    /// Whether the largest worker, which has so many bytes, must go because the machine is above its mark. When it must,
    /// nobody else is judged for a while.
    pub fn must_shrink(&mut self, now: Instant, limits: &MemoryLimits, largest: u64) -> bool {
        let above = self.mark(limits).is_some_and(|mark| self.used > mark);
        let settled = self.settled_at.is_none_or(|at| at <= now);
        if !above || !settled || largest < WORTH_IT {
            return false;
        }
        self.settled_at = Some(now + SETTLE);
        true
    }

    pub fn view(&self, limits: &MemoryLimits, workers: usize) -> MemoryView {
        MemoryView {
            total: self.total,
            used: self.used,
            soft_limit: self.soft(limits, workers).unwrap_or_default(),
            hard_limit: self.hard(limits, workers).unwrap_or_default(),
        }
    }
}
