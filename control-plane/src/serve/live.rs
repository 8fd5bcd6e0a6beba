//! The configuration of the running control plane, and its changes: a file that is read again, and what operators set. A change
//! is looked at as a whole and applied as a whole, or not at all; what has become of it is told and remembered.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use graticule_daemon::config::{Change, diff, redacted, set_to_hidden};
use graticule_daemon::telemetry;
use graticule_proto::v1::{FleetConfig, FleetConfigChange, FleetConfigKeyChange};
use serde_json::{Map, Value};
use tokio::sync::{Mutex, oneshot};
use tonic::Status;

use super::hub::{Event, Hub};
use crate::adapters::envoy::{self, Member};
use crate::adapters::fragment_files;
use crate::adapters::layers::{Base, Layers, Whole};
use crate::adapters::secrets::Secrets;
use crate::adapters::store::{Store, StoreError};
use crate::core::fleet::Told;
use crate::core::settings::{Settings, fixed};
use crate::metrics::Metrics;

/// How many tries to change the configuration are remembered.
const REMEMBERED: usize = 100;

/// How often a change of settings is tried that other control planes get in the way of.
const TRIES: usize = 5;

/// Why the configuration is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its file has changed.
    File,
    /// SIGHUP.
    Signal,
    /// Somebody asks for it.
    Reload,
    /// Somebody sets something.
    Set,
    /// Another control plane has set something in the store that both share.
    Store,
}

impl Cause {
    const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Signal => "signal",
            Self::Reload => "reload",
            Self::Set => "set",
            Self::Store => "store",
        }
    }
}

/// Where the configuration is changed. Clones lead to the same.
#[derive(Clone)]
pub struct Live(Arc<Inner>);

struct Inner {
    layers: Layers,
    store: Store,
    hub: Hub,
    metrics: Metrics,
    /// One change at a time.
    state: Mutex<State>,
}

struct State {
    base: Base,
    settings: Settings,
    whole: Whole,
    log: VecDeque<FleetConfigChange>,
    /// Settings of another control plane that cannot be used here, so that this is said once.
    unusable: u64,
}

/// A change that can be made.
struct Judged {
    changes: Vec<Change>,
    /// What the files have that the new configuration names.
    secrets: Secrets,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Live")
    }
}

impl Live {
    /// What counts at the start.
    #[must_use]
    pub fn new(
        layers: Layers,
        (base, settings, whole): (Base, Settings, Whole),
        store: Store,
        hub: Hub,
        metrics: Metrics,
    ) -> Self {
        let state = Mutex::new(State {
            base,
            settings,
            whole,
            log: VecDeque::new(),
            unusable: 0,
        });
        Self(Arc::new(Inner {
            layers,
            store,
            hub,
            metrics,
            state,
        }))
    }

    /// The files that it is read from.
    pub async fn files(&self) -> Vec<PathBuf> {
        let state = self.0.state.lock().await;
        let own = self.0.layers.file().map(Path::to_owned);
        own.into_iter()
            .chain(fragment_files::named(&state.whole.tree))
            .collect()
    }

