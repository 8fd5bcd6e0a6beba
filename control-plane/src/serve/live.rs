//! The configuration of the running control plane, and its changes: a file that is read again, and what operators set. A change
//! is looked at as a whole and applied as a whole, or not at all; what has become of it is told and remembered.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use graticule_daemon::config::{Change, diff, redacted, set_to_hidden};
use graticule_daemon::telemetry;
use graticule_proto::v1::{FleetConfig, FleetConfigChange, FleetConfigKeyChange};
use serde_json::{Map, Value};
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;
use tonic::Status;

use super::hub::{Event, Hub};
use crate::adapters::envoy::{self, Member};
use crate::adapters::fragment_files;
use crate::adapters::layers::{Base, Layers, Whole};
use crate::adapters::secrets::Secrets;
use crate::adapters::store::{Kind, Store, StoreError};
use crate::config::Config;
use crate::core::fleet::Told;
use crate::core::settings::{Settings, fixed};
use crate::metrics::Metrics;

/// How many tries to change the configuration are remembered.
const REMEMBERED: usize = 100;

/// How often a change of settings is tried that other control planes get in the way of.
const TRIES: usize = 5;

/// How long after settings of another control plane were refused they are tried again by themselves. What stood in their way
/// may be a file of a certificate, which nobody watches before it counts; a try reads files and makes every view.
const TRY_AGAIN: Duration = Duration::from_secs(10);

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
    /// Settings of another control plane that cannot be used here, until they can be or others take their place.
    refused: Option<Refused>,
    /// What was read last cannot be used.
    unreadable: bool,
}

impl State {
    /// The latest revision of settings that the store is known to have had.
    fn known(&self) -> u64 {
        let refused = self.refused.as_ref().map_or(0, |refused| refused.settings.revision);
        refused.max(self.settings.revision)
    }
}

