//! Who is out there: what each agent last said, and what Envoy is to be told of it.
//!
//! Events come in with the time of a clock that counts from the start of the control plane. An agent's word counts at
//! once, its last words (draining, failing) too. A broken stream starts a short grace in which the agent is told as
//! before, because a stream also breaks for reasons that leave the agent well. When all agents of a pool are lost at once,
//! without a word, it is taken for the network between them and here, and they are told as before for long: Envoy's own
//! checks find out which of them are dead. Nothing may be published before the sync window has passed: a control plane
//! that was restarted must not tell of an empty fleet. Nor is a pool believed to be empty of which no agent has been ready since
//! the start: it is awaited.
//!
//! What it does not know: streams, messages, Envoy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Time since the control plane started.
pub type Clock = Duration;

/// So long agents that were lost all at once are told as before. Addresses are given to others one day.
const LOST_AT_MOST: Duration = Duration::from_secs(600);

/// A fleet of which nobody has come is published after so many sync windows: an Envoy that is new has something to answer then,
/// and one that was there before has been spared the time that agents may take to find back.
const WINDOWS_FOR_NOBODY: u32 = 5;

/// Within this time every agent that lives says something: they say how they stand every five seconds. One whose machine was lost
/// may come again elsewhere before its stream is known to be broken, but not so soon.
const HEARD_LATELY: Duration = Duration::from_secs(7);

/// The limits of the fleet's patience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long an agent whose stream broke is told as before.
    pub disconnect_grace: Duration,
    /// How long after the start, and after the first agent has come, nothing is published.
    pub sync_window: Duration,
    /// An attached agent that says nothing for this long counts as one whose stream broke.
    pub silence_limit: Duration,
}

/// One stream of one agent; a later one of the same agent has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session(pub u64);

/// Who an agent is, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Unique in the fleet.
    pub id: Arc<str>,
    /// The pool it serves.
    pub pool: Arc<str>,
    /// Where Envoy reaches it.
    pub data_address: SocketAddr,
    /// "host:port" of its gRPC port, as it said it.
    pub grpc_address: String,
    /// Its version, as it said it.
    pub version: String,
    /// The longest that any request may take there; zero when it has not said.
    pub longest_timeout: Duration,
}

/// How an agent stands, by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Alive, not yet able to serve.
    Starting,
    /// Workers up, pins loaded.
    Ready,
    /// Finishes what it has and takes nothing new.
    Draining,
    /// Failure pressure above its limit; it will exit.
    Failing,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Ready, Self::Draining, Self::Failing];

    /// A short name for metrics and pages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Failing => "failing",
        }
    }
}

/// What Envoy is told of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Told {
    /// Send it requests.
    Healthy,
    /// Let it finish, send it nothing new.
    Draining,
    /// It is not mentioned.
    None,
}

impl Told {
    /// The word of `AgentRecord.told`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Draining => "draining",
            Self::None => "none",
        }
    }
}

/// An agent as the fleet knows it. `S` is whatever else the agent said of itself; the fleet only keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent<S> {
    /// Who it is.
    pub identity: Identity,
    /// Its last state; `None` until it has said one.
    pub state: Option<(Phase, S)>,
    /// False within the grace after its stream broke.
    pub attached: bool,
    session: Session,
    heard: Clock,
    broken: Option<Clock>,
    /// It was lost together with all others of its pool: when that is looked at again.
    lost: Option<Clock>,
}

impl<S> Agent<S> {
    /// What Envoy is to be told of it.
    #[must_use]
    pub const fn told(&self) -> Told {
        match self.state {
            Some((Phase::Ready, _)) => Told::Healthy,
            Some((Phase::Draining | Phase::Failing, _)) => Told::Draining,
            Some((Phase::Starting, _)) | None => Told::None,
        }
    }

    /// Whether this stream speaks for it.
    #[must_use]
    pub fn is(&self, session: Session) -> bool {
        self.session == session
    }

    /// It broke off together with all others of its pool, and is told as before for want of a better word.
    #[must_use]
    pub const fn lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Its phase by its own word; `Starting` until it has said one.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.state.as_ref().map_or(Phase::Starting, |(phase, _)| *phase)
    }
}

/// What an attach displaced, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Displaced {
    /// The same agent came again, on a new stream.
    SameId {
        /// The data address of the one before, when that is another one, was attached and has just been heard: two living
        /// agents have one id.
        elsewhere: Option<SocketAddr>,
    },
    /// Another agent, now forgotten, had the same data address.
    SameAddress {
        /// The id of the one forgotten.
        id: String,
        /// It was still attached: two living agents claim one address.
        attached: bool,
    },
}

/// What has come of time passing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// The ids of agents that are forgotten.
    pub gone: Vec<String>,
    /// The ids of agents whose patience is over and that are told as before, for all of their pool were lost at once.
    pub lost: Vec<String>,
}

