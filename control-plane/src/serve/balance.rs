//! What each agent is to get: the hub hands over what agents say, and asks when something is due. The decisions are made in
//! [`placement`](crate::core::placement) and [`weights`](crate::core::weights), pool by pool; here is what goes into them
//! and what follows from them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use graticule_proto::v1::{AgentDemand, AgentShare, AgentState, ListPlacementsReply, ProjectPlacement};
use tokio::time::Instant;

use super::pace::Pace;
use crate::adapters::envoy::{Member, key_of};
use crate::config::Config;
use crate::core::fleet::{Agent, Clock, Fleet, Identity, Phase, Told};
use crate::core::pins::{Desired, Kept};
use crate::core::placement::{self, Move, Placement, Reason, Room};
use crate::core::weights::{STEPS, Strain, Weights};
use crate::metrics::Metrics;

/// How often weights are looked at.
const WEIGH_EVERY: Duration = Duration::from_secs(1);

/// The most projects that an agent may say it is asked for.
const MOST_ASKED: usize = 10_000;

/// The longest name of a project.
const LONGEST_NAME: usize = 1024;

/// So many moves are logged one by one; of more, how many there are.
const LOGGED: usize = 20;

/// What an agent is asked for, by project.
pub type Asked = BTreeMap<String, u32>;

#[derive(Debug, Default)]
struct Pool {
    placement: Placement,
    weights: Weights,
    shares: BTreeMap<String, Share>,
}

/// Of which pools something has changed that decisions depend on.
#[derive(Debug, Default)]
struct Stale {
    all: bool,
    pools: BTreeSet<Arc<str>>,
}

/// What one agent is told to Envoy with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Share {
    weight: u32,
    placed: Arc<BTreeMap<String, u32>>,
}

/// The decisions for all pools.
#[derive(Debug, Default)]
pub struct Balancer {
    pools: BTreeMap<String, Pool>,
    asked: BTreeMap<String, Arc<Asked>>,
    /// The pinned projects that agents have, also while they make a new generation.
    loaded: BTreeMap<String, Arc<BTreeSet<String>>>,
    stale: Stale,
    pace: Pace,
    weigh: Option<Clock>,
}

/// What an agent is asked for, checked.
///
/// # Errors
/// What cannot be.
pub fn asked(demand: AgentDemand) -> Result<Asked, String> {
    if demand.projects.len() > MOST_ASKED {
        return Err(format!(
            "demand has {} projects, at most {MOST_ASKED}",
            demand.projects.len()
        ));
    }
    let asked = demand.projects.into_iter().map(|one| (one.project, one.requests));
    let asked: Asked = asked.collect();
    match asked.keys().find(|name| name.is_empty() || name.len() > LONGEST_NAME) {
        Some(name) => Err(format!("demand has a project whose name has {} bytes", name.len())),
        None => Ok(asked),
    }
}

impl Balancer {
    /// Something has changed that decisions about every pool depend on, and must not wait.
    pub const fn want_all_now(&mut self) {
        self.stale.all = true;
        self.pace.want_now();
    }

    /// The same, about one pool.
    pub fn want_now(&mut self, pool: &Arc<str>) {
        self.stale.pools.insert(Arc::clone(pool));
        self.pace.want_now();
    }

    /// The same, and it may wait.
    fn want(&mut self, pool: &Arc<str>) {
        self.stale.pools.insert(Arc::clone(pool));
        self.pace.want();
    }

    /// An agent says how it stands.
    pub fn said(&mut self, who: &Identity, phase: Phase, state: &AgentState) {
        let agent = &*who.id;
        let before = self.loaded.get(agent);
        let wrong = |project: &String| state.missing_pins.contains(project) || state.pin_problems.contains_key(project);
        let kept = |project: &str| {
            let mut by = self.pools.values().filter_map(|pool| pool.placement.kept(project));
            by.any(|kept| kept.iter().any(|one| one == agent))
        };
        let now: BTreeSet<String> = match before {
            // While it makes a new generation it names none, and its workers serve what they have.
            Some(before) if state.pins.is_empty() && phase == Phase::Ready => {
                let has = before.iter().filter(|project| !wrong(project) && kept(project));
                has.cloned().collect()
            }
            _ => state.pins.iter().cloned().collect(),
        };
        if before.is_none_or(|before| **before != now) {
            self.loaded.insert(agent.to_owned(), Arc::new(now));
            self.want(&who.pool);
        }
    }

