//! A seeded model of a hostile world: workers that crash, hang, leak and start slowly, clients that leave, pins that
//! change, lanes and inner requests, requests that come back after their worker died, a pool that is resized. After every step the pool's invariants are checked, and at the end every request has had exactly one answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use graticule_daemon::dice::Dice;

use super::tests::{Run, SECOND, finished, policy, ready};
use super::*;

const MIB: u64 = 1 << 20;

const SEEDS: u64 = 1000;
const STEPS: usize = 300;

#[derive(Default)]
struct World {
    starting: BTreeSet<WorkerId>,
    serving: BTreeMap<WorkerId, Ticket>,
    tending: BTreeMap<WorkerId, Chore>,
    alive: BTreeSet<WorkerId>,
    loading: BTreeSet<Generation>,
    zygotes: BTreeSet<Generation>,
    open: BTreeSet<Ticket>,
    projects: BTreeMap<Ticket, String>,
    ending: VecDeque<(WorkerId, ExitStatus)>,
    gone: BTreeSet<WorkerId>,
    gave_up: bool,
    /// Workers of these never become ready.
    barren: BTreeSet<Generation>,
    /// How each worker was started.
    starts: BTreeMap<WorkerId, Start>,
    /// Open requests whose worker died.
    died: VecDeque<Ticket>,
}

impl World {
    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::StartZygote { generation } => assert!(self.loading.insert(generation)),
                Action::StopZygote { generation } => {
                    assert!(self.zygotes.remove(&generation) || self.loading.remove(&generation));
                }
                Action::StartWorker { worker, start } => {
                    if let Start::Fork(generation) = start {
                        assert!(self.zygotes.contains(&generation), "forked from a zygote that lives");
                    }
                    assert!(
                        self.starting.insert(worker) && self.alive.insert(worker),
                        "started twice"
                    );
                    self.starts.insert(worker, start);
                }
                Action::Assign { ticket, worker, .. } => {
                    assert!(self.alive.contains(&worker) && !self.starting.contains(&worker));
                    assert!(self.open.contains(&ticket), "an open request");
                    assert!(!self.tending.contains_key(&worker), "who loads does not serve");
                    assert_eq!(self.serving.insert(worker, ticket), None, "double-booked");
                }
                Action::Tend { worker, chore } => {
                    assert!(self.alive.contains(&worker) && !self.starting.contains(&worker));
                    assert!(!self.serving.contains_key(&worker), "who serves does not load");
                    assert_eq!(self.tending.insert(worker, chore), None, "one chore at a time");
                    let stays = |worker: &WorkerId| !self.ending.iter().any(|(ending, _)| ending == worker);
                    let loads = |(worker, chore): &(&WorkerId, &Chore)| {
                        matches!(chore, Chore::Load { .. } | Chore::Warm { .. }) && stays(worker)
                    };
                    assert!(self.tending.iter().filter(loads).count() <= 1, "one loads at a time");
                }
                Action::Refuse { ticket, .. } => assert!(self.open.remove(&ticket), "answered twice"),
                Action::Cancel {
                    worker,
                    expired,
                    blamed,
                } => {
                    assert!(expired || !blamed, "a client's leaving is nobody's fault");
                    let ticket = self.serving[&worker];
                    if expired {
                        assert!(self.open.remove(&ticket), "answered twice");
                    }
                }
                Action::Quit { worker } => {
                    assert!(
                        !self.serving.contains_key(&worker) && !self.tending.contains_key(&worker),
                        "only idle workers are told to quit"
                    );
                    self.ending.push_back((worker, ExitStatus::Code(0)));
                }
                Action::Kill { worker } => self.ending.push_back((worker, ExitStatus::Signal(9))),
                Action::Gone { worker, .. } => assert!(self.gone.insert(worker), "gone twice"),
                Action::GiveUp { pressure } => {
                    assert!(pressure > 0.0 && !self.gave_up);
                    self.gave_up = true;
                }
            }
        }
    }

    /// A worker ends its chore in one of the ways there are.
    fn tend(&mut self, worker: WorkerId, sound: bool) -> Event {
        let outcome = match self.tending.remove(&worker) {
            Some(Chore::Load { project, .. }) if sound => Tended::Loaded {
                project,
                took: Duration::from_millis(300),
            },
            Some(Chore::Load { project, .. }) => Tended::Broken { project },
            _ => Tended::Done,
        };
        Event::Tended { worker, outcome }
    }

    /// Whether the worker's start is bound to fail.
    fn is_stillborn(&self, worker: WorkerId) -> bool {
        matches!(self.starts.get(&worker), Some(Start::Fork(generation)) if self.barren.contains(generation))
    }

    /// The worker's process ends; what it served is answered with a failure, or put once more.
    fn end(&mut self, worker: WorkerId) -> bool {
        self.starting.remove(&worker);
        self.tending.remove(&worker);
        if let Some(ticket) = self.serving.remove(&worker)
            && self.open.remove(&ticket)
        {
            self.died.push_back(ticket);
        }
        self.alive.remove(&worker)
    }
}

