//! Scenarios, one per rule.

use std::time::{Duration, Instant};

use super::*;

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn policy() -> Policy {
    Policy {
        workers: 2,
        max_waiting: 2,
        start_timeout: 10 * SECOND,
        grace: 3 * SECOND,
        failure_window: 60 * SECOND,
        max_failure_pressure: 2.0,
        fork: true,
        max_projects: 2,
        interactive: Share {
            guaranteed: 0.5,
            maximum: 1.0,
        },
        heavy: Share {
            guaranteed: 0.0,
            maximum: 0.5,
        },
        max_depth: 2,
        memory: MemoryLimits {
            soft: None,
            hard: None,
            high_water_mark: 0.9,
        },
        warm_up: false,
        max_requests: None,
        max_age: None,
        seed: 1,
    }
}

pub(super) struct Run {
    pub pool: Pool,
    pub now: Instant,
}

impl Run {
    pub fn new(policy: Policy) -> Self {
        Self {
            pool: Pool::new(policy),
            now: Instant::now(),
        }
    }

    /// A pool with its workers, 1 and up, forked from generation 1 and idle.
    pub fn running(policy: Policy) -> Self {
        let workers = 1..=policy.workers as WorkerId;
        let mut run = Self::new(policy);
        assert_eq!(run.on(Event::Tick), [Action::StartZygote { generation: 1 }]);
        let starts: Vec<Action> = workers.clone().map(|worker| start(worker, Start::Fork(1))).collect();
        assert_eq!(run.on(Event::ZygoteReady { generation: 1 }), starts);
        for worker in workers {
            run.on(ready(worker));
        }
        assert!(run.pool.view(run.now).ready);
        run
    }

    pub fn on(&mut self, event: Event) -> Vec<Action> {
        let actions = self.pool.handle(self.now, event);
        self.pool.check_invariants();
        actions
    }

    pub fn later(&mut self, by: Duration) -> Vec<Action> {
        self.now += by;
        self.on(Event::Tick)
    }

    pub fn arrive(&mut self, ticket: Ticket, project: &str) -> Vec<Action> {
        self.ask(ticket, project, Lane::Interactive, 0)
    }

    pub fn ask(&mut self, ticket: Ticket, project: &str, lane: Lane, depth: u32) -> Vec<Action> {
        let deadline = self.now + 20 * SECOND;
        self.on(Event::Arrived {
            ticket,
            project: project.into(),
            lane,
            depth,
            deadline,
            again: false,
        })
    }
}

pub(super) fn start(worker: WorkerId, start: Start) -> Action {
    Action::StartWorker { worker, start }
}

pub(super) fn ready(worker: WorkerId) -> Event {
    Event::Ready {
        worker,
        pinned: vec!["/pin".into()],
    }
}

pub(super) fn finished(worker: WorkerId, loaded: Option<&str>) -> Event {
    Event::Finished {
        worker,
        answered: true,
        loaded: loaded.map(|project| (project.to_owned(), Duration::ZERO)),
    }
}

pub(super) fn assign(ticket: Ticket, worker: WorkerId) -> Action {
    Action::Assign {
        ticket,
        worker,
        evict: vec![],
    }
}

pub(super) fn gone(worker: WorkerId, reason: ExitReason) -> Action {
    Action::Gone { worker, reason }
}

pub(super) fn crashed(worker: WorkerId) -> Event {
    Event::Exited {
        worker,
        status: ExitStatus::Signal(11),
    }
}

pub(super) fn left(worker: WorkerId) -> Event {
    Event::Exited {
        worker,
        status: ExitStatus::Code(0),
    }
}

#[test]
fn a_request_goes_to_the_idle_worker_that_has_its_project() {
    let mut run = Run::running(policy());
    assert_eq!(run.arrive(1, "/a"), [assign(1, 1)]);
    run.on(finished(1, Some("/a")));
    assert_eq!(
        run.arrive(2, "/b"),
        [assign(2, 2)],
        "the worker with the fewest projects"
    );
    run.on(finished(2, Some("/b")));
    assert_eq!(run.arrive(3, "/a"), [assign(3, 1)]);
    assert_eq!(run.arrive(4, "/a"), [assign(4, 2)], "rather a load than a wait");
}

