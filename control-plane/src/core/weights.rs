//! How much of a pool's requests each agent is to get: all alike, and less for one that is much more strained than the others
//! (a slower machine, a neighbour that takes its processors, many heavy projects by chance).
//!
//! Weights move in few steps, one at a time and with pauses, because every change moves some projects to other agents,
//! which have to load them. An agent is compared with the others of its pool: when all are strained, none gets less, and
//! neither does it when the others would have to drop projects for those that they get.
//!
//! What it does not know: what a weight does to Envoy, messages, clocks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::fleet::Clock;

/// The weights that there are, from the whole share downwards.
pub const STEPS: [u32; 4] = [100, 70, 45, 25];

/// So long an agent must have been strained until it gets less.
const STRAINED_FOR: Duration = Duration::from_secs(5);

/// So long it must have been at ease until it gets more.
const EASED_FOR: Duration = Duration::from_secs(15);

/// Between two steps of one agent, so that the first can take effect.
const BETWEEN_STEPS: Duration = Duration::from_secs(10);

/// What an agent says of its work.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Strain {
    /// Running and waiting requests over workers.
    pub pressure: f64,
    /// How long requests have waited for a worker lately, in seconds.
    pub wait: f64,
    /// Others have no places for what it would be spared.
    pub indispensable: bool,
}

/// How one agent compares with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Strained,
    /// Neither; nothing changes.
    Between,
    AtEase,
}

