//! The one task that owns the fleet. Streams send it what agents said; it publishes what follows from that: the
//! roster for people and tools at once, the snapshot for Envoys after a few milliseconds in which more may come.

use std::sync::Arc;
use std::time::Duration;

use graticule_daemon::ready::Awaited;
use graticule_proto::v1::AgentState;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::adapters::envoy::{self, Member};
use crate::config::Config;
use crate::core::fleet::{Agent, Displaced, Fleet, Identity, Phase, Session, Told};
use crate::core::resources::Snapshot;
use crate::metrics::Metrics;

/// How long after a change more changes are awaited, so that a burst of agents makes one snapshot.
const COALESCE: Duration = Duration::from_millis(2);

/// Events on their way to the hub. An agent's stream that fills it waits; nothing is dropped.
const QUEUE: usize = 256;

/// What a stream of an agent has to say.
#[derive(Debug)]
pub enum Event {
    /// An agent has come.
    Attached(Session, Identity),
    /// It said how it stands. The stream is cancelled when it no longer speaks for an agent.
    Said(Session, Phase, Box<AgentState>, CancellationToken),
    /// Its stream has ended.
    Detached(Session),
}

/// Every agent with its last words, in the order of ids.
pub type Roster = Arc<Vec<Agent<AgentState>>>;

/// The way to the hub. Clones lead to the same.
#[derive(Clone, Debug)]
pub struct Hub {
    events: mpsc::Sender<Event>,
    /// What Envoys are to be told; `None` until the sync window is over.
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    /// The fleet as it is now.
    pub roster: watch::Receiver<Roster>,
}

impl Hub {
    /// Starts the task. It ends with `stop`. `synced` is dropped with the first snapshot.
    #[must_use]
    pub fn start(config: Arc<Config>, metrics: Metrics, synced: Awaited, stop: CancellationToken) -> Self {
        let (events, received) = mpsc::channel(QUEUE);
        let (publish, snapshot) = watch::channel(None);
        let (announce, roster) = watch::channel(Roster::default());
        let owner = Owner {
            fleet: Fleet::new(config.timing()),
            config,
            metrics,
            started: Instant::now(),
            publish,
            announce,
            synced: Some(synced),
            published: None,
        };
        tokio::spawn(owner.run(received, stop));
        Self {
            events,
            snapshot,
            roster,
        }
    }

    /// Hands an event over; waits while the hub is busy. False when it has stopped.
    pub async fn tell(&self, event: Event) -> bool {
        self.events.send(event).await.is_ok()
    }
}

struct Owner {
    fleet: Fleet<AgentState>,
    config: Arc<Config>,
    metrics: Metrics,
    started: Instant,
    publish: watch::Sender<Option<Arc<Snapshot>>>,
    announce: watch::Sender<Roster>,
    synced: Option<Awaited>,
    /// What the last snapshot was made from; the same again would make the same snapshot.
    published: Option<Vec<Member>>,
}

impl Owner {
    async fn run(mut self, mut events: mpsc::Receiver<Event>, stop: CancellationToken) {
        // When the snapshot is to be made anew, if something changed.
        let mut due: Option<Instant> = None;
        loop {
            let deadline = self
                .fleet
                .next_deadline(self.started.elapsed())
                .map(|clock| self.started + clock);
            let wake = [due, deadline].into_iter().flatten().min();
            tokio::select! {
                () = stop.cancelled() => return,
                event = events.recv() => {
                    let Some(event) = event else { return };
                    self.hear(event);
                }
                () = async { tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => {}
            }
            let clock = self.started.elapsed();
            for agent in self.fleet.tick(clock) {
                tracing::info!(agent, "agent gone");
            }
            self.announce();
            if !self.fleet.synced(clock) {
                continue;
            }
            let now = Instant::now();
            let members: Vec<Member> = self
                .fleet
                .agents()
                .filter(|a| a.told() != Told::None)
                .map(Member::from)
                .collect();
            if self.published.as_ref() == Some(&members) {
                due = None;
            } else if now >= *due.get_or_insert(now + COALESCE) {
                due = None;
                self.publish(&members);
                self.published = Some(members);
            }
        }
    }

    fn hear(&mut self, event: Event) {
        let clock = self.started.elapsed();
        match event {
            Event::Attached(session, identity) => {
                let (agent, address, pool) = (identity.id.clone(), identity.data_address, identity.pool.clone());
                let known = self.config.effective_pools().contains_key(&pool);
                for displaced in self.fleet.attach(clock, session, identity) {
                    match displaced {
                        Displaced::SameId => tracing::info!(agent, "agent came again"),
                        Displaced::SameAddress { id, attached: true } => {
                            tracing::warn!(agent, other = id, %address, "two agents claim one address, the later counts; set fleet.advertise_http of each to its own");
                        }
                        Displaced::SameAddress { id, attached: false } => {
                            tracing::info!(agent, other = id, %address, "agent took the address of one that had gone");
                        }
                    }
                }
                tracing::info!(agent, %address, pool, "agent attached");
                if !known {
                    tracing::warn!(
                        agent,
                        pool,
                        "no pool of that name is configured, so no request will reach this agent"
                    );
                }
            }
            Event::Said(session, phase, state, stream) => {
                let before = self.fleet.agents().find(|a| a.is(session)).map(Agent::phase);
                if !self.fleet.state(clock, session, phase, *state) {
                    stream.cancel();
                } else if before != Some(phase) {
                    let agent = self
                        .fleet
                        .agents()
                        .find(|a| a.is(session))
                        .map(|a| a.identity.id.as_str());
                    tracing::info!(agent, phase = phase.name(), "agent says");
                }
            }
            Event::Detached(session) => self.fleet.detach(clock, session),
        }
    }

    fn announce(&self) {
        let roster: Vec<_> = self.fleet.agents().cloned().collect();
        self.metrics.agents.reset();
        for phase in Phase::ALL {
            let count = roster.iter().filter(|a| a.phase() == phase).count();
            self.metrics
                .agents
                .with_label_values(&[phase.name()])
                .set(count_of(count));
        }
        for told in [Told::Healthy, Told::Draining, Told::None] {
            let count = roster.iter().filter(|a| a.told() == told).count();
            self.metrics
                .agents_told
                .with_label_values(&[told.name()])
                .set(count_of(count));
        }
        let pools = self.config.effective_pools();
        let astray = roster.iter().filter(|a| !pools.contains_key(&a.identity.pool)).count();
        self.metrics.agents_astray.set(count_of(astray));
        self.announce.send_replace(Arc::new(roster));
    }

    fn publish(&mut self, members: &[Member]) {
        match envoy::snapshot(&self.config, members) {
            Ok(snapshot) => {
                self.metrics.snapshots.inc();
                self.publish.send_replace(Some(Arc::new(snapshot)));
                if self.synced.take().is_some() {
                    tracing::info!(
                        agents = members.len(),
                        "the fleet is known, Envoys are told from now on"
                    );
                }
            }
            Err(problems) => {
                self.metrics.snapshots_refused.inc();
                for problem in problems {
                    tracing::error!(%problem, "the snapshot is inconsistent, Envoys keep what they have");
                }
            }
        }
    }
}

fn count_of(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
