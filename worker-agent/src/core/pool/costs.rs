//! What projects have cost so far: how long their requests keep a worker busy, how long they take to load, and how often they are
//! asked for. Moving averages, for a bounded number of projects; what was not seen yet is reckoned with a guess.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::lane::Lane;

/// What a request of an unknown project is expected to take, in seconds.
const GUESS: f64 = 0.1;

/// How much the newest value counts.
const NEWEST: f64 = 0.3;

/// How much the newest answer counts at least in what requests need: less, as one slow one says little of the next.
const NEWEST_ANSWER: f64 = 0.1;

/// How many projects are remembered.
const REMEMBERED: usize = 4096;

/// What those requests took that were answered, in seconds.
#[derive(Debug, Default)]
struct Answers {
    count: u32,
    mean: f64,
    /// The mean distance from the mean.
    spread: f64,
}

impl Answers {
    fn learn(&mut self, newest: Duration) {
        self.count = self.count.saturating_add(1);
        let weight = NEWEST_ANSWER.max(1.0 / f64::from(self.count));
        let more = newest.as_secs_f64() - self.mean;
        self.mean += weight * more;
        // The first one has nothing to be distant from.
        if self.count > 1 {
            self.spread += weight * (more.abs() - self.spread);
        }
    }
}

/// A request counts half as much as one that comes so many requests later.
const HALVES_AFTER: f64 = 1000.0;

#[derive(Debug, Default)]
struct Known {
    /// The requests for it, each the less the longer ago it was, as of the request with number `asked`.
    demand: f64,
    asked: u64,
    /// Seconds that a request takes, by lane.
    busy: [Option<f64>; 3],
    answers: [Answers; 3],
    /// Seconds that a load takes.
    load: Option<f64>,
    used: u64,
}

impl Known {
    #[allow(clippy::cast_precision_loss, reason = "after so many requests it is zero anyhow")]
    fn demand_at(&self, asked: u64) -> f64 {
        self.demand * (-((asked - self.asked) as f64) / HALVES_AFTER).exp2()
    }
}

/// Costs by project.
#[derive(Debug, Default)]
pub struct Costs {
    known: BTreeMap<String, Known>,
    uses: u64,
    /// Requests for whatever project.
    asked: u64,
}

impl Costs {
    /// How long a request in this lane will keep a worker busy, in seconds.
    #[must_use]
    pub fn busy(&self, project: &str, lane: Lane) -> f64 {
        self.known
            .get(project)
            .and_then(|known| known.busy[lane.index()])
            .unwrap_or(GUESS)
    }

    /// How often the project was asked for lately: 1 for one request just now, at most 1443 when there were no others.
    #[must_use]
    pub fn demand(&self, project: &str) -> f64 {
        self.known.get(project).map_or(0.0, |known| known.demand_at(self.asked))
    }

    /// The project is asked for.
    pub fn asked(&mut self, project: &str) {
        self.asked += 1;
        let now = self.asked;
        let known = self.entry(project);
        (known.demand, known.asked) = (known.demand_at(now) + 1.0, now);
    }

    /// How long the project takes to load; zero when that was never seen.
    #[must_use]
    pub fn load(&self, project: &str) -> Duration {
        let seconds = self.known.get(project).and_then(|known| known.load);
        Duration::from_secs_f64(seconds.unwrap_or_default())
    }

    /// The time within which most requests in this lane are answered once they have a worker that holds the project; `None`
    /// when none has been.
    #[must_use]
    pub fn needs(&self, project: &str, lane: Lane) -> Option<Duration> {
        let answers = &self.known.get(project)?.answers[lane.index()];
        (answers.count > 0).then(|| Duration::from_secs_f64(answers.mean + 2.0 * answers.spread))
    }

    /// A request was answered in so long, by a worker that held the project. What was cut short says nothing of that, and what
    /// hung says nothing of others.
    pub fn answered(&mut self, project: &str, lane: Lane, took: Duration) {
        self.entry(project).answers[lane.index()].learn(took);
    }