fn pick<T: Copy>(dice: &mut Dice, from: impl ExactSizeIterator<Item = T>) -> Option<T> {
    let count = from.len() as u64;
    if count == 0 {
        None
    } else {
        from.into_iter().nth(usize::try_from(dice.roll(count)).unwrap())
    }
}

fn run(seed: u64) {
    let mut dice = Dice::seeded(seed);
    let part = |dice: &mut Dice| [0.0, 0.25, 0.5, 1.0][usize::try_from(dice.roll(4)).unwrap()];
    let share = |dice: &mut Dice| Share {
        guaranteed: part(dice) / 2.0,
        maximum: part(dice),
    };
    let mut pool = Pool::new(Policy {
        workers: 1 + usize::try_from(dice.roll(4)).unwrap(),
        max_waiting: usize::try_from(dice.roll(6)).unwrap(),
        fork: dice.roll(5) > 0,
        max_failure_pressure: if dice.roll(3) == 0 { 3.0 } else { 1000.0 },
        interactive: share(&mut dice),
        heavy: share(&mut dice),
        max_requests: (dice.roll(2) == 0).then_some(5),
        max_age: (dice.roll(2) == 0).then_some(Duration::from_secs(20)),
        seed,
        warm_up: true,
        ..policy()
    });
    let mut now = Instant::now();
    let mut world = World::default();
    let mut ticket = 0;
    for step in 0..STEPS {
        now += Duration::from_millis(dice.roll(400));
        let event = match dice.roll(16) {
            0..=3 => {
                ticket += 1;
                world.open.insert(ticket);
                let project = format!("/{}", dice.roll(5));
                world.projects.insert(ticket, project.clone());
                let lane = Lane::ALL[usize::try_from(dice.roll(3)).unwrap()];
                Event::Arrived {
                    ticket,
                    project,
                    lane,
                    depth: if lane == Lane::Inner {
                        1 + u32::try_from(dice.roll(2)).unwrap()
                    } else {
                        0
                    },
                    deadline: now + Duration::from_millis(500 + dice.roll(5000)),
                    again: false,
                }
            }
            4..=5 => match pick(&mut dice, world.serving.keys().copied()) {
                Some(worker) => {
                    let answered = world.serving.remove(&worker).expect("it serves");
                    world.open.remove(&answered);
                    let load = Duration::from_millis(dice.roll(1000));
                    Event::Finished {
                        worker,
                        answered: dice.roll(4) > 0,
                        loaded: Some((world.projects[&answered].clone(), load)),
                    }
                }
                None => Event::Tick,
            },
            6 => match pick(&mut dice, world.open.iter().copied()) {
                Some(left) => {
                    world.open.remove(&left);
                    Event::Left { ticket: left }
                }
                None => Event::Tick,
            },
            7 => match pick(&mut dice, world.alive.iter().copied()) {
                Some(worker) if dice.roll(2) == 0 => {
                    world.end(worker);
                    Event::Exited {
                        worker,
                        status: ExitStatus::Signal(11),
                    }
                }
                Some(worker) => Event::Broken { worker },
                None => Event::Tick,
            },
            8 => match pick(&mut dice, world.starting.iter().copied()) {
                Some(worker) if world.is_stillborn(worker) => {
                    world.end(worker);
                    let status = ExitStatus::Code(70);
                    Event::Exited { worker, status }
                }
                Some(worker) => {
                    world.starting.remove(&worker);
                    Event::Ready {
                        worker,
                        pinned: vec!["/pinned".to_owned(); usize::try_from(dice.roll(2)).unwrap()],
                    }
                }
                None => Event::Tick,
            },
            9 => match pick(&mut dice, world.loading.iter().copied()) {
                Some(generation) if dice.roll(4) > 0 => {
                    world.loading.remove(&generation);
                    world.zygotes.insert(generation);
                    if dice.roll(4) == 0 {
                        world.barren.insert(generation);
                    }
                    Event::ZygoteReady { generation }
                }
                Some(generation) => {
                    world.loading.remove(&generation);
                    Event::ZygoteExited { generation }
                }
                None => Event::PreloadChanged,
            },
            10 => match world.ending.pop_front() {
                Some((worker, status)) if world.end(worker) => Event::Exited { worker, status },
                _ => Event::Tick,
            },
            11 => match pick(&mut dice, world.alive.iter().copied()) {
                Some(worker) if dice.roll(2) == 0 => Event::Weighed {
                    worker,
                    bytes: dice.roll(2000) * MIB,
                },
                _ => Event::Machine {
                    total: 4000 * MIB,
                    used: dice.roll(4000) * MIB,
                },
            },
            12 => match world.died.pop_front() {
                Some(died) => {
                    ticket += 1;
                    world.open.insert(ticket);
                    let project = world.projects[&died].clone();
                    world.projects.insert(ticket, project.clone());
                    Event::Arrived {
                        ticket,
                        project,
                        lane: Lane::Interactive,
                        depth: 0,
                        deadline: now + Duration::from_millis(500 + dice.roll(2000)),
                        again: true,
                    }
                }
                None => Event::Tick,
            },
            13 => {
                let project = format!("/{}", dice.roll(5));
                match dice.roll(5) {
                    4 => Event::Unloadable { project },
                    0 => Event::CheckOut { project },
                    1 => Event::Drop {
                        project: (dice.roll(2) == 0).then_some(project),
                    },
                    _ => Event::Changed { project },
                }
            }
            14 => match pick(&mut dice, world.tending.keys().copied()) {
                Some(worker) => world.tend(worker, dice.roll(3) > 0),
                None => Event::Tick,
            },
            _ if dice.roll(6) == 0 => Event::Resize {
                workers: 1 + usize::try_from(dice.roll(4)).unwrap(),
            },
            _ if dice.roll(6) == 0 => Event::Adopt {
                policy: Box::new(Policy {
                    max_waiting: usize::try_from(dice.roll(6)).unwrap(),
                    max_projects: 1 + usize::try_from(dice.roll(3)).unwrap(),
                    max_failure_pressure: 1000.0,
                    interactive: share(&mut dice),
                    heavy: share(&mut dice),
                    max_requests: (dice.roll(2) == 0).then_some(3),
                    max_age: (dice.roll(2) == 0).then_some(Duration::from_secs(10)),
                    warm_up: true,
                    ..policy()
                }),
            },
            _ => Event::Tick,
        };
        let actions = pool.handle(now, event.clone());
        world.carry_out(actions);
        pool.check_invariants();
        assert!(
            pool.next_wakeup().is_none_or(|at| at > now),
            "seed {seed} step {step} {event:?}: a wake-up in the past would never end"
        );
        let view = pool.view(now);
        assert!(
            view.failure_pressure >= 0.0 && view.live <= view.workers.len(),
            "seed {seed} step {step} {event:?}"
        );
    }
    settle(&mut pool, &mut world, now);
}

