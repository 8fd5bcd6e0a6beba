//! The stream to the control plane: who this agent is and how it is doing, again and again, for as long as it lives; and
//! both ways, which requests kill workers; and downwards, what the fleet has pinned, and calls of this agent.
//!
//! The control plane may be away at any time; the agent serves on and comes back to it. It knows nothing of pools: others
//! hand it the state to send.

use std::time::Duration;

use futures::StreamExt as _;
use graticule_daemon::tls::{Channel, Dial};
use graticule_proto::v1::agent_intent::Intent;
use graticule_proto::v1::agent_update::Update;
use graticule_proto::v1::fleet_link_client::FleetLinkClient;
use graticule_proto::v1::{AgentHello, AgentState, AgentUpdate};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::calls::CallsHandle;
use super::demand::{DemandHandle, same_projects};
use super::fleet_pins::FleetPinsHandle;
use super::quarantine::QuarantineHandle;

/// The pause before a new try, which doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause: shorter than the time for which a fresh control plane waits for its agents.
const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// A state is sent at least this often, so that either side notices a dead connection.
const AT_LEAST_EVERY: Duration = Duration::from_secs(5);

/// States that differ only in how busy the agent is are sent at most this often.
const AT_MOST_EVERY: Duration = Duration::from_millis(200);

/// It is looked this often whether other projects are asked for than before.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often they are asked for is told at most this often.
const COUNTS_EVERY: Duration = Duration::from_secs(20);

/// Tells the control plane at `endpoint` of this agent until `state` has no sender any more.
pub async fn run(
    (endpoint, dial): (Endpoint, Dial),
    hello: AgentHello,
    mut state: watch::Receiver<AgentState>,
    quarantine: QuarantineHandle,
    pins: FleetPinsHandle,
    demand: DemandHandle,
    calls: CallsHandle,
) {
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    let mut pause = FIRST_PAUSE;
    let mut said = false;
    loop {
        let error = match dial.connect(&endpoint).await {
            Ok(channel) => {
                let handles = (&quarantine, &pins, &demand, &calls);
                let ended = attach(channel, &hello, &mut state, handles, || pause = FIRST_PAUSE).await;
                calls.begin();
                match ended {
                    Ok(()) => return,
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        if pause == FIRST_PAUSE || !said {
            tracing::warn!(control_plane = %endpoint.uri(), error, "not attached to the control plane; serving on and trying again");
            said = true;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One stream; `Ok` when the agent is leaving.
async fn attach(
    channel: Channel,
    hello: &AgentHello,
    state: &mut watch::Receiver<AgentState>,
    (quarantine, pins, demand, calls): (&QuarantineHandle, &FleetPinsHandle, &DemandHandle, &CallsHandle),
    attached: impl FnOnce(),
) -> Result<(), tonic::Status> {
    let (send, updates) = mpsc::channel(4);
    let update = |update| AgentUpdate { update: Some(update) };
    let gone = |_| tonic::Status::unavailable("the stream ended");
    send.send(update(Update::Hello(hello.clone()))).await.map_err(gone)?;
    pins.begin();
    let first = pins.sent(state.borrow_and_update().clone());
    send.send(update(Update::State(first.clone()))).await.map_err(gone)?;
    let mut intents = FleetLinkClient::new(channel)
        .attach(ReceiverStream::new(updates))
        .await?
        .into_inner();
    match intents.next().await {
        Some(intent) => intent?,
        None => return Err(tonic::Status::unavailable("the control plane ended the stream")),
    };
    attached();
    tracing::info!("attached to the control plane");
    quarantine.begin();
    let mut sent = first;
    let mut due = Instant::now() + AT_LEAST_EVERY;
    let (mut asked, mut asked_at, mut look_at) = (None, Instant::now(), Instant::now());
    loop {
        tokio::select! {
            // What is asked for, when that has changed; how often, now and then.
            () = tokio::time::sleep_until(look_at) => {
                let (told, now) = (demand.told(), Instant::now());
                look_at = now + LOOK_EVERY;
                let counts = now >= asked_at + COUNTS_EVERY;
                let same = asked.as_ref().is_some_and(|asked| same_projects(asked, &told) && (!counts || *asked == told));
                if !same {
                    send.send(update(Update::Demand(told.clone()))).await.map_err(gone)?;
                    (asked, asked_at) = (Some(told), now);
                }
                continue;
            }
            changed = state.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                // Further changes may come within a little while; a word that counts at once is not kept back for them.
                if !differs_urgently(&sent, &state.borrow_and_update()) {
                    due = due.min(Instant::now() + AT_MOST_EVERY);
                    continue;
                }
            }
            () = tokio::time::sleep_until(due) => {}
            () = quarantine.changed() => {
                for word in quarantine.updates() {
                    send.send(update(word)).await.map_err(gone)?;
                }
                continue;
            }
            // One at a time: what the agent says of itself does not wait for long answers.
            () = calls.changed() => {
                if let Some(result) = calls.next_result() {
                    send.send(update(Update::Result(result))).await.map_err(gone)?;
                }
                continue;
            }
            intent = intents.next() => match intent {
                Some(intent) => {
                    match intent?.intent.and_then(|intent| calls.take(intent)) {
                        Some(Intent::Quarantine(told)) => quarantine.take(told),
                        Some(Intent::Pins(told)) => {
                            pins.take(told);
                            // Nothing may change with it but that it was heard.
                            due = due.min(Instant::now() + AT_MOST_EVERY);
                        }
                        Some(_) | None => {}
                    }
                    continue;
                }
                None => return Err(tonic::Status::unavailable("the control plane ended the stream")),
            },
        }
        sent = pins.sent(state.borrow_and_update().clone());
        due = Instant::now() + AT_LEAST_EVERY;
        send.send(update(Update::State(sent.clone()))).await.map_err(gone)?;
    }
}

fn differs_urgently(sent: &AgentState, now: &AgentState) -> bool {
    let pins = |state: &AgentState| (state.pins_revision, state.pins.clone(), state.missing_pins.clone());
    sent.phase != now.phase || pins(sent) != pins(now) || sent.pin_problems != now.pin_problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_phase_does_not_wait() {
        let sent = AgentState {
            phase: 2,
            busy: 1,
            ..AgentState::default()
        };
        assert!(!differs_urgently(
            &sent,
            &AgentState {
                phase: 2,
                busy: 2,
                ..AgentState::default()
            }
        ));
        assert!(differs_urgently(
            &sent,
            &AgentState {
                phase: 3,
                busy: 1,
                ..AgentState::default()
            }
        ));
    }
}
