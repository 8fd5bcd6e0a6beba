//! The port for agents and tools: `FleetLink`, where agents attach and say how they stand, and `FleetAdmin`, where
//! people ask for the roster.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{Stream, StreamExt as _};
use graticule_proto::v1::{
    AgentHello, AgentIntent, AgentPhase, AgentRecord, AgentState, AgentUpdate, AgentWelcome, ClearQuarantineReply,
    ClearQuarantineRequest, ListAgentsReply, ListAgentsRequest, ListQuarantineReply, ListQuarantineRequest,
    agent_intent, agent_update, fleet_admin_server::FleetAdmin, fleet_link_server::FleetLink,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::hub::{Event, Hub};
use crate::config::is_plain_name;
use crate::core::fleet::{Agent, Identity, Phase, Session};

/// Intents on their way to one agent.
const INTENTS: usize = 8;

/// Serves agents and tools from the hub.
#[derive(Clone, Debug)]
pub struct FleetPort {
    hub: Hub,
    /// Names this run of the control plane to agents.
    control_plane_id: Arc<str>,
    sessions: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl FleetPort {
    /// A port that closes its streams with `stop`.
    #[must_use]
    pub fn new(hub: Hub, control_plane_id: &str, stop: CancellationToken) -> Self {
        Self {
            hub,
            control_plane_id: Arc::from(control_plane_id),
            sessions: Arc::default(),
            stop,
        }
    }

    /// Hears one agent until its stream ends, for whatever reason.
    async fn hear(&self, session: Session, mut updates: Streaming<AgentUpdate>) -> Result<(), Status> {
        let replaced = CancellationToken::new();
        loop {
            let update = tokio::select! {
                () = self.stop.cancelled() => return Err(Status::unavailable("the control plane stops, attach again")),
                () = replaced.cancelled() => {
                    return Err(Status::aborted("this stream no longer speaks for the agent, attach again"));
                }
                update = updates.message() => update?,
            };
            let state = match update.map(|u| u.update) {
                None => return Ok(()),
                Some(Some(agent_update::Update::State(state))) => state,
                Some(Some(agent_update::Update::Hello(_))) => {
                    return Err(Status::invalid_argument(
                        "hello is said once, at the start of the stream",
                    ));
                }
                // An update of a later version of the contract: the agent lives, and that is all we understand.
                Some(Some(agent_update::Update::Killed(_) | agent_update::Update::Cleared(_)) | None) => continue,
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
                port.tell(Event::Attached(session, identity)).await?;
                let welcome = AgentWelcome {
                    control_plane_id: port.control_plane_id.to_string(),
                };
                let welcome = AgentIntent {
                    intent: Some(agent_intent::Intent::Welcome(welcome)),
                };
                let heard = match intents.send(Ok(welcome)).await {
                    Ok(()) => port.hear(session, updates).await,
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
        Err(Status::unimplemented("not yet"))
    }

    async fn clear_quarantine(
        &self,
        _: Request<ClearQuarantineRequest>,
    ) -> Result<Response<ClearQuarantineReply>, Status> {
        Err(Status::unimplemented("not yet"))
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
