//! Which agents of one pool serve which projects, where that is not left to the hash of Envoy: pinned projects that only some
//! agents are to keep loaded, and projects moved away from an agent that is asked for more of them than it has places for.
//!
//! A decision is kept until there is a reason to change it, and the reason is said. A pinned project goes to another agent only
//! once that has said that it has it loaded. Of unpinned projects as few as possible are moved, those that are asked for least,
//! and only to agents with places left.
//!
//! What it does not know: Envoy, messages, clocks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::fleet::Clock;

mod homes;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use homes::{LEAST_KEPT, score};

/// So long an agent must have been asked for more projects than it has places for, until some are moved.
pub const SETTLE: Duration = Duration::from_secs(5);

/// An agent of the pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agent {
    /// Its id.
    pub id: String,
    /// Whether it takes requests.
    pub ready: bool,
    /// Whether it has more to do than others and is to be spared.
    pub strained: bool,
    /// How many projects its workers keep between them besides pinned ones; 0 when it has not said.
    pub places: usize,
    /// How often each project has been asked for there lately, as far as it may be expected to be asked for again.
    pub asked: Arc<BTreeMap<String, u32>>,
    /// The pinned projects that every worker of it has, by whoever's pin.
    pub loaded: Arc<BTreeSet<String>>,
}

/// A smaller share of the requests sends at most this part of an agent's projects to others at once.
const SPARED: usize = 3;

/// The places that agents have left. An agent that has not said its places has enough.
#[derive(Clone, Copy, Debug)]
pub struct Room(usize);

impl Room {
    /// What these have left.
    #[must_use]
    pub fn of(agents: &[Agent]) -> Self {
        Self(agents.iter().map(left).sum())
    }

    /// Whether the others have places for a part of the projects of `one`, which is among them. Where they have none, each
    /// project that comes drives out another, and all of them have more to do than before.
    #[must_use]
    pub fn others_can_spare(self, one: &Agent) -> bool {
        self.0 - left(one) >= needs(one).div_ceil(SPARED)
    }
}

fn needs(agent: &Agent) -> usize {
    let kept = |project: &&String| agent.loaded.contains(*project);
    agent.asked.keys().filter(|project| !kept(project)).count()
}

fn left(agent: &Agent) -> usize {
    match agent.places {
        _ if !agent.ready => 0,
        0 => 1 << 32,
        places => places.min(1 << 32).saturating_sub(needs(agent)),
    }
}

/// Why a project is served by other agents than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A pin has been made, changed or ended.
    Pin,
    /// An agent has gone.
    Gone,
    /// An agent takes no requests, or will soon take none.
    NotReady,
    /// An agent is ready for it that goes before others.
    Ready,
    /// An agent was asked for more projects than it has places for.
    Overfull,
    /// Nobody asks for it any more.
    Unused,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Pin,
        Self::Gone,
        Self::NotReady,
        Self::Ready,
        Self::Overfull,
        Self::Unused,
    ];

    /// The word for metrics and programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pin => "pin",
            Self::Gone => "gone",
            Self::NotReady => "not_ready",
            Self::Ready => "ready",
            Self::Overfull => "overfull",
            Self::Unused => "unused",
        }
    }
}

/// A change: which agents serve a project, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The project.
    pub project: String,
    /// The agents that served it; none when that was left to the hash.
    pub from: Vec<String>,
    /// The agents that serve it now; none when it is left to the hash.
    pub to: Vec<String>,
    /// Why.
    pub reason: Reason,
}

/// How one project is placed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// The agents that serve it, the first choice first.
    pub agents: Vec<String>,
    /// The agents that are to keep it loaded; empty for a project that is not pinned.
    pub kept: Vec<String>,
    /// Why it is so, and since when.
    pub reason: Option<(Reason, Clock)>,
}

/// The decisions for one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Pinned projects that only some agents keep, with how many of them are to serve it.
    pinned: BTreeMap<String, (usize, Placed)>,
    /// Projects that are not pinned, each with the agent that it was moved to.
    moved: BTreeMap<String, Placed>,
    /// Since when agents have been overfull.
    overfull: BTreeMap<String, Clock>,
}

impl Placement {
    /// Decides anew, and says what has changed. `pins` has every pinned project of the pool and how many agents are to serve
    /// it, 0 for all. Without `spread`, projects that are not pinned are left to Envoy.
    pub fn decide(&mut self, now: Clock, agents: &[Agent], pins: &BTreeMap<String, usize>, spread: bool) -> Vec<Move> {
        let mut moves = Vec::new();
        self.place_pinned(now, agents, pins, &mut moves);
        self.give_up(now, agents, pins, spread, &mut moves);
        if spread {
            self.relieve(now, agents, pins, &mut moves);
        } else {
            self.overfull.clear();
        }
        moves
    }

