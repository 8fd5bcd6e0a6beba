//! What an operator decides anew while the pool runs.

use std::time::{Duration, Instant};

use graticule_daemon::dice::Dice;

use super::Policy;
use super::machine::Pool;
use super::starts::some_below;

impl Pool {
    /// Takes a policy in the place of the one before. How many workers there should be has an event of its own, and how they
    /// are started stays as it is.
    pub(super) fn adopt(&mut self, policy: &Policy) {
        let redraw = (policy.max_requests, policy.max_age) != (self.policy.max_requests, self.policy.max_age);
        self.policy = Policy {
            workers: self.policy.workers,
            fork: self.policy.fork,
            seed: self.policy.seed,
            ..policy.clone()
        };
        self.pressure.set_window(self.policy.failure_window);
        if redraw {
            for worker in self.workers.values_mut() {
                (worker.max_requests, worker.expires) = life(&mut self.dice, &self.policy, worker.born);
            }
        }
    }
}

/// A worker's own limits: after how many requests, and when, it is recycled.
pub(super) fn life(dice: &mut Dice, policy: &Policy, born: Instant) -> (u64, Option<Instant>) {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of requests, about"
    )]
    let requests = |dice: &mut Dice, most: u64| (some_below(dice, most as f64) as u64).max(1);
    let max_requests = policy.max_requests.map_or(u64::MAX, |most| requests(dice, most));
    let age = |dice: &mut Dice, age: Duration| born + Duration::from_secs_f64(some_below(dice, age.as_secs_f64()));
    (max_requests, policy.max_age.map(|most| age(dice, most)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Run, SECOND, policy};
    use super::super::{Action, Event, Lane};
    use super::*;

    fn adopt(policy: Policy) -> Event {
        Event::Adopt {
            policy: Box::new(policy),
        }
    }

    #[test]
    fn a_new_policy_holds_at_once_and_leaves_the_number_of_workers() {
        let mut run = Run::running(policy());
        let changed = Policy {
            workers: 7,
            fork: false,
            max_waiting: 0,
            failure_window: SECOND,
            ..policy()
        };
        assert_eq!(run.on(adopt(changed)), []);
        let view = run.pool.view(run.now);
        assert_eq!((view.capacity, view.live), (2, 2));
        for ticket in 1..=2 {
            let assigned = run.on(arrived(ticket, run.now));
            assert!(matches!(assigned[..], [Action::Assign { .. }]), "{assigned:?}");
        }
        let refused = run.on(arrived(3, run.now));
        assert!(matches!(refused[..], [Action::Refuse { ticket: 3, .. }]), "{refused:?}");
    }

    fn arrived(ticket: u64, now: Instant) -> Event {
        Event::Arrived {
            ticket,
            project: "/a".into(),
            lane: Lane::Interactive,
            depth: 0,
            deadline: now + 10 * SECOND,
            again: false,
        }
    }

    #[test]
    fn workers_that_live_already_are_recycled_by_the_new_limits() {
        let mut run = Run::running(policy());
        run.now += 20 * SECOND;
        assert_eq!(run.on(Event::Tick), []);
        let aged = Policy {
            max_age: Some(10 * SECOND),
            ..policy()
        };
        let recycled = run.on(adopt(aged));
        assert!(
            recycled.iter().any(|action| matches!(action, Action::Quit { .. })),
            "{recycled:?}"
        );
    }

    #[test]
    fn a_worker_drops_what_it_holds_above_the_new_bound() {
        let mut run = Run::running(Policy { workers: 1, ..policy() });
        for (ticket, project) in [(1, "/a"), (2, "/b")] {
            let event = Event::Arrived {
                ticket,
                project: project.into(),
                lane: Lane::Interactive,
                depth: 0,
                deadline: run.now + 10 * SECOND,
                again: false,
            };
            run.on(event);
            run.on(Event::Finished {
                worker: 1,
                answered: true,
                loaded: Some((project.into(), SECOND)),
            });
        }
        assert_eq!(run.pool.view(run.now).workers[0].projects, ["/pin", "/a", "/b"]);
        let fewer = Policy {
            max_projects: 1,
            ..policy()
        };
        let dropped = run.on(adopt(fewer));
        let expected = super::super::Chore::Drop {
            projects: vec!["/a".into()],
        };
        assert_eq!(
            dropped,
            [Action::Tend {
                worker: 1,
                chore: expected
            }]
        );
    }
}
