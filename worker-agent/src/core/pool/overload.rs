//! What becomes of requests when more come than can be served in time.
//!
//! In the queue of an overloaded pool the wait settles where those that are given to a worker have just too little time left:
//! each would keep its worker busy until the deadline, and be killed, for nothing. So who has waited for a part of its time and
//! cannot be expected to be answered in the rest is refused while another agent may still answer. And who got its worker
//! late shows that there is too much to do, not that something is wrong with it: neither it nor the worker is to blame when
//! it is late.

use std::time::Instant;

use super::costs::Costs;
use super::lanes::Waiting;
use super::worker::Job;

/// A wait of this part of a request's time is short: nobody is refused because of it.
const SHORT_WAIT: f64 = 0.25;

/// Who had its worker for this part of its time has had enough, whatever its like take.
const ENOUGH: f64 = 0.9;

/// From when on a waiting request could not be expected to be answered in time even if it had a worker; `None` when
/// nothing is known of its like.
pub(super) fn hopeless_from(waiting: &Waiting, costs: &Costs) -> Option<Instant> {
    let needs = costs.needs(&waiting.project, waiting.lane)?;
    let allowed = waiting.deadline.saturating_duration_since(waiting.since);
    let left = allowed.saturating_sub(needs);
    Some(waiting.since + left.max(allowed.mul_f64(SHORT_WAIT)))
}

