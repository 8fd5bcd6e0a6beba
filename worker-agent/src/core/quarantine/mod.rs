//! The quarantine: requests that killed workers, here and elsewhere in the fleet, and whether they are refused.
//!
//! A request is its fingerprint. Kills on this agent count unless successes outweigh them: a popular tile that happens to
//! be running when something else kills workers is no poison. What counts is the longest run of kills, up to the last one,
//! with fewer successes since its first; so a request that was well for long and now kills is found as soon as one that
//! never was. Only this run is told to the fleet. Kills that the fleet tells of have been weighed where they happened.
//!
//! Several control planes may tell of the fleet. What any of those that are there knows counts, and each is told what it has
//! not been told: what is known here, and what operators cleared at another.
//!
//! What it does not know: requests, workers, sockets. Time is an argument.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use graticule_daemon::quarantine::{Clears, MAX_KILLS, MAX_TEXT, Rule, Standing, cut};

mod fleets;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use fleets::{MAX_AGENTS, Told};
pub use fleets::{MAX_FLEET, Place};

/// How many fingerprints that killed workers here are remembered. Those that are not refused, and of them the oldest, are
/// forgotten first.
pub const MAX_OWN: usize = 1024;

/// What a kill has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// How many kills count against the fingerprint, those elsewhere in the fleet included.
    pub kills: usize,
    /// Whether it is refused from now on, and was not before.
    pub refused: bool,
}

/// A request that killed a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Culprit {
    /// Which.
    pub fingerprint: String,
    /// Its project as clients name it.
    pub project: String,
    /// Its text, without secrets.
    pub request: String,
    /// Why the worker was gone.
    pub reason: String,
}

/// What the fleet is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// The kills on this agent that count now, by their ages; they replace what was told before. None: nothing counts.
    Killed(Culprit, Vec<Duration>),
    /// An operator cleared a fingerprint (empty: all) so long ago.
    Cleared(String, Duration),
}

/// The ages of kills, by agent.
pub type Kills = Vec<(String, Vec<Duration>)>;

/// What the fleet tells; it replaces what was told before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Each culprit with the ages of its kills, by agent.
    pub entries: Vec<(Culprit, Kills)>,
    /// What was cleared (empty: all), and how long ago.
    pub cleared: Vec<(String, Duration)>,
}

/// An entry as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Who.
    pub culprit: Culprit,
    /// Whether it is refused, or only suspected.
    pub refused: bool,
    /// Until it is served again; for a suspect, until nothing counts against it.
    pub remaining: Duration,
    /// The ages of the kills that count, by agent.
    pub agents: BTreeMap<String, Vec<Duration>>,
}

/// One kill on this agent.
#[derive(Debug, Clone, Copy)]
struct Kill {
    at: Instant,
    /// Good answers between this kill and the next.
    successes: u32,
}

#[derive(Debug, Default)]
struct Entry {
    culprit: Culprit,
    own: VecDeque<Kill>,
    /// By agent, as each control plane tells it.
    elsewhere: BTreeMap<(String, Place), Vec<Instant>>,
    /// The number of the change after which the fleet is to be told of what counts here; 0 when there is nothing to tell.
    news: u64,
}

impl Entry {
    /// How many of the last kills here count.
    fn weight(&self) -> usize {
        let (mut kills, mut successes, mut counting) = (0_usize, 0_usize, 0);
        for kill in self.own.iter().rev() {
            kills += 1;
            successes = successes.saturating_add(kill.successes as usize);
            if kills > successes {
                counting = kills;
            }
        }
        counting
    }

    /// The kills here that count.
    fn own(&self) -> impl Iterator<Item = Instant> {
        self.own.iter().skip(self.own.len() - self.weight()).map(|kill| kill.at)
    }

    /// The kills on each other agent, by the control plane that knows of most. They hear of the same kills at slightly
    /// different times, so these cannot be put together one by one.
    fn elsewhere(&self) -> BTreeMap<&str, &Vec<Instant>> {
        let mut agents: BTreeMap<&str, &Vec<Instant>> = BTreeMap::new();
        for ((agent, _), kills) in &self.elsewhere {
            let most = agents.entry(agent).or_insert(kills);
            if (most.len(), most.last()) < (kills.len(), kills.last()) {
                *most = kills;
            }
        }
        agents
    }

    /// Every kill that counts, the earliest first.
    fn kills(&self) -> Vec<Instant> {
        let elsewhere = self.elsewhere().into_values().flatten().copied();
        let mut kills: Vec<Instant> = elsewhere.chain(self.own()).collect();
        kills.sort_unstable();
        kills
    }

    fn standing(&self, now: Instant, rule: &Rule) -> Standing {
        rule.judge(now, &self.kills())
    }