#[test]
fn a_worker_evicts_what_it_used_longest_ago_and_never_a_pinned_project() {
    let mut run = Run::running(Policy { workers: 1, ..policy() });
    for (ticket, project) in [(1, "/a"), (2, "/b"), (3, "/pin"), (4, "/a")] {
        run.arrive(ticket, project);
        run.on(finished(1, Some(project)));
    }
    assert_eq!(
        run.arrive(5, "/c"),
        [Action::Assign {
            ticket: 5,
            worker: 1,
            evict: vec!["/b".into()]
        }]
    );
}

#[test]
fn a_projects_requests_are_first_come_first_served_and_the_queue_is_bounded() {
    let mut run = Run::running(policy());
    run.arrive(1, "/a");
    run.arrive(2, "/a");
    assert_eq!(run.arrive(3, "/a"), []);
    assert_eq!(run.arrive(4, "/a"), []);
    assert_eq!(
        run.arrive(5, "/a"),
        [Action::Refuse {
            ticket: 5,
            why: Refused::QueueFull { retry_after: SECOND }
        }]
    );
    assert_eq!(run.on(finished(2, None)), [assign(3, 2)]);
    assert_eq!(run.on(finished(1, None)), [assign(4, 1)]);
}

#[test]
fn waiting_counts_towards_the_deadline() {
    let mut run = Run::running(Policy { workers: 1, ..policy() });
    run.on(Event::Arrived {
        ticket: 1,
        project: "/a".into(),
        lane: Lane::Interactive,
        depth: 0,
        deadline: run.now + 60 * SECOND,
        again: false,
    });
    run.arrive(2, "/a");
    assert_eq!(run.pool.next_wakeup(), Some(run.now + 20 * SECOND));
    assert_eq!(
        run.later(20 * SECOND),
        [Action::Refuse {
            ticket: 2,
            why: Refused::Deadline
        }]
    );
}

#[test]
fn a_request_beyond_its_deadline_is_cancelled_then_killed_and_counts_as_a_failure() {
    let mut run = Run::running(policy());
    run.arrive(1, "/a");
    assert_eq!(
        run.later(20 * SECOND),
        [Action::Cancel {
            worker: 1,
            expired: true,
            blamed: true
        }]
    );
    assert_eq!(
        run.later(3 * SECOND),
        [Action::Kill { worker: 1 }, start(3, Start::Fork(1))]
    );
    let exited = Event::Exited {
        worker: 1,
        status: ExitStatus::Signal(9),
    };
    assert_eq!(run.on(exited), [gone(1, ExitReason::Deadline)]);
    assert!((run.pool.view(run.now).failure_pressure - 0.5).abs() < 1e-9);
}

#[test]
fn a_cancelled_request_that_stops_in_time_leaves_its_worker_alive() {
    let mut run = Run::running(policy());
    run.arrive(1, "/a");
    run.later(20 * SECOND);
    run.on(finished(1, None));
    assert_eq!(run.later(10 * SECOND), []);
    assert_eq!(run.pool.view(run.now).live, 2);
}

#[test]
fn nobody_renders_for_a_client_that_has_gone() {
    let mut run = Run::running(Policy { workers: 1, ..policy() });
    run.arrive(1, "/a");
    run.arrive(2, "/a");
    assert_eq!(run.on(Event::Left { ticket: 2 }), []);
    assert_eq!(run.pool.view(run.now).waiting, 0);
    assert_eq!(
        run.on(Event::Left { ticket: 1 }),
        [Action::Cancel {
            worker: 1,
            expired: false,
            blamed: false
        }]
    );
    assert_eq!(run.later(3 * SECOND)[0], Action::Kill { worker: 1 });
    let exited = Event::Exited {
        worker: 1,
        status: ExitStatus::Signal(9),
    };
    assert_eq!(run.on(exited), [gone(1, ExitReason::Abandoned)]);
    assert!(
        run.pool.view(run.now).failure_pressure < 1e-9,
        "impatient clients raise no pressure"
    );
}

