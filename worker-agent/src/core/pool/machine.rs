//! The state machine itself: what each event means for workers and requests.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use graticule_daemon::dice::Dice;

use super::choice::{best_idle, evicted, holds_off_until};
use super::exit::SIGKILL;
use super::lanes::{Charged, Lanes, Waiting};
use super::memory::{Memory, Verdict};
use super::overload::{hopeless_from, is_to_blame};
use super::starts::{Backoff, Extra, Zygotes};
use super::worker::{Job, Start, Worker};
use super::{Action, Event, ExitReason, ExitStatus, Policy, Refused, View, WorkerId, WorkerState};
use crate::core::lane::Lane;
use crate::core::pressure::FailurePressure;

/// From so many failed starts in a row on, an agent without a live worker is no longer ready.
const STARTS_THAT_MAY_FAIL: u32 = 3;

/// The pool. Feed it events with [`Pool::handle`] and call that with [`Event::Tick`] at [`Pool::next_wakeup`].
#[derive(Debug)]
pub struct Pool {
    pub(super) policy: Policy,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) last_worker: WorkerId,
    pub(super) lanes: Lanes,
    pub(super) zygotes: Zygotes,
    pub(super) starts: Backoff,
    pub(super) extra: Extra,
    pub(super) dice: Dice,
    /// Projects whose newest version cannot be loaded.
    pub(super) broken: BTreeSet<String>,
    /// Projects with which a worker died while it drew them for nobody.
    pub(super) left_cold: BTreeSet<String>,
    memory: Memory,
    pub(super) pressure: FailurePressure,
    /// When the last event happened.
    now: Option<Instant>,
    /// All workers have been up at once.
    complete: bool,
    pub(super) closing: bool,
    gave_up: bool,
}