/// Closes the pool and lets everything run out: no request stays open, no worker and no zygote stays behind.
fn settle(pool: &mut Pool, world: &mut World, mut now: Instant) {
    world.carry_out(pool.handle(now, Event::Close));
    for _ in 0..200 {
        now += Duration::from_millis(200);
        let event = if let Some((worker, status)) = world.ending.pop_front() {
            if world.end(worker) {
                Event::Exited { worker, status }
            } else {
                Event::Tick
            }
        } else if let Some((&worker, &ticket)) = world.serving.iter().next() {
            world.serving.remove(&worker);
            world.open.remove(&ticket);
            finished(worker, None)
        } else if let Some((&worker, _)) = world.tending.iter().next() {
            world.tend(worker, true)
        } else {
            Event::Tick
        };
        world.carry_out(pool.handle(now, event));
        pool.check_invariants();
    }
    assert!(world.open.is_empty(), "no request is lost: {:?}", world.open);
    assert!(world.alive.is_empty(), "no worker is leaked: {:?}", world.alive);
    assert!(world.zygotes.is_empty() && pool.is_empty(), "no zygote is leaked");
}

#[test]
fn nothing_is_lost_whatever_happens() {
    for seed in 1..=SEEDS {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "seed {seed} failed: run it alone with run({seed})");
    }
}

