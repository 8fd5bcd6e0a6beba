//! Which idle worker takes a request, by what projects cost to load.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::costs::Costs;
use super::lanes::Waiting;
use super::worker::Worker;
use super::{WorkerId, WorkerState};

/// Loading that takes less is not worth waiting for somebody else.
const SHORT_LOAD: Duration = Duration::from_millis(50);

/// So many loads a request saves that waits for the worker which has its project, where another would drop one for it:
/// its own, that of the project which is dropped, and now and then that of a third which the latter drives out in turn.
/// In the model of `affinity_tests` two leave twice as many cold requests, and more than three change nothing.
const LOADS_SAVED: u32 = 3;

/// For the others' loads it never waits longer than this.
const FOR_OTHERS: Duration = Duration::from_secs(1);

/// The pool's workers.
type Workers = BTreeMap<WorkerId, Worker>;

/// The idle worker for which the project is cheapest: the one that holds it, else the one that has to drop what is
/// quickest to load again, else the one with the fewest projects, else the one used last, so that the others' memory
/// can rest.
pub(super) fn best_idle(
    workers: &Workers,
    project: &str,
    costs: &Costs,
    broken: &BTreeSet<String>,
    max_projects: usize,
) -> Option<WorkerId> {
    let idle = workers.iter().filter_map(|(&id, worker)| match worker.state {
        WorkerState::Idle { since } => Some((id, worker, since)),
        _ => None,
    });
    idle.map(|(id, worker, since)| {
        let dropped = evicted(workers, id, project, costs, broken, max_projects);
        let lost = dropped.iter().filter(|uri| !is_held_elsewhere(workers, id, uri));
        let lost: Duration = lost.map(|uri| costs.load(uri)).sum();
        ((!worker.holds(project), lost, worker.loaded.len(), Reverse(since)), id)
    })
    .min()
    .map(|(_, id)| id)
}

/// What a worker has to drop for a project: first what another worker holds as well, last what could not be loaded again
/// (`broken`). Of the others, one of the quarter that was used longest ago: one that is quick to load, but what has not been used for
/// longer must be the dearer the longer to stay. Else a dear one that nobody asks for would keep its place for ever.
pub(super) fn evicted(
    workers: &Workers,
    id: WorkerId,
    project: &str,
    costs: &Costs,
    broken: &BTreeSet<String>,
    max_projects: usize,
) -> Vec<String> {
    let Some(worker) = workers.get(&id) else {
        return Vec::new();
    };
    let excess = worker.excess(project, max_projects);
    if excess == 0 {
        return Vec::new();
    }
    let (lost, sound): (Vec<&String>, Vec<&String>) = worker.loaded.iter().partition(|uri| broken.contains(*uri));
    let (twice, once): (Vec<&String>, Vec<&String>) =
        sound.into_iter().partition(|uri| is_held_elsewhere(workers, id, uri));
    let oldest = once.len().div_ceil(4);
    let mut aged: Vec<(u32, &String)> = (1..).zip(once).collect();
    aged[..oldest].sort_by_key(|&(age, uri)| costs.load(uri) * age);
    let once = aged.into_iter().map(|(_, uri)| uri);
    let all = twice.into_iter().chain(once).chain(lost);
    all.take(excess).cloned().collect()
}

fn is_held_elsewhere(workers: &Workers, id: WorkerId, project: &str) -> bool {
    let others = workers
        .iter()
        .filter(|(other, worker)| **other != id && !worker.is_leaving());
    others.into_iter().any(|(_, worker)| worker.holds(project))
}

/// Until when a request rather waits for a busy worker that has its project than makes an idle one load it and drop
/// another for it; `None` when it does not. It never waits longer than the loads would take that this may save, so that
/// what it loses is at most what all may gain. Where there is room the project is loaded at once: that pays with the next
/// request. One that cannot be loaded any more (`broken`) is waited for as long as a worker holds it.
pub(super) fn holds_off_until<'a>(
    workers: impl Iterator<Item = &'a Worker> + Clone,
    waiting: &Waiting,
    costs: &Costs,
    broken: &BTreeSet<String>,
    max_projects: usize,
) -> Option<Instant> {
    if broken.contains(&waiting.project) {
        let mut holders = workers.filter(|worker| !worker.is_leaving() && worker.holds(&waiting.project));
        let held = holders.clone().next().is_some();
        return (held && !holders.any(Worker::is_idle)).then_some(waiting.deadline);
    }
    let load = costs.load(&waiting.project);
    if load < SHORT_LOAD {
        return None;
    }
    let mut busy_elsewhere = false;
    for worker in workers {
        if worker.is_idle() && worker.excess(&waiting.project, max_projects) == 0 {
            return None;
        }
        let has_it = worker.holds(&waiting.project) || worker.serves(&waiting.project);
        busy_elsewhere |= has_it && matches!(worker.state, WorkerState::Busy { .. });
    }
    busy_elsewhere.then(|| waiting.since + (load * LOADS_SAVED).min(load + FOR_OTHERS))
}
