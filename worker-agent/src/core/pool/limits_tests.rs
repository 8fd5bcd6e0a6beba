//! Scenarios of lanes, memory, age and requests that come from workers, one per rule.

use std::time::Duration;

use super::tests::{Run, SECOND, assign, finished, gone, left, policy, ready, start};
use super::*;

const MIB: u64 = 1 << 20;

fn weighed(worker: WorkerId, mib: u64) -> Event {
    Event::Weighed {
        worker,
        bytes: mib * MIB,
    }
}

fn machine(total: u64, used: u64) -> Event {
    Event::Machine {
        total: total * MIB,
        used: used * MIB,
    }
}

fn killed(worker: WorkerId) -> Event {
    Event::Exited {
        worker,
        status: ExitStatus::Signal(9),
    }
}

fn four() -> Policy {
    Policy {
        workers: 4,
        max_waiting: 50,
        ..policy()
    }
}

#[test]
fn heavy_requests_keep_to_their_share() {
    let mut run = Run::running(four());
    assert_eq!(run.ask(1, "/a", Lane::Heavy, 0).len(), 1);
    assert_eq!(run.ask(2, "/b", Lane::Heavy, 0).len(), 1);
    assert_eq!(run.ask(3, "/c", Lane::Heavy, 0), [], "half of the workers are the most");
    assert_eq!(run.ask(4, "/d", Lane::Interactive, 0).len(), 1);
    let heavy = &run.pool.view(run.now).lanes[1];
    assert_eq!((heavy.running, heavy.waiting, heavy.maximum), (2, 1, 2));
}

#[test]
fn interactive_requests_have_workers_that_nobody_else_takes() {
    let all = Share {
        guaranteed: 0.0,
        maximum: 1.0,
    };
    let mut run = Run::running(Policy { heavy: all, ..four() });
    for ticket in 1..=4 {
        run.ask(ticket, "/a", Lane::Heavy, 0);
    }
    assert_eq!(run.pool.view(run.now).busy, 2, "two are kept for the interactive lane");
    run.ask(5, "/b", Lane::Interactive, 0);
    run.ask(6, "/b", Lane::Interactive, 0);
    assert_eq!(run.pool.view(run.now).busy, 4);
}

#[test]
fn a_single_worker_serves_every_lane() {
    let mut run = Run::running(Policy { workers: 1, ..policy() });
    assert_eq!(run.ask(1, "/a", Lane::Heavy, 0), [assign(1, 1)]);
    run.ask(2, "/a", Lane::Interactive, 0);
    run.ask(3, "/a", Lane::Heavy, 0);
    run.now += 9 * SECOND;
    assert_eq!(
        run.on(finished(1, None)),
        [assign(2, 1)],
        "the heavy lane has had its time"
    );
    assert_eq!(run.on(finished(1, None)), [assign(3, 1)]);
}

#[test]
fn who_floods_the_queue_is_refused_and_nobody_else() {
    let mut run = Run::running(Policy {
        max_waiting: 3,
        ..policy()
    });
    for ticket in 1..=5 {
        run.arrive(ticket, "/flood");
    }
    let refused = run.arrive(6, "/other");
    assert!(
        matches!(
            refused[..],
            [Action::Refuse {
                ticket: 5,
                why: Refused::QueueFull { .. }
            }]
        ),
        "{refused:?}"
    );
}

#[test]
fn what_comes_back_goes_before_its_like() {
    let mut run = Run::running(Policy { workers: 1, ..policy() });
    run.arrive(1, "/a");
    run.arrive(2, "/a");
    run.on(Event::Broken { worker: 1 });
    run.on(killed(1));
    run.on(Event::Arrived {
        ticket: 3,
        project: "/a".into(),
        lane: Lane::Interactive,
        depth: 0,
        deadline: run.now + SECOND,
        again: true,
    });
    assert_eq!(run.on(ready(2)), [assign(3, 2)]);
}

#[test]
fn inner_requests_get_a_worker_of_their_own_when_all_wait_for_them() {
    let mut run = Run::running(Policy { workers: 1, ..policy() });
    assert_eq!(run.arrive(1, "/outer"), [assign(1, 1)]);
    assert_eq!(run.ask(2, "/inner", Lane::Inner, 1), [start(2, Start::Fork(1))]);
    assert_eq!(run.on(ready(2)), [assign(2, 2)]);
    assert_eq!(
        run.ask(3, "/inner", Lane::Inner, 1),
        [],
        "one more for each step, not for each request"
    );
    assert_eq!(run.ask(4, "/inner", Lane::Inner, 2), [start(3, Start::Fork(1))]);
    assert_eq!(run.on(ready(3)), [assign(4, 3)]);
    assert_eq!(run.on(finished(3, None)), []);
    assert_eq!(run.on(finished(2, None)), [assign(3, 2)]);
    run.on(finished(2, None));
    assert_eq!(run.arrive(5, "/outer"), [], "the extra workers are not for everybody");
    run.on(finished(1, None));
    let actions = run.later(10 * SECOND);
    assert_eq!(
        actions
            .iter()
            .filter(|action| matches!(action, Action::Quit { .. }))
            .count(),
        2
    );
}

