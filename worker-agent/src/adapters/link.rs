//! The stream to a control plane: who this agent is and how it is doing, again and again, for as long as it lives; and
//! both ways, which requests kill workers; and downwards, what the fleet has pinned, and calls of this agent.
//!
//! The control plane may be away at any time; the agent serves on and comes back to it. There is a link for each control
//! plane, and each goes its own way. It knows nothing of pools: others hand it the state to send; and nothing of other links:
//! what comes down by several is put together where it is used.

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
use super::fleet_pins::PinsLink;
use super::quarantine::QuarantineLink;
use crate::core::control_planes::Standing;

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

/// The parts of the agent that a link carries for.
pub struct Parts {
    /// Requests that kill workers.
    pub quarantine: QuarantineLink,
    /// What the fleet has pinned.
    pub pins: PinsLink,
    /// What is asked for.
    pub demand: DemandHandle,
    /// Calls of this agent; of this link alone.
    pub calls: CallsHandle,
}

/// Tells the control plane at `endpoint` of this agent until `state` has no sender any more.
pub async fn run(
    (endpoint, dial): (Endpoint, Dial),
    hello: AgentHello,
    mut state: watch::Receiver<AgentState>,
    mut parts: Parts,
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
                let address = endpoint.uri().to_string();
                let ended = attach(channel, &hello, &address, &mut state, &mut parts, || {
                    pause = FIRST_PAUSE;
                })
                .await;
                parts.calls.begin();
                parts.pins.end();
                parts.quarantine.end();
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
    address: &str,
    state: &mut watch::Receiver<AgentState>,
    parts: &mut Parts,
    attached: impl FnOnce(),
) -> Result<(), tonic::Status> {
    let Parts {
        quarantine,
        pins,
        demand,
        calls,
    } = parts;
    let (send, updates) = mpsc::channel(4);
    let update = |update| AgentUpdate { update: Some(update) };
    let gone = |_| tonic::Status::unavailable("the stream ended");
    send.send(update(Update::Hello(hello.clone()))).await.map_err(gone)?;
    let first = pins.sent(state.borrow_and_update().clone());
    send.send(update(Update::State(first.clone()))).await.map_err(gone)?;
    let mut intents = FleetLinkClient::new(channel)
        .attach(ReceiverStream::new(updates))
        .await?
        .into_inner();
    let welcome = match intents.next().await {
        Some(intent) => match intent?.intent {
            Some(Intent::Welcome(welcome)) => welcome,
            other => return Err(not_a_welcome(other.is_some())),
        },
        None => return Err(tonic::Status::unavailable("the control plane ended the stream")),
    };
    attached();
    tracing::info!(
        control_plane = address,
        store = welcome.store_id,
        "attached to the control plane"
    );
    pins.begin(&welcome);
    quarantine.begin();
    let mut sent = first;
    let mut due = Instant::now() + AT_LEAST_EVERY;
    let (mut asked, mut asked_at, mut look_at) = (None, Instant::now(), Instant::now());
    let mut ignored = Ignored::default();
    loop {
        tokio::select! {
            // What is asked for, when that has changed; how often, now and then.
            () = tokio::time::sleep_until(look_at) => {
                let (told, now) = (demand.told(), Instant::now());
                look_at = now + LOOK_EVERY;
                ignored.look(address, pins.standing());
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

fn not_a_welcome(is_known: bool) -> tonic::Status {
    let what = if is_known {
        "something else"
    } else {
        "what is not known here"
    };
    tonic::Status::failed_precondition(format!(
        "the control plane's first word is {what} and no welcome; is this a fleet port, and not of a later version?"
    ))
}

/// Says once, and not for a passing moment, that what a control plane tells of pins does not count.
#[derive(Default)]
struct Ignored {
    before: Option<Standing>,
    said: Option<Standing>,
}

impl Ignored {
    fn look(&mut self, address: &str, now: Standing) {
        let lasts = self.before.replace(now) == Some(now);
        if !lasts || self.said == Some(now) {
            return;
        }
        match now {
            Standing::OtherStore => tracing::error!(
                control_plane = address,
                "this control plane has another store than one that stands before it in fleet.control_plane, so its pins are \
                 ignored; give all of them the same store.url"
            ),
            Standing::Behind => tracing::warn!(
                control_plane = address,
                "this control plane tells an older revision of the fleet's pins than is known here, so its pins are ignored; \
                 see that it reaches its store. If the store was put back to an older state, see docs/control-plane.md"
            ),
            Standing::Agrees if self.said.is_some() => {
                tracing::info!(control_plane = address, "the pins of this control plane count again");
            }
            Standing::Agrees | Standing::Silent | Standing::Away => return,
        }
        self.said = Some(now).filter(|now| now.is_ignored());
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
    fn what_passes_is_not_said_and_what_lasts_is_said_once() {
        let mut ignored = Ignored::default();
        let mut said = |standing| {
            let before = ignored.said;
            ignored.look("http://a", standing);
            (ignored.said != before).then_some(ignored.said)
        };
        assert_eq!(said(Standing::Behind), None, "it may be about to hear");
        assert_eq!(said(Standing::Agrees), None);
        assert_eq!(said(Standing::Agrees), None, "nothing was wrong");
        assert_eq!(said(Standing::OtherStore), None);
        assert_eq!(said(Standing::OtherStore), Some(Some(Standing::OtherStore)));
        assert_eq!(said(Standing::OtherStore), None);
        assert_eq!(said(Standing::Agrees), None);
        assert_eq!(said(Standing::Agrees), Some(None), "and that it is over");
    }

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
