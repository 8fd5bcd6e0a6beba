//! The agent's state as the control plane, `/readyz` and the health service are told of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use graticule_daemon::current::Current;
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
use super::standing::{Standing, Word};
use crate::adapters::demand::DemandHandle;
use crate::adapters::fleet_pins::FleetPinsHandle;
use crate::adapters::supervisor::{Status, Supervisor};
use crate::config::Config;

/// The pins, and for how long after the start their absence counts.
#[derive(Debug, Clone)]
pub struct Pins {
    /// The names of pinned projects.
    pub names: watch::Receiver<Vec<String>>,
    /// From the start on.
    pub patience: Duration,
    /// Those that were pinned when the agent started.
    pub restored: Vec<String>,
    /// How far what the control plane tells of pins has come.
    pub fleet: FleetPinsHandle,
}

/// What workers have to do, and room for.
#[derive(Debug, Clone)]
pub struct Work {
    /// What requests ask for.
    pub demand: DemandHandle,
    /// What of the configuration is told.
    pub configured: Current<Configured>,
}

/// What is told of the configuration as it is now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Configured {
    /// How many projects each worker keeps besides pinned ones.
    pub max_projects: usize,
    /// The longest that any request may take, in seconds, the time to stop a late one included.
    pub longest_timeout: f64,
}

impl Configured {
    /// What is told of this configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            max_projects: config.worker.qgis.max_projects,
            longest_timeout: config.longest_timeout(),
        }
    }
}

/// What is known of pins besides what the pool knows.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The names of pinned projects.
    pub names: Vec<String>,
    /// Those that were pinned when the agent started.
    pub restored: Vec<String>,
    /// Why some could not be found.
    pub lost: BTreeMap<String, String>,
    /// The revision of the fleet's pins that `names` takes into account.
    pub revision: u64,
}

impl Pins {
    /// Has to be asked before the pool is: what the pool says then is of this revision, too.
    fn known(&self) -> Known {
        let revision = self.fleet.revision();
        let names = self.names.borrow().clone();
        let lost = names
            .iter()
            .filter_map(|name| Some((name.clone(), self.fleet.problem(name)?)));
        Known {
            lost: lost.collect(),
            restored: self.restored.clone(),
            revision,
            names,
        }
    }
}

/// What the control plane is told. While the agent is `young`, projects that were pinned at its start and cannot be found
/// keep it from being ready; one that was pinned since does not take it out of service.
#[must_use]
pub fn agent_state(status: &Status, word: &Word, pins: &Known, young: bool) -> AgentState {
    let view = &status.view;
    let missing: Vec<String> = pins
        .names
        .iter()
        .filter(|pin| !status.found_pins.contains(pin))
        .cloned()
        .collect();
    let mut problems = status.pin_problems.clone();
    problems.retain(|pin, _| pins.names.contains(pin));
    problems.extend(missing.iter().map(|pin| {
        let problem = pins.lost.get(pin).map_or(NOT_THERE, String::as_str);
        (pin.clone(), problem.to_owned())
    }));
    let loaded = pins
        .names
        .iter()
        .filter(|pin| status.held_pins.contains(pin) && !problems.contains_key(*pin));
    let ready = view.ready && !(young && missing.iter().any(|pin| pins.restored.contains(pin)));
    let phase = if status.gave_up.is_some() {
        AgentPhase::Failing
    } else if word.is_draining() {
        AgentPhase::Draining
    } else if ready && word.in_error.is_none() {
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
        pins: if view.settled {
            loaded.cloned().collect()
        } else {
            Vec::new()
        },
        waits_for: if !view.ready {
            vec![WORKERS.to_owned()]
        } else if !ready {
            vec![PINS.to_owned()]
        } else {
            word.awaits().into_iter().collect()
        },
        missing_pins: missing,
        pin_problems: problems.into_iter().collect(),
        pins_revision: pins.revision,
        ..AgentState::default()
    }
}

/// Why a pinned project is missing that was there before.
const NOT_THERE: &str = "the project is not there any more";

/// What `/readyz` says while the pool is not up.
pub const WORKERS: &str = "workers";

/// What it says while pinned projects are missing.
pub const PINS: &str = "pins";

