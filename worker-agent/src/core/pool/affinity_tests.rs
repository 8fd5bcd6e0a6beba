//! How well projects find the worker that has them, in a model of a pool with more projects than one worker may hold.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use graticule_daemon::dice::Dice;

use super::tests::policy;
use super::*;

const SEEDS: u64 = 50;
const WARM: Duration = Duration::from_millis(20);
const COLD: Duration = Duration::from_millis(110);

/// Clients in a closed loop, in virtual time.
struct Model {
    pool: Pool,
    now: Instant,
    running: BTreeMap<WorkerId, (String, Instant, bool)>,
    held: BTreeMap<WorkerId, Vec<String>>,
    waiting: BTreeMap<Ticket, String>,
    ticket: Ticket,
    done: usize,
    cold: usize,
}

impl Model {
    fn new(workers: usize, max_projects: usize) -> Self {
        let policy = Policy {
            workers,
            max_projects,
            max_waiting: 100,
            ..policy()
        };
        let mut model = Self {
            pool: Pool::new(policy),
            now: Instant::now(),
            running: BTreeMap::new(),
            held: BTreeMap::new(),
            waiting: BTreeMap::new(),
            ticket: 0,
            done: 0,
            cold: 0,
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
        for action in actions {
            if let Action::Assign { ticket, worker, evict } = action {
                let project = self.waiting.remove(&ticket).expect("it waits");
                let held = self.held.entry(worker).or_default();
                held.retain(|project| !evict.contains(project));
                let cold = !held.contains(&project);
                if cold {
                    held.push(project.clone());
                }
                let end = self.now + if cold { COLD } else { WARM };
                self.running.insert(worker, (project, end, cold));
            }
        }
    }

    fn ask(&mut self, project: &str) {
        self.ticket += 1;
        self.waiting.insert(self.ticket, project.to_owned());
        self.on(Event::Arrived {
            ticket: self.ticket,
            project: project.to_owned(),
            lane: Lane::Interactive,
            depth: 0,
            deadline: self.now + Duration::from_secs(1_000_000),
            again: false,
        });
    }

    /// Lets time pass until the next request has ended.
    fn step(&mut self) {
        loop {
            let next = self.running.iter().min_by_key(|(_, (_, end, _))| *end);
            let (worker, end) = next
                .map(|(&worker, (_, end, _))| (worker, *end))
                .expect("somebody is busy");
            if let Some(at) = self.pool.next_wakeup().filter(|at| *at < end) {
                self.now = at;
                self.on(Event::Tick);
                continue;
            }
            self.now = end;
            let (project, _, cold) = self.running.remove(&worker).expect("it runs");
            self.done += 1;
            self.cold += usize::from(cold);
            let loaded = cold.then(|| (project, (COLD - WARM) / 2));
            self.on(Event::Finished {
                worker,
                answered: true,
                loaded,
            });
            return;
        }
    }
}

/// Runs a loop of `clients` over `projects`, each as often; the parts of requests that were cold, by 300 requests.
fn cold_parts(seed: u64, projects: usize, clients: usize) -> Vec<f64> {
    let mut model = Model::new(2, 50);
    let mut dice = Dice::seeded(seed);
    let mut name = || format!("/{}", dice.pick(projects));
    for _ in 0..clients {
        model.ask(&name());
    }
    let mut parts = Vec::new();
    for _ in 0..8 {
        let before = model.cold;
        for _ in 0..300 {
            model.step();
            model.ask(&name());
        }
        #[allow(clippy::cast_precision_loss, reason = "at most 300")]
        parts.push((model.cold - before) as f64 / 300.0);
    }
    parts
}

#[test]
fn projects_that_just_fit_are_soon_divided_among_the_workers() {
    for seed in 1..=SEEDS {
        for clients in [4, 8] {
            let parts = cold_parts(seed, 100, clients);
            let (early, late) = (parts[3], (parts[6] + parts[7]) / 2.0);
            assert!(
                early < 0.12 && late < 0.06,
                "seed {seed}, {clients} clients: {parts:.2?}"
            );
        }
    }
}

#[test]
fn projects_that_are_a_few_too_many_cost_little_more_than_those_few() {
    for seed in 1..=SEEDS {
        let parts = cold_parts(seed, 108, 4);
        let late = (parts[6] + parts[7]) / 2.0;
        assert!(late < 0.15, "seed {seed}: {parts:.2?}, at best 0.07");
    }
}

#[test]
fn projects_for_which_there_is_room_are_everywhere_after_a_while() {
    for seed in 1..=SEEDS {
        let parts = cold_parts(seed, 20, 4);
        assert!(parts[0] < 0.15 && parts[2..] == [0.0; 6], "seed {seed}: {parts:.2?}");
    }
}