#[test]
fn a_crashed_worker_is_replaced_at_once() {
    let mut run = Run::running(policy());
    run.arrive(1, "/a");
    assert_eq!(
        run.on(Event::Broken { worker: 1 }),
        [Action::Kill { worker: 1 }, start(3, Start::Fork(1))]
    );
    assert_eq!(run.on(crashed(1)), [gone(1, ExitReason::Crash { signal: 11 })]);
    assert_eq!(
        run.on(crashed(2)),
        [gone(2, ExitReason::Crash { signal: 11 }), start(4, Start::Fork(1))]
    );
    let exited = Event::Exited {
        worker: 4,
        status: ExitStatus::Code(1),
    };
    assert_eq!(
        run.on(exited),
        [gone(4, ExitReason::Start)],
        "it never was ready, so the next start waits"
    );
}

#[test]
fn a_crash_loop_reaches_the_limit() {
    let mut run = Run::running(policy());
    let mut given_up = None;
    for worker in 1..10 {
        run.now += Duration::from_millis(10);
        let actions = run.on(crashed(worker));
        if let Some(Action::GiveUp { pressure }) = actions.iter().find(|a| matches!(a, Action::GiveUp { .. })) {
            given_up = Some((worker, *pressure));
            break;
        }
        run.on(ready(worker + 2));
    }
    assert_eq!(
        given_up,
        Some((5, 2.5)),
        "above 2.0 with two workers means the fifth failure"
    );
    assert!(!run.pool.view(run.now).ready);
    assert_eq!(
        run.arrive(1, "/a"),
        [Action::Refuse {
            ticket: 1,
            why: Refused::Closing
        }]
    );
}

#[test]
fn starts_that_fail_are_tried_ever_more_slowly() {
    let mut run = Run::new(Policy {
        workers: 1,
        fork: false,
        max_failure_pressure: 100.0,
        ..policy()
    });
    assert_eq!(run.on(Event::Tick), [start(1, Start::Spawn(1))]);
    for (worker, pause) in [(1, 100), (2, 200), (3, 400)] {
        let exited = Event::Exited {
            worker,
            status: ExitStatus::Code(70),
        };
        assert_eq!(run.on(exited), [gone(worker, ExitReason::Start)]);
        // A quarter of the pause is left to chance.
        assert_eq!(run.later(Duration::from_millis(pause * 3 / 4)), []);
        assert_eq!(
            run.later(Duration::from_millis(pause.div_ceil(4))),
            [start(worker + 1, Start::Spawn(1))]
        );
    }
    assert!(!run.pool.view(run.now).ready);
}

#[test]
fn a_start_that_takes_too_long_is_ended() {
    let mut run = Run::new(Policy {
        workers: 1,
        fork: false,
        ..policy()
    });
    run.on(Event::Tick);
    assert_eq!(run.later(10 * SECOND)[0], Action::Kill { worker: 1 });
}

#[test]
fn a_zygote_that_cannot_start_means_spawned_workers_until_it_can() {
    let mut run = Run::new(Policy { workers: 1, ..policy() });
    run.on(Event::Tick);
    assert_eq!(
        run.on(Event::ZygoteExited { generation: 1 }),
        [start(1, Start::Spawn(1))]
    );
    run.on(ready(1));
    assert_eq!(run.later(SECOND), [Action::StartZygote { generation: 2 }]);
    assert_eq!(run.on(Event::ZygoteReady { generation: 2 }), [start(2, Start::Fork(2))]);
    assert_eq!(run.on(ready(2)), [Action::Quit { worker: 1 }]);
}

