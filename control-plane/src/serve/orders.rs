//! Orders to agents on their way: whom one concerns, the calls that carry it out, and how it gets on. Who is asked when is
//! [`core::rollout`](crate::core::rollout)'s decision.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use graticule_proto::v1::{AgentProgress, FleetOrder, FleetProgress};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::calls::{PATIENCE, Switchboard};
use super::hub::{Hub, Roster};
use crate::core::fleet::Told;
use crate::core::rollout::{Rollout, Seen};

/// How long an order may take, all agents together.
const LONGEST: Duration = Duration::from_secs(600);

/// The most that a problem says, in characters.
const MOST_TEXT: usize = 500;

/// What agents are to do.
#[derive(Clone, Debug)]
pub struct Order {
    /// gRPC's path of the agents' method.
    pub method: &'static str,
    /// The request message.
    pub request: Bytes,
    /// Whether an agent that has done it is to be ready again; false where the order is to keep it from being ready.
    pub until_ready: bool,
}

/// A stream of progress.
pub type Progress = ReceiverStream<Result<FleetProgress, Status>>;

/// The agents that are meant.
///
/// # Errors
/// When it is not said who is, or nobody is there.
pub fn concerned(roster: &Roster, which: &FleetOrder) -> Result<Vec<String>, Status> {
    let attached = roster
        .iter()
        .filter(|agent| agent.attached)
        .map(|agent| &agent.identity);
    match (!which.agent_id.is_empty(), !which.pool.is_empty(), which.all) {
        (true, false, false) => {
            if attached.clone().any(|agent| *agent.id == *which.agent_id) {
                return Ok(vec![which.agent_id.clone()]);
            }
            let start: String = which.agent_id.chars().take(128).collect();
            let known = known(&attached.map(|agent| agent.id.to_string()).collect::<Vec<_>>());
            Err(Status::not_found(format!("no agent `{start}` is attached; {known}")))
        }
        (false, true, false) => {
            let of_pool = attached.clone().filter(|agent| *agent.pool == *which.pool);
            let agents: Vec<String> = of_pool.map(|agent| agent.id.to_string()).collect();
            if !agents.is_empty() {
                return Ok(agents);
            }
            Err(nobody_of(roster, &which.pool))
        }
        (false, false, true) => {
            let agents: Vec<String> = attached.map(|agent| agent.id.to_string()).collect();
            if agents.is_empty() {
                return Err(Status::not_found("no agent is attached"));
            }
            Ok(agents)
        }
        _ => Err(Status::invalid_argument(
            "say which agents are meant: exactly one of `agent_id`, `pool` and `all`",
        )),
    }
}

fn known(names: &[String]) -> String {
    match names {
        [] => "no agent is attached".to_owned(),
        names => format!("there are {}", names.join(", ")),
    }
}

/// That no agent of a pool is attached, and of which pools there are some.
pub fn nobody_of(roster: &Roster, pool: &str) -> Status {
    let start: String = pool.chars().take(128).collect();
    let attached = roster.iter().filter(|agent| agent.attached);
    let mut pools: Vec<String> = attached.map(|agent| agent.identity.pool.to_string()).collect();
    pools.sort();
    pools.dedup();
    let known = known(&pools);
    Status::not_found(format!("no agent of pool `{start}` is attached; {known}"))
}

/// Has agents carry out an order, and tells how each gets on.
///
/// # Errors
/// When it is not said who is meant, or nobody is there.
pub fn carry_out(hub: &Hub, switchboard: &Switchboard, which: &FleetOrder, order: Order) -> Result<Progress, Status> {
    let agents = concerned(&hub.roster.borrow(), which)?;
    let (method, rolling) = (order.method, which.rolling);
    tracing::info!(method, agents = agents.join(", "), rolling, "agents are ordered");
    let rollout = Rollout::new(agents, rolling, order.until_ready);
    let (tell, told) = mpsc::channel(8);
    tokio::spawn(run(hub.clone(), switchboard.clone(), rollout, order, tell));
    Ok(ReceiverStream::new(told))
}