/// Settings that are in the store and do not count here.
struct Refused {
    settings: Settings,
    /// Why; said once as long as it stays the same.
    problem: String,
    tried: Instant,
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
            refused: None,
            unreadable: false,
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
            match read {
                Ok(Ok(base)) => live.lay(&mut state, cause, base).await,
                Ok(Err(error)) => live.refuse(&mut state, cause, error.to_string()),
                Err(error) => live.refuse(&mut state, cause, error.to_string()),
            }
        });
        done.await.unwrap_or_else(|error| FleetConfigChange {
            cause: cause.name().to_owned(),
            result: "refused".to_owned(),
            problem: error.to_string(),
            ..FleetConfigChange::default()
        })
    }

    /// Lays the settings over what was read: those of another control plane that were refused before, when they go with it, else
    /// those that count.
    async fn lay(&self, state: &mut State, cause: Cause, base: Base) -> FleetConfigChange {
        if let Some(settings) = state.refused.as_ref().map(|refused| refused.settings.clone()) {
            match self.fit(state, &base, &settings) {
                Ok((judged, whole)) => {
                    (state.base, state.settings, state.refused) = (base, settings, None);
                    state.unreadable = false;
                    return self.accept(state, cause, whole, judged).await;
                }
                Err(problem) => state.refused = Some(refused(settings, problem)),
            }
        }
        let (judged, whole) = match self.fit(state, &base, &state.settings) {
            Ok(good) => good,
            Err(problem) => return self.refuse(state, cause, problem),
        };
        (state.base, state.unreadable) = (base, false);
        // Whoever asks is to hear why what another control plane has set still does not count.
        if let Some(problem) = state.refused.as_ref().filter(|_| judged.changes.is_empty()) {
            let problem = problem.in_the_store();
            state.whole = whole;
            return self.tell(state, cause, Err(problem));
        }
        self.accept(state, cause, whole, judged).await
    }

    async fn accept(&self, state: &mut State, cause: Cause, whole: Whole, judged: Judged) -> FleetConfigChange {
        self.apply(state, whole, &judged).await;
        self.tell(state, cause, Ok(judged.changes))
    }

    fn refuse(&self, state: &mut State, cause: Cause, problem: String) -> FleetConfigChange {
        state.unreadable = true;
        self.tell(state, cause, Err(problem))
    }

    /// The whole that settings make of what was read, when it can take the place of the one that counts.
    fn fit(&self, state: &State, base: &Base, settings: &Settings) -> Result<(Judged, Whole), String> {
        let whole = base.with(settings)?;
        Ok((self.judge(&state.whole, &whole)?, whole))
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
            // What another control plane has set is changed too when it does not count here: else it could never be put right
            // from here.
            let there = state.refused.as_ref();
            let before = there.map_or(&state.settings, |refused| &refused.settings);
            let (settings, known) = (before.patched(patch), before.revision);
            let (judged, whole) = match self.fit(&state, &state.base, &settings) {
                Ok(good) => good,
                Err(problem) => {
                    let problem = match there {
                        Some(refused) if refused.problem == problem => refused.in_the_store(),
                        Some(refused) => format!("{problem}; {}", refused.in_the_store()),
                        None => problem,
                    };
                    if validate_only {
                        return Err(Status::invalid_argument(problem));
                    }
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
            if settings.revision == known {
                (state.settings, state.refused) = (settings, None);
                return Ok(self.accept(&mut state, Cause::Set, whole, judged).await);
            }
            match self.0.store.save_settings(&settings).await {
                Ok(()) => {
                    (state.settings, state.refused) = (settings, None);
                    return Ok(self.accept(&mut state, Cause::Set, whole, judged).await);
                }
                // Another control plane was first: its settings count here first, then the change is made to them.
                Err(StoreError::Conflict { .. }) if tries.next().is_some() => {
                    let there = self.0.store.settings().await;
                    let there = there.map_err(|error| Status::failed_precondition(error.to_string()))?;
                    let taken = self.take_over(&mut state, there).await;
                    taken.map_err(|error| Status::failed_precondition(format!("nothing was changed: {error}")))?;
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

    /// Another control plane may have changed the settings in the store that both share. What was refused is tried again after a
    /// while.
    ///
    /// # Errors
    /// When the store has gone back behind what is known here; that counts still.
    pub async fn adopt(&self, mut settings: Settings) -> Result<(), StoreError> {
        let mut state = self.0.state.lock().await;
        if settings.revision < state.known() {
            // It may have been read just before a change of our own.
            settings = self.0.store.settings().await?;
        }
        let is_early = |refused: &Refused| refused.settings == settings && refused.tried.elapsed() < TRY_AGAIN;
        if state.refused.as_ref().is_some_and(is_early) {
            return Ok(());
        }
        self.take_over(&mut state, settings).await
    }

    async fn take_over(&self, state: &mut State, settings: Settings) -> Result<(), StoreError> {
        self.0
            .store
            .still_has(Kind::Settings, settings.revision, state.known())?;
        if settings.revision == state.settings.revision {
            return Ok(());
        }
        let refused_then = state.refused.as_ref();
        match self.fit(state, &state.base, &settings) {
            Ok((judged, whole)) => {
                (state.settings, state.refused) = (settings, None);
                self.accept(state, Cause::Store, whole, judged).await;
            }
            Err(problem) => {
                let is_known = refused_then.is_some_and(|then| then.settings == settings && then.problem == problem);
                state.refused = Some(refused(settings, problem.clone()));
                if !is_known {
                    self.tell(state, Cause::Store, Err(problem));
                }
            }
        }
        Ok(())
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
            heed_level(&state.whole.config, &whole.config);
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
        let next_start_fails = state.unreadable || state.refused.is_some();
        self.0.metrics.config_refused.set(i64::from(next_start_fails));
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

/// Has the log begin to say more, or less.
pub fn heed_level(before: &Config, after: &Config) {
    let level = &after.logging.level;
    if *level != before.logging.level
        && let Err(problem) = telemetry::set_level(level)
    {
        tracing::error!(problem, "the level of the log stays as it was");
    }
}

impl Refused {
    fn in_the_store(&self) -> String {
        format!(
            "what another control plane has set (revision {} in the store) cannot be used here: {}; repair that here, or set \
             it otherwise",
            self.settings.revision, self.problem
        )
    }
}

fn refused(settings: Settings, problem: String) -> Refused {
    let tried = Instant::now();
    Refused {
        settings,
        problem,
        tried,
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

#[cfg(test)]
mod tests;
