//! Which idle worker takes a request, by what projects cost to load.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::costs::Costs;
use super::lanes::Waiting;
use super::worker::Worker;
use super::{WorkerId, WorkerState};

/// Loading that takes less is not worth waiting for somebody else.
const SHORT_LOAD: Duration = Duration::from_millis(50);

/// The idle worker for which the project is cheapest: the one that holds it, else the one that has to drop what is
/// quickest to load again, else the one with the fewest projects, else the one used last, so that the others' memory
/// can rest.
pub(super) fn best_idle<'a>(
    workers: impl Iterator<Item = (WorkerId, &'a Worker)>,
    project: &str,
    costs: &Costs,
    max_projects: usize,
) -> Option<WorkerId> {
    workers
        .filter_map(|(id, worker)| match worker.state {
            WorkerState::Idle { since } => {
                let dropped: Duration = worker
                    .would_drop(project, max_projects)
                    .map(|uri| costs.load(uri))
                    .sum();
                Some((
                    (!worker.holds(project), dropped, worker.loaded.len(), Reverse(since)),
                    id,
                ))
            }
            _ => None,
        })
        .min()
        .map(|(_, id)| id)
}

/// Until when a request rather waits for a busy worker that has its project than makes an idle one load it and drop
/// another for it; `None` when it does not. It never waits longer than the load would take, so that it loses at most what
/// it might have saved. Where there is room the project is loaded at once: that pays with the next request.
pub(super) fn holds_off_until<'a>(
    workers: impl Iterator<Item = &'a Worker>,
    waiting: &Waiting,
    costs: &Costs,
    max_projects: usize,
) -> Option<Instant> {
    let load = costs.load(&waiting.project);
    if load < SHORT_LOAD {
        return None;
    }
    let mut busy_elsewhere = false;
    for worker in workers {
        if worker.is_idle() && worker.would_drop(&waiting.project, max_projects).next().is_none() {
            return None;
        }
        let has_it = worker.holds(&waiting.project) || worker.serves(&waiting.project);
        busy_elsewhere |= has_it && matches!(worker.state, WorkerState::Busy { .. });
    }
    busy_elsewhere.then(|| waiting.since + load)
}