    /// An agent says what it is asked for.
    pub fn hear(&mut self, who: &Identity, asked: Asked) {
        self.asked.insert(who.id.to_string(), Arc::new(asked));
        self.want(&who.pool);
    }

    /// The agents that have been decided on.
    pub fn agents(&self) -> impl Iterator<Item = &str> {
        let shares = self.pools.values().flat_map(|pool| pool.shares.keys());
        shares.map(String::as_str)
    }

    /// When there is something to decide, if nothing happens before; `now` is `clock`.
    pub fn wake(&self, now: Instant, clock: Clock) -> Option<Instant> {
        let deadlines = self.pools.values().filter_map(|pool| pool.placement.next_deadline());
        let due = deadlines.chain(self.weigh).min();
        let due = due.map(|at| now + at.saturating_sub(clock));
        self.pace.wake(now).into_iter().chain(due).min()
    }

    /// Decides what is due; `None` when nothing is.
    pub fn look(
        &mut self,
        clock: Clock,
        fleet: &Fleet<AgentState>,
        desired: &Desired,
        config: &Config,
    ) -> Option<Vec<(String, Move)>> {
        let now = Instant::now();
        if self.wake(now, clock).is_none_or(|wake| wake > now) {
            return None;
        }
        let stale = std::mem::take(&mut self.stale);
        let all = stale.all || self.weigh.is_some_and(|at| at <= clock);
        let pools = config.effective_pools();
        if all {
            self.asked.retain(|agent, _| fleet.get(agent).is_some());
            self.loaded.retain(|agent, _| fleet.get(agent).is_some());
            self.pools.retain(|pool, _| pools.contains_key(pool));
        }
        let overdue = |pool: &Pool| pool.placement.next_deadline().is_some_and(|at| at <= clock);
        let overdue = self.pools.iter().filter(|(_, pool)| overdue(pool));
        let due: BTreeSet<&str> = overdue
            .map(|(name, _)| name.as_str())
            .chain(stale.pools.iter().map(|pool| &**pool))
            .collect();
        let mut by_pool: BTreeMap<Arc<str>, Vec<&Agent<AgentState>>> = BTreeMap::new();
        for agent in fleet.agents() {
            let pool = &agent.identity.pool;
            if all || due.contains(&**pool) {
                by_pool.entry(Arc::clone(pool)).or_default().push(agent);
            }
        }
        let mut moves = Vec::new();
        for (name, agents) in &by_pool {
            let name = &**name;
            let Some(settings) = pools.get(name) else {
                continue;
            };
            let pins = desired.replicas(name, settings.replicas);
            let decided = self.decide(clock, name, agents, &pins, config.front.affinity);
            moves.extend(decided.into_iter().map(|one| (name.to_owned(), one)));
        }
        if all {
            let (full, empty) = std::mem::take(&mut self.pools)
                .into_iter()
                .partition::<BTreeMap<_, _>, _>(|(name, _)| by_pool.contains_key(name.as_str()));
            self.pools = full;
            for (name, mut pool) in empty {
                let pins = desired.replicas(&name, pools.get(&name).map_or(0, |pool| pool.replicas));
                let decided = pool.placement.decide(clock, &[], &pins, config.front.affinity);
                moves.extend(decided.into_iter().map(|one| (name.clone(), one)));
            }
        }
        let several = fleet.agents().filter(|agent| agent.told() == Told::Healthy).nth(1);
        let next = self.weigh.filter(|_| !all).unwrap_or(clock + WEIGH_EVERY);
        self.weigh = several.map(|_| next);
        self.pace.done(Instant::now(), now.elapsed());
        Some(moves)
    }

