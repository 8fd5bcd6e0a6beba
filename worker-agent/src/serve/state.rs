//! The agent's state as the control plane, `/readyz` and the health service are told of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use graticule_daemon::ready::Readiness;
use graticule_proto::v1::qgis_admin_server::QgisAdminServer;
use graticule_proto::v1::qgis_server_server::QgisServerServer;
use graticule_proto::v1::{AgentPhase, AgentState};
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::admin::Admin;
use super::grpc::Grpc;
use super::metrics::request_pressure;
use crate::adapters::supervisor::{Status, Supervisor};

/// Whether the agent has been told to stop; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Draining(Arc<AtomicBool>);

impl Draining {
    /// From now on the agent takes nothing new.
    pub fn begin(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// The pins, and for how long after the start their absence counts.
#[derive(Debug, Clone)]
pub struct Pins {
    /// The names of pinned projects.
    pub names: watch::Receiver<Vec<String>>,
    /// From the start on.
    pub patience: Duration,
}

/// What the control plane is told. While the agent is `young`, pinned projects that cannot be found keep it from being
/// ready.
#[must_use]
pub fn agent_state(status: &Status, draining: bool, pins: &[String], young: bool) -> AgentState {
    let view = &status.view;
    let missing: Vec<String> = pins
        .iter()
        .filter(|pin| !status.found_pins.contains(pin))
        .cloned()
        .collect();
    let ready = view.ready && (missing.is_empty() || !young);
    let phase = if status.gave_up.is_some() {
        AgentPhase::Failing
    } else if draining {
        AgentPhase::Draining
    } else if ready {
        AgentPhase::Ready
    } else {
        AgentPhase::Starting
    };
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    AgentState {
        phase: phase.into(),
        capacity: count(view.capacity),
        live: count(view.live),
        busy: count(view.busy),
        waiting: count(view.waiting),
        failure_pressure: view.failure_pressure,
        degraded: view.degraded,
        request_pressure: request_pressure(status),
        generation: view.start.map_or(0, |start| start.generation()),
        pins: if view.settled { pins.to_vec() } else { Vec::new() },
        waits_for: if ready {
            Vec::new()
        } else if view.ready {
            vec![PINS.to_owned()]
        } else {
            vec![WORKERS.to_owned()]
        },
        missing_pins: missing,
    }
}

/// What `/readyz` says while the pool is not up.
pub const WORKERS: &str = "workers";

/// What it says while pinned projects are missing.
pub const PINS: &str = "pins";

/// Follows the pool and tells everybody of it, until the pool has ended.
pub async fn follow(
    supervisor: Supervisor,
    draining: Draining,
    pins: Pins,
    readiness: Readiness,
    health: HealthReporter,
    publish: watch::Sender<AgentState>,
) {
    let mut watch = supervisor.watch();
    let mut awaited = Some((WORKERS, readiness.wait_for(WORKERS)));
    let mut told = None;
    let started = Instant::now();
    let mut missed = Vec::new();
    loop {
        let status = watch.borrow_and_update().clone();
        let young = started.elapsed() < pins.patience;
        let state = agent_state(&status, draining.is_set(), &pins.names.borrow(), young);
        if !young && state.missing_pins != missed {
            missed.clone_from(&state.missing_pins);
            if !missed.is_empty() {
                let projects = missed.join(", ");
                tracing::error!(
                    projects,
                    "pinned projects are not there; they are loaded as soon as they are"
                );
            }
        }
        let ready = state.phase == i32::from(AgentPhase::Ready);
        let what = [WORKERS, PINS]
            .into_iter()
            .find(|what| state.waits_for.iter().any(|awaited| awaited == what));
        let what = (!ready).then_some(what.unwrap_or(WORKERS));
        if what != awaited.as_ref().map(|(what, _)| *what) {
            awaited = what.map(|what| (what, readiness.wait_for(what)));
        }
        if told != Some(ready) {
            told = Some(ready);
            let serving = if ready {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            health.set_service_status("", serving).await;
            health
                .set_service_status(service_name::<QgisServerServer<Grpc>>(), serving)
                .await;
            health
                .set_service_status(service_name::<QgisAdminServer<Admin>>(), ServingStatus::Serving)
                .await;
        }
        publish.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
        // A drain begins without an event of the pool's own.
        let pause = tokio::time::sleep(Duration::from_millis(20));
        tokio::select! {
            changed = watch.changed() => if changed.is_err() { break },
            () = pause => {}
        }
    }
    drop(awaited);
}

fn service_name<S: tonic::server::NamedService>() -> &'static str {
    S::NAME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_word_counts() {
        let mut status = Status::default();
        assert_eq!(agent_state(&status, false, &[], true).phase(), AgentPhase::Starting);
        status.view.ready = true;
        assert_eq!(agent_state(&status, false, &[], true).phase(), AgentPhase::Ready);
        assert_eq!(agent_state(&status, true, &[], true).phase(), AgentPhase::Draining);
        status.gave_up = Some(6.0);
        assert_eq!(agent_state(&status, true, &[], true).phase(), AgentPhase::Failing);
    }

    #[test]
    fn pins_are_told_once_every_worker_has_them() {
        let mut status = Status::default();
        let pins = ["/world".to_owned()];
        status.found_pins = pins.to_vec();
        assert!(agent_state(&status, false, &pins, true).pins.is_empty());
        status.view.settled = true;
        assert_eq!(agent_state(&status, false, &pins, true).pins, pins);
    }

    #[test]
    fn a_young_agent_waits_for_pins_that_are_missing_and_an_older_one_names_them() {
        let mut status = Status::default();
        status.view.ready = true;
        let pins = ["/world".to_owned()];
        let state = agent_state(&status, false, &pins, true);
        assert_eq!(
            (state.phase(), state.waits_for),
            (AgentPhase::Starting, vec![PINS.to_owned()])
        );
        let state = agent_state(&status, false, &pins, false);
        assert_eq!((state.phase(), state.missing_pins), (AgentPhase::Ready, pins.to_vec()));
    }
}