impl Strain {
    fn beside(self, others: Self) -> Standing {
        let much = |own: f64, other: f64, least: f64, times: f64| own >= least && own >= other * times;
        let strained = much(self.pressure, others.pressure, 2.0, 2.0) || much(self.wait, others.wait, 1.0, 3.0);
        let busy = much(self.pressure, others.pressure, 1.0, 1.3) || much(self.wait, others.wait, 0.3, 1.5);
        match (strained, busy) {
            (true, _) if !self.indispensable => Standing::Strained,
            (true, _) | (false, true) => Standing::Between,
            (false, false) => Standing::AtEase,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Weighed {
    step: usize,
    standing: Standing,
    /// Since when it stands so.
    since: Clock,
    /// When its weight changed last.
    changed: Option<Clock>,
}

/// The weight of every agent of one pool that takes requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    agents: BTreeMap<String, Weighed>,
}

impl Weights {
    /// Looks at the agents that take requests, each with its strain; gives those whose weight has changed, with the new one.
    pub fn look(&mut self, now: Clock, agents: &[(&str, Strain)]) -> Vec<(String, u32)> {
        let there: BTreeSet<&str> = agents.iter().map(|(agent, _)| *agent).collect();
        self.agents.retain(|id, _| there.contains(id.as_str()));
        let pressures = Sorted::of(agents.iter().map(|(_, strain)| strain.pressure));
        let waits = Sorted::of(agents.iter().map(|(_, strain)| strain.wait));
        let mut changes = Vec::new();
        for (id, strain) in agents {
            let others = Strain {
                pressure: pressures.median_without(strain.pressure),
                wait: waits.median_without(strain.wait),
                ..Strain::default()
            };
            let standing = if agents.len() < 2 {
                Standing::AtEase
            } else {
                strain.beside(others)
            };
            let weighed = self.agents.entry((*id).to_owned()).or_insert(Weighed {
                step: 0,
                standing,
                since: now,
                changed: None,
            });
            if weighed.standing != standing {
                (weighed.standing, weighed.since) = (standing, now);
            }
            let lasted = now.saturating_sub(weighed.since);
            let rested = weighed.changed.is_none_or(|at| now >= at + BETWEEN_STEPS);
            let step = match standing {
                Standing::Strained if lasted >= STRAINED_FOR => (weighed.step + 1).min(STEPS.len() - 1),
                Standing::AtEase if lasted >= EASED_FOR => weighed.step.saturating_sub(1),
                _ => weighed.step,
            };
            if step != weighed.step && rested {
                (weighed.step, weighed.changed) = (step, Some(now));
                changes.push(((*id).to_owned(), STEPS[step]));
            }
        }
        changes
    }

    /// The weight of an agent; the whole share for one that is not known.
    #[must_use]
    pub fn of(&self, id: &str) -> u32 {
        self.agents.get(id).map_or(STEPS[0], |weighed| STEPS[weighed.step])
    }
}

/// Numbers in order.
struct Sorted(Vec<f64>);

impl Sorted {
    fn of(numbers: impl Iterator<Item = f64>) -> Self {
        let mut numbers: Vec<f64> = numbers.collect();
        numbers.sort_by(f64::total_cmp);
        Self(numbers)
    }

    /// The median (the lower of two) of all but one of them.
    fn median_without(&self, one: f64) -> f64 {
        let Some(rest) = self.0.len().checked_sub(2) else {
            return 0.0;
        };
        let at = self.0.partition_point(|number| number.total_cmp(&one).is_lt());
        let middle = rest / 2;
        self.0[if middle < at { middle } else { middle + 1 }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Clock {
        Duration::from_secs(seconds)
    }

    fn pressed(pressures: &[f64]) -> Vec<(&'static str, Strain)> {
        let ids = ["a", "b", "c", "d", "e"];
        let strain = |pressure: &f64| Strain {
            pressure: *pressure,
            ..Strain::default()
        };
        ids.into_iter().zip(pressures.iter().map(strain)).collect()
    }

    /// The weights after looking once a second from `from` to `to`.
    fn over(weights: &mut Weights, from: u64, to: u64, agents: &[(&'static str, Strain)]) -> Vec<u32> {
        for second in from..=to {
            weights.look(secs(second), agents);
        }
        agents.iter().map(|(id, _)| weights.of(id)).collect()
    }

    #[test]
    fn one_that_is_strained_gets_less_step_by_step_and_its_share_again_later() {
        let mut weights = Weights::default();
        let strained = pressed(&[6.0, 1.0, 1.0]);
        assert_eq!(over(&mut weights, 0, 4, &strained), [100, 100, 100], "not at once");
        assert_eq!(over(&mut weights, 5, 14, &strained), [70, 100, 100]);
        assert_eq!(over(&mut weights, 15, 24, &strained), [45, 100, 100]);
        assert_eq!(over(&mut weights, 25, 99, &strained), [25, 100, 100], "never nothing");
        let between = pressed(&[1.5, 1.0, 1.0]);
        assert_eq!(over(&mut weights, 100, 200, &between), [25, 100, 100]);
        let at_ease = pressed(&[0.5, 1.0, 1.0]);
        assert_eq!(over(&mut weights, 201, 215, &at_ease), [25, 100, 100]);
        assert_eq!(over(&mut weights, 216, 225, &at_ease), [45, 100, 100]);
        assert_eq!(over(&mut weights, 226, 300, &at_ease), [100, 100, 100]);
    }

    #[test]
    fn when_all_are_strained_none_gets_less() {
        let mut weights = Weights::default();
        let all = pressed(&[9.0, 8.0, 10.0, 9.5]);
        assert_eq!(over(&mut weights, 0, 100, &all), [100, 100, 100, 100]);
        let alone = pressed(&[9.0]);
        assert_eq!(over(&mut weights, 101, 200, &alone), [100]);
    }

    #[test]
    fn when_others_have_no_places_for_its_projects_none_gets_less() {
        let mut weights = Weights::default();
        let mut agents = pressed(&[6.0, 1.0, 1.0]);
        agents[0].1.indispensable = true;
        assert_eq!(over(&mut weights, 0, 100, &agents), [100, 100, 100]);
        agents[0].1.indispensable = false;
        assert_eq!(over(&mut weights, 101, 106, &agents), [70, 100, 100]);
        agents[0].1.indispensable = true;
        assert_eq!(over(&mut weights, 107, 200, &agents), [70, 100, 100]);
    }

    #[test]
    fn what_comes_and_goes_changes_nothing() {
        let mut weights = Weights::default();
        for second in 0..200 {
            let pressure = if second % 4 == 0 { 0.5 } else { 6.0 };
            assert_eq!(weights.look(secs(second), &pressed(&[pressure, 1.0])), []);
        }
    }

    #[test]
    fn waiting_counts_as_well() {
        let mut weights = Weights::default();
        let strain = |wait| Strain {
            pressure: 1.0,
            wait,
            indispensable: false,
        };
        let agents = [("a", strain(2.5)), ("b", strain(0.1)), ("c", strain(0.2))];
        assert_eq!(over(&mut weights, 0, 6, &agents), [70, 100, 100]);
    }

    #[test]
    fn one_that_comes_again_has_its_share() {
        let mut weights = Weights::default();
        assert_eq!(over(&mut weights, 0, 9, &pressed(&[6.0, 1.0])), [70, 100]);
        weights.look(secs(10), &pressed(&[6.0, 1.0])[1..]);
        assert_eq!(weights.of("a"), 100);
    }

    #[test]
    fn the_others_are_all_but_oneself() {
        let sorted = Sorted::of([3.0, 1.0, 2.0].into_iter());
        let medians = [1.0, 2.0, 3.0].map(|one| sorted.median_without(one));
        assert_eq!(medians, [2.0, 1.0, 1.0]);
        assert_eq!(Sorted::of([5.0, 7.0].into_iter()).median_without(5.0), 7.0);
    }
}
