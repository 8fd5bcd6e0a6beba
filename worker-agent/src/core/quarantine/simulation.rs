//! A seeded model of a fleet: agents, a control plane between them, messages that come late, streams that break, and
//! restarts of both. One request always kills, one never does but is unlucky at times. After every step the invariants
//! are checked, and how many workers the bad one has killed.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use graticule_daemon::dice::Dice;

use super::tests::{RULE, culprit};
use super::*;

const SEEDS: u64 = 1000;
const STEPS: usize = 120;
const POISON: &str = "poison";
const POPULAR: &str = "popular";

/// What the control plane does, no more than that.
#[derive(Default)]
struct ControlPlane {
    entries: BTreeMap<String, (Culprit, BTreeMap<String, Vec<Instant>>)>,
    cleared: Clears,
}

impl ControlPlane {
    fn hear(&mut self, now: Instant, agent: &str, word: Word) {
        match word {
            Word::Killed(culprit, ages) => {
                let kills = ages.iter().map(|age| now - *age);
                let kills: Vec<Instant> = kills
                    .filter(|at| !self.cleared.cover(&culprit.fingerprint, *at))
                    .collect();
                let entry = self.entries.entry(culprit.fingerprint.clone()).or_default();
                entry.0 = culprit;
                entry.1.insert(agent.to_owned(), kills);
            }
            Word::Cleared(fingerprint, age) => {
                self.cleared.add(&fingerprint, now - age);
                self.entries.retain(|known, (_, agents)| {
                    for kills in agents.values_mut() {
                        kills.retain(|at| !self.cleared.cover(known, *at));
                    }
                    true
                });
            }
        }
    }

    fn tell(&self, now: Instant) -> Fleet {
        let ages = |kills: &Vec<Instant>| kills.iter().map(|at| now - *at).collect();
        let entries = self.entries.values().map(|(culprit, agents)| {
            let agents = agents.iter().map(|(agent, kills)| (agent.clone(), ages(kills)));
            (culprit.clone(), agents.collect())
        });
        let cleared = self.cleared.iter();
        Fleet {
            entries: entries.collect(),
            cleared: cleared
                .map(|clear| (clear.fingerprint.clone(), now - clear.at))
                .collect(),
        }
    }
}

struct Site {
    name: String,
    quarantine: Quarantine,
    attached: bool,
    /// On their way up and down, with the number of requests after which they arrive.
    up: VecDeque<(usize, Word)>,
    down: VecDeque<(usize, Fleet)>,
    killed: Vec<Instant>,
}

/// Takes what is due, in the order in which it was sent.
fn arrived<T>(way: &mut VecDeque<(usize, T)>, due: usize) -> Vec<T> {
    let count = way.iter().take_while(|(at, _)| *at <= due).count();
    way.drain(..count).map(|(_, message)| message).collect()
}

struct World {
    now: Instant,
    rule: Rule,
    sites: Vec<Site>,
    control_plane: ControlPlane,
    requests: usize,
    /// How many requests a word takes from one agent to another, at most.
    delay: usize,
    poisoned: Vec<Instant>,
    /// Where the popular request was last unlucky, and how often it was well there since.
    unlucky: Option<(usize, u32)>,
}

impl World {
    fn new(dice: &mut Dice, delay: usize) -> Self {
        let rule = Rule {
            limit: u32::try_from(2 + dice.pick(2)).unwrap(),
            duration: Duration::from_secs(60 * (1 + dice.pick(15) as u64)),
            ..RULE
        };
        let now = Instant::now() + Duration::from_secs(1_000_000);
        let sites = (0..1 + dice.pick(5)).map(|n| Site {
            name: format!("agent-{n}"),
            quarantine: Quarantine::new(now, &format!("agent-{n}"), rule),
            attached: true,
            up: VecDeque::new(),
            down: VecDeque::new(),
            killed: Vec::new(),
        });
        Self {
            now,
            rule,
            sites: sites.collect(),
            control_plane: ControlPlane::default(),
            requests: 0,
            delay,
            poisoned: Vec::new(),
            unlucky: None,
        }
    }

    /// Carries what is due. Half of the delay is spent on the way up, the rest on the way down.
    fn carry(&mut self) {
        let (due, now) = (self.requests, self.now);
        for site in self.sites.iter_mut().filter(|site| site.attached) {
            let words = site.quarantine.words(now, 0);
            site.up
                .extend(words.into_iter().map(|word| (due + self.delay / 2, word)));
        }
        let mut news = false;
        for site in &mut self.sites {
            for word in arrived(&mut site.up, due) {
                self.control_plane.hear(now, &site.name, word);
                news = true;
            }
        }
        for site in self.sites.iter_mut().filter(|site| site.attached) {
            if news {
                let message = self.control_plane.tell(now);
                site.down.push_back((due + self.delay.div_ceil(2), message));
            }
            for message in arrived(&mut site.down, due) {
                site.quarantine.fleet(now, 0, message);
            }
        }
        for site in &self.sites {
            site.quarantine.check_invariants();
        }
    }

    /// The poison reaches an agent; true when it killed.
    fn poison(&mut self, at: usize) -> bool {
        self.requests += 1;
        let site = &mut self.sites[at];
        if site.quarantine.check(self.now, POISON).is_err() {
            return false;
        }
        site.quarantine.killed(self.now, culprit(POISON));
        site.killed.push(self.now);
        self.poisoned.push(self.now);
        true
    }

