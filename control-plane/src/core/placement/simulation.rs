//! Agents that come, go, restart, load and are asked, by seed: what must hold of the placement after each step.

use super::*;

/// Numbers that are the same for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn upto(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % (most as u64 + 1)).unwrap()
    }
}

struct World {
    dice: Dice,
    now: Clock,
    agents: Vec<Agent>,
    pins: BTreeMap<String, usize>,
    placement: Placement,
    born: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            now: Clock::ZERO,
            agents: Vec::new(),
            pins: BTreeMap::new(),
            placement: Placement::default(),
            born: 0,
        }
    }

    fn anyone(&mut self) -> Option<usize> {
        self.agents.len().checked_sub(1).map(|last| self.dice.upto(last))
    }

    /// Something happens; gives how many agents changed their standing with it.
    fn step(&mut self) -> usize {
        self.now += Duration::from_millis(self.dice.upto(3000) as u64);
        match self.dice.upto(9) {
            0 if self.agents.len() < 6 => {
                self.born += 1;
                let places = self.dice.upto(8);
                self.agents.push(Agent {
                    id: format!("agent-{}", self.born),
                    places,
                    ..Agent::default()
                });
                1
            }
            1 => {
                if let Some(at) = self.anyone() {
                    self.agents.remove(at);
                }
                1
            }
            2 | 3 => {
                if let Some(at) = self.anyone() {
                    let agent = &mut self.agents[at];
                    agent.ready = !agent.ready;
                    if !agent.ready && self.dice.upto(1) == 0 {
                        agent.loaded = Arc::default();
                    }
                }
                1
            }
            4 => {
                let project = format!("/pin{}", self.dice.upto(4));
                let replicas = self.dice.upto(3);
                if self.dice.upto(2) == 0 {
                    self.pins.remove(&project);
                } else {
                    self.pins.insert(project, replicas);
                }
                0
            }
            5 | 6 => {
                // What is to be kept gets loaded, and what is not is dropped.
                if let Some(at) = self.anyone() {
                    let agent = &mut self.agents[at];
                    let kept = |placed: &Placed| placed.kept.contains(&agent.id);
                    let projects = self.placement.projects();
                    let keeps = projects.filter(|(_, placed)| kept(placed));
                    agent.loaded = Arc::new(keeps.map(|(project, _)| project.to_owned()).collect());
                }
                0
            }
            7 => {
                if let Some(at) = self.anyone() {
                    self.agents[at].strained = self.dice.upto(1) == 0;
                }
                0
            }
            _ => {
                if let Some(at) = self.anyone() {
                    let count = self.dice.upto(12);
                    let asked = (0..count).map(|_| {
                        (
                            format!("/p{}", self.dice.upto(20)),
                            u32::try_from(2 + self.dice.upto(9)).unwrap(),
                        )
                    });
                    let asked = Arc::new(asked.collect());
                    self.agents[at].asked = asked;
                }
                0
            }
        }
    }

    fn decide(&mut self) -> Vec<Move> {
        let mut again = self.placement.clone();
        let spread = !self.now.as_millis().is_multiple_of(97);
        let moves = self.placement.decide(self.now, &self.agents, &self.pins, spread);
        assert_eq!(
            again.decide(self.now, &self.agents, &self.pins, spread),
            moves,
            "the same input, the same output"
        );
        assert_eq!(again, self.placement);
        let quiet = again.decide(self.now, &self.agents, &self.pins, spread);
        assert_eq!(quiet, [], "decided twice, nothing is left to be done");
        moves
    }

    fn check(&self, before: &Placement, moves: &[Move]) {
        let agent = |id: &str| self.agents.iter().find(|agent| agent.id == id);
        for (project, placed) in self.placement.projects() {
            for id in &placed.agents {
                assert!(
                    agent(id).is_some_and(|agent| agent.ready),
                    "{project} is placed on {id}, which is not ready"
                );
            }
            let distinct: BTreeSet<&String> = placed.agents.iter().chain(&placed.kept).collect();
            assert!(distinct.len() <= self.agents.len());
            assert!(
                placed.agents.is_empty() || placed.reason.is_some(),
                "{project} has no reason"
            );
        }
        for (project, (replicas, placed)) in &self.placement.pinned {
            assert_eq!(self.pins.get(project), Some(replicas));
            assert!(placed.agents.len() <= *replicas);
            assert!(placed.agents.iter().all(|id| placed.kept.contains(id)));
            let has = |id: &String| agent(id).is_some_and(|agent| agent.ready && agent.loaded.contains(project));
            // Who of the agents that were to keep it could serve it warm?
            let was = before.pinned.get(project).map(|(_, placed)| placed.kept.clone());
            if was.unwrap_or_default().iter().any(has) {
                assert!(
                    placed.agents.iter().all(has),
                    "{project} went to one that does not have it"
                );
                assert!(!placed.agents.is_empty());
            }
            let ready = self.agents.iter().filter(|agent| agent.ready).count();
            let kept = placed
                .kept
                .iter()
                .filter(|id| agent(id).is_some_and(|agent| agent.ready));
            assert!(
                kept.count() >= ready.min((*replicas).max(LEAST_KEPT)),
                "{project} is kept by too few"
            );
        }
        for placed in self.placement.moved.values() {
            assert_eq!(placed.agents.len(), 1);
        }
        // What changed is what was said, and nothing else.
        let served = |placement: &Placement| -> BTreeMap<String, Vec<String>> {
            let placed = placement.projects().filter(|(_, placed)| !placed.agents.is_empty());
            placed
                .map(|(project, placed)| (project.to_owned(), placed.agents.clone()))
                .collect()
        };
        let (was, is) = (served(before), served(&self.placement));
        let said: BTreeSet<&str> = moves.iter().map(|m| m.project.as_str()).collect();
        for project in was.keys().chain(is.keys()) {
            assert_eq!(
                was.get(project) != is.get(project),
                said.contains(project.as_str()),
                "{project}"
            );
        }
        let room: usize = self
            .agents
            .iter()
            .filter(|agent| agent.ready)
            .map(|agent| agent.places)
            .sum();
        let overfull = moves.iter().filter(|m| m.reason == Reason::Overfull).count();
        assert!(overfull <= room, "more was moved than there is room for");
    }
}