/// Follows the pool and tells everybody of it, until the pool has ended. From the call on, nobody is told that the agent is
/// ready before it is.
pub async fn follow(
    supervisor: Supervisor,
    standing: Standing,
    pins: Pins,
    work: Work,
    readiness: Readiness,
    health: HealthReporter,
    publish: watch::Sender<AgentState>,
) -> impl Future<Output = ()> {
    let mut awaited = Some((WORKERS.to_owned(), readiness.wait_for(WORKERS)));
    health.set_service_status("", ServingStatus::NotServing).await;
    async move {
        let mut watch = supervisor.watch();
        let mut told = None;
        let started = Instant::now();
        let mut missed = Vec::new();
        loop {
            let known = pins.known();
            let status = watch.borrow_and_update().clone();
            let young = started.elapsed() < pins.patience;
            let mut state = agent_state(&status, &standing.get(), &known, young);
            state.wait_seconds = work.demand.wait_seconds();
            let configured = work.configured.get();
            let places = status.view.capacity.saturating_mul(configured.max_projects);
            state.places = u32::try_from(places).unwrap_or(u32::MAX);
            state.longest_timeout = configured.longest_timeout;
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
            let what = state.waits_for.first().map_or(WORKERS, String::as_str);
            let what = (!ready).then_some(what);
            if what != awaited.as_ref().map(|(what, _)| what.as_str()) {
                awaited = what.map(|what| (what.to_owned(), readiness.wait_for(what)));
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
            standing.told();
            // Pins change without an event of the pool's own.
            let pause = tokio::time::sleep(Duration::from_millis(20));
            tokio::select! {
                changed = watch.changed() => if changed.is_err() { break },
                () = standing.news() => {}
                () = pause => {}
            }
        }
        drop(awaited);
    }
}

fn service_name<S: tonic::server::NamedService>() -> &'static str {
    S::NAME
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(names: &[&str]) -> Known {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Known {
            restored: names.clone(),
            names,
            ..Known::default()
        }
    }

    #[test]
    fn what_cannot_be_loaded_or_found_is_told_with_its_reason_and_does_not_count_as_loaded() {
        let mut status = Status::default();
        (status.view.settled, status.view.ready) = (true, true);
        status.found_pins = ["/good", "/bad", "/late"].map(str::to_owned).into();
        status.held_pins = ["/good", "/bad"].map(str::to_owned).into();
        let problem = |project: &str, problem: &str| (project.to_owned(), problem.to_owned());
        status.pin_problems = [problem("/bad", "damaged"), problem("/other", "not pinned by name")].into();
        let mut pins = known(&["/bad", "/gone", "/good", "/late", "/lost"]);
        pins.restored.clear();
        pins.lost = [problem("/lost", "there is no project"), problem("/good", "was away")].into();
        pins.revision = 3;
        let state = agent_state(&status, &Word::default(), &pins, true);
        assert_eq!((state.phase(), state.pins_revision), (AgentPhase::Ready, 3));
        assert_eq!(state.pins, ["/good"]);
        assert_eq!(state.missing_pins, ["/gone", "/lost"]);
        let wanted = [
            problem("/bad", "damaged"),
            problem("/gone", NOT_THERE),
            problem("/lost", "there is no project"),
        ];
        assert_eq!(state.pin_problems, wanted.into());
    }

    #[test]
    fn the_worst_word_counts() {
        let mut status = Status::default();
        let stopping = Word {
            stopping: true,
            ..Word::default()
        };
        assert_eq!(
            agent_state(&status, &Word::default(), &Known::default(), true).phase(),
            AgentPhase::Starting
        );
        status.view.ready = true;
        assert_eq!(
            agent_state(&status, &Word::default(), &Known::default(), true).phase(),
            AgentPhase::Ready
        );
        assert_eq!(
            agent_state(&status, &stopping, &Known::default(), true).phase(),
            AgentPhase::Draining
        );
        status.gave_up = Some(6.0);
        assert_eq!(
            agent_state(&status, &stopping, &Known::default(), true).phase(),
            AgentPhase::Failing
        );
    }

    #[test]
    fn pins_are_told_once_every_worker_has_them() {
        let mut status = Status::default();
        let pins = known(&["/world"]);
        status.found_pins = pins.names.clone();
        status.held_pins = pins.names.clone();
        assert!(agent_state(&status, &Word::default(), &pins, true).pins.is_empty());
        status.view.settled = true;
        assert_eq!(agent_state(&status, &Word::default(), &pins, true).pins, pins.names);
    }

    #[test]
    fn a_young_agent_waits_for_pins_that_are_missing_and_an_older_one_names_them() {
        let mut status = Status::default();
        status.view.ready = true;
        let pins = known(&["/world"]);
        let state = agent_state(&status, &Word::default(), &pins, true);
        assert_eq!(
            (state.phase(), state.waits_for),
            (AgentPhase::Starting, vec![PINS.to_owned()])
        );
        let state = agent_state(&status, &Word::default(), &pins, false);
        assert_eq!((state.phase(), state.missing_pins), (AgentPhase::Ready, pins.names));
    }

    #[test]
    fn what_an_operator_has_decided_is_said_with_the_reason() {
        let mut status = Status::default();
        status.view.ready = true;
        let said = |word: &Word| {
            let state = agent_state(&status, word, &Known::default(), false);
            (state.phase(), state.waits_for)
        };
        let mut word = Word {
            in_error: Some("disk".into()),
            ..Word::default()
        };
        let (phase, waits) = said(&word);
        assert!(
            phase == AgentPhase::Starting && waits[0].ends_with("health to error: disk"),
            "{waits:?}"
        );
        word.drained = Some(Instant::now());
        assert_eq!(
            said(&word),
            (AgentPhase::Draining, vec![super::super::standing::DRAINED.to_owned()])
        );
        assert_eq!(said(&Word::default()), (AgentPhase::Ready, Vec::new()));
    }
}
