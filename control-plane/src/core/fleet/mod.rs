//! Who is out there: what each agent last said, and what Envoy is to be told of it.
//!
//! Events come in with the time of a clock that counts from the start of the control plane. An agent's word counts at
//! once, its last words (draining, failing) too. A broken stream starts a short grace in which the agent is told as
//! before, because a stream also breaks for reasons that leave the agent well. Nothing may be published before the
//! sync window has passed: a control plane that was restarted must not tell of an empty fleet.
//!
//! What it does not know: streams, messages, Envoy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Time since the control plane started.
pub type Clock = Duration;

/// The limits of the fleet's patience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long an agent whose stream broke is told as before.
    pub disconnect_grace: Duration,
    /// How long after the start nothing is published.
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
    SameId,
    /// Another agent, now forgotten, had the same data address.
    SameAddress {
        /// The id of the one forgotten.
        id: String,
        /// It was still attached: two living agents claim one address.
        attached: bool,
    },
}

/// Every agent, by id. Whoever is shown them shares them, and only what changes is copied.
#[derive(Clone, Debug)]
pub struct Fleet<S> {
    timing: Timing,
    agents: BTreeMap<Arc<str>, Arc<Agent<S>>>,
    /// The ids of the agents by the streams that speak for them.
    sessions: BTreeMap<Session, Arc<str>>,
}

impl<S: Clone> Fleet<S> {
    /// An empty fleet, at clock zero.
    #[must_use]
    pub const fn new(timing: Timing) -> Self {
        Self {
            timing,
            agents: BTreeMap::new(),
            sessions: BTreeMap::new(),
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
        if before.is_some() {
            displaced.push(Displaced::SameId);
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
        };
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
        agent.broken = None;
        true
    }

    /// A stream has ended, whatever the reason. That of a replaced agent changes nothing.
    pub fn detach(&mut self, now: Clock, session: Session) {
        if let Some(agent) = self.by_mut(session).filter(|a| a.attached) {
            agent.attached = false;
            agent.broken = Some(now);
        }
    }

    /// Lets time pass: silent agents count as broken off, those whose grace is over are forgotten. Returns the ids of
    /// the forgotten.
    pub fn tick(&mut self, now: Clock) -> Vec<String> {
        for agent in self.agents.values_mut().filter(|a| a.attached) {
            let limit = agent.heard + self.timing.silence_limit;
            if now >= limit {
                let agent = Arc::make_mut(agent);
                agent.attached = false;
                agent.broken = Some(limit);
            }
        }
        let grace = self.timing.disconnect_grace;
        let over = |a: &Agent<S>| a.broken.is_some_and(|broken| now >= broken + grace);
        let gone: Vec<String> = self
            .agents
            .values()
            .filter(|a| over(a))
            .map(|a| a.identity.id.to_string())
            .collect();
        for id in &gone {
            self.forget(id);
        }
        gone
    }

    /// When [`Fleet::tick`] or [`Fleet::synced`] will next have something to say, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self, now: Clock) -> Option<Clock> {
        let sync = (!self.synced(now)).then_some(self.timing.sync_window);
        let agents = self.agents.values().map(|a| match a.broken {
            Some(broken) => broken + self.timing.disconnect_grace,
            None => a.heard + self.timing.silence_limit,
        });
        agents.chain(sync).min()
    }

    /// Whether the sync window is over, so that the fleet may be published.
    #[must_use]
    pub fn synced(&self, now: Clock) -> bool {
        now >= self.timing.sync_window
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