    /// Reads files and variables again and applies what is new, or nothing.
    pub async fn reload(&self, cause: Cause) -> FleetConfigChange {
        let live = self.clone();
        // To its end, even when whoever asked has gone.
        let done = tokio::spawn(async move {
            let mut state = live.0.state.lock().await;
            let layers = live.0.layers.clone();
            let read = tokio::task::spawn_blocking(move || layers.read()).await;
            let whole = match read {
                Ok(Ok(base)) => base.with(&state.settings).map(|whole| (base, whole)),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            let judged = whole.and_then(|(base, whole)| Ok((live.judge(&state.whole, &whole)?, base, whole)));
            let refused = judged.is_err();
            live.0.metrics.config_refused.set(i64::from(refused));
            match judged {
                Ok((judged, base, whole)) => {
                    state.base = base;
                    live.apply(&mut state, whole, &judged).await;
                    live.tell(&mut state, cause, Ok(judged.changes))
                }
                Err(problem) => live.tell(&mut state, cause, Err(problem)),
            }
        });
        done.await.unwrap_or_else(|error| FleetConfigChange {
            cause: cause.name().to_owned(),
            result: "refused".to_owned(),
            problem: error.to_string(),
            ..FleetConfigChange::default()
        })
    }

    /// Changes the settings by a merge patch, in the store and here; or says what that would do.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn set(&self, patch: Map<String, Value>, validate_only: bool) -> Result<FleetConfigChange, Status> {
        if let Some(key) = set_to_hidden(&Value::Object(patch.clone())) {
            return Err(Status::invalid_argument(format!(
                "`{key}` is set to what is shown in a secret's place; give the secret itself, or leave the key out"
            )));
        }
        let live = self.clone();
        // To its end, even when whoever asked has gone: what is in the store and what counts are not to part.
        let done = tokio::spawn(async move { live.carry_out(&patch, validate_only).await });
        done.await.map_err(|error| Status::internal(error.to_string()))?
    }

    async fn carry_out(&self, patch: &Map<String, Value>, validate_only: bool) -> Result<FleetConfigChange, Status> {
        let mut state = self.0.state.lock().await;
        let mut tries = 0..TRIES;
        loop {
            let settings = state.settings.patched(patch);
            let whole = state.base.with(&settings);
            let judged = whole.and_then(|whole| Ok((self.judge(&state.whole, &whole)?, whole)));
            let (judged, whole) = match judged {
                Ok(good) => good,
                Err(problem) if validate_only => return Err(Status::invalid_argument(problem)),
                Err(problem) => {
                    let told = self.tell(&mut state, Cause::Set, Err(problem));
                    return Err(Status::invalid_argument(format!(
                        "nothing was changed: {}",
                        told.problem
                    )));
                }
            };
            if validate_only {
                return Ok(record(Cause::Set, "valid", "", &judged.changes));
            }
            if settings == state.settings {
                return Ok(self.tell(&mut state, Cause::Set, Ok(judged.changes)));
            }
            match self.0.store.save_settings(&settings).await {
                Ok(()) => {
                    state.settings = settings;
                    self.apply(&mut state, whole, &judged).await;
                    return Ok(self.tell(&mut state, Cause::Set, Ok(judged.changes)));
                }
                // Another control plane was first: its settings count here first, then the change is made to them.
                Err(StoreError::Conflict { .. }) if tries.next().is_some() => {
                    let there = self.0.store.settings().await;
                    let there = there.map_err(|error| Status::failed_precondition(error.to_string()))?;
                    self.take_over(&mut state, there).await;
                }
                Err(error) => {
                    let told = self.tell(&mut state, Cause::Set, Err(error.to_string()));
                    return Err(Status::failed_precondition(format!(
                        "nothing was changed: {}",
                        told.problem
                    )));
                }
            }
        }
    }

    /// Another control plane may have changed the settings in the store that both share.
    pub async fn adopt(&self, settings: Settings) {
        let mut state = self.0.state.lock().await;
        self.take_over(&mut state, settings).await;
    }

    async fn take_over(&self, state: &mut State, settings: Settings) {
        if settings.revision <= state.settings.revision.max(state.unusable) {
            return;
        }
        let whole = state.base.with(&settings);
        match whole.and_then(|whole| Ok((self.judge(&state.whole, &whole)?, whole))) {
            Ok((judged, whole)) => {
                state.settings = settings;
                self.apply(state, whole, &judged).await;
                self.tell(state, Cause::Store, Ok(judged.changes));
            }
            Err(problem) => {
                state.unusable = settings.revision;
                self.tell(state, Cause::Store, Err(problem));
            }
        }
    }