/// Every agent, by id. Whoever is shown them shares them, and only what changes is copied.
#[derive(Clone, Debug)]
pub struct Fleet<S> {
    timing: Timing,
    agents: BTreeMap<Arc<str>, Arc<Agent<S>>>,
    /// The ids of the agents by the streams that speak for them.
    sessions: BTreeMap<Session, Arc<str>>,
    /// When it was first known of any agent.
    first: Option<Clock>,
    /// The pools of which somebody has been able to serve since the start.
    served: BTreeSet<Arc<str>>,
}

impl<S: Clone> Fleet<S> {
    /// An empty fleet, at clock zero.
    #[must_use]
    pub const fn new(timing: Timing) -> Self {
        Self {
            timing,
            agents: BTreeMap::new(),
            sessions: BTreeMap::new(),
            first: None,
            served: BTreeSet::new(),
        }
    }

    /// From now on these limits count, for agents that are already waited for as well. The sync window stays what it was at
    /// the start: one that is over must not begin again.
    pub const fn be_patient(&mut self, timing: Timing) {
        let sync_window = self.timing.sync_window;
        self.timing = Timing { sync_window, ..timing };
    }

    /// An agent has come. One with the same id is replaced, and keeps its last state until it says a new one: after
    /// a broken stream nothing changes for Envoy. One with the same data address is forgotten, for the address can
    /// belong to one only and the later claim is the fresher.
    pub fn attach(&mut self, now: Clock, session: Session, identity: Identity) -> Vec<Displaced> {
        self.first.get_or_insert(now);
        let mut displaced = Vec::new();
        let same_address =
            |a: &Agent<S>| a.identity.data_address == identity.data_address && a.identity.id != identity.id;
        let shadowed: Vec<Arc<str>> = self
            .agents
            .values()
            .filter(|a| same_address(a))
            .map(|a| a.identity.id.clone())
            .collect();
        for id in shadowed {
            if let Some(agent) = self.forget(&id) {
                displaced.push(Displaced::SameAddress {
                    id: id.to_string(),
                    attached: agent.attached,
                });
            }
        }
        let before = self.forget(&identity.id);
        if let Some(before) = &before {
            let elsewhere = before.identity.data_address;
            let lives = before.attached && now <= before.heard + HEARD_LATELY;
            let elsewhere = (lives && elsewhere != identity.data_address).then_some(elsewhere);
            displaced.push(Displaced::SameId { elsewhere });
        }
        // A state goes with an address: an agent that moved starts anew.
        let state = before
            .filter(|b| b.identity.data_address == identity.data_address)
            .and_then(|before| Arc::unwrap_or_clone(before).state);
        let id = Arc::clone(&identity.id);
        self.sessions.insert(session, Arc::clone(&id));
        let agent = Agent {
            identity,
            state,
            attached: true,
            session,
            heard: now,
            broken: None,
            lost: None,
        };
        if agent.told() == Told::Healthy {
            self.served.insert(Arc::clone(&agent.identity.pool));
        }
        self.agents.insert(id, Arc::new(agent));
        displaced
    }

    /// An agent said how it stands. False when this stream no longer speaks for an agent: it was replaced, or it was
    /// silent for too long and given up.
    pub fn state(&mut self, now: Clock, session: Session, phase: Phase, said: S) -> bool {
        let Some(agent) = self.by_mut(session) else {
            return false;
        };
        agent.state = Some((phase, said));
        agent.heard = now;
        agent.attached = true;
        (agent.broken, agent.lost) = (None, None);
        let (pool, serves) = (Arc::clone(&agent.identity.pool), agent.told() == Told::Healthy);
        if serves {
            self.served.insert(pool);
        }
        true
    }

    /// An agent's configuration has changed: the longest that any request may take there. True when that is news.
    pub fn takes(&mut self, session: Session, longest_timeout: Duration) -> bool {
        let before = self.by(session).map(|agent| agent.identity.longest_timeout);
        if before.is_none_or(|before| before == longest_timeout) {
            return false;
        }
        if let Some(agent) = self.by_mut(session) {
            agent.identity.longest_timeout = longest_timeout;
        }
        true
    }

    /// A stream has ended, whatever the reason. That of a replaced agent changes nothing.
    pub fn detach(&mut self, now: Clock, session: Session) {
        if let Some(agent) = self.by_mut(session).filter(|a| a.attached) {
            agent.attached = false;
            agent.broken = Some(now);
        }
    }

