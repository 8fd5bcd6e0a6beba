//! Which projects are asked for again and again, so that the control plane knows how many places they need. What was asked
//! for once is not counted: a crawler that looks at everything once needs no places.
//!
//! What it does not know: requests, messages.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A request counts for this long at least, and for twice as long at most.
const HALF: Duration = Duration::from_secs(150);

/// So many projects are remembered within each half.
const MOST_REMEMBERED: usize = 20_000;

/// So many are told, and so many bytes of names.
const MOST_TOLD: usize = 10_000;
const MOST_BYTES: usize = 1024 * 1024;

/// So often a project must have been asked for to be told.
const LEAST: u32 = 2;

/// What was asked for lately.
#[derive(Debug)]
pub struct Demand {
    now: HashMap<String, u32>,
    before: HashMap<String, u32>,
    turned: Instant,
}

impl Demand {
    /// Nothing was.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            now: HashMap::new(),
            before: HashMap::new(),
            turned: now,
        }
    }

    /// A request for a project needed a worker.
    pub fn asked(&mut self, now: Instant, project: &str) {
        self.turn(now);
        if let Some(times) = self.now.get_mut(project) {
            *times = times.saturating_add(1);
        } else if self.now.len() < MOST_REMEMBERED {
            self.now.insert(project.to_owned(), 1);
        }
    }

    /// The projects with how often they were asked for, as a power of two so that little changes; in the order of names. Of too
    /// many, those that are asked for most.
    pub fn list(&mut self, now: Instant) -> Vec<(String, u32)> {
        self.turn(now);
        let mut all: Vec<(&str, u32)> = Vec::with_capacity(self.now.len());
        for (project, times) in &self.now {
            let before = self.before.get(project).copied().unwrap_or_default();
            all.push((project, times.saturating_add(before)));
        }
        let only_before = self
            .before
            .iter()
            .filter(|(project, _)| !self.now.contains_key(*project));
        all.extend(only_before.map(|(project, times)| (project.as_str(), *times)));
        all.retain(|(_, times)| *times >= LEAST);
        all.sort_unstable_by_key(|(project, times)| (std::cmp::Reverse(*times), *project));
        all.truncate(MOST_TOLD);
        let mut bytes = 0;
        let mut told: Vec<(String, u32)> = all
            .into_iter()
            .take_while(|(project, _)| {
                bytes += project.len();
                bytes <= MOST_BYTES
            })
            .map(|(project, times)| (project.to_owned(), 1 << times.ilog2()))
            .collect();
        told.sort_unstable();
        told
    }

    fn turn(&mut self, now: Instant) {
        let lasted = now.saturating_duration_since(self.turned);
        if lasted >= HALF {
            self.before = std::mem::take(&mut self.now);
            if lasted >= HALF * 2 {
                self.before.clear();
            }
            self.turned = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_again_is_told_for_some_minutes() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        for project in ["/b", "/once", "/a", "/b", "/b", "/a", "/b", "/b"] {
            demand.asked(start, project);
        }
        let told = vec![("/a".to_owned(), 2), ("/b".to_owned(), 4)];
        assert_eq!(demand.list(start), told);
        let later = start + HALF;
        assert_eq!(demand.list(later), told);
        demand.asked(later, "/once");
        assert_eq!(demand.list(later).len(), 3, "now it is the second time");
        assert_eq!(
            demand.list(later + HALF),
            [],
            "and then nobody asked for any of them again"
        );
        demand.asked(later, "/a");
        assert_eq!(demand.list(later + HALF * 5), []);
    }

    #[test]
    fn there_is_a_bound() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        let long = "x".repeat(1000);
        for number in 0..MOST_REMEMBERED + 10 {
            for _ in 0..=1 + usize::from(number == 5) * 7 {
                demand.asked(start, &format!("/{long}{number}"));
            }
        }
        let told = demand.list(start);
        assert!(
            told.iter()
                .any(|(project, times)| project.ends_with("x5") && *times == 8)
        );
        let bytes: usize = told.iter().map(|(project, _)| project.len()).sum();
        assert!(bytes <= MOST_BYTES && told.len() > 1000);
        assert_eq!(demand.now.len(), MOST_REMEMBERED);
    }
}
