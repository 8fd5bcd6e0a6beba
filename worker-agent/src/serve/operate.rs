//! What an operator does to the agent as a whole: drain and resume, reload, keep a worker busy, look at its environment,
//! set its health. Each is called by [`super::admin`].

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};

use bytes::Bytes;
use graticule_proto::v1::{
    DrainReply, DrainRequest, GetEnvReply, ReloadReply, ResumeReply, SetServingReply, SetServingRequest, SleepReply,
    SleepRequest,
};
use http::HeaderMap;
use tonic::Status;

use super::front::Front;
use super::http::request_id;
use super::render::{Work, render};
use super::standing::Standing;
use crate::adapters::exchange::{Job, Task};
use crate::adapters::supervisor::{Line, Reloaded, Wanted};
use crate::core::lane::Lane;
use crate::core::message::{Begun, ProjectRef};
use crate::core::redact;
use crate::serve::catalog::rpc;

/// The longest wait for a drained agent to have nothing left, in seconds.
const LONGEST_WAIT: f64 = 3600.0;

/// The longest sleep, in seconds.
const LONGEST_SLEEP: f64 = 600.0;

/// How long a reload is followed.
const RELOAD_PATIENCE: Duration = Duration::from_secs(600);

/// The longest reason for an error set by hand, in bytes.
const LONGEST_REASON: usize = 200;

/// How often a draining agent is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What these verbs need besides the front.
#[derive(Debug, Clone)]
pub struct Desk {
    /// What was decided of this agent.
    pub standing: Standing,
    /// How long what still comes is taken after a drain began: the control plane needs it to tell Envoy.
    pub drain_delay: Duration,
    /// The variables that workers are started with.
    pub environment: BTreeMap<String, String>,
}

