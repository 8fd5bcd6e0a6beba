//! The agent's state as the control plane, `/readyz` and the health service are told of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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

/// What the control plane is told.
#[must_use]
pub fn agent_state(status: &Status, draining: bool, pins: &[String]) -> AgentState {
    let view = &status.view;
    let phase = if status.gave_up.is_some() {
        AgentPhase::Failing
    } else if draining {
        AgentPhase::Draining
    } else if view.ready {
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
        waits_for: if view.ready {
            Vec::new()
        } else {
            vec![WORKERS.to_owned()]
        },
    }
}

/// What `/readyz` says while the pool is not up.
pub const WORKERS: &str = "workers";

/// Follows the pool and tells everybody of it, until the pool has ended.
pub async fn follow(
    supervisor: Supervisor,
    draining: Draining,
    pins: watch::Receiver<Vec<String>>,
    readiness: Readiness,
    health: HealthReporter,
    publish: watch::Sender<AgentState>,
) {
    let mut watch = supervisor.watch();
    let mut awaited = Some(readiness.wait_for(WORKERS));
    let mut told = None;
    loop {
        let status = watch.borrow_and_update().clone();
        let state = agent_state(&status, draining.is_set(), &pins.borrow());
        let ready = state.phase == i32::from(AgentPhase::Ready);
        if told != Some(ready) {
            told = Some(ready);
            awaited = (!ready).then(|| readiness.wait_for(WORKERS));
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
        let pause = tokio::time::sleep(std::time::Duration::from_millis(20));
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
        assert_eq!(agent_state(&status, false, &[]).phase(), AgentPhase::Starting);
        status.view.ready = true;
        assert_eq!(agent_state(&status, false, &[]).phase(), AgentPhase::Ready);
        assert_eq!(agent_state(&status, true, &[]).phase(), AgentPhase::Draining);
        status.gave_up = Some(6.0);
        assert_eq!(agent_state(&status, true, &[]).phase(), AgentPhase::Failing);
    }

    #[test]
    fn pins_are_told_once_every_worker_has_them() {
        let mut status = Status::default();
        let pins = ["/world".to_owned()];
        assert!(agent_state(&status, false, &pins).pins.is_empty());
        status.view.settled = true;
        assert_eq!(agent_state(&status, false, &pins).pins, pins);
    }
}