async fn run(
    hub: Hub,
    switchboard: Switchboard,
    mut rollout: Rollout,
    order: Order,
    tell: mpsc::Sender<Result<FleetProgress, Status>>,
) {
    let mut roster = hub.roster.clone();
    let mut asked: JoinSet<(String, Result<(), String>)> = JoinSet::new();
    let mut give_up = pin!(tokio::time::sleep(LONGEST));
    loop {
        look(&mut rollout, &roster.borrow_and_update());
        for agent in rollout.next_agents() {
            asked.spawn(ask(switchboard.clone(), agent, order.clone()));
        }
        let (news, done) = (rollout.news(), rollout.is_done());
        if done || !news.is_empty() {
            let agents = news.into_iter().map(|(agent_id, step)| AgentProgress {
                agent_id,
                state: step.name().to_owned(),
                problem: step.problem().chars().take(MOST_TEXT).collect(),
            });
            let agents = agents.collect();
            let gone = tell.send(Ok(FleetProgress { agents, done })).await.is_err();
            if gone || done {
                break;
            }
        }
        tokio::select! {
            Some(answer) = asked.join_next() => {
                if let Ok((agent, answer)) = answer {
                    rollout.answered(&agent, answer);
                }
            }
            changed = roster.changed() => if changed.is_err() { break },
            () = &mut give_up => rollout.late(),
            // Nobody else is asked; those that have been carry it out all the same.
            () = tell.closed() => break,
        }
    }
    asked.detach_all();
}

fn look(rollout: &mut Rollout, roster: &Roster) {
    let agents: Vec<String> = rollout.agents().map(str::to_owned).collect();
    for id in agents {
        let seen = match roster.iter().find(|agent| *agent.identity.id == *id) {
            Some(agent) if !agent.attached => Seen::Gone,
            Some(agent) if agent.told() == Told::Healthy => Seen::Ready,
            Some(_) => Seen::NotReady,
            None => Seen::Gone,
        };
        rollout.saw(&id, seen);
    }
}

async fn ask(switchboard: Switchboard, agent: String, order: Order) -> (String, Result<(), String>) {
    let answer = async {
        let line = switchboard.line(&agent)?;
        let mut messages = line.call(order.method, order.request, PATIENCE)?;
        while let Some(message) = messages.next().await {
            message?;
        }
        Ok::<(), Status>(())
    };
    let answer = answer.await.map_err(|status| status.message().to_owned());
    (agent, answer)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::core::fleet::{Fleet, Identity, Session, Timing};

    fn roster(agents: &[(&str, &str)]) -> Roster {
        let timing = Timing {
            disconnect_grace: Duration::ZERO,
            sync_window: Duration::ZERO,
            silence_limit: Duration::from_secs(10),
        };
        let mut fleet = Fleet::new(timing);
        for (n, (id, pool)) in (0_u16..).zip(agents) {
            let identity = Identity {
                id: (*id).into(),
                pool: (*pool).into(),
                data_address: ([127, 0, 0, 1], 5000 + n).into(),
                grpc_address: String::new(),
                version: String::new(),
                longest_timeout: Duration::ZERO,
            };
            fleet.attach(Duration::ZERO, Session(n.into()), identity);
        }
        Arc::new(fleet.agents().cloned().collect())
    }

    fn which(agent_id: &str, pool: &str, all: bool) -> FleetOrder {
        FleetOrder {
            agent_id: agent_id.to_owned(),
            pool: pool.to_owned(),
            all,
            rolling: false,
        }
    }

    #[test]
    fn it_has_to_be_said_who_is_meant_and_they_have_to_be_there() {
        let roster = roster(&[("a", "maps"), ("b", "maps"), ("c", "plans")]);
        let meant = |agent, pool, all| concerned(&roster, &which(agent, pool, all)).map_err(|s| s.message().to_owned());
        assert_eq!(meant("b", "", false).unwrap(), ["b"]);
        assert_eq!(meant("", "maps", false).unwrap(), ["a", "b"]);
        assert_eq!(meant("", "", true).unwrap(), ["a", "b", "c"]);
        assert_eq!(
            meant("x", "", false).unwrap_err(),
            "no agent `x` is attached; there are a, b, c"
        );
        assert_eq!(
            meant("", "x", false).unwrap_err(),
            "no agent of pool `x` is attached; there are maps, plans"
        );
        for (agent, pool, all) in [
            ("", "", false),
            ("a", "maps", false),
            ("a", "", true),
            ("", "maps", true),
        ] {
            assert!(meant(agent, pool, all).unwrap_err().contains("exactly one of"));
        }
        let nobody = concerned(&Roster::default(), &which("", "", true)).unwrap_err();
        assert_eq!(nobody.message(), "no agent is attached");
    }
}
