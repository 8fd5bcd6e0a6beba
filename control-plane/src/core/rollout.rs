//! An order to several agents, such as a reload: who is asked when, and how each gets on. All at once, or one after the
//! other: then the next is asked when the one before has done it and is ready again, and after a failure nobody is.
//!
//! What it does not know: what the order is, streams, time.

use std::collections::BTreeMap;

/// How an agent stands with an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has not been asked yet.
    Waiting,
    /// It has been asked.
    Asked,
    /// It has done it; whether it is ready again is awaited.
    Settling,
    /// It has done it.
    Done,
    /// It refused, or could not be asked.
    Failed(String),
    /// It went away before it had answered, or before it was asked.
    Gone,
    /// It was not asked, because another one failed.
    Skipped,
}

impl Step {
    /// The word of `AgentProgress.state`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Asked => "asked",
            Self::Settling => "settling",
            Self::Done => "done",
            Self::Failed(_) => "failed",
            Self::Gone => "gone",
            Self::Skipped => "skipped",
        }
    }

    /// What went wrong.
    #[must_use]
    pub fn problem(&self) -> &str {
        match self {
            Self::Failed(problem) => problem,
            _ => "",
        }
    }

    const fn is_open(&self) -> bool {
        matches!(self, Self::Waiting | Self::Asked | Self::Settling)
    }
}

/// How an agent is seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is attached and serves.
    Ready,
    /// It is attached and does not serve.
    NotReady,
    /// It is not attached.
    Gone,
}

/// An order under way.
#[derive(Clone, Debug)]
pub struct Rollout {
    agents: BTreeMap<String, Step>,
    rolling: bool,
    /// Whether an agent has done it only when it is ready again.
    until_ready: bool,
    told: BTreeMap<String, Step>,
}

impl Rollout {
    /// An order to these agents, which are asked in the order of their names. Asked one after the other, each has to be
    /// ready again before the next, where the order leaves an agent ready at all (`until_ready`).
    #[must_use]
    pub fn new(agents: impl IntoIterator<Item = String>, rolling: bool, until_ready: bool) -> Self {
        Self {
            agents: agents.into_iter().map(|agent| (agent, Step::Waiting)).collect(),
            rolling,
            until_ready: until_ready && rolling,
            told: BTreeMap::new(),
        }
    }

    /// Who is to be asked now. They count as asked from here on.
    pub fn next_agents(&mut self) -> Vec<String> {
        if self.rolling {
            if self.agents.values().any(|step| matches!(step, Step::Failed(_))) {
                for step in self.agents.values_mut().filter(|step| **step == Step::Waiting) {
                    *step = Step::Skipped;
                }
            }
            if self
                .agents
                .values()
                .any(|step| matches!(step, Step::Asked | Step::Settling))
            {
                return Vec::new();
            }
        }
        let most = if self.rolling { 1 } else { usize::MAX };
        let waiting = self.agents.iter_mut().filter(|(_, step)| **step == Step::Waiting);
        let asked = waiting.take(most).map(|(agent, step)| {
            *step = Step::Asked;
            agent.clone()
        });
        asked.collect()
    }

    /// An agent has answered.
    pub fn answered(&mut self, agent: &str, answer: Result<(), String>) {
        let until_ready = self.until_ready;
        if let Some(step) = self.agents.get_mut(agent).filter(|step| **step == Step::Asked) {
            *step = match answer {
                Ok(()) if until_ready => Step::Settling,
                Ok(()) => Step::Done,
                Err(problem) => Step::Failed(problem),
            };
        }
    }

    /// An agent is seen. One that was asked and has not answered is left to its answer, which says more.
    pub fn saw(&mut self, agent: &str, seen: Seen) {
        let Some(step) = self.agents.get_mut(agent) else { return };
        match (&*step, seen) {
            (Step::Waiting, Seen::Gone) => *step = Step::Gone,
            (Step::Settling, Seen::Ready) => *step = Step::Done,
            (Step::Settling, Seen::Gone) => *step = Step::Failed("it went away and is not ready again".to_owned()),
            _ => {}
        }
    }

    /// The time is over: what is open has failed.
    pub fn late(&mut self) {
        for step in self.agents.values_mut().filter(|step| step.is_open()) {
            *step = match step {
                Step::Waiting => Step::Skipped,
                Step::Settling => Step::Failed("it is not ready again in time".to_owned()),
                _ => Step::Failed("it has not answered in time".to_owned()),
            };
        }
    }