#[test]
fn a_request_waits_for_a_busy_worker_as_long_as_loads_would_take() {
    let mut run = Run::running(Policy {
        max_projects: 1,
        ..policy()
    });
    for (ticket, worker, project) in [(1, 1, "/big"), (2, 2, "/small")] {
        assert_eq!(run.arrive(ticket, project), [assign(ticket, worker)]);
        let loaded = Some((project.to_owned(), 4 * SECOND));
        run.on(Event::Finished {
            worker,
            answered: true,
            loaded,
        });
    }
    assert_eq!(run.arrive(3, "/big"), [assign(3, 1)]);
    assert_eq!(
        run.arrive(4, "/big"),
        [],
        "worker 2 would drop /small and load for four seconds"
    );
    assert_eq!(run.arrive(5, "/small"), [assign(5, 2)], "nobody else waits for that");
    run.on(finished(2, None));
    assert_eq!(
        run.later(4 * SECOND),
        [],
        "a second more for the loads that it spares others"
    );
    assert_eq!(run.pool.next_wakeup(), Some(run.now + SECOND));
    assert_eq!(
        run.later(SECOND),
        [Action::Assign {
            ticket: 4,
            worker: 2,
            evict: vec!["/small".into()]
        }]
    );
}

#[test]
fn what_another_worker_holds_as_well_is_dropped_first() {
    let mut run = Run::running(policy());
    let load = |run: &mut Run, ticket, worker, project: &str| {
        assert_eq!(run.arrive(ticket, project), [assign(ticket, worker)]);
        run.on(finished(worker, Some(project)));
    };
    load(&mut run, 1, 1, "/a");
    assert_eq!(run.arrive(2, "/a"), [assign(2, 1)]);
    load(&mut run, 3, 2, "/b");
    run.on(finished(1, None));
    load(&mut run, 4, 1, "/c");
    // Worker 1 holds /a and /c, worker 2 holds /b; now worker 2 gets /a as well.
    assert_eq!(run.arrive(5, "/c"), [assign(5, 1)]);
    load(&mut run, 6, 2, "/a");
    run.on(finished(1, None));
    assert_eq!(run.arrive(8, "/c"), [assign(8, 1)]);
    assert_eq!(
        run.arrive(9, "/d"),
        [Action::Assign {
            ticket: 9,
            worker: 2,
            evict: vec!["/a".into()]
        }]
    );
}

#[test]
fn what_was_loaded_for_nobody_is_held_and_dropped_like_the_rest() {
    let mut run = Run::running(Policy {
        workers: 1,
        max_projects: 1,
        ..policy()
    });
    run.arrive(1, "/left");
    run.on(Event::Left { ticket: 1 });
    let loaded = Some(("/left".to_owned(), SECOND));
    run.on(Event::Finished {
        worker: 1,
        answered: false,
        loaded,
    });
    let held = &run.pool.view(run.now).workers[0].projects;
    assert!(held.contains(&"/left".to_owned()), "{held:?}");
    assert_eq!(
        run.arrive(2, "/b"),
        [Action::Assign {
            ticket: 2,
            worker: 1,
            evict: vec!["/left".into()]
        }]
    );
}

#[test]
fn where_there_is_room_a_project_is_loaded_at_once() {
    let mut run = Run::running(policy());
    run.arrive(1, "/big");
    let loaded = Some(("/big".to_owned(), 4 * SECOND));
    run.on(Event::Finished {
        worker: 1,
        answered: true,
        loaded,
    });
    assert_eq!(run.arrive(2, "/big"), [assign(2, 1)]);
    assert_eq!(run.arrive(3, "/big"), [assign(3, 2)]);
}

#[test]
fn a_worker_over_its_soft_limit_goes_once_it_has_answered() {
    let mut run = Run::running(policy());
    run.on(machine(4096, 1000));
    let memory = run.pool.view(run.now).memory;
    assert_eq!(memory.hard_limit / MIB, 1843, "an equal part of nine tenths");
    assert_eq!(memory.soft_limit / MIB, 921);
    run.arrive(1, "/a");
    assert_eq!(run.on(weighed(1, 1000)), []);
    assert_eq!(
        run.on(finished(1, None)),
        [Action::Quit { worker: 1 }, start(3, Start::Fork(1))]
    );
    assert_eq!(run.on(left(1)), [gone(1, ExitReason::Recycled)]);
    assert!(run.pool.view(run.now).failure_pressure < 1e-9);
}

#[test]
fn a_worker_over_its_hard_limit_is_killed() {
    let mut run = Run::running(policy());
    run.on(machine(4096, 1000));
    run.arrive(1, "/a");
    assert_eq!(
        run.on(weighed(1, 1900)),
        [Action::Kill { worker: 1 }, start(3, Start::Fork(1))]
    );
    assert_eq!(run.on(killed(1)), [gone(1, ExitReason::Memory)]);
    assert!((run.pool.view(run.now).failure_pressure - 0.5).abs() < 1e-9);
}

