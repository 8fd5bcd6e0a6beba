//! The port for agents and tools: here `FleetLink`, where agents attach and say how they stand. What people ask there is in
//! [`admin`](super::admin).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use graticule_proto::v1::{
    AgentHello, AgentIntent, AgentPhase, AgentState, AgentUpdate, AgentWelcome, agent_intent, agent_update,
    fleet_link_server::FleetLink,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::balance;
use super::calls::{Line, Switchboard};
use super::hub::{Event, Hub};
use super::live::Live;
use super::pins::{self, Keeper};
use super::quarantine::{self, intent};
use crate::config::is_plain_name;
use crate::core::fleet::{Identity, Phase, Session};

/// The longest that an agent may say that a request takes; it is also the most that Envoy can be configured to wait.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(86_400);

/// Intents on their way to one agent.
const INTENTS: usize = 8;

/// Serves agents and tools from the hub.
#[derive(Clone, Debug)]
pub struct FleetPort {
    pub(super) hub: Hub,
    pub(super) keeper: Keeper,
    pub(super) live: Live,
    pub(super) switchboard: Switchboard,
    /// Names this run of the control plane and its store to agents.
    welcome: Arc<AgentWelcome>,
    sessions: Arc<AtomicU64>,
    pub(super) stop: CancellationToken,
}

impl FleetPort {
    /// A port that closes its streams with `stop`.
    #[must_use]
    pub fn new(
        hub: Hub,
        keeper: Keeper,
        live: Live,
        switchboard: Switchboard,
        welcome: AgentWelcome,
        stop: CancellationToken,
    ) -> Self {
        Self {
            hub,
            keeper,
            live,
            switchboard,
            welcome: Arc::new(welcome),
            sessions: Arc::default(),
            stop,
        }
    }

    /// Hears one agent, tells it of the quarantine and of pins, and carries calls over its line, until its
    /// stream ends, for whatever reason.
    async fn hear(
        &self,
        session: Session,
        (agent, pool): (&str, &str),
        line: &Line,
        mut updates: Streaming<AgentUpdate>,
        intents: &mpsc::Sender<Result<AgentIntent, Status>>,
    ) -> Result<(), Status> {
        let replaced = CancellationToken::new();
        let mut told = self.hub.told.clone();
        told.mark_changed();
        let mut desired = self.hub.desired.clone();
        desired.mark_changed();
        // An agent that does not read is heard all the same; when it reads again, it gets what then holds.
        let (mut news, mut pins_news, mut calls_news) = (false, false, false);
        let (mut pins_told, mut said_longest) = (None, None);
        loop {
            let update = tokio::select! {
                () = self.stop.cancelled() => return Err(Status::unavailable("the control plane stops, attach again")),
                () = replaced.cancelled() => {
                    return Err(Status::aborted("this stream no longer speaks for the agent, attach again"));
                }
                changed = told.changed(), if !news => {
                    changed.map_err(|_| Status::unavailable("the control plane stops, attach again"))?;
                    news = true;
                    continue;
                }
                changed = desired.changed(), if !pins_news => {
                    changed.map_err(|_| Status::unavailable("the control plane stops, attach again"))?;
                    pins_news = true;
                    continue;
                }
                () = line.changed(), if !calls_news => {
                    calls_news = true;
                    continue;
                }
                () = line.late() => continue,
                place = intents.reserve(), if news || pins_news || calls_news => {
                    let next = if std::mem::take(&mut pins_news) {
                        // Most changes concern others.
                        let intent = pins::intent(&desired.borrow_and_update(), pool, agent);
                        let same = intent == pins_told;
                        pins_told = intent.clone();
                        intent.filter(|_| !same)
                    } else if std::mem::take(&mut news) {
                        told.borrow_and_update().as_ref().map(|quarantine| intent(quarantine))
                    } else {
                        calls_news = false;
                        line.next_intent()
                    };
                    let (Ok(place), Some(next)) = (place, next) else { continue };
                    place.send(Ok(next));
                    continue;
                }
                update = updates.message() => update?,
            };
            let state = match update.map(|u| u.update) {
                None => return Ok(()),
                Some(Some(agent_update::Update::State(state))) => state,
                Some(Some(agent_update::Update::Killed(killed))) => {
                    let report = quarantine::report(killed).map_err(Status::invalid_argument)?;
                    self.tell(Event::Killed(session, Box::new(report))).await?;
                    continue;
                }
                Some(Some(agent_update::Update::Cleared(cleared))) => {
                    let (fingerprint, age) = quarantine::cleared(cleared).map_err(Status::invalid_argument)?;
                    self.tell(Event::Cleared(session, fingerprint, age)).await?;
                    continue;
                }
                Some(Some(agent_update::Update::Demand(demand))) => {
                    let asked = balance::asked(demand).map_err(Status::invalid_argument)?;
                    self.tell(Event::Asked(session, asked)).await?;
                    continue;
                }
                Some(Some(agent_update::Update::Result(result))) => {
                    line.hear(result);
                    continue;
                }
                Some(Some(agent_update::Update::Hello(_))) => {
                    return Err(Status::invalid_argument(
                        "hello is said once, at the start of the stream",
                    ));
                }
                // An update of a later version of the contract: the agent lives, and that is all we understand.
                Some(None) => continue,
            };
            let phase = phase_of(&state)?;
            let longest = longest(state.longest_timeout).map_err(Status::invalid_argument)?;
            if !longest.is_zero() && said_longest.replace(longest) != Some(longest) {
                self.tell(Event::Takes(session, longest)).await?;
            }
            self.tell(Event::Said(session, phase, Box::new(state), replaced.clone()))
                .await?;
        }
    }