    /// When [`Placement::decide`] may next have something to say though nothing has happened.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Clock> {
        self.overfull.values().min().map(|since| *since + SETTLE)
    }

    /// Every project that is placed.
    pub fn projects(&self) -> impl Iterator<Item = (&str, &Placed)> {
        let pinned = self.pinned.iter().map(|(project, (_, placed))| (project, placed));
        pinned
            .chain(&self.moved)
            .map(|(project, placed)| (project.as_str(), placed))
    }

    /// The agents that are to keep a pinned project loaded; `None` when all are.
    #[must_use]
    pub fn kept(&self, project: &str) -> Option<&[String]> {
        self.pinned.get(project).map(|(_, placed)| placed.kept.as_slice())
    }

    /// Ends the placement of projects that have no reason for it any more.
    fn give_up(
        &mut self,
        now: Clock,
        agents: &[Agent],
        pins: &BTreeMap<String, usize>,
        spread: bool,
        moves: &mut Vec<Move>,
    ) {
        let asked: BTreeSet<&str> = if self.moved.is_empty() {
            BTreeSet::new()
        } else {
            agents
                .iter()
                .flat_map(|agent| agent.asked.keys().map(String::as_str))
                .collect()
        };
        let by_id: BTreeMap<&str, &Agent> = agents.iter().map(|agent| (agent.id.as_str(), agent)).collect();
        self.moved.retain(|project, placed| {
            let agent = placed.agents.first().and_then(|agent| by_id.get(agent.as_str()));
            let reason = if pins.contains_key(project) {
                Reason::Pin
            } else if !spread || !asked.contains(project.as_str()) {
                Reason::Unused
            } else {
                match agent {
                    None => Reason::Gone,
                    Some(agent) if !agent.ready => Reason::NotReady,
                    Some(_) => return true,
                }
            };
            moves.push(Move {
                project: project.clone(),
                from: std::mem::take(&mut placed.agents),
                to: Vec::new(),
                reason,
            });
            placed.reason = Some((reason, now));
            false
        });
    }

    /// Moves projects away from agents that are asked for more than they have places for.
    fn relieve(&mut self, now: Clock, agents: &[Agent], pins: &BTreeMap<String, usize>, moves: &mut Vec<Move>) {
        let homes = self.homes(agents, pins);
        let none = Vec::new();
        let held = |agent: &Agent| homes.get(agent.id.as_str()).unwrap_or(&none);
        let mut room: BTreeMap<&str, usize> = agents
            .iter()
            .filter(|agent| agent.ready && !agent.strained)
            .map(|agent| (agent.id.as_str(), agent.places.saturating_sub(held(agent).len())))
            .filter(|(_, room)| *room > 0)
            .collect();
        let mut since = std::mem::take(&mut self.overfull);
        let mut decided = Vec::new();
        for agent in agents.iter().filter(|agent| agent.ready && agent.places > 0) {
            let held = held(agent);
            if held.len() <= agent.places || room.is_empty() {
                continue;
            }
            let first = since.remove(&agent.id).unwrap_or(now);
            if now < first + SETTLE {
                self.overfull.insert(agent.id.clone(), first);
                continue;
            }
            // What is asked for least is missed least while it is loaded elsewhere.
            let mut least: Vec<&(u32, &str)> = held.iter().collect();
            least.sort_unstable();
            for (_, project) in least.into_iter().take(held.len() - agent.places) {
                let Some((target, left)) = room
                    .iter_mut()
                    .max_by_key(|(target, left)| (**left, score(project, target)))
                else {
                    break;
                };
                let target = *target;
                *left -= 1;
                if *left == 0 {
                    room.remove(target);
                }
                decided.push(((*project).to_owned(), agent.id.clone(), target.to_owned()));
            }
        }
        for (project, from, to) in decided {
            let placed = Placed {
                agents: vec![to.clone()],
                kept: Vec::new(),
                reason: Some((Reason::Overfull, now)),
            };
            self.moved.insert(project.clone(), placed);
            moves.push(Move {
                project,
                from: vec![from],
                to: vec![to],
                reason: Reason::Overfull,
            });
        }
    }

    /// The projects that each agent has to find a place for, with how often they are asked for: where a project was moved
    /// to, else where it is asked for most.
    fn homes<'a>(&self, agents: &'a [Agent], pins: &BTreeMap<String, usize>) -> BTreeMap<&'a str, Vec<(u32, &'a str)>> {
        let mut most: BTreeMap<&str, (u32, &str)> = BTreeMap::new();
        for agent in agents.iter().filter(|agent| agent.ready) {
            for (project, times) in agent.asked.iter() {
                if pins.contains_key(project) || agent.loaded.contains(project) {
                    continue;
                }
                let best = most.entry(project).or_insert((0, &agent.id));
                if *times > best.0 {
                    *best = (*times, &agent.id);
                }
            }
        }
        let mut homes: BTreeMap<&str, Vec<(u32, &str)>> = BTreeMap::new();
        for (project, (times, agent)) in most {
            let moved = self.moved.get(project).and_then(|placed| placed.agents.first());
            let home = moved.and_then(|moved| agents.iter().find(|agent| agent.id == *moved));
            let home = home.map_or(agent, |home| home.id.as_str());
            homes.entry(home).or_default().push((times, project));
        }
        homes
    }
}