#[test]
fn whatever_happens_projects_are_where_agents_are_ready_and_warm() {
    let mut relieved = 0;
    for seed in 0..1500 {
        let mut world = World::new(seed);
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut relieved = 0;
            for _ in 0..80 {
                let changed = world.step();
                let before = world.placement.clone();
                let moves = world.decide();
                world.check(&before, &moves);
                relieved += moves.iter().filter(|m| m.reason == Reason::Overfull).count();
                // Nothing but what has to do with the agents that changed, with pins, or with agents that are overfull.
                let others = moves
                    .iter()
                    .filter(|m| matches!(m.reason, Reason::Gone | Reason::NotReady | Reason::Ready));
                assert!(others.count() <= before.projects().count() * changed.max(1));
            }
            relieved
        }));
        match run {
            Ok(count) => relieved += count,
            Err(panic) => {
                println!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(relieved > 1000, "agents were overfull now and then: {relieved}");
}

#[test]
fn one_agent_more_or_less_moves_no_more_than_its_share() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        for n in 0..5 {
            let id = format!("agent-{n}-{}", world.dice.upto(1_000_000));
            let ready = true;
            world.agents.push(Agent {
                id,
                ready,
                ..Agent::default()
            });
        }
        world.pins = (0..200).map(|n| (format!("/pin{n}"), 1)).collect();
        let everything: Arc<BTreeSet<String>> = Arc::new(world.pins.keys().cloned().collect());
        for agent in &mut world.agents {
            agent.loaded = Arc::clone(&everything);
        }
        world.decide();
        let left = world.agents.pop().unwrap();
        let moves = world.decide();
        assert!(
            moves
                .iter()
                .all(|m| m.from == [left.id.clone()] && m.reason == Reason::Gone)
        );
        assert!(
            (10..=80).contains(&moves.len()),
            "about a fifth of 200: {}",
            moves.len()
        );
        world.agents.push(left);
        assert_eq!(world.decide().len(), moves.len());
    }
}

/// Two control planes with one fleet, of which one was restarted now and then and decides at other times: once agents have what
/// either wants kept, both place pinned projects the same.
#[test]
fn whatever_two_of_them_have_seen_they_come_to_place_pinned_projects_the_same() {
    let mut differed = 0;
    for seed in 0..500 {
        let mut world = World::new(seed);
        let mut twin = Placement::default();
        let pinned = |placement: &Placement| -> Vec<(String, Vec<String>, Vec<String>)> {
            let all = placement.pinned.iter();
            all.map(|(project, (_, placed))| (project.clone(), placed.agents.clone(), placed.kept.clone()))
                .collect()
        };
        for _ in 0..60 {
            world.step();
            world.decide();
            match world.dice.upto(7) {
                0 => twin = Placement::default(),
                1..=4 => drop(twin.decide(world.now, &world.agents, &world.pins, true)),
                _ => {}
            }
            differed += usize::from(pinned(&world.placement) != pinned(&twin));
        }
        for _ in 0..3 {
            for agent in &mut world.agents {
                let either = world.placement.projects().chain(twin.projects());
                let keeps = either.filter(|(_, placed)| placed.kept.contains(&agent.id));
                let keeps: BTreeSet<String> = keeps.map(|(project, _)| project.to_owned()).collect();
                agent.loaded = Arc::new(keeps);
            }
            world.decide();
            twin.decide(world.now, &world.agents, &world.pins, true);
        }
        assert_eq!(pinned(&world.placement), pinned(&twin), "seed {seed}");
    }
    assert!(differed > 100, "they had something to agree on: {differed}");
}