    fn popular(&mut self, at: usize, unlucky: bool) {
        self.requests += 1;
        let site = &mut self.sites[at];
        assert!(
            site.quarantine.check(self.now, POPULAR).is_ok(),
            "a good request is refused on {}",
            site.name
        );
        // It is not run over again at once: two kills with fewer than two successes between them look like poison.
        match &mut self.unlucky {
            None if unlucky => {
                self.unlucky = Some((at, 0));
                site.quarantine.killed(self.now, culprit(POPULAR));
                return;
            }
            Some((there, 1)) if *there == at => self.unlucky = None,
            Some((there, well)) if *there == at => *well += 1,
            _ => {}
        }
        site.quarantine.succeeded(self.now, POPULAR);
    }

    fn break_stream(&mut self, at: usize) {
        let site = &mut self.sites[at];
        site.attached = false;
        site.up.clear();
        site.down.clear();
    }

    fn attach(&mut self, at: usize) {
        let site = &mut self.sites[at];
        site.attached = true;
        site.quarantine.tell_all(0);
        site.down.push_back((
            self.requests + self.delay.div_ceil(2),
            self.control_plane.tell(self.now),
        ));
    }

    /// All agents come back before the new control plane says its first word.
    fn restart_control_plane(&mut self) {
        self.control_plane = ControlPlane::default();
        for at in 0..self.sites.len() {
            self.break_stream(at);
            let site = &mut self.sites[at];
            site.attached = true;
            site.quarantine.tell_all(0);
            for word in site.quarantine.words(self.now, 0) {
                self.control_plane.hear(self.now, &site.name, word);
            }
        }
        for at in 0..self.sites.len() {
            self.attach(at);
        }
    }

    fn restart_agent(&mut self, at: usize) {
        self.break_stream(at);
        let site = &mut self.sites[at];
        site.quarantine = Quarantine::new(self.now, &site.name, self.rule);
        self.attach(at);
    }

    /// How many kills lie within the window that ends with the last one.
    fn within(&self, kills: &[Instant]) -> usize {
        let Some(last) = kills.last() else { return 0 };
        kills
            .iter()
            .rev()
            .take_while(|kill| **kill + self.rule.window > *last)
            .count()
    }
}

fn each_seed(run: impl Fn(u64, &mut Dice) + std::panic::RefUnwindSafe) {
    for seed in 1..=SEEDS {
        let outcome = std::panic::catch_unwind(|| run(seed, &mut Dice::seeded(seed)));
        assert!(outcome.is_ok(), "seed {seed} failed: run it alone");
    }
}

/// As long as the fleet hears of a kill before the next request: no window has more kills than the limit, whatever
/// restarts, and a good request is never refused.
#[test]
fn one_bad_request_kills_as_many_workers_as_the_limit_says() {
    each_seed(|seed, dice| {
        let mut world = World::new(dice, 0);
        for step in 0..STEPS {
            world.now += Duration::from_millis(1 + dice.pick(30_000) as u64);
            let at = dice.pick(world.sites.len());
            match dice.pick(12) {
                0..=4 => {
                    if world.poison(at) {
                        // Envoy tries once more elsewhere.
                        world.carry();
                        world.now += Duration::from_millis(5);
                        world.poison((at + 1) % world.sites.len());
                    }
                }
                5..=8 => world.popular(at, dice.pick(8) == 0),
                9 => world.restart_control_plane(),
                10 => world.restart_agent(at),
                _ if dice.pick(5) == 0 => {
                    let all = dice.pick(2) == 0;
                    world.sites[at]
                        .quarantine
                        .clear(world.now, if all { "" } else { POISON });
                    world.poisoned.clear();
                }
                _ => {
                    world.break_stream(at);
                    world.attach(at);
                }
            }
            world.carry();
            let most = world.within(&world.poisoned);
            assert!(
                most <= world.rule.limit as usize,
                "seed {seed} step {step}: {most} kills"
            );
        }
    });
}

/// When words take a while: for each request that they take, one kill more; and no agent ever more than the limit by itself.
#[test]
fn late_words_cost_a_worker_for_each_request_that_they_take() {
    each_seed(|seed, dice| {
        let delay = dice.pick(6);
        let mut world = World::new(dice, delay);
        for step in 0..STEPS {
            world.now += Duration::from_millis(1 + dice.pick(30_000) as u64);
            world.poison(dice.pick(world.sites.len()));
            world.carry();
            let (limit, agents) = (world.rule.limit as usize, world.sites.len());
            let most = world.within(&world.poisoned);
            assert!(
                most <= limit + delay && most <= limit * agents,
                "seed {seed} step {step}: {most} kills, delay {delay}, {agents} agents"
            );
        }
    });
}

/// When the fleet is torn apart, each agent still keeps to the limit by itself; and once all is quiet, nobody is refused.
#[test]
fn an_agent_alone_keeps_to_the_limit_and_nothing_is_refused_for_ever() {
    each_seed(|seed, dice| {
        let mut world = World::new(dice, 3);
        for step in 0..STEPS {
            world.now += Duration::from_millis(1 + dice.pick(30_000) as u64);
            let at = dice.pick(world.sites.len());
            match dice.pick(8) {
                0..=4 => drop(world.poison(at)),
                5 => world.restart_control_plane(),
                6 => world.break_stream(at),
                _ if !world.sites[at].attached => world.attach(at),
                _ => {}
            }
            world.carry();
            for site in &world.sites {
                let most = world.within(&site.killed);
                assert!(
                    most <= world.rule.limit as usize,
                    "seed {seed} step {step} {}: {most} kills",
                    site.name
                );
            }
        }
        world.now += world.rule.window.max(world.rule.duration);
        for site in &world.sites {
            assert_eq!(site.quarantine.counts(world.now), (0, 0), "seed {seed} {}", site.name);
        }
    });
}