    /// A request has kept a worker busy for so long.
    pub fn was_busy(&mut self, project: &str, lane: Lane, took: Duration) {
        learn(&mut self.entry(project).busy[lane.index()], took);
    }

    /// The project has been loaded in so long.
    pub fn loaded(&mut self, project: &str, took: Duration) {
        learn(&mut self.entry(project).load, took);
    }

    fn entry(&mut self, project: &str) -> &mut Known {
        self.uses += 1;
        if self.known.len() >= REMEMBERED && !self.known.contains_key(project) {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.used);
            let oldest = oldest.map(|(name, _)| name.clone());
            self.known.remove(&oldest.unwrap_or_default());
        }
        let known = self.known.entry(project.to_owned()).or_default();
        known.used = self.uses;
        known
    }
}

fn learn(average: &mut Option<f64>, newest: Duration) {
    let newest = newest.as_secs_f64();
    *average = Some(average.map_or(newest, |old| old + NEWEST * (newest - old)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_follow_what_is_seen() {
        let mut costs = Costs::default();
        assert!((costs.busy("/a", Lane::Heavy) - GUESS).abs() < 1e-9);
        assert_eq!(costs.load("/a"), Duration::ZERO);
        for _ in 0..30 {
            costs.was_busy("/a", Lane::Heavy, Duration::from_secs(2));
            costs.loaded("/a", Duration::from_millis(400));
        }
        assert!((costs.busy("/a", Lane::Heavy) - 2.0).abs() < 0.01);
        assert!(
            (costs.busy("/a", Lane::Interactive) - GUESS).abs() < 1e-9,
            "lanes are apart"
        );
        assert_eq!(costs.load("/a").as_millis(), 400);
    }

    #[test]
    fn what_is_asked_for_often_is_in_demand_until_others_are() {
        let mut costs = Costs::default();
        let ask = |costs: &mut Costs, project: &str, times: u32| (0..times).for_each(|_| costs.asked(project));
        ask(&mut costs, "/a", 100);
        ask(&mut costs, "/b", 10);
        assert!(costs.demand("/a") > 9.0 * costs.demand("/b"));
        assert!(costs.demand("/c").abs() < 1e-9);
        let before = costs.demand("/a");
        ask(&mut costs, "/b", 1000);
        let after = costs.demand("/a");
        assert!((after - before / 2.0).abs() < 1e-9, "{before} has become {after}");
        assert!(costs.demand("/b") > 5.0 * after);
    }

    #[test]
    fn most_are_answered_in_what_they_are_said_to_need() {
        let mut costs = Costs::default();
        assert_eq!(costs.needs("/a", Lane::Heavy), None);
        costs.answered("/a", Lane::Heavy, Duration::from_secs(6));
        assert_eq!(costs.needs("/a", Lane::Heavy), Some(Duration::from_secs(6)));
        assert_eq!(costs.needs("/a", Lane::Interactive), None);
        for count in 0..100 {
            costs.answered("/a", Lane::Heavy, Duration::from_secs(5 + 2 * (count % 2)));
        }
        let needs = costs.needs("/a", Lane::Heavy).unwrap().as_secs_f64();
        assert!((7.0..9.0).contains(&needs), "{needs}");
        for _ in 0..30 {
            costs.answered("/b", Lane::Heavy, Duration::from_millis(100));
        }
        costs.answered("/b", Lane::Heavy, Duration::from_secs(10));
        let needs = costs.needs("/b", Lane::Heavy).unwrap().as_secs_f64();
        assert!(needs < 4.0, "one that is slow says little: {needs}");
    }

    #[test]
    fn the_projects_used_last_are_remembered() {
        let mut costs = Costs::default();
        for n in 0..REMEMBERED + 10 {
            costs.loaded("/often", Duration::from_secs(1));
            costs.loaded(&n.to_string(), Duration::from_secs(1));
        }
        assert_eq!(costs.known.len(), REMEMBERED);
        assert!(costs.load("/often") > Duration::ZERO && costs.load("0").is_zero());
    }
}