    /// What a change would change; or why it must not be made.
    fn judge(&self, before: &Whole, after: &Whole) -> Result<Judged, String> {
        let changes = diff(&before.tree, &after.tree);
        let fixed = fixed(changes.iter().map(|change| change.key.as_str()));
        if !fixed.is_empty() {
            return Err(format!(
                "{} can only change with a restart; nothing of this change was applied",
                fixed.join(", ")
            ));
        }
        telemetry::filter(&after.config.logging.level).map_err(|problem| format!("`logging.level`: {problem}"))?;
        let roster = self.0.hub.roster.borrow().clone();
        let members = roster.iter().filter(|agent| agent.told() != Told::None);
        let members: Vec<Member> = members.map(|agent| Member::from(&**agent)).collect();
        let known = self.0.hub.secrets.borrow().clone();
        let secrets = Secrets::read(&after.config, &known).map_err(|problem| problem.to_string())?;
        envoy::views(&after.config, &members, &secrets).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            format!("Envoys could not use it: {}", problems.join("; "))
        })?;
        Ok(Judged { changes, secrets })
    }

    /// Makes it count.
    async fn apply(&self, state: &mut State, whole: Whole, judged: &Judged) {
        if !judged.changes.is_empty() {
            let level = &whole.config.logging.level;
            if *level != state.whole.config.logging.level
                && let Err(problem) = telemetry::set_level(level)
            {
                tracing::error!(problem, "the level of the log stays as it was");
            }
            let (counts, counted) = oneshot::channel();
            // When the hub has stopped, so will everything.
            if self
                .0
                .hub
                .tell(Event::Configure(
                    Arc::clone(&whole.config),
                    judged.secrets.clone(),
                    counts,
                ))
                .await
            {
                let _ = counted.await;
            }
        }
        state.whole = whole;
    }

    /// Says what has become of a try, and remembers it.
    fn tell(&self, state: &mut State, cause: Cause, outcome: Result<Vec<Change>, String>) -> FleetConfigChange {
        let told = match outcome {
            Ok(changes) if changes.is_empty() => {
                tracing::info!(cause = cause.name(), "the configuration is as it was");
                record(cause, "unchanged", "", &changes)
            }
            Ok(changes) => {
                for Change { key, before, after } in &changes {
                    tracing::info!(cause = cause.name(), key, %before, %after, "the configuration has changed");
                }
                record(cause, "applied", "", &changes)
            }
            Err(problem) => {
                tracing::error!(
                    cause = cause.name(),
                    problem,
                    "the configuration cannot be changed so, it stays as it was"
                );
                record(cause, "refused", &problem, &[])
            }
        };
        self.0.metrics.config_changes.with_label_values(&[&told.result]).inc();
        state.log.push_front(told.clone());
        state.log.truncate(REMEMBERED);
        told
    }

    /// What counts now, without secrets.
    pub async fn get(&self) -> FleetConfig {
        let state = self.0.state.lock().await;
        FleetConfig {
            config_json: redacted(&state.whole.tree).to_string(),
            origins: state.whole.origins.clone().into_iter().collect(),
            settings_json: redacted(&Value::Object(state.settings.tree.clone())).to_string(),
            settings_revision: state.settings.revision,
        }
    }

    /// What has become of changes, the latest first.
    pub async fn log(&self) -> Vec<FleetConfigChange> {
        self.0.state.lock().await.log.iter().cloned().collect()
    }
}

fn record(cause: Cause, result: &str, problem: &str, changes: &[Change]) -> FleetConfigChange {
    let text = |value: &Value| {
        if value.is_null() {
            String::new()
        } else {
            value.to_string()
        }
    };
    let changes = changes.iter().map(|change| FleetConfigKeyChange {
        key: change.key.clone(),
        before: text(&change.before),
        after: text(&change.after),
    });
    FleetConfigChange {
        cause: cause.name().to_owned(),
        at: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
        result: result.to_owned(),
        problem: problem.to_owned(),
        changes: changes.collect(),
    }
}