    /// Decides about one pool that has agents.
    fn decide(
        &mut self,
        clock: Clock,
        name: &str,
        agents: &[&Agent<AgentState>],
        pins: &BTreeMap<String, usize>,
        affinity: bool,
    ) -> Vec<Move> {
        let pool = self.pools.entry(name.to_owned()).or_default();
        let mut seen: Vec<placement::Agent> = agents
            .iter()
            .map(|agent| {
                let id = &agent.identity.id;
                placement::Agent {
                    id: id.to_string(),
                    ready: agent.told() == Told::Healthy,
                    strained: false,
                    places: places(agent),
                    asked: self.asked.get(&**id).cloned().unwrap_or_default(),
                    loaded: self.loaded.get(&**id).cloned().unwrap_or_default(),
                }
            })
            .collect();
        let room = Room::of(&seen);
        let strains: Vec<(&str, Strain)> = agents
            .iter()
            .zip(&seen)
            .filter(|(_, seen)| seen.ready)
            .map(|(agent, one)| {
                let strain = Strain {
                    indispensable: !room.others_can_spare(one),
                    ..strain(agent)
                };
                (&*agent.identity.id, strain)
            })
            .collect();
        for (agent, weight) in pool.weights.look(clock, &strains) {
            tracing::info!(
                agent,
                pool = name,
                weight,
                "the agent's share of the requests has changed, of 100"
            );
        }
        for agent in &mut seen {
            agent.strained = pool.weights.of(&agent.id) < STEPS[0];
        }
        let moves = pool.placement.decide(clock, &seen, pins, affinity);
        pool.shares = share(pool, &seen);
        moves
    }

    /// Which agents keep pinned projects that not all of their pool do.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let pools = self.pools.iter();
        let placed = pools.flat_map(|(name, pool)| pool.placement.projects().map(move |placed| (name, placed)));
        placed
            .filter(|(_, (_, placed))| !placed.kept.is_empty())
            .map(|(name, (project, placed))| ((name.clone(), project.to_owned()), placed.kept.clone()))
            .collect()
    }

    /// What Envoy is told of an agent, with its share.
    #[must_use]
    pub fn weighed(&self, mut member: Member) -> Member {
        let pool = self.pools.get(&*member.pool);
        if let Some(share) = pool.and_then(|pool| pool.shares.get(&*member.id)) {
            member.weight = share.weight;
            member.placed = Arc::clone(&share.placed);
        }
        member
    }

    /// Says in the log and in the metrics what has been decided.
    pub fn tell(&self, moves: &[(String, Move)], metrics: &Metrics) {
        for (pool, one) in moves {
            let Move {
                project,
                from,
                to,
                reason,
            } = one;
            metrics.placement_moves.with_label_values(&[reason.name()]).inc();
            let (from, to, reason) = (from.join(", "), to.join(", "), reason.name());
            if moves.len() <= LOGGED {
                tracing::info!(project, pool, from, to, reason, "the project is placed anew");
            } else {
                tracing::debug!(project, pool, from, to, reason, "the project is placed anew");
            }
        }
        if moves.len() > LOGGED {
            let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
            for (_, one) in moves {
                *reasons.entry(one.reason).or_default() += 1;
            }
            let reasons: Vec<String> = reasons
                .into_iter()
                .map(|(reason, count)| format!("{} {count}", reason.name()))
                .collect();
            let reasons = reasons.join(", ");
            tracing::info!(projects = moves.len(), reasons, "projects are placed anew");
        }
        let placed: usize = self.pools.values().map(|pool| pool.placement.projects().count()).sum();
        metrics.placed.set(i64::try_from(placed).unwrap_or(i64::MAX));
        let shares = self.pools.values().flat_map(|pool| pool.shares.values());
        let spared = shares.filter(|share| share.weight < STEPS[0]).count();
        metrics.agents_spared.set(i64::try_from(spared).unwrap_or(i64::MAX));
    }

    /// What operators are shown.
    #[must_use]
    pub fn list(&self, clock: Clock, fleet: &Fleet<AgentState>) -> ListPlacementsReply {
        let pools = self.pools.iter();
        let placed = pools.flat_map(|(name, pool)| pool.placement.projects().map(move |placed| (name, placed)));
        let mut projects: Vec<ProjectPlacement> = placed
            .map(|(name, (project, placed))| ProjectPlacement {
                pool: name.clone(),
                project: project.to_owned(),
                agents: placed.agents.clone(),
                kept: placed.kept.clone(),
                reason: placed
                    .reason
                    .map_or_else(String::new, |(reason, _)| reason.name().to_owned()),
                since_seconds: placed
                    .reason
                    .map_or(0.0, |(_, since)| clock.saturating_sub(since).as_secs_f64()),
            })
            .collect();
        projects.sort_by(|a, b| (&a.pool, &a.project).cmp(&(&b.pool, &b.project)));
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let mut agents: Vec<AgentShare> = fleet
            .agents()
            .filter(|agent| agent.told() == Told::Healthy)
            .map(|agent| {
                let (id, pool) = (&agent.identity.id, &agent.identity.pool);
                let strain = strain(agent);
                let loaded = self.loaded.get(&**id).cloned().unwrap_or_default();
                let asked = self.asked.get(&**id).cloned().unwrap_or_default();
                let share = self.pools.get(&**pool).and_then(|pool| pool.shares.get(&**id));
                AgentShare {
                    pool: pool.to_string(),
                    agent_id: id.to_string(),
                    weight: share.map_or(STEPS[0], |share| share.weight),
                    asked: count(asked.keys().filter(|project| !loaded.contains(*project)).count()),
                    places: count(places(agent)),
                    request_pressure: strain.pressure,
                    wait_seconds: strain.wait,
                }
            })
            .collect();
        agents.sort_by(|a, b| (&a.pool, &a.agent_id).cmp(&(&b.pool, &b.agent_id)));
        ListPlacementsReply { projects, agents }
    }
}