    /// Drops kills that are too old to matter; false when none is left.
    fn prune(&mut self, now: Instant, rule: &Rule) -> bool {
        let refused = self.standing(now, rule).refused();
        self.own.retain(|kill| rule.counts(now, refused, kill.at));
        self.elsewhere.retain(|_, kills| {
            kills.retain(|kill| rule.counts(now, refused, *kill));
            !kills.is_empty()
        });
        !(self.own.is_empty() && self.elsewhere.is_empty())
    }
}

/// See the module.
#[derive(Debug)]
pub struct Quarantine {
    agent: String,
    rule: Rule,
    born: Instant,
    entries: HashMap<String, Entry>,
    /// Cleared on this agent, and the number of the change that did it last.
    cleared: Clears,
    cleared_news: u64,
    /// Counts changes that the fleet is to be told of.
    changes: u64,
    /// What has become of each control plane.
    fleets: BTreeMap<Place, Told>,
}

impl Quarantine {
    /// An empty one for the agent of that name, which starts now.
    #[must_use]
    pub fn new(now: Instant, agent: &str, rule: Rule) -> Self {
        Self {
            agent: agent.to_owned(),
            rule,
            born: now,
            entries: HashMap::new(),
            cleared: Clears::default(),
            cleared_news: 0,
            changes: 0,
            fleets: BTreeMap::new(),
        }
    }

    /// Judges by another rule from now on.
    pub fn set_rule(&mut self, rule: Rule) {
        self.rule = rule;
    }

    /// The rule it judges by.
    #[must_use]
    pub const fn rule(&self) -> Rule {
        self.rule
    }

    /// Whether a request may be served.
    ///
    /// # Errors
    /// For how long it is refused.
    pub fn check(&self, now: Instant, fingerprint: &str) -> Result<(), Duration> {
        match self.entries.get(fingerprint) {
            None => Ok(()),
            Some(entry) => match entry.standing(now, &self.rule) {
                standing if standing.refused() => Err(standing.remaining(now)),
                _ => Ok(()),
            },
        }
    }

    /// A request has killed a worker. `None` when the quarantine is off.
    pub fn killed(&mut self, now: Instant, culprit: Culprit) -> Option<Verdict> {
        if self.rule.limit == 0 {
            return None;
        }
        let entry = self.entries.entry(culprit.fingerprint.clone()).or_default();
        entry.prune(now, &self.rule);
        let before = entry.standing(now, &self.rule).refused();
        entry.culprit = bounded(culprit);
        entry.own.push_back(Kill { at: now, successes: 0 });
        if entry.own.len() > MAX_KILLS {
            entry.own.pop_front();
        }
        self.changes += 1;
        entry.news = self.changes;
        let verdict = Verdict {
            kills: entry.kills().len(),
            refused: !before && entry.standing(now, &self.rule).refused(),
        };
        self.make_room(now);
        Some(verdict)
    }

    /// A worker has answered a request. True when the fleet is to be told of what that changes.
    pub fn succeeded(&mut self, now: Instant, fingerprint: &str) -> bool {
        let Some(entry) = self.entries.get_mut(fingerprint) else {
            return false;
        };
        let before = entry.weight();
        if let Some(last) = entry.own.back_mut() {
            last.successes = last.successes.saturating_add(1);
        }
        let changed = entry.weight() != before;
        if changed {
            self.changes += 1;
            entry.news = self.changes;
        }
        if !entry.prune(now, &self.rule) {
            self.entries.remove(fingerprint);
            return false;
        }
        changed
    }

    /// What there is against anybody: the refused first, then by the last kill, the latest first.
    #[must_use]
    pub fn list(&self, now: Instant) -> Vec<Listed> {
        let age = |kill: Instant| now.saturating_duration_since(kill);
        let listed = self.entries.values().filter_map(|entry| {
            let standing = entry.standing(now, &self.rule);
            let counts = |kill: &Instant| self.rule.counts(now, standing.refused(), *kill);
            let own: Vec<Duration> = entry.own().filter(counts).map(age).collect();
            let elsewhere = entry.elsewhere().into_iter();
            let elsewhere = elsewhere.map(|(agent, kills)| {
                (
                    agent.to_owned(),
                    kills.iter().copied().filter(counts).map(age).collect(),
                )
            });
            let agents: BTreeMap<String, Vec<Duration>> = elsewhere
                .chain([(self.agent.clone(), own)])
                .filter(|(_, ages)| !ages.is_empty())
                .collect();
            (standing != Standing::Clear).then(|| Listed {
                culprit: entry.culprit.clone(),
                refused: standing.refused(),
                remaining: standing.remaining(now),
                agents,
            })
        });
        let mut listed: Vec<Listed> = listed.collect();
        let last = |entry: &Listed| entry.agents.values().flatten().min().copied();
        listed.sort_by_cached_key(|entry| (!entry.refused, last(entry), entry.culprit.fingerprint.clone()));
        listed
    }

