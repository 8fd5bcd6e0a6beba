//! The state machine itself.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::worker::Worker;
use super::{Action, Event, ExitReason, Generation, Policy, Refused, Start, Ticket, View, WorkerId, WorkerState};
use crate::core::pressure::FailurePressure;

/// The pause after the first failed start in a row; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between starts that keep failing.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// From so many failed starts in a row on, an agent without a live worker is no longer ready.
const STARTS_THAT_MAY_FAIL: u32 = 3;

/// A request without a worker.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    project: String,
    deadline: Instant,
}

/// Failures in a row and when the next try may be.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    fn failed(&mut self, now: Instant) {
        let pause = FIRST_PAUSE
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + pause);
    }

    fn holds(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// The zygotes by their generation.
#[derive(Debug, Default)]
struct Zygotes {
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
    refused: bool,
    backoff: Backoff,
}

/// The pool. Feed it events with [`Pool::handle`] and call that with [`Event::Tick`] at [`Pool::next_wakeup`].
#[derive(Debug)]
pub struct Pool {
    policy: Policy,
    workers: BTreeMap<WorkerId, Worker>,
    last_worker: WorkerId,
    waiting: VecDeque<Waiting>,
    zygotes: Zygotes,
    starts: Backoff,
    pressure: FailurePressure,
    /// All workers have been up at once.
    complete: bool,
    closing: bool,
    gave_up: bool,
}

impl Pool {
    /// An empty pool; the first event, any, makes it start.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            pressure: FailurePressure::new(policy.failure_window),
            policy,
            workers: BTreeMap::new(),
            last_worker: 0,
            waiting: VecDeque::new(),
            zygotes: Zygotes {
                preload: 1,
                ..Zygotes::default()
            },
            starts: Backoff::default(),
            complete: false,
            closing: false,
            gave_up: false,
        }
    }

    /// Takes an event that happened at `now` and says what is to be done, in order.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Arrived {
                ticket,
                project,
                deadline,
            } => {
                self.waiting.push_back(Waiting {
                    ticket,
                    project,
                    deadline,
                });
            }
            Event::Left { ticket } => self.left(now, ticket, &mut actions),
            Event::Finished { worker, loaded } => self.finished(now, worker, loaded),
            Event::Broken { worker } => self.broken(worker, &mut actions),
            Event::Ready { worker, pinned } => self.ready(now, worker, pinned),
            Event::ForkRefused { worker } => {
                self.zygotes.refused = true;
                self.workers.remove(&worker);
            }
            Event::Exited { worker, status } => {
                if let Some(gone) = self.workers.remove(&worker) {
                    self.gone(now, worker, gone.reason(status), gone.is_starting(), &mut actions);
                }
            }
            Event::PreloadChanged => {
                self.zygotes.stale = true;
                self.zygotes.preload += 1;
            }
            Event::ZygoteReady { generation } => self.zygote_ready(generation),
            Event::ZygoteExited { generation } => self.zygote_exited(now, generation),
            Event::Resize { workers } => self.policy.workers = workers.max(1),
            Event::Close => self.closing = true,
            Event::Tick => {}
        }
        self.expire(now, &mut actions);
        self.shrink(now, &mut actions);
        self.roll(now, &mut actions);
        self.zygote(now, &mut actions);
        self.fill(now, &mut actions);
        self.dispatch(now, &mut actions);
        actions
    }

    /// When [`Event::Tick`] is needed at the latest.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        let workers = self.workers.values().filter_map(Worker::due);
        let queue = self.waiting.iter().map(|waiting| waiting.deadline);
        let pauses = [
            self.starts.until,
            self.zygotes.backoff.until,
            self.pressure.next_change(),
        ];
        workers.chain(queue).chain(pauses.into_iter().flatten()).min()
    }

    /// The pool as it stands.
    pub fn view(&mut self, now: Instant) -> View {
        let live = self
            .workers
            .values()
            .filter(|worker| worker.is_idle() || worker.is_serving())
            .count();
        let start = self.start();
        View {
            workers: self.workers.iter().map(|(&id, worker)| worker.view(id, now)).collect(),
            capacity: self.policy.workers,
            live,
            busy: self.workers.values().filter(|worker| worker.is_serving()).count(),
            waiting: self.waiting.len(),
            failure_pressure: self.pressure.at(now, self.policy.workers),
            start,
            ready: self.complete
                && !self.closing
                && !self.gave_up
                && (live > 0 || self.starts.failures < STARTS_THAT_MAY_FAIL),
            settled: self.zygotes.loading.is_none()
                && (!self.zygotes.stale || !self.policy.fork)
                && self
                    .workers
                    .values()
                    .all(|worker| Some(worker.start) == start && !worker.is_leaving()),
        }
    }

    /// Whether every worker and zygote of a closed pool has gone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty() && self.zygotes.current.is_none() && self.zygotes.retired.is_empty()
    }

    /// How a new worker is started now.
    fn start(&self) -> Option<Start> {
        let spawn = Start::Spawn(self.zygotes.preload);
        match self.zygotes.current {
            _ if !self.policy.fork || self.zygotes.refused => Some(spawn),
            Some(generation) => Some(Start::Fork(generation)),
            // The first zygote is on its way: its workers will be there sooner than spawned ones.
            None if self.zygotes.backoff.failures == 0 => None,
            None => Some(spawn),
        }
    }

    fn left(&mut self, now: Instant, ticket: Ticket, actions: &mut Vec<Action>) {
        self.waiting.retain(|waiting| waiting.ticket != ticket);
        for (&id, worker) in &mut self.workers {
            if let WorkerState::Busy {
                ticket: busy, since, ..
            } = worker.state
                && busy == ticket
            {
                let kill_at = now + self.policy.grace;
                worker.state = WorkerState::Cancelling {
                    ticket,
                    since,
                    kill_at,
                    verdict: ExitReason::Abandoned,
                };
                actions.push(Action::Cancel {
                    worker: id,
                    expired: false,
                });
            }
        }
    }

    fn finished(&mut self, now: Instant, id: WorkerId, loaded: Option<String>) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.is_serving()) else {
            return;
        };
        worker.state = WorkerState::Idle { since: now };
        worker.served += 1;
        if let Some(project) = loaded
            && !worker.holds(&project)
        {
            worker.loaded.push(project);
        }
    }

    fn broken(&mut self, id: WorkerId, actions: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.is_leaving()) else {
            return;
        };
        if worker.is_starting() {
            worker.verdict = Some(ExitReason::Start);
        }
        worker.state = WorkerState::Leaving { kill_at: None };
        actions.push(Action::Kill { worker: id });
    }

    fn ready(&mut self, now: Instant, id: WorkerId, pinned: Vec<String>) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.is_starting()) else {
            return;
        };
        worker.state = WorkerState::Idle { since: now };
        worker.pinned = pinned;
        self.starts = Backoff::default();
        let live = self
            .workers
            .values()
            .filter(|worker| worker.is_idle() || worker.is_serving())
            .count();
        self.complete |= live >= self.policy.workers;
    }

    fn gone(&mut self, now: Instant, worker: WorkerId, reason: ExitReason, starting: bool, actions: &mut Vec<Action>) {
        actions.push(Action::Gone { worker, reason });
        if starting || reason == ExitReason::Start {
            self.starts.failed(now);
        }
        if !reason.is_failure() {
            return;
        }
        self.pressure.failed(now);
        let pressure = self.pressure.at(now, self.policy.workers);
        if pressure > self.policy.max_failure_pressure && !self.gave_up {
            self.gave_up = true;
            actions.push(Action::GiveUp { pressure });
        }
    }

    fn zygote_ready(&mut self, generation: Generation) {
        if self.zygotes.loading != Some(generation) {
            return;
        }
        self.zygotes.loading = None;
        self.zygotes.refused = false;
        self.zygotes.backoff = Backoff::default();
        self.zygotes.retired.extend(self.zygotes.current.replace(generation));
    }

    /// A zygote that ends unasked leaves its workers without the locks they may rely on, so they become outdated as if
    /// a newer generation had come.
    fn zygote_exited(&mut self, now: Instant, generation: Generation) {
        self.zygotes.retired.retain(|&retired| retired != generation);
        if self.zygotes.loading == Some(generation) {
            self.zygotes.loading = None;
            self.zygotes.stale = true;
            self.zygotes.backoff.failed(now);
        } else if self.zygotes.current == Some(generation) {
            self.zygotes.current = None;
            self.zygotes.stale = true;
        }
    }

    /// Answers what has waited too long, cancels what has run too long, kills what would not stop.
    fn expire(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let closed = self.gave_up || (self.closing && self.workers.values().all(Worker::is_leaving));
        self.waiting.retain(|waiting| {
            let why = if waiting.deadline <= now {
                Refused::Deadline
            } else if closed {
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
        for (&id, worker) in &mut self.workers {
            match worker.state {
                WorkerState::Starting { until } if until <= now => {
                    worker.verdict = Some(ExitReason::Start);
                    worker.state = WorkerState::Leaving { kill_at: None };
                    actions.push(Action::Kill { worker: id });
                }
                WorkerState::Busy {
                    ticket,
                    since,
                    deadline,
                } if deadline <= now => {
                    let kill_at = now + self.policy.grace;
                    worker.state = WorkerState::Cancelling {
                        ticket,
                        since,
                        kill_at,
                        verdict: ExitReason::Deadline,
                    };
                    actions.push(Action::Cancel {
                        worker: id,
                        expired: true,
                    });
                }
                WorkerState::Cancelling { kill_at, verdict, .. } if kill_at <= now => {
                    worker.verdict = Some(verdict);
                    worker.state = WorkerState::Leaving { kill_at: None };
                    actions.push(Action::Kill { worker: id });
                }
                WorkerState::Leaving { kill_at: Some(at) } if at <= now => {
                    worker.state = WorkerState::Leaving { kill_at: None };
                    actions.push(Action::Kill { worker: id });
                }
                _ => {}
            }
        }
    }

    fn retire(&mut self, now: Instant, id: WorkerId, actions: &mut Vec<Action>) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.verdict = Some(ExitReason::Retired);
            worker.state = WorkerState::Leaving {
                kill_at: Some(now + self.policy.grace),
            };
            actions.push(Action::Quit { worker: id });
        }
    }

    /// Retires workers beyond the number wanted, as they have nothing to do; all of them when closing.
    fn shrink(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let over = self.closing || self.gave_up;
        let wanted = if over { 0 } else { self.policy.workers };
        let serves_queue = over && !self.waiting.is_empty();
        let staying = self.workers.values().filter(|worker| !worker.is_leaving()).count();
        let surplus = staying.saturating_sub(wanted);
        let idle = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.is_idle() || worker.is_starting());
        let leaving: Vec<WorkerId> = idle
            .map(|(&id, _)| id)
            .take(if serves_queue { 0 } else { surplus })
            .collect();
        for id in leaving {
            self.retire(now, id, actions);
        }
    }

    /// Moves one idle worker of an older generation on, when no other is on its way.
    fn roll(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // Without a zygote that was meant to be there, what runs is the best there is.
        let helpless = self.policy.fork && !self.zygotes.refused && self.zygotes.current.is_none();
        let moving = self
            .workers
            .values()
            .any(|worker| worker.is_starting() || worker.is_leaving());
        let Some(start) = self.start().filter(|_| !self.closing && !helpless && !moving) else {
            return;
        };
        let outdated = self
            .workers
            .iter()
            .find(|(_, worker)| worker.is_idle() && worker.start != start);
        if let Some((&id, _)) = outdated {
            self.retire(now, id, actions);
        }
    }

    /// Starts the zygote that is wanted and stops those that nobody needs.
    fn zygote(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let over = self.closing || self.gave_up;
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
    fn fill(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.closing || self.gave_up || self.starts.holds(now) {
            return;
        }
        self.starts.until = None;
        let Some(start) = self.start() else { return };
        let staying = self.workers.values().filter(|worker| !worker.is_leaving()).count();
        for _ in staying..self.policy.workers {
            self.last_worker += 1;
            let worker = self.last_worker;
            self.workers
                .insert(worker, Worker::starting(start, now + self.policy.start_timeout));
            actions.push(Action::StartWorker { worker, start });
        }
    }

    /// Hands out what waits, first come first served, and refuses what may not wait.
    fn dispatch(&mut self, now: Instant, actions: &mut Vec<Action>) {
        while let Some(waiting) = self.waiting.front() {
            let Some(id) = self.best_idle(&waiting.project) else {
                break;
            };
            let Some(Waiting {
                ticket,
                project,
                deadline,
            }) = self.waiting.pop_front()
            else {
                break;
            };
            let Some(worker) = self.workers.get_mut(&id) else { break };
            worker.state = WorkerState::Busy {
                ticket,
                since: now,
                deadline,
            };
            let evict = worker.take(&project, self.policy.max_projects);
            actions.push(Action::Assign {
                ticket,
                worker: id,
                evict,
            });
        }
        while self.waiting.len() > self.policy.max_waiting {
            if let Some(waiting) = self.waiting.pop_back() {
                actions.push(Action::Refuse {
                    ticket: waiting.ticket,
                    why: Refused::QueueFull,
                });
            }
        }
    }

    /// The idle worker that holds the project, else the one with the fewest, else the one that was used last, so that
    /// the others' memory can rest.
    fn best_idle(&self, project: &str) -> Option<WorkerId> {
        self.workers
            .iter()
            .filter_map(|(&id, worker)| match worker.state {
                WorkerState::Idle { since } => Some((
                    (!worker.holds(project), worker.loaded.len(), std::cmp::Reverse(since)),
                    id,
                )),
                _ => None,
            })
            .min()
            .map(|(_, id)| id)
    }

    /// Asserts what must hold after every event; simulations call it.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        let mut tickets: Vec<Ticket> = self.workers.values().filter_map(Worker::ticket).collect();
        tickets.extend(self.waiting.iter().map(|waiting| waiting.ticket));
        let count = tickets.len();
        tickets.sort_unstable();
        tickets.dedup();
        assert_eq!(tickets.len(), count, "a request is in one place only");
        assert!(
            self.waiting.len() <= self.policy.max_waiting,
            "the queue keeps its bound"
        );
        assert!(
            self.waiting.is_empty() || !self.workers.values().any(Worker::is_idle),
            "nothing waits while a worker is idle"
        );
        for worker in self.workers.values() {
            assert!(
                worker.loaded.len() <= self.policy.max_projects.max(1),
                "a worker keeps its bound of projects"
            );
        }
        let staying = self.workers.values().filter(|worker| !worker.is_leaving()).count();
        let serving = self.workers.values().filter(|worker| worker.is_serving()).count();
        assert!(
            staying <= self.policy.workers.max(serving),
            "no more workers than wanted"
        );
    }
}
