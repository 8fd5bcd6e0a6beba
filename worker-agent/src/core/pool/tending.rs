//! What workers do between requests: load a project anew that has changed, load one that every worker should hold, drop one.
//!
//! One worker loads at a time, so that the others serve. Loading goes before what waits for a worker: in a pool that is
//! never idle a change would else never be seen. A project that only one worker holds is loaded by another, and dropped by
//! the first after that: so the old version is served until the new one is there, however long that takes. A version that
//! cannot be loaded leaves the old one where it is held, and requests then wait for a worker that holds it as long as there
//! is one.

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
    /// Draw a few pixels of a project that it inherited, for nobody.
    Warm {
        /// Its uri.
        project: String,
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
    /// Another worker, the only one that holds it, holds an older version and drops it when this one is done.
    Relief(WorkerId),
    /// Somebody wants every worker to hold it.
    CheckedOut,
}

/// What one worker is to do when it is idle.
#[derive(Debug, Default)]
pub(super) struct Chores {
    load: BTreeMap<String, Why>,
    drop: BTreeSet<String>,
    /// What it is loading.
    loading: Option<(String, Why)>,
    /// What it is to draw, and what it is drawing, so that first maps are not slow.
    pub(super) warm: Vec<String>,
    pub(super) warming: Option<String>,
}

impl Chores {
    /// It holds the newest version now. Gives the worker that may drop its own, if one waits for that.
    pub fn is_current(&mut self, project: &str) -> Option<WorkerId> {
        match self.load.remove(project)? {
            Why::Relief(holder) => Some(holder),
            Why::Outdated | Why::CheckedOut => None,
        }
    }

    fn is_about(&self, project: &str) -> bool {
        self.load.contains_key(project) || self.loading.as_ref().is_some_and(|(loading, _)| loading == project)
    }

    /// Begins the next load. `holds` tells whether this worker, or with a number another one, holds a project.
    fn next_load(&mut self, holds: impl Fn(Option<WorkerId>, &str) -> bool) -> Option<String> {
        // What was evicted meanwhile is loaded at its newest version when it is asked for.
        self.load.retain(|project, why| match why {
            Why::CheckedOut => true,
            Why::Outdated => holds(None, project),
            Why::Relief(holder) => holds(Some(*holder), project),
        });
        self.loading = self.load.pop_first();
        self.loading.as_ref().map(|(project, _)| project.clone())
    }
}

impl Pool {
    pub(super) fn changed(&mut self, project: &str) {
        self.broken.remove(project);
        let mut holders = Vec::new();
        let mut others = Vec::new();
        for (&id, worker) in self.workers.iter_mut().filter(|(_, worker)| !worker.is_leaving()) {
            worker.chores.load.remove(project);
            if worker.holds(project) || worker.serves(project) {
                holders.push(id);
            } else if worker.is_up() && worker.chores.loading.is_none() {
                others.push((worker.loaded.len(), id));
            }
        }
        let relief = others.into_iter().min().map(|(_, id)| id);
        let chores = match (&holders[..], relief) {
            (&[holder], Some(relief)) => vec![(relief, Why::Relief(holder))],
            _ => holders.into_iter().map(|holder| (holder, Why::Outdated)).collect(),
        };
        for (id, why) in chores {
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.chores.load.insert(project.to_owned(), why);
            }
        }
    }

    /// Whether a worker loads the project between requests, or is to.
    #[must_use]
    pub fn is_renewing(&self, project: &str) -> bool {
        let mut staying = self.workers.values().filter(|worker| !worker.is_leaving());
        self.broken.contains(project)
            || staying.any(|worker| worker.chores.is_about(project) || worker.chores.drop.contains(project))
    }

    /// A worker that held an older version alone need not hold it any longer.
    pub(super) fn relieve(&mut self, holder: Option<WorkerId>, project: &str) {
        if let Some(worker) = holder.and_then(|holder| self.workers.get_mut(&holder)) {
            worker.chores.drop.insert(project.to_owned());
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
            worker.chores.load.remove(&project);
        }
        self.broken.insert(project);
    }

    pub(super) fn tended(&mut self, now: Instant, id: WorkerId, outcome: Tended) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.is_tending()) else {
            return;
        };
        worker.state = WorkerState::Idle { since: now };
        worker.chores.warming = None;
        let why = worker.chores.loading.take().map(|(_, why)| why);
        match outcome {
            Tended::Loaded { project, took } => {
                self.broken.remove(&project);
                self.lanes.costs.loaded(&project, took);
                if !worker.holds(&project) {
                    worker.loaded.push(project.clone());
                }
                if let Some(Why::Relief(holder)) = why {
                    self.relieve(Some(holder), &project);
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
        let most = self.policy.max_projects.max(1);
        for (&id, worker) in self.workers.iter_mut().filter(|(_, worker)| worker.is_idle()) {
            // More than that are held only when the bound was lowered; who was used longest ago goes.
            let above = worker.loaded.len().saturating_sub(most);
            worker.chores.drop.extend(worker.loaded[..above].iter().cloned());
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
        let nothing_to_load = self.workers.values().all(|worker| worker.chores.load.is_empty());
        if nothing_to_load || self.workers.values().any(Worker::is_tending) {
            return;
        }
        let held: BTreeMap<WorkerId, BTreeSet<String>> = self
            .workers
            .iter()
            .filter(|(_, worker)| !worker.is_leaving())
            .map(|(&id, worker)| (id, worker.pinned.iter().chain(&worker.loaded).cloned().collect()))
            .collect();
        let mut idle = self.workers.iter_mut().filter(|(_, worker)| worker.is_idle());
        let next = idle.find_map(|(&id, worker)| {
            let holds = |other: Option<WorkerId>, project: &str| {
                let held = held.get(&other.unwrap_or(id));
                held.is_some_and(|held| held.contains(project))
            };
            Some((id, worker.chores.next_load(holds)?))
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
