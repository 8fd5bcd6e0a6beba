//! Pinned projects that only some agents keep loaded: which, by rendezvous hashing. Every control plane comes to the same
//! answer for the same agents, and when one agent comes or goes only what it has or had moves.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Agent, Clock, Move, Placed, Placement, Reason};

/// A pinned project is kept loaded by so many agents at least, however few are to serve it: one of them may go at any time.
pub const LEAST_KEPT: usize = 2;

/// How well an agent and a project go together; the same everywhere and always (FNV-1a, mixed).
#[must_use]
pub fn score(project: &str, agent: &str) -> u64 {
    let bytes = project.bytes().chain([0]).chain(agent.bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

impl Placement {
    pub(super) fn place_pinned(
        &mut self,
        now: Clock,
        agents: &[Agent],
        pins: &BTreeMap<String, usize>,
        moves: &mut Vec<Move>,
    ) {
        let mut before = std::mem::take(&mut self.pinned);
        for (project, replicas) in pins.iter().filter(|(_, replicas)| **replicas > 0) {
            let (wanted, was) = before.remove(project).unwrap_or((0, Placed::default()));
            let mut placed = place(project, *replicas, agents, &was);
            placed.reason = was.reason;
            if placed.agents != was.agents {
                let reason = reason(agents, &was, wanted != *replicas);
                placed.reason = Some((reason, now));
                moves.push(Move {
                    project: project.clone(),
                    from: was.agents,
                    to: placed.agents.clone(),
                    reason,
                });
            }
            self.pinned.insert(project.clone(), (*replicas, placed));
        }
        let ended = before.into_iter().filter(|(_, (_, placed))| !placed.agents.is_empty());
        moves.extend(ended.map(|(project, (_, placed))| Move {
            project,
            from: placed.agents,
            to: Vec::new(),
            reason: Reason::Pin,
        }));
    }
}

/// Which agents keep a project, and which of them serve it.
fn place(project: &str, replicas: usize, agents: &[Agent], was: &Placed) -> Placed {
    let mut ranked: Vec<&Agent> = agents.iter().collect();
    ranked.sort_by_cached_key(|agent| (Reverse(score(project, &agent.id)), agent.id.clone()));
    // The best of all, ready or not, for one that is restarted is to find its projects again; and for those that are not
    // ready, others.
    let (least, mut ready) = (replicas.max(LEAST_KEPT), 0);
    let mut wanted: Vec<&Agent> = Vec::new();
    for (rank, agent) in ranked.iter().enumerate() {
        let fills_in = agent.ready && ready < least;
        ready += usize::from(fills_in);
        if rank < least || fills_in {
            wanted.push(agent);
        }
    }
    let has = |agent: &Agent| agent.ready && agent.loaded.contains(project);
    let all_have = wanted.iter().filter(|agent| agent.ready).all(|agent| has(agent));
    let mut kept = wanted;
    if !all_have {
        // Whoever had it so far keeps it until then.
        let before = ranked.iter().filter(|agent| was.kept.contains(&agent.id));
        let before: Vec<&Agent> = before
            .copied()
            .filter(|agent| !kept.iter().any(|one| one.id == agent.id))
            .collect();
        kept.extend(before);
    }
    let warm: Vec<&Agent> = kept.iter().copied().filter(|agent| has(agent)).collect();
    // Nobody has it: better one that loads it anyhow than one that does not.
    let serving = if warm.is_empty() {
        kept.iter().copied().filter(|agent| agent.ready).collect()
    } else {
        warm
    };
    Placed {
        agents: serving.iter().take(replicas).map(|agent| agent.id.clone()).collect(),
        kept: kept.iter().map(|agent| agent.id.clone()).collect(),
        reason: None,
    }
}

/// Why other agents serve a project than before.
fn reason(agents: &[Agent], was: &Placed, pin_changed: bool) -> Reason {
    if pin_changed {
        return Reason::Pin;
    }
    let known = |id: &String| agents.iter().find(|agent| agent.id == *id);
    if was.agents.iter().any(|id| known(id).is_none()) {
        Reason::Gone
    } else if was.agents.iter().any(|id| known(id).is_some_and(|agent| !agent.ready)) {
        Reason::NotReady
    } else {
        Reason::Ready
    }
}
