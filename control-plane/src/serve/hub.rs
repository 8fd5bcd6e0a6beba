//! The one task that owns the fleet. Streams send it what agents said; it publishes what follows from that: the
//! roster for people and tools at once, the snapshot for Envoys after a few milliseconds in which more may come, and what
//! is known of requests that kill workers, and how agents stand with the fleet's pins. A changed configuration comes to it as one
//! event more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use graticule_daemon::ready::Awaited;
use graticule_proto::v1::{AgentState, ListPlacementsReply};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::balance::{Asked, Balancer};
use super::discovery::Found;
use super::pace::Pace;
use super::pins;
use crate::adapters::envoy::{Made, Member, Raised};
use crate::adapters::secrets::Secrets;
use crate::config::Config;
use crate::core::fleet::{Agent, Clock, Displaced, Fleet, Identity, Phase, Session, Told};
use crate::core::pins::{Desired, Pins, Wished};
use crate::core::quarantine::{Quarantine, Report};
use crate::core::views::Views;
use crate::metrics::Metrics;

mod publish;
mod quarantine;
mod share;

/// How long after a change more changes are awaited, so that a burst of agents makes one snapshot.
const COALESCE: Duration = Duration::from_millis(2);

/// How long it is not said again that two agents have one id.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Events on their way to the hub. An agent's stream that fills it waits; nothing is dropped.
const QUEUE: usize = 256;

/// Whoever wakes so late has not been asleep by choice.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// What a stream of an agent has to say.
#[derive(Debug)]
pub enum Event {
    /// An agent has come.
    Attached(Session, Identity),
    /// It said how it stands. The stream is cancelled when it no longer speaks for an agent.
    Said(Session, Phase, Box<AgentState>, CancellationToken),
    /// It said the longest that any request may take there.
    Takes(Session, Duration),
    /// It said what it is asked for.
    Asked(Session, Asked),
    /// It said what it has against a request.
    Killed(Session, Box<Report>),
    /// An operator cleared a fingerprint there (empty: all), so long ago.
    Cleared(Session, String, Duration),
    /// An operator clears a fingerprint here (empty: all) and is told how many entries there were.
    Clear(String, oneshot::Sender<usize>),
    /// Somebody wants to know of which agents Envoys are told.
    Members(oneshot::Sender<Vec<Member>>),
    /// Somebody wants to know which agents serve what.
    Placements(oneshot::Sender<ListPlacementsReply>),
    /// Agents are at these addresses that cannot register by themselves.
    Found(Found),
    /// What is to be pinned has changed, and is in the store.
    Desired(Desired),
    /// From now on this configuration counts, with what its files of certificates have; it has been found good. The answer comes
    /// when it does.
    Configure(Arc<Config>, Secrets, oneshot::Sender<()>),
    /// Files of certificates have changed: what was in them when they were looked at, and what is now. It does not count when the
    /// first is no longer what counts, for another configuration has come meanwhile and its files were read with it.
    Renewed(Secrets, Secrets),
    /// What the store had of the quarantine, or another control plane put there.
    Remembered(Box<Quarantine>),
    /// Its stream has ended.
    Detached(Session),
}

/// Every agent with its last words, in the order of ids.
pub type Roster = Arc<Vec<Arc<Agent<AgentState>>>>;

/// The way to the hub. Clones lead to the same.
#[derive(Clone, Debug)]
pub struct Hub {
    events: mpsc::Sender<Event>,
    /// What Envoys are to be told, view by view; `None` until the sync window is over.
    pub views: watch::Receiver<Option<Views>>,
    /// The fleet as it is now.
    pub roster: watch::Receiver<Roster>,
    /// What there is against requests that killed workers, as it is now.
    pub quarantine: watch::Receiver<Arc<Quarantine>>,
    /// The same for agents, who must not be told before all of them had time to come back: `None` until then.
    pub told: watch::Receiver<Option<Arc<Quarantine>>>,
    /// What agents are to keep loaded, and which of them.
    pub desired: watch::Receiver<Arc<Wished>>,
    /// The same, and how every agent stands with it.
    pub pins: watch::Receiver<Arc<Pins>>,
    /// The configuration that counts.
    pub config: watch::Receiver<Arc<Config>>,
    /// What files of certificates have, as Envoys are told.
    pub secrets: watch::Receiver<Secrets>,
}

