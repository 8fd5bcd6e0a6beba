//! What workers do between requests: load a project anew that has changed, load one that every worker should hold, drop one.
//!
//! One worker loads at a time, so that the others serve. Loading goes before what waits for a worker: in a pool that is
//! never idle a change would else never be seen. A version that cannot be loaded leaves the old one where it is held,
//! and requests then wait for a worker that holds it as long as there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::choice::evicted;
use super::machine::Pool;
use super::worker::Worker;
use super::{Action, WorkerId, WorkerState};

/// How long a load may take.
const LOAD_PATIENCE: Duration = Duration::from_secs(120);

/// A piece of work besides requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chore {
    /// Load the newest version of a project, after dropping others.
    Load {
        /// Its uri.
        project: String,
        /// Projects to drop first.
        evict: Vec<String>,
    },
    /// Drop projects.
    Drop {
        /// Their uris.
        projects: Vec<String>,
    },
}

/// What came of a chore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tended {
    /// The project is loaded at its newest version; that took so long.
    Loaded {
        /// Its uri.
        project: String,
        /// The load.
        took: Duration,
    },
    /// The project's newest version cannot be loaded.
    Broken {
        /// Its uri.
        project: String,
    },
    /// There was nothing to load.
    Done,
}

/// Why a worker is to load a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It holds an older version.
    Outdated,
    /// Somebody wants every worker to hold it.
    CheckedOut,
}

/// What one worker is to do when it is idle.
#[derive(Debug, Default)]
pub(super) struct Chores {
    load: BTreeMap<String, Why>,
    drop: BTreeSet<String>,
}

impl Chores {
    /// It holds the newest version now.
    pub fn is_current(&mut self, project: &str) {
        self.load.remove(project);
    }

    fn next_load(&mut self, holds: impl Fn(&str) -> bool) -> Option<String> {
        // What was evicted meanwhile is loaded at its newest version when it is asked for.
        self.load
            .retain(|project, why| *why == Why::CheckedOut || holds(project));
        self.load.pop_first().map(|(project, _)| project)
    }
}

impl Pool {
    pub(super) fn changed(&mut self, project: &str) {
        self.broken.remove(project);
        for worker in self.workers.values_mut().filter(|worker| !worker.is_leaving()) {
            if worker.holds(project) || worker.serves(project) {
                worker.chores.load.insert(project.to_owned(), Why::Outdated);
            }
        }
    }

    pub(super) fn check_out(&mut self, project: &str) {
        for worker in self.workers.values_mut().filter(|worker| !worker.is_leaving()) {
            worker.chores.drop.remove(project);
            if !worker.holds(project) {
                worker.chores.load.insert(project.to_owned(), Why::CheckedOut);
            }
        }
    }

    pub(super) fn forget(&mut self, project: Option<&str>) {
        for worker in self.workers.values_mut() {
            let unwanted = worker
                .loaded
                .iter()
                .filter(|held| project.is_none_or(|project| project == *held));
            worker.chores.drop.extend(unwanted.cloned());
            // What it is just loading for a request is dropped after that.
            if let (Some(project), true) = (project, project.is_some_and(|project| worker.serves(project))) {
                worker.chores.drop.insert(project.to_owned());
            }
            worker
                .chores
                .load
                .retain(|wanted, _| project.is_some_and(|project| project != wanted));
        }
        match project {
            Some(project) => drop(self.broken.remove(project)),
            None => self.broken.clear(),
        }
    }

    pub(super) fn unloadable(&mut self, project: String) {
        for worker in self.workers.values_mut() {
            worker.chores.is_current(&project);
        }
        self.broken.insert(project);
    }

    pub(super) fn tended(&mut self, now: Instant, id: WorkerId, outcome: Tended) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.is_tending()) else {
            return;
        };
        worker.state = WorkerState::Idle { since: now };
        match outcome {
            Tended::Loaded { project, took } => {
                self.broken.remove(&project);
                self.lanes.costs.loaded(&project, took);
                if !worker.holds(&project) {
                    worker.loaded.push(project);
                }
            }
            Tended::Broken { project } => self.unloadable(project),
            Tended::Done => {}
        }
    }

    /// Gives idle workers their chores.
    pub(super) fn tend(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.is_over() {
            return;
        }
        let until = now + LOAD_PATIENCE;
        for (&id, worker) in self.workers.iter_mut().filter(|(_, worker)| worker.is_idle()) {
            let (dropped, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut worker.loaded)
                .into_iter()
                .partition(|held| worker.chores.drop.contains(held));
            worker.chores.drop.clear();
            worker.loaded = kept;
            if !dropped.is_empty() {
                worker.state = WorkerState::Tending { until };
                let chore = Chore::Drop { projects: dropped };
                actions.push(Action::Tend { worker: id, chore });
            }
        }
        if self.workers.values().any(Worker::is_tending) {
            return;
        }
        let mut idle = self.workers.iter_mut().filter(|(_, worker)| worker.is_idle());
        let next = idle.find_map(|(&id, worker)| {
            let Worker {
                chores, pinned, loaded, ..
            } = worker;
            let holds = |project: &str| pinned.iter().chain(&*loaded).any(|held| held == project);
            Some((id, chores.next_load(holds)?))
        });
        let Some((id, project)) = next else { return };
        let evict = evicted(
            &self.workers,
            id,
            &project,
            &self.lanes.costs,
            &self.broken,
            self.policy.max_projects,
        );
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.loaded.retain(|held| !evict.contains(held));
            worker.state = WorkerState::Tending { until };
            let chore = Chore::Load { project, evict };
            actions.push(Action::Tend { worker: id, chore });
        }
    }
}
