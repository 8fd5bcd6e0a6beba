//! What requests ask for, between those who answer them and the link that tells the control plane; and how long requests wait.
//! It knows no projects.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use graticule_proto::v1::{AgentDemand, ProjectDemand};

use crate::core::demand::Demand;

/// After this time a wait counts half as much.
const HALF_LIFE: f64 = 5.0;

/// Both ways; clones share them.
#[derive(Debug, Clone)]
pub struct DemandHandle {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    demand: Demand,
    waits: Waits,
}

/// The mean of late waits, each of which counts less with time.
#[derive(Debug)]
struct Waits {
    seconds: f64,
    count: f64,
    at: Instant,
}

impl Waits {
    fn pass(&mut self, now: Instant) {
        let left = 0.5_f64.powf(now.saturating_duration_since(self.at).as_secs_f64() / HALF_LIFE);
        (self.seconds, self.count, self.at) = (self.seconds * left, self.count * left, now);
    }

    fn add(&mut self, now: Instant, waited: Duration) {
        self.pass(now);
        self.seconds += waited.as_secs_f64();
        self.count += 1.0;
    }

    /// In twentieths of a second, so that little changes.
    fn mean(&mut self, now: Instant) -> f64 {
        self.pass(now);
        // The last waits of an agent that nobody asks any more are forgotten.
        if self.count < 0.1 {
            return 0.0;
        }
        (self.seconds / self.count * 20.0).round() / 20.0
    }
}

impl Default for DemandHandle {
    fn default() -> Self {
        let at = Instant::now();
        let waits = Waits {
            seconds: 0.0,
            count: 0.0,
            at,
        };
        let demand = Demand::new(at);
        Self {
            inner: Arc::new(Mutex::new(Inner { demand, waits })),
        }
    }
}

impl DemandHandle {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request for a project has waited so long for a worker, and had one.
    pub fn served(&self, project: &str, waited: Duration) {
        let now = Instant::now();
        let mut inner = self.inner();
        inner.waits.add(now, waited);
        if !project.is_empty() {
            inner.demand.asked(now, project);
        }
    }

    /// How long requests of the last seconds have waited on average, in seconds.
    #[must_use]
    pub fn wait_seconds(&self) -> f64 {
        self.inner().waits.mean(Instant::now())
    }

    /// What the control plane is told.
    #[must_use]
    pub fn told(&self) -> AgentDemand {
        let projects = self.inner().demand.list(Instant::now()).into_iter();
        let projects = projects.map(|(project, requests)| ProjectDemand { project, requests });
        AgentDemand {
            projects: projects.collect(),
        }
    }
}

/// Whether the same projects are asked for.
#[must_use]
pub fn same_projects(one: &AgentDemand, other: &AgentDemand) -> bool {
    let names = |demand: &AgentDemand| {
        demand
            .projects
            .iter()
            .map(|one| one.project.clone())
            .collect::<Vec<_>>()
    };
    one.projects.len() == other.projects.len() && names(one) == names(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_waits_count_most_and_fade() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut waits = Waits {
            seconds: 0.0,
            count: 0.0,
            at: start,
        };
        assert_eq!(waits.mean(start), 0.0);
        waits.add(start, Duration::from_secs(4));
        assert_eq!(waits.mean(after(5)), 4.0);
        waits.add(after(5), Duration::from_secs(1));
        assert_eq!(waits.mean(after(5)), 2.0);
        assert_eq!(waits.mean(after(60)), 0.0);
    }

    #[test]
    fn what_was_served_is_told() {
        let handle = DemandHandle::default();
        for project in ["/world", "", "/world", "/once"] {
            handle.served(project, Duration::from_secs(1));
        }
        let told = handle.told();
        assert_eq!((told.projects.len(), told.projects[0].requests), (1, 2));
        assert_eq!(handle.wait_seconds(), 1.0);
        let mut more = told.clone();
        more.projects[0].requests = 8;
        assert!(same_projects(&told, &more) && !same_projects(&told, &AgentDemand::default()));
    }
}
