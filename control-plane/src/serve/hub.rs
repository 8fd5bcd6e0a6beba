//! The one task that owns the fleet. Streams send it what agents said; it publishes what follows from that: the
//! roster for people and tools at once, the snapshot for Envoys after a few milliseconds in which more may come, and what
//! is known of requests that kill workers, and how agents stand with the fleet's pins.

use std::sync::Arc;
use std::time::Duration;

use graticule_daemon::ready::Awaited;
use graticule_proto::v1::AgentState;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pins;
use crate::adapters::envoy::{self, Member};
use crate::config::Config;
use crate::core::fleet::{Agent, Displaced, Fleet, Identity, Phase, Session, Told};
use crate::core::pins::{Desired, Pins};
use crate::core::quarantine::{News, Quarantine, Report};
use crate::core::resources::Snapshot;
use crate::metrics::Metrics;

/// How long after a change more changes are awaited, so that a burst of agents makes one snapshot.
const COALESCE: Duration = Duration::from_millis(2);

/// How long after agents were told of the quarantine they are told again, unless a request has just come to be refused.
const SPREAD: Duration = Duration::from_millis(10);

/// Events on their way to the hub. An agent's stream that fills it waits; nothing is dropped.
const QUEUE: usize = 256;

/// What a stream of an agent has to say.
#[derive(Debug)]
pub enum Event {
    /// An agent has come.
    Attached(Session, Identity),
    /// It said how it stands. The stream is cancelled when it no longer speaks for an agent.
    Said(Session, Phase, Box<AgentState>, CancellationToken),
    /// It said what it has against a request.
    Killed(Session, Box<Report>),
    /// An operator cleared a fingerprint there (empty: all), so long ago.
    Cleared(Session, String, Duration),
    /// An operator clears a fingerprint here (empty: all) and is told how many entries there were.
    Clear(String, oneshot::Sender<usize>),
    /// What is to be pinned has changed, and is in the store.
    Desired(Desired),
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
    /// What there is against requests that killed workers, as it is now.
    pub quarantine: watch::Receiver<Arc<Quarantine>>,
    /// The same for agents, who must not be told before all of them had time to come back: `None` until then.
    pub told: watch::Receiver<Option<Arc<Quarantine>>>,
    /// What agents are to keep loaded.
    pub desired: watch::Receiver<Arc<Desired>>,
    /// The same, and how every agent stands with it.
    pub pins: watch::Receiver<Arc<Pins>>,
}

impl Hub {
    /// Starts the task. It ends with `stop`. `synced` is dropped with the first snapshot.
    #[must_use]
    pub fn start(
        config: Arc<Config>,
        desired: Desired,
        metrics: Metrics,
        synced: Awaited,
        stop: CancellationToken,
    ) -> Self {
        let (events, received) = mpsc::channel(QUEUE);
        let (publish, snapshot) = watch::channel(None);
        let (announce, roster) = watch::channel(Roster::default());
        let (show, quarantine) = watch::channel(Arc::default());
        let (tell, told) = watch::channel(None);
        let (wish, wished) = watch::channel(Arc::new(desired.clone()));
        let (show_pins, pins) = watch::channel(Arc::default());
        let owner = Owner {
            fleet: Fleet::new(config.timing()),
            quarantine: Quarantine::default(),
            quarantine_changed: false,
            quarantine_due: Instant::now(),
            show,
            tell,
            pins: Pins::new(desired),
            pins_changed: true,
            wish,
            show_pins,
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
            quarantine,
            told,
            desired: wished,
            pins,
        }
    }

    /// Hands an event over; waits while the hub is busy. False when it has stopped.
    pub async fn tell(&self, event: Event) -> bool {
        self.events.send(event).await.is_ok()
    }
}