impl Pool {
    /// An empty pool; the first event, any, makes it start.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            pressure: FailurePressure::new(policy.failure_window),
            dice: Dice::seeded(policy.seed),
            policy,
            workers: BTreeMap::new(),
            last_worker: 0,
            lanes: Lanes::default(),
            zygotes: Zygotes::new(),
            starts: Backoff::default(),
            extra: Extra::default(),
            broken: BTreeSet::new(),
            left_cold: BTreeSet::new(),
            memory: Memory::default(),
            now: None,
            complete: false,
            closing: false,
            gave_up: false,
        }
    }

    /// Takes an event that happened at `now` and says what is to be done, in order.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.now = Some(now);
        match event {
            Event::Arrived {
                ticket,
                project,
                lane,
                depth,
                deadline,
                again,
            } => {
                if !again {
                    self.lanes.costs.asked(&project);
                }
                let waiting = Waiting {
                    ticket,
                    project,
                    lane,
                    depth: depth.min(self.policy.max_depth),
                    since: now,
                    deadline,
                };
                self.lanes.push(waiting, again);
            }
            Event::Left { ticket } => self.left(now, ticket, &mut actions),
            Event::Finished {
                worker,
                answered,
                loaded,
            } => self.finished(now, worker, answered, loaded),
            Event::Broken { worker } => self.broken(now, worker, &mut actions),
            Event::Ready { worker, pinned } => self.ready(now, worker, pinned),
            Event::ForkRefused { worker } => {
                self.zygotes.refused = true;
                self.workers.remove(&worker);
            }
            Event::Exited { worker, status } => {
                if let Some(mut gone) = self.workers.remove(&worker) {
                    self.left_cold.extend(gone.chores.warming.take());
                    self.settle(now, gone.job.take(), false);
                    let reason = self.reason(&gone, status);
                    self.gone(now, worker, reason, gone.is_starting(), &mut actions);
                }
            }
            Event::Changed { project } => self.changed(&project),
            Event::Unloadable { project } => self.unloadable(project),
            Event::CheckOut { project } => self.check_out(&project),
            Event::Drop { project } => self.forget(project.as_deref()),
            Event::Tended { worker, outcome } => self.tended(now, worker, outcome),
            Event::PreloadChanged => {
                self.left_cold.clear();
                self.zygotes.preload_changed();
            }
            Event::ZygoteReady { generation } => self.zygotes.ready(generation),
            Event::ZygoteRejected { generation } => self.zygotes.rejected(generation),
            Event::ZygoteExited { generation } => self.zygotes.exited(now, generation, &mut self.dice),
            Event::Resize { workers } => self.policy.workers = workers.max(1),
            Event::Adopt { policy } => self.adopt(&policy),
            Event::Weighed { worker, bytes } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.private_bytes = bytes;
                }
            }
            Event::Machine { total, used } => {
                self.memory.machine(total, used);
                self.shed(now, &mut actions);
            }
            Event::Close => self.closing = true,
            Event::Tick => {}
        }
        self.expire(now, &mut actions);
        self.judge_memory(now, &mut actions);
        self.stretch(now);
        self.shrink(now, &mut actions);
        self.roll(now, &mut actions);
        self.zygote(now, &mut actions);
        self.fill(now, &mut actions);
        self.tend(now, &mut actions);
        if self.warms_up_first(now) {
            self.warm_up(now, &mut actions);
        }
        self.dispatch(now, &mut actions);
        if self.lanes.is_empty() {
            self.warm_up(now, &mut actions);
        }
        actions
    }

    /// When [`Event::Tick`] is needed at the latest.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        let workers = self.workers.values().filter_map(Worker::due);
        let queue = self.lanes.iter().map(|waiting| {
            let hopeless = hopeless_from(waiting, &self.lanes.costs);
            hopeless.map_or(waiting.deadline, |from| from.min(waiting.deadline))
        });
        // Without an idle worker nobody has a choice.
        let choosers = self.workers.values().any(Worker::is_idle).then(|| self.lanes.iter());
        let patience = choosers
            .into_iter()
            .flatten()
            .filter_map(|waiting| self.patience_of(waiting));
        // What is due and was not done waits for something else to happen.
        let later = |at: &Instant| self.now.is_none_or(|now| *at > now);
        let pauses = [
            self.starts.until,
            self.zygotes.backoff.until,
            self.extra.until,
            self.pressure.next_change(),
        ];
        workers
            .chain(queue)
            .chain(patience)
            .chain(pauses.into_iter().flatten())
            .filter(later)
            .min()
    }

    /// The pool as it stands.
    pub fn view(&mut self, now: Instant) -> View {
        let live = self.workers.values().filter(|worker| worker.is_up()).count();
        let start = self.start();
        let pressure = self.pressure.at(now, self.policy.workers);
        View {
            workers: self.workers.iter().map(|(&id, worker)| worker.view(id, now)).collect(),
            capacity: self.policy.workers,
            live,
            busy: self.serving(),
            waiting: self.lanes.len(),
            lanes: self.lanes.view(&self.policy),
            memory: self.memory.view(&self.policy.memory, self.policy.workers),
            failure_pressure: pressure,
            degraded: pressure > self.policy.max_failure_pressure / 2.0,
            start,
            ready: self.complete && !self.is_over() && (live > 0 || self.starts.failures < STARTS_THAT_MAY_FAIL),
            settled: self.zygotes.are_settled(self.policy.fork)
                && !self.will_warm_up(now)
                && self
                    .workers
                    .values()
                    .all(|worker| Some(worker.start) == start && !worker.is_leaving()),
        }
    }

    /// Whether every worker and zygote of a closed pool has gone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty() && self.zygotes.are_gone()
    }

    /// Whether nothing new is started any more.
    pub(super) fn is_over(&self) -> bool {
        self.closing || self.gave_up
    }

    fn serving(&self) -> usize {
        self.workers.values().filter(|worker| worker.is_serving()).count()
    }

    /// Writes down what a request has cost, whatever became of it. One that made its worker load the project (`cold`) says
    /// little of what the next one will cost.
    fn settle(&mut self, now: Instant, job: Option<Job>, cold: bool) {
        let Some(Job { since, charged, .. }) = job else { return };
        let took = now.saturating_duration_since(since);
        if !cold {
            self.lanes.costs.was_busy(&charged.project, charged.lane, took);
        }
        self.lanes.done(&self.policy, &charged, took);
    }

    fn left(&mut self, now: Instant, ticket: super::Ticket, actions: &mut Vec<Action>) {
        self.lanes.retain(|waiting| waiting.ticket != ticket);
        let kill_at = now + self.policy.grace;
        for (&id, worker) in &mut self.workers {
            let has_it = worker.job.as_ref().is_some_and(|job| job.ticket == ticket);
            if has_it && matches!(worker.state, WorkerState::Busy { .. }) {
                worker.state = WorkerState::Cancelling {
                    kill_at,
                    verdict: ExitReason::Abandoned,
                };
                actions.push(Action::Cancel {
                    worker: id,
                    expired: false,
                    blamed: false,
                });
            }
        }
    }

    fn finished(&mut self, now: Instant, id: WorkerId, answered: bool, loaded: Option<(String, Duration)>) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.is_serving()) else {
            return;
        };
        let answered = answered && matches!(worker.state, WorkerState::Busy { .. });
        worker.state = WorkerState::Idle { since: now };
        worker.served += 1;
        let job = worker.job.take();
        let cold = loaded.is_some();
        if let (Some((project, load)), Some(job)) = (loaded, &job) {
            // A project that was just loaded also draws more slowly: files are opened, caches are cold.
            let warm = Duration::from_secs_f64(self.lanes.costs.busy(&project, job.charged.lane));
            let more = now.saturating_duration_since(job.since).saturating_sub(warm);
            self.lanes.costs.loaded(&project, load.max(more));
            let relieved = worker.chores.is_current(&project);
            self.broken.remove(&project);
            if !worker.holds(&project) {
                worker.loaded.push(project.clone());
            }
            self.relieve(relieved, &project);
        }
        if let Some(Job { since, charged, .. }) = job.as_ref().filter(|_| answered && !cold) {
            let took = now.saturating_duration_since(*since);
            self.lanes.costs.answered(&charged.project, charged.lane, took);
        }
        self.settle(now, job, cold);
    }

    fn broken(&mut self, now: Instant, id: WorkerId, actions: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.is_leaving()) else {
            return;
        };
        let verdict = worker.is_starting().then_some(ExitReason::Start);
        let job = worker.leave(verdict, None);
        actions.push(Action::Kill { worker: id });
        self.settle(now, job, false);
    }

    fn kill(&mut self, now: Instant, id: WorkerId, verdict: ExitReason, actions: &mut Vec<Action>) {
        let job = self.workers.get_mut(&id).and_then(|worker| {
            self.left_cold.extend(worker.chores.warming.take());
            worker.leave(Some(verdict), None)
        });
        actions.push(Action::Kill { worker: id });
        self.settle(now, job, false);
    }

    fn ready(&mut self, now: Instant, id: WorkerId, pinned: Vec<String>) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.is_starting()) else {
            return;
        };
        worker.state = WorkerState::Idle { since: now };
        for project in &pinned {
            self.broken.remove(project);
        }
        if self.policy.warm_up && matches!(worker.start, Start::Fork(_)) {
            worker.chores.warm.clone_from(&pinned);
        }
        worker.pinned = pinned;
        self.starts = Backoff::default();
        let live = self.workers.values().filter(|worker| worker.is_up()).count();
        self.complete |= live >= self.policy.workers;
    }

    /// What a worker's end means. A SIGKILL that the agent did not send, when memory was short, was the kernel's.
    fn reason(&self, worker: &Worker, status: ExitStatus) -> ExitReason {
        let reason = worker.reason(status);
        let (limits, workers) = (&self.policy.memory, self.policy.workers);
        if reason == (ExitReason::Crash { signal: SIGKILL })
            && self.memory.was_short(limits, workers, worker.private_bytes)
        {
            return ExitReason::Memory;
        }
        reason
    }

    fn gone(&mut self, now: Instant, worker: WorkerId, reason: ExitReason, starting: bool, actions: &mut Vec<Action>) {
        actions.push(Action::Gone { worker, reason });
        if starting || reason == ExitReason::Start {
            self.starts.failed(now, &mut self.dice);
        }
        if !reason.is_failure() {
            return;
        }
        self.pressure.failed(now);
        let pressure = self.pressure.at(now, self.policy.workers);
        // Starts that fail do not end an agent of which a worker serves: that one would be lost as well, and the next agent's
        // workers might not start either.
        let spared = reason == ExitReason::Start && self.workers.values().any(Worker::is_up);
        if pressure > self.policy.max_failure_pressure && !spared && !self.gave_up {
            self.gave_up = true;
            actions.push(Action::GiveUp { pressure });
        }
    }

    /// Answers what has waited too long, cancels what has run too long, kills what would not stop.
    fn expire(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let closed = self.gave_up || (self.closing && self.workers.values().all(Worker::is_leaving));
        // Nothing is started for an inner request any more, and whom it waits for may be waiting for it.
        let no_inner = self.closing && !self.workers.values().any(Worker::is_idle);
        self.lanes.retain(|waiting| {
            let why = if waiting.deadline <= now {
                Refused::Deadline
            } else if closed || (no_inner && waiting.lane == Lane::Inner) {
                Refused::Closing
            } else {
                return true;
            };
            actions.push(Action::Refuse {
                ticket: waiting.ticket,
                why,
            });
            false
        });
        for ticket in self.lanes.drop_hopeless(now) {
            let retry_after = self.lanes.retry_after(self.policy.workers);
            let why = Refused::QueueFull { retry_after };
            actions.push(Action::Refuse { ticket, why });
        }
        let due: Vec<(WorkerId, WorkerState)> = self
            .workers
            .iter()
            .filter(|(_, worker)| !worker.is_idle() && worker.due().is_some_and(|at| at <= now))
            .map(|(&id, worker)| (id, worker.state))
            .collect();
        for (id, state) in due {
            match state {
                WorkerState::Starting { .. } => self.kill(now, id, ExitReason::Start, actions),
                WorkerState::Tending { .. } => self.kill(now, id, ExitReason::Deadline, actions),
                WorkerState::Cancelling { verdict, .. } => self.kill(now, id, verdict, actions),
                WorkerState::Busy { .. } => {
                    let Some(worker) = self.workers.get_mut(&id) else {
                        continue;
                    };
                    let job = worker.job.as_ref();
                    let blamed = job.is_some_and(|job| is_to_blame(job, now, &self.lanes.costs));
                    worker.state = WorkerState::Cancelling {
                        kill_at: now + self.policy.grace,
                        verdict: if blamed {
                            ExitReason::Deadline
                        } else {
                            ExitReason::Abandoned
                        },
                    };
                    actions.push(Action::Cancel {
                        worker: id,
                        expired: true,
                        blamed,
                    });
                }
                WorkerState::Leaving { .. } => {
                    if let Some(worker) = self.workers.get_mut(&id) {
                        worker.leave(None, None);
                    }
                    actions.push(Action::Kill { worker: id });
                }
                WorkerState::Idle { .. } => {}
            }
        }
    }

    /// Ends workers that take more than they may; those that take much go when they are idle.
    fn judge_memory(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let (limits, workers) = (self.policy.memory, self.policy.workers);
        let mut over = Vec::new();
        for (&id, worker) in self.workers.iter_mut().filter(|(_, worker)| !worker.is_leaving()) {
            match self.memory.judge(&limits, workers, worker.private_bytes) {
                Verdict::Fine => worker.outgrown = false,
                Verdict::Recycle => worker.outgrown = true,
                Verdict::Kill => over.push(id),
            }
        }
        for id in over {
            self.kill(now, id, ExitReason::Memory, actions);
        }
    }

    /// When the machine runs out of memory, the largest worker goes.
    fn shed(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let staying = self.workers.iter().filter(|(_, worker)| !worker.is_leaving());
        let largest = staying.max_by_key(|(_, worker)| worker.private_bytes);
        let Some((&id, worker)) = largest else { return };
        let (bytes, idle) = (worker.private_bytes, worker.is_idle());
        if !self.memory.must_shrink(now, &self.policy.memory, bytes) {
            return;
        }
        if idle {
            self.retire(now, id, ExitReason::Recycled, actions);
        } else {
            self.kill(now, id, ExitReason::Memory, actions);
        }
    }

    /// Hands out what waits, as the lanes have it, and refuses what may not wait.
    fn dispatch(&mut self, now: Instant, actions: &mut Vec<Action>) {
        while self.workers.values().any(Worker::is_idle) {
            let serving = self.serving();
            let Some((waiting, charged)) = self.next(now, serving) else {
                break;
            };
            let (project, most) = (&waiting.project, self.policy.max_projects);
            let Some(id) = best_idle(&self.workers, project, &self.lanes.costs, &self.broken, most) else {
                break;
            };
            let evict = evicted(&self.workers, id, project, &self.lanes.costs, &self.broken, most);
            let Some(worker) = self.workers.get_mut(&id) else { break };
            worker.state = WorkerState::Busy {
                deadline: waiting.deadline,
            };
            worker.job = Some(Job {
                ticket: waiting.ticket,
                since: now,
                allowed: waiting.deadline.saturating_duration_since(waiting.since),
                charged,
            });
            worker.loaded.retain(|held| !evict.contains(held));
            worker.touch(&waiting.project);
            actions.push(Action::Assign {
                ticket: waiting.ticket,
                worker: id,
                evict,
            });
        }
        while let Some(waiting) = self.lanes.overflow(self.policy.max_waiting) {
            actions.push(Action::Refuse {
                ticket: waiting.ticket,
                why: Refused::QueueFull {
                    retry_after: self.lanes.retry_after(self.policy.workers),
                },
            });
        }
    }

    fn next(&mut self, now: Instant, serving: usize) -> Option<(Waiting, Charged)> {
        let (lane, flow) = self
            .lanes
            .pick(&self.policy, serving, |waiting| self.holds_off(now, waiting))?;
        self.lanes.give(&self.policy, lane, &flow)
    }

    /// Until when a request rather waits for a worker that is busy now, if it does.
    fn patience_of(&self, waiting: &Waiting) -> Option<Instant> {
        let most = self.policy.max_projects;
        holds_off_until(self.workers.values(), waiting, &self.lanes.costs, &self.broken, most)
    }

    fn holds_off(&self, now: Instant, waiting: &Waiting) -> bool {
        self.patience_of(waiting).is_some_and(|until| now < until)
    }

    /// Asserts what must hold after every event; simulations call it.
    #[cfg(test)]
    pub(super) fn check_invariants(&mut self) {
        let serving: Vec<&Worker> = self.workers.values().filter(|worker| worker.is_serving()).collect();
        assert!(
            self.workers
                .values()
                .all(|worker| worker.is_serving() == worker.job.is_some()),
            "who serves has a request, and nobody else"
        );
        let jobs: Vec<&Job> = serving.iter().filter_map(|worker| worker.job.as_ref()).collect();
        let mut tickets: Vec<super::Ticket> = jobs.iter().map(|job| job.ticket).collect();
        tickets.extend(self.lanes.iter().map(|waiting| waiting.ticket));
        let count = tickets.len();
        tickets.sort_unstable();
        tickets.dedup();
        assert_eq!(tickets.len(), count, "a request is in one place only");
        let charged: Vec<_> = jobs.iter().map(|job| &job.charged).collect();
        self.lanes.check_invariants(&self.policy, &charged);
        // Who serves drops what is above a new bound afterwards, and a closing pool drops nothing.
        for worker in self
            .workers
            .values()
            .filter(|worker| worker.is_idle() && !self.is_over())
        {
            assert!(
                worker.loaded.len() <= self.policy.max_projects.max(1),
                "a worker keeps its bound of projects"
            );
        }
        let staying = self.workers.values().filter(|worker| !worker.is_leaving()).count();
        // One that is alone stays until the other is there.
        let most = self.policy.workers.max(2) + self.policy.max_depth as usize;
        let at_work = |worker: &&Worker| worker.is_serving() || worker.is_tending();
        let at_work = self.workers.values().filter(at_work).count();
        assert!(staying <= most.max(at_work), "no more workers than wanted");
        let serving = serving.len();
        if self.workers.values().any(Worker::is_idle) {
            let now = self.now.expect("something has happened");
            let next = self
                .lanes
                .pick(&self.policy, serving, |waiting| self.holds_off(now, waiting));
            assert!(next.is_none(), "nothing that may go waits while a worker is idle");
        }
    }
}
