//! What control planes tell of the fleet, and what each of them is told: several tell of the same kills and clearings, each in
//! its own time.

use std::time::{Duration, Instant};

use graticule_daemon::quarantine::{Clears, MAX_KILLS};

use super::{Entry, Fleet, Kill, Quarantine, Word, bounded};

/// How many fingerprints the fleet may tell of.
pub const MAX_FLEET: usize = 4096;

/// How many agents' kills of one fingerprint are remembered, by each control plane.
pub(super) const MAX_AGENTS: usize = 32;

/// Two clearings of the same that are no further apart are one, told by different ways.
const SAME_CLEARING: Duration = Duration::from_secs(1);

/// A control plane, by its place in the configuration.
pub type Place = usize;

/// What one control plane has told, and has been told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Whether it is there and has told anything.
    present: bool,
    /// What was cleared elsewhere, as it tells it.
    pub(super) cleared: Clears,
    /// It has been told all changes up to this one.
    changes: u64,
    /// What it has been told that others had told to be cleared.
    passed_on: Clears,
}

impl Quarantine {
    /// Takes what a control plane tells. What it knows of this agent from before its start is taken over: a restart absolves
    /// nobody.
    pub fn fleet(&mut self, now: Instant, from: Place, fleet: Fleet) {
        let ago = |age: Duration| now.checked_sub(age).unwrap_or(now);
        let told = self.fleets.entry(from).or_default();
        told.present = true;
        told.cleared = Clears::default();
        for (fingerprint, age) in fleet.cleared {
            told.cleared.add(&fingerprint, ago(age));
        }
        // It replaces what this one told before, and what others told that have gone since.
        let fleets = &self.fleets;
        let is_there = |place: &Place| fleets.get(place).is_some_and(|told| told.present);
        for entry in self.entries.values_mut() {
            entry
                .elsewhere
                .retain(|(_, place), _| *place != from && is_there(place));
        }
        if self.rule.limit > 0 {
            for (culprit, agents) in fleet.entries.into_iter().take(MAX_FLEET) {
                let entry = self.entries.entry(culprit.fingerprint.clone()).or_default();
                if entry.own.is_empty() {
                    entry.culprit = bounded(culprit);
                }
                for (agent, ages) in agents.into_iter().take(MAX_AGENTS) {
                    let mut kills: Vec<Instant> = ages.into_iter().take(MAX_KILLS).map(ago).collect();
                    kills.sort_unstable();
                    if agent != self.agent {
                        entry.elsewhere.insert((agent, from), kills);
                    } else if entry.own.front().is_none_or(|kill| kill.at >= self.born) {
                        kills.retain(|at| *at < self.born);
                        for at in kills.into_iter().rev().take(MAX_KILLS - entry.own.len()) {
                            entry.own.push_front(Kill { at, successes: 0 });
                            entry.news = self.changes + 1;
                        }
                    }
                }
            }
        }
        self.changes += 1;
        self.drop_cleared();
        self.entries.retain(|_, entry| entry.prune(now, &self.rule));
        self.make_room(now);
    }

    /// A control plane has gone. What it told goes with it when another one is there to tell the same; else it stays.
    pub fn lost(&mut self, gone: Place) {
        let Some(told) = self.fleets.get_mut(&gone) else {
            return;
        };
        told.present = false;
        if self.fleets.values().any(|told| told.present) {
            self.entries.retain(|_, entry| {
                entry.elsewhere.retain(|(_, place), _| *place != gone);
                !(entry.own.is_empty() && entry.elsewhere.is_empty())
            });
        }
    }

    /// A new stream to a control plane begins: whatever is known here is to be told there again.
    pub fn tell_all(&mut self, to: Place) {
        let told = self.fleets.entry(to).or_default();
        told.changes = 0;
        told.passed_on = Clears::default();
    }

    /// The same for all of them.
    pub fn tell_everybody(&mut self) {
        let places: Vec<Place> = self.fleets.keys().copied().collect();
        places.into_iter().for_each(|place| self.tell_all(place));
    }

    /// What a control plane has not been told yet. What is given here counts as told.
    pub fn words(&mut self, now: Instant, to: Place) -> Vec<Word> {
        let age = |at: Instant| now.saturating_duration_since(at);
        let others = self.fleets.iter().filter(|(place, _)| **place != to);
        let heard: Vec<_> = others.flat_map(|(_, told)| told.cleared.iter().cloned()).collect();
        let told = self.fleets.entry(to).or_default();
        let before = std::mem::replace(&mut told.changes, self.changes);
        let mut words = Vec::new();
        if self.cleared_news > before {
            let cleared = self.cleared.iter();
            words.extend(cleared.map(|clear| Word::Cleared(clear.fingerprint.clone(), age(clear.at))));
        }
        for clear in heard {
            // It is a little later each time that it is told: without this, control planes would hear of it for ever.
            let earlier = clear.at.checked_sub(SAME_CLEARING).unwrap_or(clear.at);
            let knows = [&told.cleared, &told.passed_on, &self.cleared];
            if !knows.iter().any(|clears| clears.cover(&clear.fingerprint, earlier)) {
                told.passed_on.add(&clear.fingerprint, clear.at);
                words.push(Word::Cleared(clear.fingerprint, age(clear.at)));
            }
        }
        let news = |entry: &&Entry| entry.news > before && !entry.own.is_empty();
        for entry in self.entries.values().filter(news) {
            words.push(Word::Killed(entry.culprit.clone(), entry.own().map(age).collect()));
        }
        words
    }
}