/// Whether a request that is late had its worker for so long that it is to blame itself.
pub(super) fn is_to_blame(job: &Job, now: Instant, costs: &Costs) -> bool {
    let (project, lane) = (&job.charged.project, job.charged.lane);
    let needs = costs.needs(project, lane).unwrap_or_default();
    let enough = needs.clamp(job.allowed.mul_f64(1.0 - SHORT_WAIT), job.allowed.mul_f64(ENOUGH));
    now.saturating_duration_since(job.since) >= enough
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};
    use std::time::Duration;

    use graticule_daemon::dice::Dice;

    use super::super::tests::{Run, SECOND, assign, finished, gone, policy, ready, start};
    use super::super::{Action, Event, ExitReason, ExitStatus, Policy, Refused, Start, Ticket, WorkerId};
    use super::*;
    use crate::core::lane::Lane;

    /// A pool of one worker that knows what requests for `/a` take.
    fn one_that_knows(takes: Duration) -> Run {
        let mut run = Run::running(Policy {
            workers: 1,
            max_waiting: 50,
            ..policy()
        });
        for ticket in 1000..1003 {
            assert_eq!(run.arrive(ticket, "/a"), [assign(ticket, 1)]);
            run.now += takes;
            run.on(finished(1, None));
        }
        run
    }

    fn is_refused(actions: &[Action], ticket: Ticket) -> bool {
        let refused = |action: &Action| matches!(action, Action::Refuse { ticket: refused, why: Refused::QueueFull { .. } } if *refused == ticket);
        actions.iter().any(refused)
    }

    #[test]
    fn who_cannot_be_answered_in_time_any_more_is_refused() {
        let mut run = one_that_knows(8 * SECOND);
        assert_eq!(run.arrive(1, "/a"), [assign(1, 1)]);
        assert_eq!(run.arrive(2, "/a"), []);
        assert_eq!(run.later(11 * SECOND), [], "nine seconds are left, eight are needed");
        assert_eq!(run.pool.next_wakeup(), Some(run.now + SECOND));
        assert!(is_refused(&run.later(SECOND), 2));
    }

    #[test]
    fn nobody_is_refused_where_nothing_is_known_or_the_wait_is_short() {
        let mut run = Run::running(Policy { workers: 1, ..policy() });
        run.arrive(1, "/a");
        run.arrive(2, "/b");
        run.later(19 * SECOND);
        assert_eq!(run.on(finished(1, None)), [assign(2, 1)], "nothing is known");

        let mut run = one_that_knows(19 * SECOND);
        run.arrive(1, "/a");
        run.arrive(2, "/a");
        run.now += 4 * SECOND;
        assert_eq!(
            run.on(finished(1, None)),
            [assign(2, 1)],
            "it may be faster than the last ones"
        );
    }

    #[test]
    fn who_got_its_worker_late_is_not_to_blame_and_who_kept_it_is() {
        let mut run = Run::running(Policy { workers: 1, ..policy() });
        run.arrive(1, "/a");
        run.arrive(2, "/b");
        run.now += 15 * SECOND;
        assert_eq!(run.on(finished(1, None)), [assign(2, 1)]);
        let cancelled = |blamed| Action::Cancel {
            worker: 1,
            expired: true,
            blamed,
        };
        assert_eq!(run.later(5 * SECOND), [cancelled(false)]);
        assert_eq!(
            run.later(3 * SECOND),
            [Action::Kill { worker: 1 }, start(2, Start::Fork(1))]
        );
        let killed = Event::Exited {
            worker: 1,
            status: ExitStatus::Signal(9),
        };
        assert_eq!(run.on(killed.clone()), [gone(1, ExitReason::Abandoned)]);
        assert!(run.pool.view(run.now).failure_pressure < 1e-9);

        let mut run = Run::running(Policy { workers: 1, ..policy() });
        run.arrive(1, "/a");
        run.arrive(2, "/b");
        run.now += 4 * SECOND;
        run.on(finished(1, None));
        assert_eq!(
            run.later(16 * SECOND),
            [cancelled(true)],
            "it hangs, though others wait as well"
        );
        run.later(3 * SECOND);
        assert_eq!(run.on(killed), [gone(1, ExitReason::Deadline)]);
    }

    #[test]
    fn a_project_that_nearly_takes_all_the_time_is_not_to_blame_for_a_wait() {
        let mut run = one_that_knows(16 * SECOND);
        run.arrive(1, "/a");
        run.arrive(2, "/a");
        run.now += 4500 * SECOND / 1000;
        assert_eq!(run.on(finished(1, None)), [assign(2, 1)]);
        run.now += 15500 * SECOND / 1000;
        let cancelled = run.on(Event::Tick);
        let innocent = Action::Cancel {
            worker: 1,
            expired: true,
            blamed: false,
        };
        assert_eq!(cancelled, [innocent]);
    }

    /// What came of an overload.
    #[derive(Debug, Default)]
    struct Outcome {
        answered: u32,
        refused: u32,
        cancelled: u32,
        killed: u32,
        blamed: u32,
        gave_up: bool,
    }

    /// For an hour, requests come 1.3 times as often as two workers can answer them; each takes `takes` or up to a quarter more
    /// or less, and cannot be cancelled.
    fn overloaded(takes: Duration, seed: u64) -> Outcome {
        let mut dice = Dice::seeded(seed);
        let mut run = Run::running(Policy {
            max_waiting: 50,
            max_failure_pressure: 5.0,
            ..policy()
        });
        let begin = run.now;
        let mut arrivals: VecDeque<Instant> = (0..)
            .map(|count| begin + takes.mul_f64(f64::from(count) / 2.6))
            .take_while(|at| *at < begin + 3600 * SECOND)
            .collect();
        let mut pending: Vec<(Instant, Event)> = Vec::new();
        let mut cancelled: BTreeSet<WorkerId> = BTreeSet::new();
        let mut outcome = Outcome::default();
        let mut ticket = 0;
        loop {
            let wake = run.pool.next_wakeup().map(|at| (at, Event::Tick));
            let arrival = arrivals.front().map(|&at| {
                let event = Event::Arrived {
                    ticket,
                    project: "/a".into(),
                    lane: Lane::Interactive,
                    depth: 0,
                    deadline: at + 20 * SECOND,
                    again: false,
                };
                (at, event)
            });
            let Some((at, event)) = pending
                .iter()
                .cloned()
                .chain(arrival)
                .chain(wake)
                .min_by_key(|(at, _)| *at)
            else {
                break;
            };
            match &event {
                Event::Arrived { .. } => {
                    arrivals.pop_front();
                    ticket += 1;
                }
                Event::Finished { worker, .. } if !cancelled.remove(worker) => outcome.answered += 1,
                _ => {}
            }
            pending.retain(|(_, other)| *other != event);
            run.now = run.now.max(at);
            for action in run.on(event) {
                match action {
                    Action::Assign { worker, .. } => {
                        let took = takes.mul_f64(0.75 + 0.5 * dice.part());
                        pending.push((run.now + took, finished(worker, None)));
                    }
                    Action::Cancel { worker, blamed, .. } => {
                        cancelled.insert(worker);
                        outcome.cancelled += 1;
                        outcome.blamed += u32::from(blamed);
                    }
                    Action::Kill { worker } => {
                        outcome.killed += 1;
                        pending.retain(
                            |(_, event)| !matches!(event, Event::Finished { worker: dead, .. } if *dead == worker),
                        );
                        let status = ExitStatus::Signal(9);
                        pending.push((run.now, Event::Exited { worker, status }));
                    }
                    Action::StartWorker { worker, .. } => pending.push((run.now + SECOND, ready(worker))),
                    Action::Refuse { .. } => outcome.refused += 1,
                    Action::GiveUp { .. } => outcome.gave_up = true,
                    _ => {}
                }
            }
            if outcome.gave_up {
                break;
            }
        }
        outcome
    }

    #[test]
    fn an_overloaded_pool_answers_what_it_can_and_accuses_nobody() {
        for (seconds, part) in [(1, 0.9), (6, 0.9), (10, 0.9), (14, 0.8), (16, 0.7)] {
            let outcome = overloaded(SECOND * seconds, u64::from(seconds));
            let possible = 2.0 * 3600.0 / f64::from(seconds);
            let said = format!("{seconds} s each, {possible} possible: {outcome:?}");
            assert!(!outcome.gave_up, "{said}");
            assert!(f64::from(outcome.answered) >= part * possible, "{said}");
            // Where some take all the time that there is, one or the other is late by itself.
            let honest = if seconds > 10 { 0.05 * possible } else { 0.0 };
            assert!(f64::from(outcome.blamed) <= honest, "{said}");
            let killed = f64::from(outcome.killed + outcome.cancelled);
            assert!(killed <= 0.01 * possible || seconds > 10, "{said}");
            println!("{said}");
        }
    }
}
