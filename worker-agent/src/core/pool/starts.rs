//! How and when workers come and go: zygotes and their generations, pauses after failed starts, and who is sent away
//! because there is no more need of him.

use std::time::{Duration, Instant};

use graticule_daemon::dice::Dice;

use super::adopt::life;
use super::machine::Pool;
use super::worker::Worker;
use super::{Action, ExitReason, Generation, Start, WorkerId};

/// The pause after the first failed start in a row; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between starts that keep failing.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long workers beyond the configured ones stay after inner requests needed them.
const EXTRA_STAYS: Duration = Duration::from_secs(10);

/// A value from the last fifth below `most`.
pub(super) fn some_below(dice: &mut Dice, most: f64) -> f64 {
    most * (1.0 - 0.2 * dice.part())
}

/// Failures in a row and when the next try may be.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    pub failures: u32,
    pub until: Option<Instant>,
}

impl Backoff {
    /// The pause has a quarter of jitter, so that agents that fail together do not try together.
    pub fn failed(&mut self, now: Instant, dice: &mut Dice) {
        let pause = FIRST_PAUSE
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + pause.mul_f64(1.0 - 0.25 * dice.part()));
    }

    fn holds(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// The zygotes by their generation.
#[derive(Debug, Default)]
pub(super) struct Zygotes {
    /// The last number given.
    newest: Generation,
    /// What spawned workers load; counts the changes of the pinned projects, from 1.
    preload: Generation,
    /// Started, not ready yet.
    loading: Option<Generation>,
    /// What workers are forked from.
    current: Option<Generation>,
    /// Replaced; each stays until its last worker has gone, because its exit would drop file locks they rely on.
    retired: Vec<Generation>,
    /// What the loading one should hold has changed since it started.
    stale: bool,
    /// The current one may not be forked from.
    pub refused: bool,
    pub backoff: Backoff,
}

impl Zygotes {
    pub fn new() -> Self {
        Self {
            preload: 1,
            ..Self::default()
        }
    }

    pub fn preload_changed(&mut self) {
        self.stale = true;
        self.preload += 1;
    }

    pub fn ready(&mut self, generation: Generation) {
        if self.loading != Some(generation) {
            return;
        }
        self.loading = None;
        self.refused = false;
        self.backoff = Backoff::default();
        self.retired.extend(self.current.replace(generation));
    }

    /// What is there already serves on; the rejected one is stopped.
    pub fn rejected(&mut self, generation: Generation) {
        if self.loading == Some(generation) {
            self.loading = None;
            self.retired.push(generation);
        }
    }

    /// A zygote that ends unasked leaves its workers without the locks they may rely on, so they become outdated as if
    /// a newer generation had come.
    pub fn exited(&mut self, now: Instant, generation: Generation, dice: &mut Dice) {
        self.retired.retain(|&retired| retired != generation);
        if self.loading == Some(generation) {
            self.loading = None;
            self.stale = true;
            self.backoff.failed(now, dice);
        } else if self.current == Some(generation) {
            self.current = None;
            self.stale = true;
        }
    }

    pub fn are_gone(&self) -> bool {
        self.current.is_none() && self.retired.is_empty()
    }

    /// Whether none is being made and none has to be.
    pub fn are_settled(&self, fork: bool) -> bool {
        self.loading.is_none() && (!self.stale || !fork)
    }
}

/// What inner requests need beyond the configured workers.
#[derive(Debug, Default)]
pub(super) struct Extra {
    workers: usize,
    pub until: Option<Instant>,
}

impl Pool {
    /// How a new worker is started now.
    pub(super) fn start(&self) -> Option<Start> {
        let spawn = Start::Spawn(self.zygotes.preload);
        match self.zygotes.current {
            _ if !self.policy.fork || self.zygotes.refused => Some(spawn),
            Some(generation) => Some(Start::Fork(generation)),
            // The first zygote is on its way: its workers will be there sooner than spawned ones.
            None if self.zygotes.backoff.failures == 0 => None,
            None => Some(spawn),
        }
    }

    pub(super) fn retire(&mut self, now: Instant, id: WorkerId, reason: ExitReason, actions: &mut Vec<Action>) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.leave(Some(reason), Some(now + self.policy.grace));
            actions.push(Action::Quit { worker: id });
        }
    }

    /// How many workers there should be; a closing pool keeps what there is as long as something waits. A worker that is
    /// alone is replaced only once the other is there: else nobody would serve when that one does not start.
    fn wanted(&self, now: Instant) -> usize {
        if !self.is_over() {
            let relief = self.policy.workers == 1 && self.to_replace(now, Worker::is_up).is_some();
            self.policy.workers + self.extra.workers + usize::from(relief)
        } else if self.lanes.is_empty() {
            0
        } else {
            self.policy.workers
        }
    }

    /// Follows what inner requests need.
    pub(super) fn stretch(&mut self, now: Instant) {
        let serving = self.workers.values().filter(|worker| worker.is_serving()).count();
        let free = |worker: &&Worker| worker.is_idle() || worker.is_starting() || worker.is_tending();
        let free = self.workers.values().filter(free).count();
        let needed = self.lanes.needed_beyond(&self.policy, serving, free);
        self.extra.workers = self.extra.workers.max(needed);
        if self.lanes.has_inner() {
            self.extra.until = Some(now + EXTRA_STAYS);
        } else if self.extra.until.is_some_and(|until| until <= now) {
            self.extra = Extra::default();
        }
    }

    /// Retires workers beyond the number wanted, as they have nothing to do; all of them when closing.
    pub(super) fn shrink(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let staying = self.workers.values().filter(|worker| !worker.is_leaving()).count();
        let surplus = staying.saturating_sub(self.wanted(now));
        let start = self.start();
        // First who is not ready yet, then who is outdated, then who knows least.
        let mut free: Vec<_> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.is_idle() || worker.is_starting())
            .map(|(&id, worker)| {
                (
                    (!worker.is_starting(), Some(worker.start) == start, worker.loaded.len()),
                    id,
                )
            })
            .collect();
        free.sort_unstable();
        for (_, id) in free.into_iter().take(surplus) {
            self.retire(now, id, ExitReason::Retired, actions);
        }
    }

    /// Sends one idle worker away that is of an older generation or has had its share, when no other is on its way. Where
    /// workers are lacking, starts fail, and who serves stays.
    pub(super) fn roll(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let moving = self
            .workers
            .values()
            .any(|worker| worker.is_starting() || worker.is_leaving());
        if self.closing || moving || self.workers.len() < self.wanted(now) {
            return;
        }
        if let Some((id, reason)) = self.to_replace(now, Worker::is_idle) {
            self.retire(now, id, reason, actions);
        }
    }

    /// Of the workers that `may_go`, the one that makes room for a fresh one next: who is of an older generation, then who
    /// has had its share.
    fn to_replace(&self, now: Instant, may_go: impl Fn(&Worker) -> bool) -> Option<(WorkerId, ExitReason)> {
        // Without a zygote that was meant to be there, what runs is the best there is.
        let helpless = self.policy.fork && !self.zygotes.refused && self.zygotes.current.is_none();
        let start = self.start().filter(|_| !helpless);
        let outdated = |worker: &Worker| start.is_some_and(|start| worker.start != start);
        let mut able = self.workers.iter().filter(|(_, worker)| may_go(worker));
        if let Some((&id, _)) = able.clone().find(|(_, worker)| outdated(worker)) {
            return Some((id, ExitReason::Retired));
        }
        let (&id, _) = able.find(|(_, worker)| worker.is_spent(now))?;
        Some((id, ExitReason::Recycled))
    }

    /// Starts the zygote that is wanted and stops those that nobody needs.
    pub(super) fn zygote(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let over = self.is_over();
        let zygotes = &mut self.zygotes;
        let unwanted = zygotes.newest > 0 && !zygotes.stale;
        if self.policy.fork && !over && zygotes.loading.is_none() && !unwanted && !zygotes.backoff.holds(now) {
            zygotes.newest += 1;
            zygotes.stale = false;
            zygotes.loading = Some(zygotes.newest);
            zygotes.backoff.until = None;
            actions.push(Action::StartZygote {
                generation: zygotes.newest,
            });
        }
        if over && self.workers.is_empty() {
            zygotes.retired.extend(zygotes.current.take());
            zygotes.retired.extend(zygotes.loading.take());
        }
        zygotes.retired.retain(|&generation| {
            let needed = self
                .workers
                .values()
                .any(|worker| worker.start == Start::Fork(generation));
            if !needed {
                actions.push(Action::StopZygote { generation });
            }
            needed
        });
    }

    /// Starts workers up to the number wanted, forked where that is possible.
    pub(super) fn fill(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.is_over() || self.starts.holds(now) {
            return;
        }
        self.starts.until = None;
        let Some(start) = self.start() else { return };
        let staying = self.workers.values().filter(|worker| !worker.is_leaving()).count();
        for _ in staying..self.wanted(now) {
            self.last_worker += 1;
            let worker = self.last_worker;
            let mut fresh = Worker::starting(start, now, now + self.policy.start_timeout);
            (fresh.max_requests, fresh.expires) = life(&mut self.dice, &self.policy, now);
            self.workers.insert(worker, fresh);
            actions.push(Action::StartWorker { worker, start });
        }
    }
}