#[test]
fn a_refused_fork_means_spawned_workers() {
    let mut run = Run::new(Policy { workers: 1, ..policy() });
    run.on(Event::Tick);
    run.on(Event::ZygoteReady { generation: 1 });
    assert_eq!(run.on(Event::ForkRefused { worker: 1 }), [start(2, Start::Spawn(1))]);
    assert_eq!(run.on(ready(2)), []);
    assert!(run.pool.view(run.now).settled);
}

#[test]
fn a_fork_that_failed_is_tried_again() {
    let mut run = Run::new(Policy { workers: 1, ..policy() });
    run.on(Event::Tick);
    run.on(Event::ZygoteReady { generation: 1 });
    let failed = Event::Exited {
        worker: 1,
        status: ExitStatus::NotStarted,
    };
    assert_eq!(run.on(failed), [gone(1, ExitReason::Start)]);
    assert_eq!(run.later(SECOND), [start(2, Start::Fork(1))]);
}

#[test]
fn spawned_workers_move_on_as_well_when_pins_change() {
    let mut run = Run::new(Policy {
        fork: false,
        workers: 1,
        ..policy()
    });
    run.on(Event::Tick);
    run.on(ready(1));
    assert_eq!(run.on(Event::PreloadChanged), [start(2, Start::Spawn(2))]);
    assert_eq!(run.on(ready(2)), [Action::Quit { worker: 1 }]);
    run.on(left(1));
    assert!(run.pool.view(run.now).settled);
}

#[test]
fn a_new_generation_takes_over_worker_by_worker() {
    let mut run = Run::running(policy());
    run.arrive(1, "/a");
    assert_eq!(run.on(Event::PreloadChanged), [Action::StartZygote { generation: 2 }]);
    assert_eq!(
        run.on(Event::ZygoteReady { generation: 2 }),
        [Action::Quit { worker: 2 }, start(3, Start::Fork(2))]
    );
    assert_eq!(
        run.on(Event::Exited {
            worker: 2,
            status: ExitStatus::Code(0)
        }),
        [gone(2, ExitReason::Retired)]
    );
    assert_eq!(run.on(ready(3)), [], "worker 1 is busy");
    assert_eq!(
        run.on(finished(1, None)),
        [Action::Quit { worker: 1 }, start(4, Start::Fork(2))]
    );
    let exited = Event::Exited {
        worker: 1,
        status: ExitStatus::Code(0),
    };
    assert_eq!(
        run.on(exited),
        [gone(1, ExitReason::Retired), Action::StopZygote { generation: 1 }]
    );
    run.on(ready(4));
    assert!(run.pool.view(run.now).settled);
    assert!(run.pool.view(run.now).failure_pressure < 1e-9);
}

#[test]
fn a_change_while_a_zygote_loads_makes_another_one_after_it() {
    let mut run = Run::running(policy());
    run.on(Event::PreloadChanged);
    assert_eq!(run.on(Event::PreloadChanged), []);
    let actions = run.on(Event::ZygoteReady { generation: 2 });
    assert!(actions.contains(&Action::StartZygote { generation: 3 }));
}

#[test]
fn workers_outlive_their_zygote_and_are_then_replaced() {
    let mut run = Run::running(policy());
    run.arrive(1, "/a");
    assert_eq!(
        run.on(Event::ZygoteExited { generation: 1 }),
        [Action::StartZygote { generation: 2 }]
    );
    assert_eq!(
        run.on(Event::ZygoteReady { generation: 2 }),
        [Action::Quit { worker: 2 }, start(3, Start::Fork(2))]
    );
}

#[test]
fn resizing_goes_up_at_once_and_down_by_idle_workers() {
    let mut run = Run::running(policy());
    assert_eq!(run.on(Event::Resize { workers: 3 }), [start(3, Start::Fork(1))]);
    run.on(ready(3));
    run.arrive(1, "/a");
    assert_eq!(
        run.on(Event::Resize { workers: 1 }),
        [Action::Quit { worker: 2 }, Action::Quit { worker: 3 }]
    );
}