impl Hub {
    /// Starts the task. It ends with `stop`. `synced` is dropped with the first snapshot, or when nobody has come within the sync window.
    #[must_use]
    pub fn start(
        config: Arc<Config>,
        secrets: Secrets,
        desired: Desired,
        metrics: Metrics,
        synced: Awaited,
        stop: CancellationToken,
    ) -> Self {
        let (events, received) = mpsc::channel(QUEUE);
        let (publish, views) = watch::channel(None);
        let (announce, roster) = watch::channel(Roster::default());
        let (show, quarantine) = watch::channel(Arc::default());
        let (tell, told) = watch::channel(None);
        let (wish, wished) = watch::channel(Arc::default());
        let (show_pins, pins) = watch::channel(Arc::default());
        let (configure, configured) = watch::channel(Arc::clone(&config));
        let (renew, renewed) = watch::channel(secrets);
        let owner = Owner {
            fleet: Fleet::new(config.timing()),
            quarantine: Quarantine::default(),
            quarantine_changed: false,
            quarantine_due: Instant::now(),
            show,
            tell,
            pins: Pins::new(desired),
            somebody_left: false,
            news: true,
            pins_changed: true,
            wish_changed: true,
            wish,
            show_pins,
            balancer: Balancer::default(),
            twins: Twins::default(),
            found: Found::new(),
            config,
            configure,
            renew,
            metrics,
            started: Instant::now(),
            publish,
            roster_pace: Pace::default(),
            announce,
            synced: Some(synced),
            published: None,
            made: Made::default(),
            raised: Vec::new(),
        };
        tokio::spawn(owner.run(received, stop));
        Self {
            events,
            views,
            roster,
            quarantine,
            told,
            desired: wished,
            pins,
            config: configured,
            secrets: renewed,
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
    /// An agent is not in the fleet any more that was there before.
    somebody_left: bool,
    pins_changed: bool,
    wish_changed: bool,
    wish: watch::Sender<Arc<Wished>>,
    show_pins: watch::Sender<Arc<Pins>>,
    balancer: Balancer,
    /// Ids that two agents have.
    twins: Twins,
    /// Where agents are that cannot register by themselves.
    found: Found,
    config: Arc<Config>,
    configure: watch::Sender<Arc<Config>>,
    renew: watch::Sender<Secrets>,
    metrics: Metrics,
    started: Instant,
    publish: watch::Sender<Option<Views>>,
    /// When everybody is shown the fleet.
    roster_pace: Pace,
    announce: watch::Sender<Roster>,
    synced: Option<Awaited>,
    /// What the last snapshot was made from; the same again would make the same snapshot. `None` when it is to be made
    /// anew whatever the fleet says.
    published: Option<Vec<Member>>,
    /// What it would be made from now may be different.
    news: bool,
    made: Made,
    /// Pools whose configured timeouts are shorter than their agents', as last said in the log.
    raised: Vec<Raised>,
}

impl Owner {
    async fn run(mut self, mut events: mpsc::Receiver<Event>, stop: CancellationToken) {
        // When the snapshot is to be made anew, if something changed.
        let mut due: Option<Instant> = None;
        self.announce_pins();
        self.announce_wish();
        loop {
            let asleep = self.started.elapsed();
            let deadline = self.fleet.next_deadline(asleep).map(|clock| self.started + clock);
            let kills = self
                .quarantine
                .next_deadline(Instant::now().into_std())
                .map(Instant::from_std);
            let spread = self.quarantine_changed.then_some(self.quarantine_due);
            let show = self.roster_pace.wake(Instant::now());
            let balance = self.balancer.wake(Instant::now(), self.started.elapsed());
            let balance = balance.filter(|_| self.fleet.synced(self.started.elapsed()));
            let wake = [due, deadline, kills, spread, show, balance]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                () = stop.cancelled() => return,
                event = events.recv() => {
                    let Some(event) = event else { return };
                    self.hear(event);
                    // What else has come meanwhile is told together.
                    for _ in 0..QUEUE {
                        let Ok(event) = events.try_recv() else { break };
                        self.hear(event);
                    }
                }
                () = async { tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => {}
            }
            let clock = self.started.elapsed();
            // Stopped, frozen, or without a processor.
            if deadline.is_some_and(|deadline| deadline + STOOD_STILL <= Instant::now()) {
                let time = clock.saturating_sub(asleep);
                tracing::warn!(
                    ?time,
                    "this process stood still; agents have the time once more to say how they stand"
                );
                self.fleet.stood_still(clock, time);
            }
            self.miss(clock);
            if self.roster_pace.is_due(Instant::now()) {
                let started = Instant::now();
                self.announce();
                self.roster_pace.done(Instant::now(), started.elapsed());
            }
            self.balance(clock);
            self.announce_wish();
            self.announce_pins();
            self.quarantine_changed |= self.quarantine.tick(Instant::now().into_std());
            self.announce_quarantine(clock);
            if !self.fleet.synced(clock) {
                // Agents may be on their way here only once this control plane is said to be well.
                if self.fleet.waited(clock) && self.fleet.agents().next().is_none() {
                    self.synced.take();
                }
                continue;
            }
            // Most of what agents say changes nothing for Envoys, and in a large fleet somebody always says something.
            let news = std::mem::take(&mut self.news) || self.published.is_none();
            if !news && due.is_none() {
                continue;
            }
            let now = Instant::now();
            let members = self.members();
            if self.published.as_ref() == Some(&members) {
                due = None;
            } else if now >= *due.get_or_insert(now + COALESCE) {
                due = None;
                self.publish(&members);
                self.published = Some(members);
            }
        }
    }

    /// Notices who has not been heard for too long.
    fn miss(&mut self, clock: Clock) {
        let passed = self.fleet.tick(clock);
        for agent in passed.lost {
            self.roster_pace.want();
            tracing::warn!(
                agent,
                "not heard any more, and nor is any other agent of its pool: Envoys are told of it as before. Is the way from agents to fleet.listen cut?"
            );
        }
        for agent in passed.gone {
            tracing::info!(agent, "agent gone");
            self.roster_pace.want();
            self.balancer.want_all_now();
            (self.somebody_left, self.news) = (true, true);
        }
    }

    /// Takes in what has come.
    fn hear(&mut self, event: Event) {
        let clock = self.started.elapsed();
        self.roster_pace.want();
        match event {
            Event::Attached(session, identity) => {
                let (id, address, of) = (identity.id.clone(), identity.data_address, identity.pool.clone());
                let (agent, pool) = (&*id, &*of);
                let known = self.config.effective_pools().contains_key(pool);
                self.pins.attach(agent, pool);
                (self.pins_changed, self.news) = (true, true);
                self.balancer.want_now(&of);
                for displaced in self.fleet.attach(clock, session, identity) {
                    self.balancer.want_all_now();
                    self.somebody_left = true;
                    match displaced {
                        Displaced::SameId { elsewhere: Some(other) } if self.twins.is_news(clock, agent) => {
                            tracing::warn!(agent, %address, %other, "two agents call themselves the same and displace each other, so one of them gets nothing; set worker.name of each to its own");
                        }
                        Displaced::SameId { .. } => tracing::info!(agent, "agent came again"),
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
                let before = self.fleet.by(session).map(Agent::phase);
                let words = pins::words(&state);
                if let Some(agent) = self.fleet.by(session) {
                    self.balancer.said(&agent.identity, phase, &state);
                }
                if !self.fleet.state(clock, session, phase, *state) {
                    stream.cancel();
                    return;
                }
                if let Some(agent) = self.fleet.by(session) {
                    self.pins_changed |= self.pins.said(&agent.identity.id, words);
                }
                if before != Some(phase) {
                    self.news = true;
                    self.roster_pace.want_now();
                    let agent = self.fleet.by(session).map(|agent| &agent.identity);
                    agent.inspect(|agent| self.balancer.want_now(&agent.pool));
                    tracing::info!(
                        agent = agent.map(|agent| &*agent.id),
                        phase = phase.name(),
                        "agent says"
                    );
                }
            }
            Event::Takes(session, longest) => self.news |= self.fleet.takes(session, longest),
            Event::Asked(session, asked) => {
                if let Some(agent) = self.fleet.by(session) {
                    self.balancer.hear(&agent.identity, asked);
                }
            }
            Event::Placements(answer) => {
                // Whoever asked may have gone.
                let _ = answer.send(self.balancer.list(clock, &self.fleet));
            }
            Event::Found(found) => {
                let count = found.values().map(BTreeSet::len).sum();
                tracing::info!(addresses = count, "where agents are that pools list by address");
                self.metrics.addresses.set(count_of(count));
                for (pool, _) in found.iter().filter(|(_, addresses)| !addresses.is_empty()) {
                    self.fleet.found(clock, pool);
                }
                (self.found, self.news) = (found, true);
            }
            Event::Killed(session, report) => self.killed(session, *report),
            Event::Cleared(session, fingerprint, age) => {
                if self.fleet.by(session).is_some() {
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
                    (self.pins_changed, self.wish_changed) = (true, true);
                    self.balancer.want_all_now();
                    tracing::info!(projects, "the pins of the fleet have changed");
                }
            }
            Event::Configure(config, secrets, counts) => {
                self.fleet.be_patient(config.timing());
                self.config = Arc::clone(&config);
                self.configure.send_replace(config);
                self.renew.send_replace(secrets);
                self.published = None;
                self.wish_changed = true;
                self.balancer.want_all_now();
                // Whoever asked may have gone.
                let _ = counts.send(());
            }
            Event::Renewed(before, secrets) => {
                if *self.renew.borrow() == before {
                    self.renew.send_replace(secrets);
                    self.published = None;
                }
            }
            Event::Remembered(before) => {
                self.quarantine_changed |= self.quarantine.remember(Instant::now().into_std(), &before);
            }
            Event::Members(answer) => {
                // Whoever asked may have gone.
                let _ = answer.send(self.members());
            }
            Event::Detached(session) => self.fleet.detach(clock, session),
        }
    }

    /// Shows everybody the fleet.
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
        let astray = roster.iter().filter(|a| !pools.contains_key(&*a.identity.pool)).count();
        self.metrics.agents_astray.set(count_of(astray));
        self.metrics
            .agents_lost
            .set(count_of(roster.iter().filter(|a| a.lost()).count()));
        self.announce.send_replace(Arc::new(roster));
    }
}

/// When it was last said of an id that two agents have it: they displace each other every few seconds.
#[derive(Debug, Default)]
struct Twins(BTreeMap<String, Clock>);

impl Twins {
    /// Whether it is to be said now.
    fn is_news(&mut self, now: Clock, agent: &str) -> bool {
        self.0.retain(|_, said| now < *said + SAY_AGAIN);
        let is_news = !self.0.contains_key(agent);
        if is_news {
            self.0.insert(agent.to_owned(), now);
        }
        is_news
    }
}

fn count_of(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
