//! What the fleet knows of requests that killed workers: which agents report how many kills of which fingerprint, and what
//! operators have cleared. It is learnt from agents; what a store has kept of it is added after a restart, for agents may have
//! gone meanwhile.
//!
//! Each agent's report replaces its last one, so nothing is added up twice. Everything is bounded, whatever agents send.
//!
//! What it does not know: streams, messages. Time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use graticule_daemon::quarantine::{Clears, MAX_KILLS, MAX_TEXT, Rule, Standing, cut};

#[cfg(test)]
mod tests;

/// How many fingerprints are remembered. Those that are not refused, and of them the oldest, are forgotten first.
pub const MAX_ENTRIES: usize = 4096;

/// How much is remembered in all, in bytes: it goes to agents and tools as one message, and gRPC's usual bound is 4 MiB.
pub const MAX_BYTES: usize = 3 << 20;

/// How many agents' kills of one fingerprint are remembered; those with the latest stay.
pub const MAX_AGENTS: usize = 32;

/// What an agent has against a request now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The request.
    pub fingerprint: String,
    /// Its project.
    pub project: String,
    /// Its text.
    pub request: String,
    /// Why the last worker was gone.
    pub reason: String,
    /// How long ago each kill was.
    pub ages: Vec<Duration>,
    /// The rule that the agent judges by.
    pub rule: Rule,
}

/// A fingerprint with what there is against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The request.
    pub fingerprint: String,
    /// Its project.
    pub project: String,
    /// Its text.
    pub request: String,
    /// Why the last worker was gone.
    pub reason: String,
    /// The rule it is judged by: that of the last report.
    pub rule: Rule,
    /// The kills by agent, the earliest first.
    pub agents: BTreeMap<String, Vec<Instant>>,
}

impl Entry {
    /// Every kill, the earliest first.
    #[must_use]
    pub fn kills(&self) -> Vec<Instant> {
        let mut kills: Vec<Instant> = self.agents.values().flatten().copied().collect();
        kills.sort_unstable();
        kills
    }

    /// Whether it is refused, and for how long.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        self.rule.judge(now, &self.kills())
    }

    /// When something changes by time alone: a kill no longer counts, or it is served again.
    fn next_change(&self, now: Instant) -> Option<Instant> {
        match self.standing(now) {
            Standing::Refused { until } => Some(until),
            _ => self.kills().first().map(|kill| *kill + self.rule.window),
        }
    }

    /// Drops kills that no longer matter; true when there were some.
    fn prune(&mut self, now: Instant) -> bool {
        let refused = self.standing(now).refused();
        let rule = self.rule;
        self.keep(|kill| rule.counts(now, refused, kill))
    }

    fn keep(&mut self, stays: impl Fn(Instant) -> bool) -> bool {
        let count = |agents: &BTreeMap<String, Vec<Instant>>| agents.values().map(Vec::len).sum::<usize>();
        let before = count(&self.agents);
        self.agents.retain(|_, kills| {
            kills.retain(|kill| stays(*kill));
            !kills.is_empty()
        });
        count(&self.agents) != before
    }

    /// About how many bytes it takes in a message.
    fn weight(&self) -> usize {
        let texts = self.fingerprint.len() + self.project.len() + self.request.len() + self.reason.len();
        let agents = self
            .agents
            .iter()
            .map(|(agent, kills)| agent.len() + 16 + 8 * kills.len());
        64 + texts + agents.sum::<usize>()
    }
}

/// What a report has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    None,
    /// Agents should be told.
    Changed,
    /// Agents should be told: the fingerprint is refused now, and was not before.
    Refused,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Quarantine {
    entries: BTreeMap<String, Entry>,
    cleared: Clears,
}

impl Quarantine {
    /// An agent has said what it has against a request.
    pub fn report(&mut self, now: Instant, agent: &str, report: Report) -> News {
        let ago = |age: Duration| now.checked_sub(age).unwrap_or(now);
        let mut kills: Vec<Instant> = report.ages.into_iter().map(ago).collect();
        kills.retain(|kill| !self.cleared.cover(&report.fingerprint, *kill));
        kills.sort_unstable();
        kills.drain(..kills.len().saturating_sub(MAX_KILLS));
        let before = self.entries.get(&report.fingerprint);
        let was_refused = before.is_some_and(|entry| entry.standing(now).refused());
        let had = before.is_some_and(|entry| entry.agents.contains_key(agent));
        if kills.is_empty() && !had {
            return News::None;
        }
        let text = |text: String| cut(&text, MAX_TEXT).to_owned();
        let entry = self.entries.entry(report.fingerprint.clone()).or_insert_with(|| Entry {
            fingerprint: report.fingerprint.clone(),
            project: String::new(),
            request: String::new(),
            reason: String::new(),
            rule: report.rule,
            agents: BTreeMap::new(),
        });
        if kills.is_empty() {
            entry.agents.remove(agent);
        } else {
            entry.project = text(report.project);
            entry.request = text(report.request);
            entry.reason = text(report.reason);
            entry.rule = report.rule;
            entry.agents.insert(agent.to_owned(), kills);
        }
        while entry.agents.len() > MAX_AGENTS {
            let oldest = entry.agents.iter().min_by_key(|(_, kills)| kills.last().copied());
            let Some(oldest) = oldest.map(|(agent, _)| agent.clone()) else {
                break;
            };
            entry.agents.remove(&oldest);
        }
        entry.prune(now);
        if entry.agents.is_empty() {
            self.entries.remove(&report.fingerprint);
        }
        self.make_room(now);
        let refused = self
            .entries
            .get(&report.fingerprint)
            .is_some_and(|entry| entry.standing(now).refused());
        if refused && !was_refused {
            News::Refused
        } else {
            News::Changed
        }
    }