fn strain(agent: &Agent<AgentState>) -> Strain {
    agent.state.as_ref().map_or_else(Strain::default, |(_, state)| Strain {
        pressure: state.request_pressure,
        wait: state.wait_seconds,
        ..Strain::default()
    })
}

fn places(agent: &Agent<AgentState>) -> usize {
    let places = agent.state.as_ref().map_or(0, |(_, state)| state.places);
    usize::try_from(places).unwrap_or(usize::MAX)
}

/// What each agent of a pool is told to Envoy with. Agents that are strained are left out where others serve the same, and a
/// project that was moved goes by the hash while its agent is strained, which spreads what is too much for one.
fn share(pool: &Pool, agents: &[placement::Agent]) -> BTreeMap<String, Share> {
    let mut placed: BTreeMap<&str, BTreeMap<String, u32>> = BTreeMap::new();
    let at_ease: BTreeSet<&str> = agents
        .iter()
        .filter(|agent| !agent.strained)
        .map(|agent| agent.id.as_str())
        .collect();
    for (project, decided) in pool.placement.projects() {
        let mut serving: Vec<&str> = decided.agents.iter().map(String::as_str).collect();
        let spared: Vec<&str> = serving.iter().copied().filter(|id| at_ease.contains(id)).collect();
        if !spared.is_empty() || decided.kept.is_empty() {
            serving = spared;
        }
        for (rank, id) in (0..).zip(serving) {
            placed.entry(id).or_default().insert(key_of(project), rank);
        }
    }
    let share = |agent: &placement::Agent| {
        let placed = placed.remove(agent.id.as_str()).unwrap_or_default();
        // The same as before keeps its table, so that it need not be compared entry by entry.
        let before = pool.shares.get(&agent.id).map(|share| &share.placed);
        let placed = match before.filter(|before| ***before == placed) {
            Some(before) => Arc::clone(before),
            None => Arc::new(placed),
        };
        let weight = pool.weights.of(&agent.id);
        (agent.id.clone(), Share { weight, placed })
    };
    agents.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use graticule_proto::v1::ProjectDemand;

    use super::*;
    use crate::core::fleet::{Session, Timing};

    fn state(pins: &[&str]) -> AgentState {
        AgentState {
            pins: pins.iter().map(|pin| (*pin).to_owned()).collect(),
            ..AgentState::default()
        }
    }

    fn identity(id: &str, pool: &str, port: u16) -> Identity {
        Identity {
            id: id.into(),
            pool: pool.into(),
            data_address: ([127, 0, 0, 1], port).into(),
            grpc_address: String::new(),
            version: String::new(),
            longest_timeout: Duration::ZERO,
        }
    }

    #[test]
    fn a_change_has_its_own_pool_decided_on_and_a_departure_has_all() {
        let mut fleet = Fleet::new(Timing {
            disconnect_grace: Duration::ZERO,
            sync_window: Duration::ZERO,
            silence_limit: Duration::from_secs(60),
        });
        for (session, (id, pool)) in (1..).zip([("a", "one"), ("b", "two"), ("c", "one")]) {
            let (port, session) = (session, Session(session.into()));
            fleet.attach(Duration::ZERO, session, identity(id, pool, port));
            fleet.state(Duration::ZERO, session, Phase::Ready, AgentState::default());
        }
        let config = Config {
            pools: ["one", "two"]
                .map(|pool| (pool.to_owned(), crate::config::Pool::default()))
                .into(),
            ..Config::default()
        };
        let mut balancer = Balancer::default();
        let looked = |balancer: &mut Balancer, fleet: &Fleet<AgentState>| {
            let decided = balancer.look(Duration::ZERO, fleet, &Desired::default(), &config);
            assert_eq!(decided, Some(Vec::new()));
            balancer.agents().map(str::to_owned).collect::<Vec<_>>()
        };
        balancer.want_all_now();
        assert_eq!(looked(&mut balancer, &fleet), ["a", "c", "b"]);
        for session in [2, 3] {
            fleet.detach(Duration::ZERO, Session(session));
        }
        assert_eq!(fleet.tick(Duration::ZERO).gone, ["b", "c"]);
        balancer.want_now(&"one".into());
        assert_eq!(
            looked(&mut balancer, &fleet),
            ["a", "b"],
            "the other pool was not looked at"
        );
        balancer.want_all_now();
        assert_eq!(looked(&mut balancer, &fleet), ["a"]);
    }

    #[test]
    fn what_an_agent_has_stays_known_while_it_makes_a_new_generation() {
        let mut balancer = Balancer::default();
        let a = identity("a", "default", 1);
        let has = |balancer: &Balancer| balancer.loaded["a"].iter().cloned().collect::<Vec<_>>();
        let agent = placement::Agent {
            id: "a".to_owned(),
            ready: true,
            ..placement::Agent::default()
        };
        let pins = [("/one".to_owned(), 1), ("/two".to_owned(), 1)].into();
        let pool = balancer.pools.entry("default".to_owned()).or_default();
        pool.placement.decide(Duration::ZERO, &[agent], &pins, true);
        balancer.said(&a, Phase::Ready, &state(&["/one", "/other", "/two"]));
        balancer.said(&a, Phase::Ready, &state(&[]));
        assert_eq!(has(&balancer), ["/one", "/two"]);
        let mut failed = state(&[]);
        failed.pin_problems.insert("/two".to_owned(), "damaged".to_owned());
        balancer.said(&a, Phase::Ready, &failed);
        assert_eq!(has(&balancer), ["/one"]);
        balancer.pools.clear();
        balancer.said(&a, Phase::Ready, &state(&[]));
        assert_eq!(has(&balancer), [""; 0], "it is to keep it no longer");
        balancer.said(&a, Phase::Ready, &state(&["/one"]));
        balancer.said(&a, Phase::Starting, &state(&[]));
        assert_eq!(has(&balancer), [""; 0], "it has been started anew");
    }

    #[test]
    fn demand_is_bounded() {
        let demand = |names: &[String]| AgentDemand {
            projects: names
                .iter()
                .map(|name| ProjectDemand {
                    project: name.clone(),
                    requests: 2,
                })
                .collect(),
        };
        assert_eq!(asked(demand(&["/world".to_owned()])).unwrap()["/world"], 2);
        let many: Vec<String> = (0..=MOST_ASKED).map(|n| format!("/{n}")).collect();
        assert!(asked(demand(&many)).unwrap_err().contains("at most 10000"));
        assert!(asked(demand(&["x".repeat(2000)])).unwrap_err().contains("2000 bytes"));
        assert!(asked(demand(&[String::new()])).is_err());
    }

    #[test]
    fn who_is_strained_is_left_out_where_others_serve_the_same() {
        let agent = |id: &str, strained: bool| placement::Agent {
            id: id.to_owned(),
            ready: true,
            strained,
            loaded: Arc::new(["/pin".to_owned()].into()),
            ..placement::Agent::default()
        };
        let mut pool = Pool::default();
        let pins = [("/pin".to_owned(), 2)].into();
        let mut shared = |strained: [bool; 2]| {
            let agents = [agent("a", strained[0]), agent("b", strained[1])];
            pool.placement.decide(Duration::ZERO, &agents, &pins, true);
            let shares = share(&pool, &agents);
            ["a", "b"].map(|id| shares[id].placed.len())
        };
        assert_eq!(shared([false, false]), [1, 1]);
        assert_eq!(shared([true, false]), [0, 1]);
        assert_eq!(shared([true, true]), [1, 1], "they have it loaded, others have not");
    }
}
