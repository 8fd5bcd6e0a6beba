//! First maps for nobody: a forked worker draws a few pixels of each project that it inherited, because the first map of a
//! project takes thrice as long as the next ones: files are opened, shared memory is copied.
//!
//! One worker at a time. After quiet times a fresh worker does so before it serves, as long as another one serves meanwhile:
//! it has replaced one of an older generation. Where workers have failed lately, or when it is alone, it serves at once, and draws
//! when nothing waits. A project with which a worker died meanwhile is left alone until what is pinned changes.

use std::time::{Duration, Instant};

use super::machine::Pool;
use super::worker::Worker;
use super::{Action, Chore, Start, WorkerState};

/// How long such a map may take.
const WARM_PATIENCE: Duration = Duration::from_secs(10);

impl Pool {
    /// Whether fresh workers draw before they serve.
    pub(super) fn warms_up_first(&mut self, now: Instant) -> bool {
        let serving = |worker: &&Worker| worker.is_up() && !worker.is_tending();
        self.workers.values().filter(serving).count() > 1 && self.pressure.at(now, self.policy.workers) == 0.0
    }

    /// Whether a worker has yet to draw, and will get to it however much there is to do.
    pub(super) fn will_warm_up(&mut self, now: Instant) -> bool {
        let cold = |project: &String| !self.left_cold.contains(project);
        let warms = self.policy.warm_up;
        // What it inherits is known when it is there, and is drawn then.
        let starts = |worker: &Worker| warms && worker.is_starting() && matches!(worker.start, Start::Fork(_));
        let yet =
            |worker: &Worker| starts(worker) || worker.chores.warming.is_some() || worker.chores.warm.iter().any(cold);
        let counts = |worker: &&Worker| worker.is_up() || starts(worker);
        let several = self.workers.values().filter(counts).nth(1).is_some();
        several && self.workers.values().any(yet) && self.pressure.at(now, self.policy.workers) == 0.0
    }

    /// Has one idle worker draw.
    pub(super) fn warm_up(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.is_over() || self.workers.values().any(Worker::is_tending) {
            return;
        }
        for (&id, worker) in self.workers.iter_mut().filter(|(_, worker)| worker.is_idle()) {
            worker.chores.warm.retain(|project| !self.left_cold.contains(project));
            let Some(project) = worker.chores.warm.pop() else {
                continue;
            };
            worker.chores.warming = Some(project.clone());
            worker.state = WorkerState::Tending {
                until: now + WARM_PATIENCE,
            };
            let chore = Chore::Warm { project };
            actions.push(Action::Tend { worker: id, chore });
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Run, SECOND, assign, crashed, finished, policy, start};
    use super::super::{Event, Policy, Tended, WorkerId};
    use super::*;

    fn warm(worker: WorkerId, project: &str) -> Action {
        let project = project.to_owned();
        let chore = Chore::Warm { project };
        Action::Tend { worker, chore }
    }

    fn inherits(worker: WorkerId, projects: &[&str]) -> Event {
        let pinned = projects.iter().map(|&project| project.to_owned()).collect();
        Event::Ready { worker, pinned }
    }

    fn done(worker: WorkerId) -> Event {
        let outcome = Tended::Done;
        Event::Tended { worker, outcome }
    }

    fn warming() -> Policy {
        let warm_up = true;
        Policy { warm_up, ..policy() }
    }

    /// Two workers that are up, with `/a` inherited.
    fn two(policy: Policy) -> Run {
        let mut run = Run::new(policy);
        run.on(Event::Tick);
        let starts = [start(1, Start::Fork(1)), start(2, Start::Fork(1))];
        assert_eq!(run.on(Event::ZygoteReady { generation: 1 }), starts);
        run
    }

    #[test]
    fn workers_draw_what_they_inherited_one_after_the_other() {
        let mut run = two(warming());
        assert_eq!(run.on(inherits(1, &["/a", "/b"])), [warm(1, "/b")]);
        assert_eq!(run.on(inherits(2, &["/a"])), [], "one at a time");
        assert_eq!(run.on(done(1)), [warm(1, "/a")]);
        assert_eq!(run.on(done(1)), [warm(2, "/a")]);
        assert!(!run.pool.view(run.now).settled, "one draws yet");
        assert_eq!(run.on(done(2)), [], "once");
        assert!(run.pool.view(run.now).settled);
    }

    #[test]
    fn in_quiet_times_a_fresh_worker_draws_before_it_serves() {
        let mut run = two(warming());
        run.on(inherits(1, &[]));
        assert_eq!(run.arrive(1, "/a"), [assign(1, 1)]);
        assert_eq!(run.arrive(2, "/a"), [], "the other is not there yet");
        assert_eq!(run.on(inherits(2, &["/a"])), [warm(2, "/a")], "one serves");
        assert_eq!(run.on(done(2)), [assign(2, 2)]);
    }

    #[test]
    fn a_pool_is_not_settled_before_the_last_that_starts_has_drawn() {
        let mut run = two(warming());
        assert_eq!(run.on(inherits(1, &["/a"])), [warm(1, "/a")]);
        run.on(done(1));
        assert!(!run.pool.view(run.now).settled, "the other one has not even started");
        assert_eq!(run.on(inherits(2, &["/a"])), [warm(2, "/a")]);
        assert!(!run.pool.view(run.now).settled);
        run.on(done(2));
        assert!(run.pool.view(run.now).settled);
    }

    #[test]
    fn a_worker_that_is_alone_serves_first() {
        let mut run = two(warming());
        assert_eq!(run.arrive(1, "/a"), []);
        assert_eq!(run.on(inherits(1, &["/a"])), [assign(1, 1)]);
        assert_eq!(run.on(finished(1, None)), [warm(1, "/a")], "nothing waits");
    }

    #[test]
    fn after_a_failure_what_waits_goes_first() {
        let mut run = two(warming());
        for worker in [1, 2] {
            run.on(inherits(worker, &[]));
        }
        for ticket in [1, 2] {
            run.arrive(ticket, "/a");
        }
        let actions = run.on(Event::Broken { worker: 2 });
        assert!(actions.contains(&start(3, Start::Fork(1))), "{actions:?}");
        run.on(crashed(2));
        run.arrive(3, "/a");
        assert_eq!(run.on(inherits(3, &["/a"])), [assign(3, 3)]);
        assert_eq!(run.on(finished(3, None)), [warm(3, "/a")]);
    }

    #[test]
    fn a_project_that_kills_who_draws_it_is_left_alone() {
        let mut run = two(warming());
        assert_eq!(run.on(inherits(1, &["/a"])), [warm(1, "/a")]);
        assert_eq!(run.on(inherits(2, &["/a"])), []);
        let actions = run.later(11 * SECOND);
        assert_eq!(actions, [Action::Kill { worker: 1 }, start(3, Start::Fork(1))]);
        run.on(crashed(1));
        assert_eq!(run.on(inherits(3, &["/a"])), [], "nobody draws it any more");
        assert!(run.pool.view(run.now).settled);
    }

    #[test]
    fn it_can_be_turned_off() {
        let mut run = two(policy());
        assert_eq!(run.on(inherits(1, &["/a"])), []);
    }
}