    /// How many fingerprints are refused, and how many are suspected.
    #[must_use]
    pub fn counts(&self, now: Instant) -> (usize, usize) {
        let mut counts = (0, 0);
        for entry in self.entries.values() {
            match entry.standing(now, &self.rule) {
                Standing::Refused { .. } => counts.0 += 1,
                Standing::Suspected { .. } => counts.1 += 1,
                Standing::Clear => {}
            }
        }
        counts
    }

    /// An operator lets a fingerprint through again; an empty one stands for all. Says how many entries there were.
    pub fn clear(&mut self, now: Instant, fingerprint: &str) -> usize {
        let listed = self.list(now).into_iter();
        let count = listed
            .filter(|entry| fingerprint.is_empty() || entry.culprit.fingerprint == fingerprint)
            .count();
        // Also when there is nothing here: another agent may know more, or be about to tell.
        if self.cleared.add(fingerprint, now) {
            self.changes += 1;
            self.cleared_news = self.changes;
        }
        self.drop_cleared();
        count
    }

    fn drop_cleared(&mut self) {
        let heard = self.fleets.values().map(|told| &told.cleared);
        let clears: Vec<&Clears> = heard.chain([&self.cleared]).collect();
        if clears.iter().all(|clears| clears.iter().next().is_none()) {
            return;
        }
        self.entries.retain(|fingerprint, entry| {
            let stays = |at: Instant| !clears.iter().any(|clears| clears.cover(fingerprint, at));
            entry.own.retain(|kill| stays(kill.at));
            entry.elsewhere.retain(|_, kills| {
                kills.retain(|kill| stays(*kill));
                !kills.is_empty()
            });
            !(entry.own.is_empty() && entry.elsewhere.is_empty())
        });
    }

    /// Forgets what is too old to matter, and then what is too much: an eighth at once, so that a flood of bad requests does
    /// not cost a search each.
    fn make_room(&mut self, now: Instant) {
        let own = |entries: &HashMap<String, Entry>| entries.values().filter(|entry| !entry.own.is_empty()).count();
        if own(&self.entries) <= MAX_OWN {
            return;
        }
        self.entries.retain(|_, entry| entry.prune(now, &self.rule));
        let mut order: Vec<(bool, Instant, String)> = self
            .entries
            .iter()
            .filter_map(|(fingerprint, entry)| {
                let last = entry.own.back()?.at;
                Some((entry.standing(now, &self.rule).refused(), last, fingerprint.clone()))
            })
            .collect();
        order.sort_unstable();
        let surplus = order.len().saturating_sub(MAX_OWN / 8 * 7);
        for (_, _, fingerprint) in order.into_iter().take(surplus) {
            if let Some(entry) = self.entries.get_mut(&fingerprint) {
                entry.own.clear();
                entry.news = 0;
                if entry.elsewhere.is_empty() {
                    self.entries.remove(&fingerprint);
                }
            }
        }
    }

    /// Panics when what must always hold does not. For tests.
    ///
    /// # Panics
    /// See above.
    pub fn check_invariants(&self) {
        let own = self.entries.values().filter(|entry| !entry.own.is_empty()).count();
        assert!(own <= MAX_OWN, "{own} entries of its own");
        assert!(
            self.entries.len() <= MAX_OWN + MAX_FLEET * self.fleets.len().max(1),
            "{} entries",
            self.entries.len()
        );
        for (fingerprint, entry) in &self.entries {
            assert_eq!(*fingerprint, entry.culprit.fingerprint);
            assert!(
                !entry.own.is_empty() || !entry.elsewhere.is_empty(),
                "{fingerprint}: nothing is against it"
            );
            let control_planes = self.fleets.len().max(1);
            assert!(entry.own.len() <= MAX_KILLS && entry.elsewhere.len() <= MAX_AGENTS * control_planes);
            assert!(entry.news <= self.changes, "{fingerprint}: a change that has not been");
            assert!(
                entry.own.iter().is_sorted_by_key(|kill| kill.at),
                "{fingerprint}: {:?}",
                entry.own
            );
            assert!(entry.elsewhere.keys().all(|(agent, _)| *agent != self.agent));
            assert!(
                entry
                    .elsewhere
                    .values()
                    .all(|kills| !kills.is_empty() && kills.len() <= MAX_KILLS)
            );
            assert!(entry.culprit.request.len() <= MAX_TEXT && entry.weight() <= entry.own.len());
            assert!(self.rule.limit > 0, "an entry although the quarantine is off");
        }
    }
}

fn bounded(culprit: Culprit) -> Culprit {
    let short = |text: String| {
        if text.len() > MAX_TEXT {
            cut(&text, MAX_TEXT).to_owned()
        } else {
            text
        }
    };
    Culprit {
        project: short(culprit.project),
        request: short(culprit.request),
        reason: short(culprit.reason),
        ..culprit
    }
}