    pub(super) async fn tell(&self, event: Event) -> Result<(), Status> {
        if self.hub.tell(event).await {
            Ok(())
        } else {
            Err(Status::unavailable("the control plane stops, attach again"))
        }
    }
}

type Intents = Pin<Box<dyn Stream<Item = Result<AgentIntent, Status>> + Send>>;

#[tonic::async_trait]
impl FleetLink for FleetPort {
    type AttachStream = Intents;

    async fn attach(&self, request: Request<Streaming<AgentUpdate>>) -> Result<Response<Intents>, Status> {
        let mut updates = request.into_inner();
        let (intents, outgoing) = tokio::sync::mpsc::channel(INTENTS);
        let port = self.clone();
        let session = Session(self.sessions.fetch_add(1, Ordering::Relaxed));
        // The hello is read in the task too: an answer's head must not wait for it, some clients send nothing before.
        tokio::spawn(async move {
            let outcome = async {
                let first = updates.message().await?;
                let Some(AgentUpdate {
                    update: Some(agent_update::Update::Hello(hello)),
                }) = first
                else {
                    return Err(Status::invalid_argument("the first message of a stream is the hello"));
                };
                let identity = identity_of(hello).map_err(Status::invalid_argument)?;
                let (id, pool) = (identity.id.clone(), identity.pool.clone());
                let seat = port.switchboard.attach(&identity.id, session);
                port.tell(Event::Attached(session, identity)).await?;
                let welcome = AgentIntent {
                    intent: Some(agent_intent::Intent::Welcome((*port.welcome).clone())),
                };
                let heard = match intents.send(Ok(welcome)).await {
                    Ok(()) => port.hear(session, (&id, &pool), &seat.line, updates, &intents).await,
                    Err(_) => Ok(()),
                };
                drop(seat);
                port.hub.tell(Event::Detached(session)).await;
                heard
            };
            if let Err(status) = outcome.await {
                tracing::debug!(%status, "an agent's stream ended");
                // It may be the agent that went away; then nobody reads this.
                let _ = intents.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing).boxed()))
    }
}

fn identity_of(hello: AgentHello) -> Result<Identity, String> {
    for (field, value) in [("agent_id", &hello.agent_id), ("pool", &hello.pool)] {
        if !is_plain_name(value) {
            return Err(format!(
                "{field} `{value}` cannot be used, take up to 128 letters, digits, `-`, `_` and `.`"
            ));
        }
    }
    let data_address = hello.data_address.parse().map_err(|_| {
        let address = &hello.data_address;
        format!(
            "data_address `{address}` is no IP address and port, set fleet.advertise_http to one such as 10.0.0.7:23457"
        )
    })?;
    let longest_timeout = longest(hello.longest_timeout)?;
    let AgentHello {
        agent_id: id,
        pool,
        grpc_address,
        version,
        ..
    } = hello;
    Ok(Identity {
        id: id.into(),
        pool: pool.into(),
        data_address,
        grpc_address,
        version,
        longest_timeout,
    })
}

/// The longest that any request may take at an agent, as it says it; zero when it does not.
fn longest(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|time| *time <= LONGEST_TIMEOUT)
        .ok_or_else(|| format!("longest_timeout {seconds} is no time up to a day"))
}

fn phase_of(state: &AgentState) -> Result<Phase, Status> {
    match state.phase() {
        AgentPhase::Starting => Ok(Phase::Starting),
        AgentPhase::Ready => Ok(Phase::Ready),
        AgentPhase::Draining => Ok(Phase::Draining),
        AgentPhase::Failing => Ok(Phase::Failing),
        AgentPhase::Unspecified => Err(Status::invalid_argument(format!(
            "state.phase {} is not known",
            state.phase
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(agent_id: &str, data_address: &str) -> AgentHello {
        let (agent_id, data_address) = (agent_id.to_owned(), data_address.to_owned());
        AgentHello {
            agent_id,
            pool: "default".to_owned(),
            data_address,
            ..Default::default()
        }
    }

    #[test]
    fn a_hello_is_checked_and_the_refusal_says_what_to_change() {
        assert_eq!(identity_of(hello("a-1", "[::1]:80")).unwrap().data_address.port(), 80);
        assert!(
            identity_of(hello("a 1", "127.0.0.1:80"))
                .unwrap_err()
                .starts_with("agent_id `a 1` cannot be used")
        );
        assert!(
            identity_of(hello("a", "agent:80"))
                .unwrap_err()
                .contains("set fleet.advertise_http")
        );
        for wrong in [-1.0, f64::NAN, f64::INFINITY, 1e6] {
            let hello = AgentHello {
                longest_timeout: wrong,
                ..hello("a", "127.0.0.1:80")
            };
            assert!(identity_of(hello).unwrap_err().contains("no time up to a day"));
        }
    }

    #[test]
    fn an_unknown_phase_is_refused() {
        assert!(
            phase_of(&AgentState {
                phase: 77,
                ..Default::default()
            })
            .is_err()
        );
        assert_eq!(
            phase_of(&AgentState {
                phase: 4,
                ..Default::default()
            })
            .unwrap(),
            Phase::Failing
        );
    }
}
