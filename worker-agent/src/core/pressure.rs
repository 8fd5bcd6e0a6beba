//! Failure pressure: failed workers within a window over configured workers. Failures leave the count by age alone, so a
//! crash loop reaches the limit although every replacement is there within milliseconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Counts failures within a sliding window.
#[derive(Debug)]
pub struct FailurePressure {
    window: Duration,
    failures: VecDeque<Instant>,
}

impl FailurePressure {
    /// Counts what happened within the last `window`.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            failures: VecDeque::new(),
        }
    }

    /// Counts what happened within this window from now on.
    pub fn set_window(&mut self, window: Duration) {
        self.window = window;
    }

    /// A worker failed.
    pub fn failed(&mut self, now: Instant) {
        self.failures.push_back(now);
    }

    /// Failures within the window over `configured` workers (at least one is reckoned with).
    pub fn at(&mut self, now: Instant, configured: usize) -> f64 {
        while self.failures.front().is_some_and(|&failed| failed + self.window <= now) {
            self.failures.pop_front();
        }
        #[allow(clippy::cast_precision_loss, reason = "counts of workers and failures are small")]
        let pressure = self.failures.len() as f64 / configured.max(1) as f64;
        pressure
    }

    /// When the oldest failure leaves the count.
    #[must_use]
    pub fn next_change(&self) -> Option<Instant> {
        self.failures.front().map(|&failed| failed + self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_leave_by_age() {
        let start = Instant::now();
        let mut pressure = FailurePressure::new(Duration::from_secs(60));
        pressure.failed(start);
        pressure.failed(start + Duration::from_secs(30));
        assert!((pressure.at(start + Duration::from_secs(30), 2) - 1.0).abs() < 1e-9);
        assert!((pressure.at(start + Duration::from_secs(60), 2) - 0.5).abs() < 1e-9);
        assert_eq!(pressure.next_change(), Some(start + Duration::from_secs(90)));
        assert!(pressure.at(start + Duration::from_secs(90), 0).abs() < 1e-9);
    }
}
