//! The pins of the whole fleet: which projects every agent of a pool is to keep loaded, and what agents say of them.
//!
//! What is desired is a value of its own ([`Desired`]) that is made anew with each change, so that it can be put in a safe
//! place before it counts. Each change has a revision. An agent's word counts for a pin only when the agent had taken that
//! pin's revision: older words, from before it was told or from before it was restarted, say nothing.
//!
//! What it does not know: files, streams, messages, clocks.

use std::collections::{BTreeMap, BTreeSet};

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

/// A project, and the pool whose agents keep it loaded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// As clients name it, such as `/world`.
    pub project: String,
    /// Empty: every pool.
    pub pool: String,
}

impl Key {
    /// Whether agents of that pool are concerned.
    #[must_use]
    pub fn concerns(&self, pool: &str) -> bool {
        self.pool.is_empty() || self.pool == pool
    }
}

/// One pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// The change that made it.
    pub revision: u64,
    /// How many agents of a pool are to serve it; 0 for as many as the pool is configured to have.
    pub replicas: u32,
}

/// The agents that are to keep a project, where not all of its pool are: by pool and project.
pub type Kept = BTreeMap<(String, String), Vec<String>>;

/// What is to be kept loaded, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wished {
    /// What.
    pub desired: Desired,
    /// Where, for what not every agent of a pool keeps.
    pub kept: Kept,
    /// Pools with such projects.
    pub partial: BTreeSet<String>,
    /// The agents for which it is decided. Others of such a pool are told nothing yet: what they still have they may be
    /// about to be told to keep.
    pub decided: BTreeSet<String>,
}

impl Wished {
    /// What an agent is to keep loaded, sorted; `None` while that is not decided.
    #[must_use]
    pub fn of_agent(&self, pool: &str, agent: &str) -> Option<Vec<String>> {
        if self.partial.contains(pool) && !self.decided.contains(agent) {
            return None;
        }
        let mut projects = self.desired.of_pool(pool);
        projects.retain(|project| keeps(&self.kept, pool, project, agent));
        Some(projects)
    }
}

/// Whether an agent of that pool is one of those that keep a project that is pinned there.
fn keeps(kept: &Kept, pool: &str, project: &str, agent: &str) -> bool {
    let place = (pool.to_owned(), project.to_owned());
    kept.get(&place)
        .is_none_or(|agents| agents.iter().any(|one| one == agent))
}

/// What is to be kept loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Grows with every change; 0 before the first.
    pub revision: u64,
    /// The pins.
    pub pins: BTreeMap<Key, Pin>,
}

impl Desired {
    /// The same with one pin more; `None` when it is there already. `replicas` is 0 for as it is, and for as the pool is
    /// configured where there is no pin yet.
    #[must_use]
    pub fn with(&self, key: Key, since: u64, replicas: u32) -> Option<Self> {
        let before = self.pins.get(&key);
        if before.is_some_and(|pin| replicas == 0 || pin.replicas == replicas) {
            return None;
        }
        let since = before.map_or(since, |pin| pin.since);
        let mut next = self.clone();
        next.revision += 1;
        let revision = next.revision;
        let pin = Pin {
            since,
            revision,
            replicas,
        };
        next.pins.insert(key, pin);
        Some(next)
    }

    /// The same with one pin less; `None` when it is not there.
    #[must_use]
    pub fn without(&self, key: &Key) -> Option<Self> {
        let mut next = self.clone();
        next.pins.remove(key)?;
        next.revision += 1;
        Some(next)
    }

    /// By how many agents of that pool each pinned project is to be served, 0 for all; `standard` where the pin leaves it
    /// open. Of two pins of one project the one for more agents counts.
    #[must_use]
    pub fn replicas(&self, pool: &str, standard: u32) -> BTreeMap<String, usize> {
        let mut replicas: BTreeMap<String, usize> = BTreeMap::new();
        for (key, pin) in self.pins.iter().filter(|(key, _)| key.concerns(pool)) {
            let wanted = if pin.replicas == 0 { standard } else { pin.replicas };
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            let of_both = replicas.entry(key.project.clone()).or_insert(wanted);
            *of_both = if *of_both == 0 || wanted == 0 {
                0
            } else {
                wanted.max(*of_both)
            };
        }
        replicas
    }

    /// What is pinned for that pool, sorted.
    #[must_use]
    pub fn of_pool(&self, pool: &str) -> Vec<String> {
        let concerned = self.pins.keys().filter(|key| key.concerns(pool));
        let mut projects: Vec<String> = concerned.map(|key| key.project.clone()).collect();
        // A project may be pinned for all pools and for this one.
        projects.dedup();
        projects
    }
}

/// What an agent says of its pins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// The revision that it has taken on this stream; 0 before the first.
    pub revision: u64,
    /// What every worker has.
    pub loaded: Vec<String>,
    /// What cannot be found.
    pub missing: Vec<String>,
    /// Why what is missing or cannot be loaded is so, by project.
    pub problems: BTreeMap<String, String>,
}