struct Owner {
    fleet: Fleet<AgentState>,
    quarantine: Quarantine,
    quarantine_changed: bool,
    /// When the quarantine is next told: at once, or somewhat later after it was told just now.
    quarantine_due: Instant,
    show: watch::Sender<Arc<Quarantine>>,
    tell: watch::Sender<Option<Arc<Quarantine>>>,
    pins: Pins,
    pins_changed: bool,
    wish: watch::Sender<Arc<Desired>>,
    show_pins: watch::Sender<Arc<Pins>>,
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
        self.announce_pins();
        loop {
            let deadline = self
                .fleet
                .next_deadline(self.started.elapsed())
                .map(|clock| self.started + clock);
            let kills = self
                .quarantine
                .next_deadline(Instant::now().into_std())
                .map(Instant::from_std);
            let spread = self.quarantine_changed.then_some(self.quarantine_due);
            let wake = [due, deadline, kills, spread].into_iter().flatten().min();
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
            self.announce_pins();
            self.quarantine_changed |= self.quarantine.tick(Instant::now().into_std());
            self.announce_quarantine(clock);
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
                self.pins.attach(&agent, &pool);
                self.pins_changed = true;
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
                let words = pins::words(&state);
                if !self.fleet.state(clock, session, phase, *state) {
                    stream.cancel();
                    return;
                }
                if let Some(agent) = self.fleet.agents().find(|a| a.is(session)) {
                    self.pins_changed |= self.pins.said(&agent.identity.id, words);
                }
                if before != Some(phase) {
                    let agent = self
                        .fleet
                        .agents()
                        .find(|a| a.is(session))
                        .map(|a| a.identity.id.as_str());
                    tracing::info!(agent, phase = phase.name(), "agent says");
                }
            }
            Event::Killed(session, report) => self.killed(session, *report),
            Event::Cleared(session, fingerprint, age) => {
                if self.fleet.agents().any(|a| a.is(session)) {
                    self.clear(&fingerprint, age);
                }
            }
            Event::Clear(fingerprint, answer) => {
                let cleared = self.clear(&fingerprint, Duration::ZERO);
                // Whoever asked may have gone.
                let _ = answer.send(cleared);
            }
            Event::Desired(desired) => {
                let projects = desired.pins.len();
                if self.pins.desire(desired) {
                    self.pins_changed = true;
                    self.wish.send_replace(Arc::new(self.pins.desired().clone()));
                    tracing::info!(projects, "the pins of the fleet have changed");
                }
            }
            Event::Detached(session) => self.fleet.detach(clock, session),
        }
    }

    /// A stream that no longer speaks for its agent says nothing that counts; the agent says it again on its new one.
    fn killed(&mut self, session: Session, report: Report) {
        let Some(agent) = self.fleet.agents().find(|a| a.is(session)) else {
            return;
        };
        let (agent, now) = (agent.identity.id.clone(), Instant::now().into_std());
        let (fingerprint, project) = (report.fingerprint.clone(), report.project.clone());
        let news = self.quarantine.report(now, &agent, report);
        self.quarantine_changed |= news != News::None;
        if news == News::Refused {
            self.quarantine_due = Instant::now();
            tracing::warn!(
                fingerprint,
                project,
                agent,
                "a request killed too many workers, all agents refuse it for a while; the agents' logs have the request"
            );
        }
    }

    fn clear(&mut self, fingerprint: &str, age: Duration) -> usize {
        let (cleared, news) = self.quarantine.clear(Instant::now().into_std(), fingerprint, age);
        if news {
            self.quarantine_changed = true;
            self.quarantine_due = Instant::now();
            tracing::info!(fingerprint, cleared, "the quarantine was cleared");
        }
        cleared
    }

    /// Shows and tells what has changed in the quarantine.
    fn announce_quarantine(&mut self, clock: Duration) {
        let first = self.tell.borrow().is_none() && self.fleet.synced(clock);
        let due = self.quarantine_changed && Instant::now() >= self.quarantine_due;
        if !due && !first {
            return;
        }
        self.quarantine_changed = false;
        self.quarantine_due = Instant::now() + SPREAD;
        let now = Instant::now().into_std();
        let all = self.quarantine.entries().count();
        let refused = self
            .quarantine
            .entries()
            .filter(|entry| entry.standing(now).refused())
            .count();
        for (state, count) in [("refused", refused), ("suspected", all - refused)] {
            self.metrics.quarantine.with_label_values(&[state]).set(count_of(count));
        }
        let quarantine = Arc::new(self.quarantine.clone());
        self.show.send_replace(Arc::clone(&quarantine));
        if self.fleet.synced(clock) {
            self.tell.send_replace(Some(quarantine));
        }
    }

    /// Shows what has changed in the pins, and forgets agents that are not in the fleet any more.
    fn announce_pins(&mut self) {
        let fleet = &self.fleet;
        self.pins_changed |= self
            .pins
            .retain(|agent| fleet.agents().any(|known| known.identity.id == agent));
        if !std::mem::take(&mut self.pins_changed) {
            return;
        }
        let (all, lacking) = self.pins.counts();
        self.metrics.fleet_pins.set(count_of(all));
        self.metrics.fleet_pins_lacking.set(count_of(lacking));
        self.show_pins.send_replace(Arc::new(self.pins.clone()));
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
