//! The port for agents and tools: `FleetLink`, where agents attach and say how they stand, and `FleetAdmin`, where
//! people ask for the roster, for the quarantine and for pins.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{Stream, StreamExt as _};
use graticule_proto::v1::{
    AgentHello, AgentIntent, AgentPhase, AgentRecord, AgentState, AgentUpdate, AgentWelcome, ClearQuarantineReply,
    ClearQuarantineRequest, FleetPinProgress, FleetPinRequest, FleetUnpinReply, ListAgentsReply, ListAgentsRequest,
    ListPinsReply, ListPinsRequest, ListQuarantineReply, ListQuarantineRequest, agent_intent, agent_update,
    fleet_admin_server::FleetAdmin, fleet_link_server::FleetLink,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::hub::{Event, Hub};
use super::pins::{self, Keeper};
use super::quarantine::{self, intent};
use crate::config::{Config, is_plain_name};
use crate::core::fleet::{Agent, Identity, Phase, Session};

/// Intents on their way to one agent.
const INTENTS: usize = 8;

/// Serves agents and tools from the hub.
#[derive(Clone, Debug)]
pub struct FleetPort {
    hub: Hub,
    keeper: Keeper,
    config: Arc<Config>,
    /// Names this run of the control plane to agents.
    control_plane_id: Arc<str>,
    sessions: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl FleetPort {
    /// A port that closes its streams with `stop`.
    #[must_use]
    pub fn new(hub: Hub, keeper: Keeper, config: Arc<Config>, control_plane_id: &str, stop: CancellationToken) -> Self {
        Self {
            hub,
            keeper,
            config,
            control_plane_id: Arc::from(control_plane_id),
            sessions: Arc::default(),
            stop,
        }
    }

    /// Hears one agent of that pool, and tells it of the quarantine and of pins, until its stream ends, for whatever reason.
    async fn hear(
        &self,
        session: Session,
        pool: &str,
        mut updates: Streaming<AgentUpdate>,
        intents: &mpsc::Sender<Result<AgentIntent, Status>>,
    ) -> Result<(), Status> {
        let replaced = CancellationToken::new();
        let mut told = self.hub.told.clone();
        told.mark_changed();
        let mut desired = self.hub.desired.clone();
        desired.mark_changed();
        // An agent that does not read is heard all the same; when it reads again, it gets what then holds.
        let (mut news, mut pins_news) = (false, false);
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
                place = intents.reserve(), if news || pins_news => {
                    let next = if std::mem::take(&mut pins_news) {
                        Some(pins::intent(&desired.borrow_and_update(), pool))
                    } else {
                        news = false;
                        told.borrow_and_update().as_ref().map(|quarantine| intent(quarantine))
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
                Some(Some(agent_update::Update::Hello(_))) => {
                    return Err(Status::invalid_argument(
                        "hello is said once, at the start of the stream",
                    ));
                }
                // An update of a later version of the contract: the agent lives, and that is all we understand.
                Some(None) => continue,
            };
            let phase = phase_of(&state)?;
            self.tell(Event::Said(session, phase, Box::new(state), replaced.clone()))
                .await?;
        }
    }

    async fn tell(&self, event: Event) -> Result<(), Status> {
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
                let pool = identity.pool.clone();
                port.tell(Event::Attached(session, identity)).await?;
                let welcome = AgentWelcome {
                    control_plane_id: port.control_plane_id.to_string(),
                };
                let welcome = AgentIntent {
                    intent: Some(agent_intent::Intent::Welcome(welcome)),
                };
                let heard = match intents.send(Ok(welcome)).await {
                    Ok(()) => port.hear(session, &pool, updates, &intents).await,
                    Err(_) => Ok(()),
                };
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

#[tonic::async_trait]
impl FleetAdmin for FleetPort {
    async fn list_agents(&self, _: Request<ListAgentsRequest>) -> Result<Response<ListAgentsReply>, Status> {
        let agents = self.hub.roster.borrow().iter().map(record).collect();
        Ok(Response::new(ListAgentsReply { agents }))
    }

    async fn list_quarantine(
        &self,
        _: Request<ListQuarantineRequest>,
    ) -> Result<Response<ListQuarantineReply>, Status> {
        let entries = quarantine::entries(&self.hub.quarantine.borrow());
        Ok(Response::new(ListQuarantineReply { entries }))
    }

    async fn clear_quarantine(
        &self,
        request: Request<ClearQuarantineRequest>,
    ) -> Result<Response<ClearQuarantineReply>, Status> {
        let fingerprint =
            quarantine::fingerprint_or_all(request.into_inner().fingerprint).map_err(Status::invalid_argument)?;
        let (answer, cleared) = oneshot::channel();
        self.tell(Event::Clear(fingerprint, answer)).await?;
        let cleared = cleared
            .await
            .map_err(|_| Status::unavailable("the control plane stops, ask again"))?;
        let cleared = u32::try_from(cleared).unwrap_or(u32::MAX);
        Ok(Response::new(ClearQuarantineReply { cleared }))
    }

    type PinProjectStream = ReceiverStream<Result<FleetPinProgress, Status>>;

    async fn pin_project(&self, request: Request<FleetPinRequest>) -> Result<Response<Self::PinProjectStream>, Status> {
        let pools = self.config.effective_pools();
        let key = pins::key(&request.into_inner(), Some(pools.keys()))?;
        let kept = self.keeper.pin(key.clone()).await?;
        Ok(Response::new(pins::progress(&self.hub, key, kept)))
    }

    async fn unpin_project(&self, request: Request<FleetPinRequest>) -> Result<Response<FleetUnpinReply>, Status> {
        let key = pins::key(&request.into_inner(), None::<std::iter::Empty<&String>>)?;
        let project = key.project.clone();
        let was_pinned = self.keeper.unpin(key).await?.changed;
        Ok(Response::new(FleetUnpinReply { project, was_pinned }))
    }

    async fn list_pins(&self, _: Request<ListPinsRequest>) -> Result<Response<ListPinsReply>, Status> {
        let pins = pins::list(&self.hub.pins.borrow());
        Ok(Response::new(ListPinsReply { pins }))
    }
}

fn record(agent: &Agent<AgentState>) -> AgentRecord {
    let identity = &agent.identity;
    AgentRecord {
        hello: Some(AgentHello {
            agent_id: identity.id.clone(),
            pool: identity.pool.clone(),
            data_address: identity.data_address.to_string(),
            grpc_address: identity.grpc_address.clone(),
            version: identity.version.clone(),
        }),
        state: agent.state.as_ref().map(|(_, state)| state.clone()),
        attached: agent.attached,
        told: agent.told().name().to_owned(),
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
    let AgentHello {
        agent_id: id,
        pool,
        grpc_address,
        version,
        ..
    } = hello;
    Ok(Identity {
        id,
        pool,
        data_address,
        grpc_address,
        version,
    })
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