    /// An operator cleared a fingerprint (empty: all) so long ago. Says how many entries that took away, and whether
    /// agents should be told.
    pub fn clear(&mut self, now: Instant, fingerprint: &str, age: Duration) -> (usize, bool) {
        let at = now.checked_sub(age).unwrap_or(now);
        let news = self.cleared.add(fingerprint, at);
        let before = self.entries.len();
        for entry in self.entries.values_mut() {
            let (cleared, fingerprint) = (&self.cleared, entry.fingerprint.clone());
            entry.keep(|kill| !cleared.cover(&fingerprint, kill));
        }
        self.entries.retain(|_, entry| !entry.agents.is_empty());
        (before - self.entries.len(), news)
    }

    /// One entry as a store has kept it, checked. Bounds hold for it as for reports.
    pub fn put(&mut self, entry: Entry) {
        self.entries.insert(entry.fingerprint.clone(), entry);
    }

    /// Adds what was known before: by an earlier run, or by another control plane. What an agent has said since counts
    /// for that agent. True when agents should be told.
    pub fn remember(&mut self, now: Instant, before: &Self) -> bool {
        let mut changed = false;
        for clear in before.cleared.iter() {
            changed |= self
                .clear(now, &clear.fingerprint, now.saturating_duration_since(clear.at))
                .1;
        }
        for entry in before.entries() {
            for (agent, kills) in &entry.agents {
                let known = self.entries.get(&entry.fingerprint);
                if known.is_some_and(|known| known.agents.contains_key(agent)) {
                    continue;
                }
                let text = known.unwrap_or(entry);
                let report = Report {
                    fingerprint: entry.fingerprint.clone(),
                    project: text.project.clone(),
                    request: text.request.clone(),
                    reason: text.reason.clone(),
                    ages: kills.iter().map(|kill| now.saturating_duration_since(*kill)).collect(),
                    rule: text.rule,
                };
                changed |= self.report(now, agent, report) != News::None;
            }
        }
        changed
    }

    /// Lets time pass. True when agents should be told.
    pub fn tick(&mut self, now: Instant) -> bool {
        let mut changed = false;
        for entry in self.entries.values_mut() {
            changed |= entry.prune(now);
        }
        self.entries.retain(|_, entry| !entry.agents.is_empty());
        changed
    }

    /// When [`Quarantine::tick`] will have something to say, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.next_change(now)).min()
    }

    /// Every entry, in the order of fingerprints.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// What operators have cleared.
    #[must_use]
    pub const fn cleared(&self) -> &Clears {
        &self.cleared
    }

    fn bytes(&self) -> usize {
        self.entries.values().map(Entry::weight).sum()
    }

    /// When there is too much, an eighth leaves at once: a flood of reports must not cost a search each.
    fn make_room(&mut self, now: Instant) {
        if self.entries.len() <= MAX_ENTRIES && self.bytes() <= MAX_BYTES {
            return;
        }
        self.tick(now);
        let mut bytes = self.bytes();
        let mut order: Vec<(bool, Option<Instant>, String)> = self
            .entries
            .values()
            .map(|entry| {
                let last = entry.kills().last().copied();
                (entry.standing(now).refused(), last, entry.fingerprint.clone())
            })
            .collect();
        order.sort_unstable();
        for (_, _, least) in order {
            if self.entries.len() <= MAX_ENTRIES / 8 * 7 && bytes <= MAX_BYTES / 8 * 7 {
                return;
            }
            bytes -= self.entries.remove(&least).map_or(0, |entry| entry.weight());
        }
    }

    /// Panics when what must always hold does not. For tests.
    ///
    /// # Panics
    /// See above.
    pub fn check_invariants(&self) {
        assert!(self.entries.len() <= MAX_ENTRIES && self.bytes() <= MAX_BYTES);
        for (fingerprint, entry) in &self.entries {
            assert_eq!(*fingerprint, entry.fingerprint);
            assert!(!entry.agents.is_empty(), "{fingerprint}: nothing is against it");
            assert!(entry.agents.len() <= MAX_AGENTS && entry.request.len() <= MAX_TEXT);
            for kills in entry.agents.values() {
                assert!(!kills.is_empty() && kills.len() <= MAX_KILLS && kills.is_sorted());
                assert!(
                    kills.iter().all(|kill| !self.cleared.cover(fingerprint, *kill)),
                    "{fingerprint}: cleared"
                );
            }
        }
    }
}
