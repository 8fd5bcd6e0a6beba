//! How fair the queue is, in a model of a busy pool: a flood by one project, and projects of very different cost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use graticule_daemon::dice::Dice;

use super::tests::policy;
use super::*;

const SEEDS: u64 = 1000;

/// A pool in virtual time: requests take as long as their project's cost says.
struct Model {
    pool: Pool,
    now: Instant,
    costs: BTreeMap<String, Duration>,
    /// What each worker serves: project and end.
    running: BTreeMap<WorkerId, (String, Instant)>,
    waiting: BTreeMap<Ticket, (String, Instant)>,
    waits: BTreeMap<String, Vec<Duration>>,
    served: BTreeMap<String, Duration>,
    ticket: Ticket,
}

impl Model {
    fn new(workers: usize, costs: &[(&str, u64)]) -> Self {
        let policy = Policy {
            workers,
            max_waiting: 10_000,
            ..policy()
        };
        let mut model = Self {
            pool: Pool::new(policy),
            now: Instant::now(),
            costs: costs
                .iter()
                .map(|(project, ms)| ((*project).to_owned(), Duration::from_millis(*ms)))
                .collect(),
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waits: BTreeMap::new(),
            served: BTreeMap::new(),
            ticket: 0,
        };
        model.on(Event::Tick);
        model.on(Event::ZygoteReady { generation: 1 });
        for worker in 1..=workers as WorkerId {
            model.on(Event::Ready { worker, pinned: vec![] });
        }
        model
    }

    fn on(&mut self, event: Event) {
        let actions = self.pool.handle(self.now, event);
        self.pool.check_invariants();
        for action in actions {
            if let Action::Assign { ticket, worker, .. } = action {
                let (project, since) = self.waiting.remove(&ticket).expect("it waits");
                self.waits.entry(project.clone()).or_default().push(self.now - since);
                let end = self.now + self.costs[&project];
                self.running.insert(worker, (project, end));
            }
        }
    }

    fn ask(&mut self, project: &str) {
        self.ticket += 1;
        self.waiting.insert(self.ticket, (project.to_owned(), self.now));
        self.on(Event::Arrived {
            ticket: self.ticket,
            project: project.to_owned(),
            lane: Lane::Interactive,
            depth: 0,
            deadline: self.now + Duration::from_secs(1_000_000),
            again: false,
        });
    }

    /// Lets time pass until `until`, finishing what ends.
    fn run_until(&mut self, until: Instant) {
        while let Some((&worker, (_, end))) = self.running.iter().min_by_key(|(_, (_, end))| *end) {
            if *end > until {
                break;
            }
            self.now = *end;
            let (project, _) = self.running.remove(&worker).expect("it runs");
            *self.served.entry(project.clone()).or_default() += self.costs[&project];
            self.on(super::tests::finished(worker, None));
        }
        self.now = until;
    }

    fn median_wait(&self, project: &str) -> Duration {
        let mut waits = self.waits[project].clone();
        waits.sort();
        waits[waits.len() / 2]
    }
}

#[test]
fn a_flood_delays_another_project_by_less_than_one_request() {
    for seed in 1..=SEEDS {
        let mut dice = Dice::seeded(seed);
        let workers = 1 + usize::try_from(dice.roll(4)).unwrap();
        let slow = 500 + dice.roll(3000);
        let mut model = Model::new(workers, &[("/slow", slow), ("/other", 20)]);
        // Ten times what the pool can do: so many arrive in the time of one.
        let pause = Duration::from_millis(slow) / u32::try_from(10 * workers).unwrap();
        let mut next_other = model.now;
        for _ in 0..200 {
            model.ask("/slow");
            let until = model.now + pause;
            while next_other < until {
                model.run_until(next_other);
                model.ask("/other");
                next_other += Duration::from_millis(100 + dice.roll(400));
            }
            model.run_until(until);
        }
        let wait = model.median_wait("/other");
        assert!(
            wait <= Duration::from_millis(slow),
            "seed {seed}: {workers} workers, {wait:?} of {slow} ms"
        );
    }
}

#[test]
fn projects_that_always_wait_get_equal_shares_of_the_workers() {
    for seed in 1..=SEEDS {
        let mut dice = Dice::seeded(seed);
        let workers = 1 + usize::try_from(dice.roll(3)).unwrap();
        let costs = [
            ("/a", 10 + dice.roll(2000)),
            ("/b", 10 + dice.roll(2000)),
            ("/c", 10 + dice.roll(2000)),
        ];
        let mut model = Model::new(workers, &costs);
        let end = model.now + Duration::from_secs(120);
        while model.now < end {
            for (project, _) in costs {
                let waiting = model.waiting.values().filter(|(other, _)| other == project).count();
                for _ in waiting..8 {
                    model.ask(project);
                }
            }
            let next = model
                .running
                .values()
                .map(|(_, end)| *end)
                .min()
                .expect("somebody is busy");
            model.run_until(next);
        }
        let largest = Duration::from_millis(costs.iter().map(|(_, cost)| *cost).max().unwrap());
        // The bound of start-time fair queueing, for several workers, and as much again until costs are known.
        let bound = largest * 2 * u32::try_from(workers + 1).unwrap();
        let served: Vec<Duration> = costs.iter().map(|(project, _)| model.served[*project]).collect();
        let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
        assert!(
            *most - *least <= bound,
            "seed {seed}: {costs:?} had {served:?}, bound {bound:?}"
        );
    }
}