/// How one agent stands with one pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It has not said yet, or loads it.
    Loading,
    /// Every worker has it.
    Loaded,
    /// It cannot be found there, and why.
    Missing(String),
    /// It cannot be loaded there, and why.
    Failed(String),
}

impl State {
    /// The word for people and programs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Loaded => "loaded",
            Self::Missing(_) => "missing",
            Self::Failed(_) => "failed",
        }
    }

    /// Why it is not loaded; empty when nothing is wrong.
    #[must_use]
    pub fn problem(&self) -> &str {
        match self {
            Self::Loading | Self::Loaded => "",
            Self::Missing(problem) | Self::Failed(problem) => problem,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Agent {
    pool: String,
    /// What it said since it attached; older words do not count.
    words: Option<Words>,
}

/// What is desired, and every agent with its words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    desired: Desired,
    kept: Kept,
    agents: BTreeMap<String, Agent>,
}

/// One pin with the agents that it concerns, in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    /// What is pinned.
    pub key: &'a Key,
    /// Since when.
    pub pin: Pin,
    /// Each agent's state.
    pub agents: Vec<(&'a str, State)>,
}

impl Pins {
    /// Pins of which no agent has been told yet.
    #[must_use]
    pub const fn new(desired: Desired) -> Self {
        Self {
            desired,
            kept: Kept::new(),
            agents: BTreeMap::new(),
        }
    }

    /// What is desired now.
    #[must_use]
    pub const fn desired(&self) -> &Desired {
        &self.desired
    }

    /// From now on this is desired. One that is older than what is known changes nothing; whether it is newer.
    pub fn desire(&mut self, desired: Desired) -> bool {
        let newer = desired.revision > self.desired.revision;
        if newer {
            self.desired = desired;
        }
        newer
    }

    /// From now on these agents keep projects that not all do; whether that is news.
    pub fn keep(&mut self, kept: Kept) -> bool {
        let news = self.kept != kept;
        self.kept = kept;
        news
    }

    /// An agent has come, or has come again: what it said before does not count any more.
    pub fn attach(&mut self, agent: &str, pool: &str) {
        let (pool, words) = (pool.to_owned(), None);
        self.agents.insert(agent.to_owned(), Agent { pool, words });
    }

    /// An agent says how it stands; whether that is news.
    pub fn said(&mut self, agent: &str, words: Words) -> bool {
        let Some(known) = self.agents.get_mut(agent) else {
            return false;
        };
        let news = known.words.as_ref() != Some(&words);
        known.words = Some(words);
        news
    }

    /// Agents that are not in the fleet any more are forgotten; whether there was one.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) -> bool {
        let before = self.agents.len();
        self.agents.retain(|agent, _| is_there(agent));
        self.agents.len() != before
    }

    /// How the agents that a pin concerns stand with it; `None` when there is no such pin.
    #[must_use]
    pub fn agents(&self, key: &Key) -> Option<Vec<(&str, State)>> {
        let pin = self.desired.pins.get(key)?;
        let states = self.concerned(key);
        Some(
            states
                .map(|(id, agent)| (id, agent.state(&key.project, *pin)))
                .collect(),
        )
    }

    /// The agents that are to keep it.
    fn concerned(&self, key: &Key) -> impl Iterator<Item = (&str, &Agent)> {
        let of_pool = self.agents.iter().filter(|(_, agent)| key.concerns(&agent.pool));
        let keep = of_pool.filter(|(id, agent)| keeps(&self.kept, &agent.pool, &key.project, id));
        keep.map(|(id, agent)| (id.as_str(), agent))
    }

    /// Every pin, in the order of projects and pools.
    pub fn list(&self) -> impl Iterator<Item = Listed<'_>> {
        self.desired.pins.iter().map(|(key, pin)| Listed {
            key,
            pin: *pin,
            agents: self.agents(key).unwrap_or_default(),
        })
    }

    /// How many pins there are, and how many of them some agent lacks.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let lacking = |listed: &Listed<'_>| listed.agents.iter().any(|(_, state)| *state != State::Loaded);
        (self.desired.pins.len(), self.list().filter(lacking).count())
    }

    /// Panics when something does not add up.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let (all, lacking) = self.counts();
        assert!(lacking <= all && self.list().count() == all);
        for (key, pin) in &self.desired.pins {
            assert!(!key.project.is_empty());
            assert!((1..=self.desired.revision).contains(&pin.revision), "{key:?} {pin:?}");
        }
        for listed in self.list() {
            assert_eq!(listed.agents.len(), self.concerned(listed.key).count(), "{listed:?}");
        }
    }
}

impl Agent {
    fn state(&self, project: &str, pin: Pin) -> State {
        let Some(words) = self.words.as_ref().filter(|words| words.revision >= pin.revision) else {
            return State::Loading;
        };
        let is = |names: &[String]| names.iter().any(|name| name == project);
        let problem = words.problems.get(project);
        if is(&words.missing) {
            State::Missing(problem.cloned().unwrap_or_default())
        } else if let Some(problem) = problem {
            State::Failed(problem.clone())
        } else if is(&words.loaded) {
            State::Loaded
        } else {
            State::Loading
        }
    }
}