    /// Agents whose state has changed since this was last asked; all of them at first.
    pub fn news(&mut self) -> Vec<(String, Step)> {
        let changed = self
            .agents
            .iter()
            .filter(|(agent, step)| self.told.get(*agent) != Some(*step));
        let changed: Vec<(String, Step)> = changed.map(|(agent, step)| (agent.clone(), step.clone())).collect();
        self.told.extend(changed.iter().cloned());
        changed
    }

    /// Whether every agent has got to its end.
    #[must_use]
    pub fn is_done(&self) -> bool {
        !self.agents.values().any(Step::is_open)
    }

    /// The agents, in the order of their names.
    pub fn agents(&self) -> impl Iterator<Item = &str> {
        self.agents.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use graticule_daemon::dice::Dice;

    use super::*;

    fn rollout(rolling: bool) -> Rollout {
        Rollout::new(["a", "b", "c"].map(str::to_owned), rolling, true)
    }

    fn news(rollout: &mut Rollout) -> Vec<(String, &'static str)> {
        let news = rollout.news().into_iter();
        news.map(|(agent, step)| (agent, step.name())).collect()
    }

    #[test]
    fn all_are_asked_at_once_and_each_change_is_told_once() {
        let mut order = rollout(false);
        assert_eq!(news(&mut order).len(), 3);
        assert_eq!(order.next_agents(), ["a", "b", "c"]);
        assert_eq!(news(&mut order).len(), 3);
        order.answered("b", Ok(()));
        order.answered("a", Err("no".to_owned()));
        assert_eq!(news(&mut order), [("a".to_owned(), "failed"), ("b".to_owned(), "done")]);
        assert!(order.next_agents().is_empty() && news(&mut order).is_empty() && !order.is_done());
        order.late();
        assert_eq!(news(&mut order), [("c".to_owned(), "failed")]);
        assert!(order.is_done());
    }

    #[test]
    fn one_after_the_other_waits_until_the_one_before_is_ready_again() {
        let mut order = rollout(true);
        assert_eq!(order.next_agents(), ["a"]);
        order.saw("a", Seen::Ready);
        assert!(order.next_agents().is_empty(), "ready, but not answered");
        order.answered("a", Ok(()));
        order.saw("a", Seen::NotReady);
        assert!(order.next_agents().is_empty());
        order.saw("a", Seen::Ready);
        order.saw("b", Seen::Gone);
        assert_eq!(order.next_agents(), ["c"]);
        order.answered("c", Ok(()));
        order.saw("c", Seen::Gone);
        assert!(order.is_done());
        let states = order
            .news()
            .into_iter()
            .map(|(_, step)| step.name())
            .collect::<Vec<_>>();
        assert_eq!(states, ["done", "gone", "failed"]);
    }

    #[test]
    fn after_a_failure_nobody_else_is_asked() {
        let mut order = rollout(true);
        order.next_agents();
        order.answered("a", Err("no".to_owned()));
        assert!(order.next_agents().is_empty());
        assert!(order.is_done());
        assert_eq!(
            news(&mut order)[1..],
            [("b".to_owned(), "skipped"), ("c".to_owned(), "skipped")]
        );
    }

    #[test]
    fn whatever_happens_every_agent_is_asked_once_at_most_and_never_two_at_a_time() {
        for seed in 0..2_000 {
            let mut dice = Dice::seeded(seed);
            let rolling = dice.roll(2) == 0;
            let mut order = rollout(rolling);
            let mut asked: Vec<String> = Vec::new();
            let mut open: Vec<String> = Vec::new();
            for _ in 0..60 {
                let now = order.next_agents();
                assert!(
                    now.iter().all(|agent| !asked.contains(agent)),
                    "seed {seed}: asked twice"
                );
                asked.extend(now.iter().cloned());
                open.extend(now);
                assert!(!rolling || open.len() <= 1, "seed {seed}: two at a time");
                let agent = ["a", "b", "c"][dice.pick(3)];
                match dice.roll(5) {
                    0 => {
                        order.answered(agent, Ok(()));
                        open.retain(|one| one != agent);
                    }
                    1 => {
                        order.answered(agent, Err("no".to_owned()));
                        open.retain(|one| one != agent);
                    }
                    n => order.saw(
                        agent,
                        [Seen::Ready, Seen::NotReady, Seen::Gone][usize::try_from(n).unwrap() - 2],
                    ),
                }
            }
            order.late();
            assert!(order.is_done(), "seed {seed}");
        }
    }
}