/// A number of seconds from a client, from 0 to `most`.
fn seconds(name: &str, value: f64, most: f64) -> Result<Duration, Status> {
    if !(0.0..=most).contains(&value) {
        return Err(Status::invalid_argument(format!(
            "`{name}` is {value}; expected 0 to {most} seconds"
        )));
    }
    Ok(Duration::from_secs_f64(value))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(super) async fn drain(front: &Front, desk: &Desk, request: DrainRequest) -> Result<DrainReply, Status> {
    let patience = seconds("wait_seconds", request.wait_seconds, LONGEST_WAIT)?;
    let begun = Instant::now();
    let already = desk.standing.drain(begun, desk.drain_delay);
    if !already {
        tracing::info!("drained by an operator: nothing new is taken until `resume`");
    }
    loop {
        let view = &front.supervisor.status().view;
        let refuses = desk.standing.refuses(Instant::now());
        let empty = refuses && view.busy == 0 && view.waiting == 0;
        if empty || begun.elapsed() >= patience || !desk.standing.get().is_draining() {
            return Ok(DrainReply {
                already,
                running: count(view.busy),
                waiting: count(view.waiting),
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(super) fn resume(desk: &Desk) -> Result<ResumeReply, Status> {
    let Some(was_drained) = desk.standing.resume() else {
        return Err(Status::failed_precondition(
            "the agent is stopping and cannot be resumed; start it anew",
        ));
    };
    if was_drained {
        tracing::info!("resumed by an operator");
    }
    Ok(ResumeReply { was_drained })
}

pub(super) async fn reload(front: &Front) -> Result<ReloadReply, Status> {
    let begun = Instant::now();
    tracing::info!("reload: a new generation is made");
    let reloaded = tokio::time::timeout(RELOAD_PATIENCE, front.supervisor.reload()).await;
    match reloaded {
        Ok(Ok(Reloaded { before, after })) => {
            // A plugin that has changed may answer in another way.
            front.answers.forget_all();
            let took = begun.elapsed().as_secs_f64();
            tracing::info!(before, after, seconds = took, "reloaded");
            Ok(ReloadReply {
                before,
                after,
                seconds: took,
            })
        }
        Ok(Err(problem)) => Err(Status::failed_precondition(format!(
            "the new generation is of no use, and what was there serves on: {problem}"
        ))),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "the reload is not done after {} s and goes on; see `stats`",
            RELOAD_PATIENCE.as_secs()
        ))),
    }
}

pub(super) async fn sleep(front: &Front, request: SleepRequest) -> Result<SleepReply, Status> {
    let accepted = Instant::now();
    let long = seconds("seconds", request.seconds, LONGEST_SLEEP)?;
    let lane = match request.lane.as_str() {
        "" => Lane::Interactive,
        name => [Lane::Interactive, Lane::Heavy]
            .into_iter()
            .find(|lane| lane.name() == name)
            .ok_or_else(|| {
                let start: String = name.chars().take(40).collect();
                Status::invalid_argument(format!("`lane` is {start:?}; expected interactive or heavy"))
            })?,
    };
    if front.standing.refuses(accepted) {
        return Err(rpc::status(&crate::core::ogc::Refusal::Draining));
    }
    let timeout = front.classes.get().timeout();
    let id = request_id(&HeaderMap::new());
    let work = Work {
        wanted: Wanted {
            name: String::new(),
            project: ProjectRef {
                uri: String::new(),
                version: String::new(),
                file: None,
                begun: Begun::default(),
            },
            lane,
            depth: 0,
            deadline: accepted + timeout,
            again: false,
            // Of its own: who kills sleeping workers does not keep others from sleeping.
            fingerprint: format!("{:016x}", RandomState::new().build_hasher().finish()).into(),
            line: Line {
                method: "SLEEP".into(),
                path: format!("/{}", request.seconds),
                query: None,
                body: Bytes::new(),
            }
            .into(),
        },
        job: Job {
            task: Task::Sleep(long),
            id,
            method: "GET".into(),
            url: String::new(),
            headers: Vec::new(),
            body: Bytes::new(),
            hold: 0,
            depth: 0,
        },
        safe: false,
        timeout,
    };
    let (answer, served) = render(&front.supervisor, &front.quarantine, work).await;
    answer.map_err(|refusal| rpc::status(&refusal))?;
    Ok(SleepReply {
        worker: served.worker,
        waited_seconds: served.waited.unwrap_or_default().as_secs_f64(),
        busy_seconds: served.cost.as_secs_f64(),
    })
}

pub(super) fn environment(front: &Front, desk: &Desk) -> GetEnvReply {
    let mut versions = front.supervisor.status().versions.clone();
    versions.insert("agent".into(), env!("CARGO_PKG_VERSION").into());
    let shown = |(name, value): (&String, &String)| {
        let value = if redact::is_secret(name) {
            redact::HIDDEN.to_owned()
        } else {
            redact::text(value)
        };
        (name.clone(), value)
    };
    GetEnvReply {
        agent: front.agent.to_string(),
        versions: versions.into_iter().collect(),
        environment: desk.environment.iter().map(shown).collect(),
    }
}

pub(super) fn set_serving(desk: &Desk, request: SetServingRequest) -> Result<SetServingReply, Status> {
    let SetServingRequest { serving, reason } = request;
    if reason.len() > LONGEST_REASON || reason.chars().any(char::is_control) {
        return Err(Status::invalid_argument(format!(
            "`reason` is one line of at most {LONGEST_REASON} bytes"
        )));
    }
    tracing::info!(serving, reason, "an operator has set the agent's health");
    let was_in_error = desk.standing.set_error((!serving).then_some(reason));
    Ok(SetServingReply {
        was_serving: !was_in_error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk() -> Desk {
        Desk {
            standing: Standing::default(),
            drain_delay: Duration::ZERO,
            environment: BTreeMap::new(),
        }
    }

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(seconds("s", 1.5, 2.0).unwrap(), Duration::from_millis(1500));
        for bad in [-1.0, 2.1, f64::NAN, f64::INFINITY] {
            let status = seconds("s", bad, 2.0).unwrap_err();
            assert!(status.message().contains("expected 0 to 2 seconds"), "{status}");
        }
    }

    #[test]
    fn health_is_set_with_a_reason_of_one_line() {
        let desk = desk();
        let set = |serving, reason: &str| {
            let reason = reason.to_owned();
            set_serving(&desk, SetServingRequest { serving, reason })
        };
        assert!(set(false, "two\nlines").is_err() && set(false, &"x".repeat(201)).is_err());
        assert!(set(false, "disk").unwrap().was_serving);
        assert_eq!(desk.standing.get().in_error.as_deref(), Some("disk"));
        assert!(!set(true, "").unwrap().was_serving);
        assert_eq!(desk.standing.get().in_error, None);
    }

    #[test]
    fn a_stopping_agent_is_not_resumed() {
        let desk = desk();
        desk.standing.drain(Instant::now(), Duration::ZERO);
        assert!(resume(&desk).unwrap().was_drained);
        assert!(!resume(&desk).unwrap().was_drained);
        desk.standing.stop();
        assert!(resume(&desk).unwrap_err().message().contains("stopping"));
    }
}
