//! Which idle worker takes a request, and which project it drops for that, by what projects cost to load and how often they are
//! asked for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::costs::Costs;
use super::lanes::Waiting;
use super::worker::Worker;
use super::{WorkerId, WorkerState};

/// So many loads a request saves that waits for the worker which has its project, where another would drop one for it: its own,
/// that of the project which is dropped, and those of others which the latter drives out in turn. In simulations of projects that
/// just fit, with three of them still one request in a hundred was cold when clients crowded, with five next to none, and the
/// longest waits were no longer; more change nothing.
const LOADS_SAVED: u32 = 5;

/// What one of several copies of a project is worth, of what the only one is: without it a request goes to another worker and may
/// have to wait there. In simulations of uneven demand a tenth made twice the loads at no higher rate, and with a fiftieth the longest
/// waits were longer.
const ONE_OF_SEVERAL: f64 = 0.05;

/// No load is reckoned with less.
const LEAST_LOAD: Duration = Duration::from_millis(1);

/// For the others' loads it never waits longer than this.
const FOR_OTHERS: Duration = Duration::from_secs(1);

/// The pool's workers.
type Workers = BTreeMap<WorkerId, Worker>;

/// The idle worker for which the project is cheapest: the one that holds it, else the one that has to drop what is missed
/// least, else the one with the fewest projects, else the one used last, so that the others' memory can rest.
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
        let losses = dropped.iter().map(|uri| loss(workers, id, uri, costs, broken));
        // Zero or more, so its bits sort as it does. The sum of nothing would be negative zero.
        let lost = losses.fold(0.0, |sum: f64, loss| sum + loss).to_bits();
        ((!worker.holds(project), lost, worker.loaded.len(), Reverse(since)), id)
    })
    .min()
    .map(|(_, id)| id)
}

/// What a worker has to drop for a project: what is missed least, and of what is missed alike what was used longest ago.
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
    let held = worker.loaded.iter();
    let mut held: Vec<(f64, &String)> = held.map(|uri| (loss(workers, id, uri, costs, broken), uri)).collect();
    // The sort is stable, and the one used last stands last.
    held.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    held.into_iter().take(excess).map(|(_, uri)| uri.clone()).collect()
}

/// How much a project would be missed that a worker drops: by how often it is asked for, and how long it takes to load again.
/// What could not be loaded again (`broken`) goes last.
fn loss(workers: &Workers, id: WorkerId, project: &str, costs: &Costs, broken: &BTreeSet<String>) -> f64 {
    if broken.contains(project) {
        return f64::INFINITY;
    }
    let only = costs.demand(project) * costs.load(project).max(LEAST_LOAD).as_secs_f64();
    if is_held_elsewhere(workers, id, project) {
        only * ONE_OF_SEVERAL
    } else {
        only
    }
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
    let mut busy_elsewhere = false;
    for worker in workers {
        if worker.is_idle() && worker.excess(&waiting.project, max_projects) == 0 {
            return None;
        }
        let has_it = worker.holds(&waiting.project) || worker.serves(&waiting.project);
        busy_elsewhere |= has_it && matches!(worker.state, WorkerState::Busy { .. });
    }
    let load = costs.load(&waiting.project);
    busy_elsewhere.then(|| waiting.since + (load * LOADS_SAVED).min(load + FOR_OTHERS))
}