#[test]
fn closing_finishes_what_runs_and_waits() {
    let mut run = Run::running(policy());
    run.arrive(1, "/a");
    run.arrive(2, "/a");
    run.arrive(3, "/a");
    assert_eq!(run.on(Event::Close), []);
    assert_eq!(run.on(finished(1, None)), [assign(3, 1)]);
    assert_eq!(run.on(finished(2, None)), [Action::Quit { worker: 2 }]);
    assert_eq!(run.on(finished(1, None)), [Action::Quit { worker: 1 }]);
    run.on(Event::Exited {
        worker: 1,
        status: ExitStatus::Code(0),
    });
    assert!(!run.pool.is_empty());
    let actions = run.on(Event::Exited {
        worker: 2,
        status: ExitStatus::Code(0),
    });
    assert_eq!(
        actions,
        [gone(2, ExitReason::Retired), Action::StopZygote { generation: 1 }]
    );
    assert!(run.pool.is_empty());
}

#[test]
fn a_worker_that_ignores_quit_is_killed() {
    let mut run = Run::running(policy());
    run.on(Event::Resize { workers: 1 });
    assert_eq!(run.later(3 * SECOND), [Action::Kill { worker: 1 }]);
}

#[test]
fn who_serves_is_kept_while_replacements_do_not_start() {
    let mut run = Run::running(policy());
    run.on(Event::PreloadChanged);
    let replaced = run.on(Event::ZygoteReady { generation: 2 });
    assert_eq!(replaced, [Action::Quit { worker: 1 }, start(3, Start::Fork(2))]);
    run.on(left(1));
    for worker in 3..6 {
        let failed = Event::Exited {
            worker,
            status: ExitStatus::Code(70),
        };
        assert_eq!(run.on(failed), [gone(worker, ExitReason::Start)]);
        assert_eq!(run.later(SECOND), [start(worker + 1, Start::Fork(2))]);
    }
    assert_eq!(run.pool.view(run.now).live, 1);
    let replaced = run.on(ready(6));
    assert_eq!(replaced, [Action::Quit { worker: 2 }, start(7, Start::Fork(2))]);
}

#[test]
fn starts_that_fail_end_an_agent_only_when_nobody_serves() {
    let mut run = Run::running(policy());
    let failed = |worker| Event::Exited {
        worker,
        status: ExitStatus::Code(70),
    };
    let gives_up = |actions: Vec<Action>| actions.iter().any(|action| matches!(action, Action::GiveUp { .. }));
    run.on(crashed(1));
    let mut worker = 3;
    while run.pool.view(run.now).failure_pressure <= 3.0 {
        assert!(!gives_up(run.on(failed(worker))));
        while run.later(SECOND).is_empty() {}
        worker += 1;
    }
    let view = run.pool.view(run.now);
    assert!(view.degraded && view.live == 1);
    assert!(gives_up(run.on(crashed(2))));
}

#[test]
fn a_worker_that_is_alone_stays_until_the_next_one_is_there() {
    let mut run = Run::running(Policy { workers: 1, ..policy() });
    run.on(Event::PreloadChanged);
    let replaced = run.on(Event::ZygoteReady { generation: 2 });
    assert_eq!(replaced, [start(2, Start::Fork(2))]);
    let failed = Event::Exited {
        worker: 2,
        status: ExitStatus::Code(70),
    };
    assert_eq!(run.on(failed), [gone(2, ExitReason::Start)]);
    assert_eq!(run.later(SECOND), [start(3, Start::Fork(2))]);
    assert_eq!(run.arrive(1, "/a"), [assign(1, 1)]);
    assert_eq!(run.on(ready(3)), []);
    assert_eq!(run.arrive(2, "/a"), [], "there is to be one");
    assert_eq!(run.on(finished(1, None)), [Action::Quit { worker: 1 }, assign(2, 3)]);
    assert_eq!(
        run.on(left(1)),
        [gone(1, ExitReason::Retired), Action::StopZygote { generation: 1 }]
    );
    assert_eq!(run.later(SECOND), []);
}