/// A pool of `workers` that serve is given a generation whose workers fail, at once or by never becoming ready, and after
/// a while a sound one.
fn replace_by_barren(seed: u64) {
    let mut dice = Dice::seeded(seed);
    let workers = 1 + usize::try_from(dice.roll(4)).unwrap();
    let hang = dice.roll(2) == 0;
    let mut run = Run::running(Policy {
        workers,
        max_failure_pressure: 5.0,
        max_requests: (dice.roll(2) == 0).then_some(20),
        ..policy()
    });
    let mut pending: Vec<(Instant, Event)> = Vec::new();
    let mut barren = BTreeSet::new();
    let least = (workers - 1).max(1);
    let begin = run.now;
    let sound_at = 200;
    for tick in 0..400 {
        let event = match tick {
            20 | 200 => Event::PreloadChanged,
            _ => Event::Arrived {
                ticket: tick,
                project: "/a".into(),
                lane: Lane::Interactive,
                depth: 0,
                deadline: run.now + 20 * SECOND,
                again: false,
            },
        };
        pending.push((begin + SECOND * u32::try_from(tick).unwrap(), event));
        // What is due by then happens in its order.
        while let Some(at) = (0..pending.len()).min_by_key(|&at| pending[at].0) {
            let (due, event) = pending.remove(at);
            run.now = run.now.max(due);
            for action in run.on(event) {
                let after = |by: u64| run.now + Duration::from_millis(by);
                match action {
                    Action::StartZygote { generation } => {
                        if tick < sound_at {
                            barren.insert(generation);
                        }
                        pending.push((after(10), Event::ZygoteReady { generation }));
                    }
                    Action::StartWorker { worker, start } if !barren.contains(&start.generation()) => {
                        pending.push((after(10), ready(worker)));
                    }
                    Action::StartWorker { worker, .. } if !hang => {
                        let status = ExitStatus::Code(70);
                        pending.push((after(10), Event::Exited { worker, status }));
                    }
                    Action::Quit { worker } => {
                        let status = ExitStatus::Code(0);
                        pending.push((after(1), Event::Exited { worker, status }));
                    }
                    Action::Kill { worker } => {
                        let status = ExitStatus::Signal(9);
                        pending.push((after(1), Event::Exited { worker, status }));
                    }
                    Action::GiveUp { pressure } => panic!("second {tick}: gives up at {pressure}"),
                    Action::Assign { worker, .. } => {
                        pending.push((after(100 + dice.roll(1500)), finished(worker, None)));
                    }
                    _ => {}
                }
            }
            let live = run.pool.view(run.now).live;
            assert!(live >= least, "second {tick}: {live} of {workers} serve");
            let next = begin + SECOND * u32::try_from(tick + 1).unwrap();
            if let Some(wake) = run.pool.next_wakeup().filter(|wake| *wake < next) {
                pending.retain(|(_, event)| *event != Event::Tick);
                pending.push((wake, Event::Tick));
            }
        }
    }
    let view = run.pool.view(run.now);
    assert!(view.live >= least);
    let start = view.start;
    let fresh = view.workers.iter().filter(|worker| Some(worker.start) == start).count();
    assert!(fresh >= least, "the sound generation takes over: {:?}", view.workers);
}

#[test]
fn sound_workers_are_kept_while_those_that_should_replace_them_fail() {
    for seed in 1..=200 {
        let outcome = std::panic::catch_unwind(|| replace_by_barren(seed));
        assert!(outcome.is_ok(), "seed {seed} failed");
    }
}