#[test]
fn above_the_high_water_mark_the_largest_worker_goes_and_only_one_at_a_time() {
    let limits = MemoryLimits {
        soft: Some(4000 * MIB),
        hard: Some(8000 * MIB),
        high_water_mark: 0.9,
    };
    let mut run = Run::running(Policy {
        memory: limits,
        workers: 3,
        ..policy()
    });
    run.arrive(1, "/a");
    for (worker, mib) in [(1, 300), (2, 200), (3, 100)] {
        run.on(weighed(worker, mib));
    }
    assert_eq!(run.on(machine(1000, 899)), []);
    assert_eq!(
        run.on(machine(1000, 901)),
        [Action::Kill { worker: 1 }, start(4, Start::Fork(1))]
    );
    assert_eq!(run.on(machine(1000, 950)), [], "the kernel is given time to count");
    assert_eq!(run.on(killed(1)), [gone(1, ExitReason::Memory)]);
    run.on(ready(4));
    run.now += SECOND;
    let actions = run.on(machine(1000, 950));
    assert_eq!(
        actions,
        [Action::Quit { worker: 2 }, start(5, Start::Fork(1))],
        "an idle one is told to go"
    );
    assert_eq!(run.on(left(2)), [gone(2, ExitReason::Recycled)]);
}

#[test]
fn a_sigkill_from_outside_is_the_kernels_when_memory_is_short() {
    let mut run = Run::running(policy());
    run.on(machine(4096, 1000));
    run.arrive(1, "/a");
    assert_eq!(run.on(killed(1))[0], gone(1, ExitReason::Crash { signal: 9 }));
    assert!(!ExitReason::Crash { signal: 9 }.blames_request(), "an operator's whim");
    run.on(weighed(2, 700));
    assert_eq!(run.on(killed(2))[0], gone(2, ExitReason::Memory), "it was large");
    run.on(ready(3));
    run.on(machine(4096, 3500));
    assert_eq!(
        run.on(killed(3))[0],
        gone(3, ExitReason::Memory),
        "the machine was nearly full"
    );
}

#[test]
fn small_workers_do_not_die_for_what_others_take() {
    let mut run = Run::running(policy());
    run.on(weighed(1, 20));
    run.on(weighed(2, 30));
    assert_eq!(run.on(machine(1000, 990)), []);
}

#[test]
fn workers_are_recycled_one_after_another_and_not_all_at_the_same_count() {
    let mut run = Run::running(Policy {
        workers: 4,
        max_requests: Some(100),
        ..policy()
    });
    let mut spent = Vec::new();
    for ticket in 1..=400 {
        let Some(Action::Assign { worker, .. }) = run.arrive(ticket, "/a").pop() else {
            panic!("someone is idle");
        };
        for action in run.on(finished(worker, None)) {
            match action {
                Action::Quit { worker } => spent.push((worker, ticket)),
                Action::StartWorker { worker, .. } => drop(run.on(ready(worker))),
                other => panic!("{other:?}"),
            }
        }
        if let Some((worker, _)) = spent.last() {
            run.on(left(*worker));
        }
    }
    let counts: Vec<u64> = std::iter::once(spent[0].1)
        .chain(spent.windows(2).map(|pair| pair[1].1 - pair[0].1))
        .collect();
    assert!(
        counts.len() >= 4 && counts.iter().all(|count| (80..=100).contains(count)),
        "{counts:?}"
    );
    assert!(counts.iter().any(|count| *count != counts[0]), "{counts:?}");
}

#[test]
fn old_workers_are_recycled_one_at_a_time() {
    let mut run = Run::running(Policy {
        max_age: Some(100 * SECOND),
        ..policy()
    });
    let due = run.pool.next_wakeup().expect("somebody grows old");
    assert!((80 * SECOND..=100 * SECOND).contains(&(due - run.now)));
    let actions = run.later(100 * SECOND);
    assert_eq!(actions, [Action::Quit { worker: 1 }, start(3, Start::Fork(1))]);
    assert_eq!(
        run.pool.next_wakeup(),
        Some(run.now + Duration::from_secs(3)),
        "no haste about the second one, which waits for the first one's end"
    );
    run.on(left(1));
    assert_eq!(run.on(ready(3)), [Action::Quit { worker: 2 }, start(4, Start::Fork(1))]);
}

#[test]
fn trouble_is_seen_before_the_limit_is_reached() {
    let mut run = Run::running(policy());
    for worker in [1, 2] {
        run.on(killed(worker));
    }
    assert!(!run.pool.view(run.now).degraded);
    run.on(killed(3));
    let view = run.pool.view(run.now);
    assert!(view.degraded && view.failure_pressure < 2.0);
}

#[test]
fn the_machine_decides_how_many_workers_there_are() {
    for (processors, memory, expected) in [
        (8, None, 8),
        (8, Some(16 << 30), 8),
        (8, Some(2 << 30), 4),
        (2, Some(64 << 30), 2),
        (4, Some(100 << 20), 1),
        (0, None, 1),
        (4096, None, MOST_WORKERS),
    ] {
        assert_eq!(workers_for(processors, memory), expected, "{processors} {memory:?}");
    }
}