    /// Lets time pass: silent agents count as broken off, those whose grace is over are forgotten, but for those that were lost
    /// with all of their pool.
    pub fn tick(&mut self, now: Clock) -> Passed {
        for agent in self.agents.values_mut().filter(|a| a.attached) {
            let limit = agent.heard + self.timing.silence_limit;
            if now >= limit {
                let agent = Arc::make_mut(agent);
                agent.attached = false;
                agent.broken = Some(limit);
            }
        }
        let over: Vec<Arc<Agent<S>>> = self
            .agents
            .values()
            .filter(|a| self.patience(a) <= now && a.broken.is_some())
            .cloned()
            .collect();
        let mut passed = Passed::default();
        if over.is_empty() {
            return passed;
        }
        let lost = self.lost_pools(now);
        for agent in over {
            let (id, pool) = (&agent.identity.id, &agent.identity.pool);
            let young = agent.broken.is_some_and(|broken| now < broken + LOST_AT_MOST);
            if young && agent.told() == Told::Healthy && lost.contains(pool) {
                if agent.lost.is_none() {
                    passed.lost.push(id.to_string());
                }
                let again = now + self.timing.silence_limit.max(Duration::from_secs(1));
                if let Some(agent) = self.agents.get_mut(id) {
                    Arc::make_mut(agent).lost = Some(again);
                }
            } else {
                self.forget(id);
                passed.gone.push(id.to_string());
            }
        }
        passed
    }

    /// The pools of two or more ready agents of which none is heard any more.
    fn lost_pools(&self, now: Clock) -> BTreeSet<Arc<str>> {
        let mut unheard: BTreeMap<&Arc<str>, Option<usize>> = BTreeMap::new();
        for agent in self.agents.values().filter(|a| a.told() == Told::Healthy) {
            // Without a word for longer its stream may be as broken as that of the others, and it is not known yet.
            let heard = agent.attached && now < agent.heard + HEARD_LATELY;
            let count = unheard.entry(&agent.identity.pool).or_insert(Some(0));
            *count = if heard { None } else { count.map(|count| count + 1) };
        }
        let lost = unheard
            .into_iter()
            .filter(|(_, count)| count.is_some_and(|count| count > 1));
        lost.map(|(pool, _)| Arc::clone(pool)).collect()
    }

    /// Until when an agent is told as it is, if it is not heard before.
    fn patience(&self, agent: &Agent<S>) -> Clock {
        match (agent.lost, agent.broken) {
            (Some(again), _) => again,
            (None, Some(broken)) => broken + self.timing.disconnect_grace,
            (None, None) => agent.heard + self.timing.silence_limit,
        }
    }

    /// The time until `now` passed without anything being heard here, because this process stood still: nobody's patience
    /// has to suffer from it.
    pub fn stood_still(&mut self, now: Clock, time: Duration) {
        let later = |clock: Clock| (clock + time).min(now);
        for agent in self.agents.values_mut().map(Arc::make_mut) {
            agent.heard = later(agent.heard);
            agent.broken = agent.broken.map(later);
            agent.lost = agent.lost.map(|again| again + time);
        }
    }

    /// Agents of this pool are known by their addresses alone; they serve by themselves.
    pub fn found(&mut self, now: Clock, pool: &str) {
        self.first.get_or_insert(now);
        self.served.insert(pool.into());
    }

    /// Whether no agent of this pool has been ready since the start. Its agents may be well and find no way here, after a restart or
    /// when Envoys move to this control plane; there is nothing to tell Envoys then that they do not know better.
    #[must_use]
    pub fn awaits(&self, pool: &str) -> bool {
        !self.served.contains(pool)
    }

    /// When [`Fleet::tick`], [`Fleet::waited`] or [`Fleet::synced`] will next have something to say, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self, now: Clock) -> Option<Clock> {
        let start = [self.timing.sync_window, self.sync_end()];
        let start = start.into_iter().filter(|end| *end > now);
        self.agents.values().map(|a| self.patience(a)).chain(start).min()
    }

    /// Whether agents that are well have had the time to come after the start.
    #[must_use]
    pub fn waited(&self, now: Clock) -> bool {
        now >= self.timing.sync_window
    }

    /// Whether the fleet may be published: the others have had the time to come after the first, or nobody has come for long.
    #[must_use]
    pub fn synced(&self, now: Clock) -> bool {
        now >= self.sync_end()
    }

    fn sync_end(&self) -> Clock {
        let window = self.timing.sync_window;
        let longest = window * WINDOWS_FOR_NOBODY;
        self.first.map_or(longest, |first| (first + window).min(longest))
    }

    /// The agent of that id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Agent<S>> {
        self.agents.get(id).map(Arc::as_ref)
    }

    /// The agent that this stream speaks for.
    #[must_use]
    pub fn by(&self, session: Session) -> Option<&Agent<S>> {
        self.sessions.get(&session).and_then(|id| self.get(id))
    }

    /// The same, to be changed.
    fn by_mut(&mut self, session: Session) -> Option<&mut Agent<S>> {
        let agent = self.sessions.get(&session).and_then(|id| self.agents.get_mut(id));
        agent.map(Arc::make_mut)
    }

    /// Forgets an agent, and that its stream speaks for it.
    fn forget(&mut self, id: &str) -> Option<Arc<Agent<S>>> {
        let agent = self.agents.remove(id)?;
        self.sessions.remove(&agent.session);
        Some(agent)
    }

    /// Every agent, in the order of ids.
    pub fn agents(&self) -> impl Iterator<Item = &Arc<Agent<S>>> {
        self.agents.values()
    }
}
