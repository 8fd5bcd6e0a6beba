//! Seeded runs of a fleet whose agents come, go, fail and say old words, with a store that sometimes cannot be written and a
//! control plane that is killed: what was accepted is never lost, whoever attaches gets it, and in the end the list says
//! what is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use graticule_daemon::dice::Dice;

use super::*;

const SEEDS: u64 = 2_000;
const STEPS: usize = 120;
const PROJECTS: [&str; 4] = ["/a", "/b", "/c", "/broken"];
const POOLS: [&str; 3] = ["", "maps", "plans"];

/// An agent as it is, and what is on its way between it and the control plane.
#[derive(Default)]
struct Real {
    attached: bool,
    pool: String,
    /// What it was told last on this stream.
    told: u64,
    intents: VecDeque<(u64, Vec<String>)>,
    words: VecDeque<Words>,
    revision: u64,
    wants: BTreeSet<String>,
    loaded: BTreeSet<String>,
}

impl Real {
    fn words(&self) -> Words {
        let loads = |name: &&String| name.as_str() != "/broken";
        Words {
            revision: self.revision,
            loaded: self.wants.intersection(&self.loaded).filter(loads).cloned().collect(),
            missing: vec![],
            problems: self
                .wants
                .iter()
                .filter(|name| !loads(name) && self.loaded.contains(*name))
                .map(|name| (name.clone(), "broken".to_owned()))
                .collect(),
        }
    }
}

struct World {
    dice: Dice,
    pins: Pins,
    /// What is on disk.
    stored: Desired,
    /// What the operator was told to be pinned.
    accepted: BTreeMap<Key, u64>,
    agents: BTreeMap<String, Real>,
    second: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let agents = (0..3).map(|n| (format!("agent-{n}"), Real::default())).collect();
        Self {
            dice: Dice::seeded(seed),
            pins: Pins::default(),
            stored: Desired::default(),
            accepted: BTreeMap::new(),
            agents,
            second: 0,
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.dice.pick(limit)
    }

    fn change(&mut self) {
        let key = Key {
            project: PROJECTS[self.below(PROJECTS.len())].to_owned(),
            pool: POOLS[self.below(POOLS.len())].to_owned(),
        };
        let pins = self.below(3) > 0;
        let next = if pins {
            self.stored.with(key.clone(), self.second, 0)
        } else {
            self.stored.without(&key)
        };
        let Some(next) = next else { return };
        // A store that cannot be written: the change is refused.
        if self.below(4) == 0 {
            return;
        }
        self.stored = next.clone();
        assert!(self.pins.desire(next));
        if pins {
            self.accepted.insert(key, self.second);
        } else {
            self.accepted.remove(&key);
        }
    }

    fn attach(&mut self, name: &str) {
        let pool = POOLS[1 + self.below(2)];
        let agent = self.agents.get_mut(name).unwrap();
        agent.attached = true;
        agent.pool = pool.to_owned();
        (agent.told, agent.revision) = (0, 0);
        agent.intents.clear();
        agent.words.clear();
        // Its first state may come before it has read anything.
        agent.words.push_back(agent.words());
        self.pins.attach(name, pool);
    }

    /// One thing happens to one agent.
    fn agent(&mut self, name: &str, what: usize) {
        let desired = self.pins.desired().clone();
        let agent = self.agents.get_mut(name).unwrap();
        if !agent.attached {
            return self.attach(name);
        }
        match what {
            // It is told; twice the same at most on a new stream.
            0 | 1 if agent.told != desired.revision || agent.told == 0 => {
                agent.told = desired.revision;
                let projects = desired.of_pool(&agent.pool);
                agent.intents.push_back((desired.revision, projects));
            }
            2 | 3 => {
                if let Some((revision, projects)) = agent.intents.pop_front() {
                    agent.revision = revision;
                    agent.wants = projects.into_iter().collect();
                    agent.loaded = agent.loaded.intersection(&agent.wants).cloned().collect();
                    agent.words.push_back(agent.words());
                }
            }
            4 | 5 => {
                let next = agent.wants.difference(&agent.loaded).next().cloned();
                agent.loaded.extend(next);
                agent.words.push_back(agent.words());
            }
            6 | 7 => {
                if let Some(words) = agent.words.pop_front() {
                    self.pins.said(name, words);
                }
            }
            // Its stream breaks, or it dies and forgets; it may be known for a while yet.
            8 => {
                agent.attached = false;
                if self.below(2) == 0 {
                    let agent = self.agents.get_mut(name).unwrap();
                    (agent.loaded, agent.wants) = Default::default();
                }
                if self.below(2) == 0 {
                    self.pins.retain(|other| other != name);
                }
            }
            _ => {}
        }
    }

    /// The control plane is killed and started again from what is on disk.
    fn restart(&mut self) {
        self.pins = Pins::new(self.stored.clone());
        for agent in self.agents.values_mut() {
            agent.attached = false;
        }
    }

    fn check(&self) {
        self.pins.check_invariants();
        let desired: BTreeMap<Key, u64> = self
            .pins
            .desired()
            .pins
            .iter()
            .map(|(key, pin)| (key.clone(), pin.since))
            .collect();
        assert_eq!(desired, self.accepted, "what was accepted is what is desired");
        // Nobody is said to have what it has not, unless it lost that after its word.
        for listed in self.pins.list() {
            for (id, state) in &listed.agents {
                let agent = &self.agents[*id];
                if *state == State::Loaded && agent.attached && agent.intents.is_empty() && agent.words.is_empty() {
                    assert!(agent.loaded.contains(&listed.key.project), "{id} {listed:?}");
                }
            }
        }
    }

    /// Everybody comes, hears, loads and speaks: then the list has to say what is.
    fn settle(&mut self) {
        let names: Vec<String> = self.agents.keys().cloned().collect();
        for name in &names {
            self.agent(name, 9);
            for what in [0].into_iter().chain([2; 40]).chain([4; 8]).chain([6; 200]) {
                self.agent(name, what);
            }
            self.check();
        }
        for listed in self.pins.list() {
            let concerned = self.agents.values().filter(|agent| listed.key.concerns(&agent.pool));
            assert_eq!(listed.agents.len(), concerned.count());
            for (id, state) in listed.agents {
                let wanted = if listed.key.project == "/broken" {
                    State::Failed("broken".to_owned())
                } else {
                    State::Loaded
                };
                assert_eq!(state, wanted, "{id} {:?}", listed.key);
            }
        }
        for agent in self.agents.values() {
            let wants: Vec<String> = agent.wants.iter().cloned().collect();
            assert_eq!(wants, self.pins.desired().of_pool(&agent.pool));
        }
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            self.second += 1;
            match self.below(20) {
                0..=3 => self.change(),
                4 if self.below(4) == 0 => self.restart(),
                _ => {
                    let (name, what) = (format!("agent-{}", self.below(3)), self.below(9));
                    self.agent(&name, what);
                }
            }
            self.check();
        }
        self.settle();
    }
}

#[test]
fn what_was_accepted_is_never_lost_and_the_list_adds_up() {
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| World::new(seed).run());
        if let Err(panic) = run {
            eprintln!("seed {seed} fails");
            std::panic::resume_unwind(panic);
        }
    }
}
