//! The configuration while the agent runs: what holds now, where it comes from, and how it is changed.
//!
//! Three layers of time lie over each other: what the sources (file, variables, URL, command line) said when they were last
//! read, what operators set since, and what of both holds already. A change is read and checked as a whole before
//! anything of it is applied; what of it needs a restart is said and waits. Which keys that are stands in
//! [`crate::core::effect`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use graticule_daemon::config::{self, Change, ConfigError, Loaded, Sources};
use graticule_proto::v1::{
    ConfigChange, GetConfigReply, GetConfigRequest, SetConfigReply, SetConfigRequest, SetLogLevelReply,
    SetLogLevelRequest,
};
use serde_json::{Map, Value, json};
use tonic::{Request, Response, Status};

use super::metrics::Metrics;
use crate::config::Config;
use crate::core::effect::{self, Effect};

/// What stands as the origin of what an operator set.
const SET: &str = "set while running";

/// The parts of the agent that take a changed configuration.
pub trait Parts: Send + Sync + 'static {
    /// Checks all that can be checked of a configuration without starting anything.
    ///
    /// # Errors
    /// The first value that cannot be used.
    fn check(&self, config: &Config) -> Result<(), ConfigError>;

    /// Has what differs take effect. Both were checked, and differ only in keys that take effect while the agent runs.
    ///
    /// # Errors
    /// When it cannot be used after all; nothing has changed then.
    fn apply(&self, before: &Config, after: &Config) -> Result<(), ConfigError>;
}

/// What a change came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// What holds now and did not before.
    pub applied: Vec<Change>,
    /// What differs from what holds and needs a restart.
    pub pending: Vec<Change>,
}

/// The configuration of a running agent; clones share it.
#[derive(Clone)]
pub struct Settings {
    inner: Arc<Inner>,
}

struct Inner {
    sources: Sources,
    parts: Box<dyn Parts>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

/// A change replaces it as a whole.
#[derive(Clone)]
struct State {
    /// What the sources said.
    base: Value,
    origins: BTreeMap<String, String>,
    /// What operators set since, in order.
    patches: Vec<Value>,
    /// What holds.
    tree: Value,
    config: Config,
    /// What differs from it and needs a restart.
    pending: Vec<Change>,
}

impl Settings {
    /// What `loaded` says holds; `sources` are where it was read from.
    #[must_use]
    pub fn new(loaded: &Loaded<Config>, sources: Sources, parts: Box<dyn Parts>, metrics: Arc<Metrics>) -> Self {
        let state = State {
            base: loaded.tree.clone(),
            origins: loaded.origins.clone(),
            patches: Vec::new(),
            tree: loaded.tree.clone(),
            config: loaded.config.clone(),
            pending: Vec::new(),
        };
        Self {
            inner: Arc::new(Inner {
                sources,
                parts,
                metrics,
                state: Mutex::new(state),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a JSON merge patch; with `reset`, in the place of what was set before.
    ///
    /// # Errors
    /// The first thing that is wrong with it; nothing has changed then.
    pub fn set(&self, patch: &Value, reset: bool) -> Result<Outcome, ConfigError> {
        let mut state = self.state();
        let mut next = state.clone();
        let outcome = patched(&mut next, patch, reset).and_then(|()| self.adopt(&state, next));
        self.settle(&mut state, outcome, "set")
    }

    /// Reads the sources again; what operators set stays over them. Blocks while it reads.
    ///
    /// # Errors
    /// The first thing that is wrong; nothing has changed then.
    pub fn reload(&self) -> Result<Outcome, ConfigError> {
        let loaded = config::load_layers::<Config>(&self.inner.sources);
        let mut state = self.state();
        let mut next = state.clone();
        let outcome = loaded.and_then(|loaded| {
            for warning in &loaded.warnings {
                tracing::warn!("{warning}");
            }
            next.base.clone_from(&loaded.tree);
            next.origins.clone_from(&loaded.origins);
            let adopted = self.adopt(&state, next).map_err(|error| loaded.locate(error))?;
            if let Err(error) = loaded.keep() {
                tracing::warn!(%error, "no copy of the configuration from the URL can be kept");
            }
            Ok(adopted)
        });
        self.settle(&mut state, outcome, "reload")
    }

    /// Checks what is wanted, and has what can hold at once do so.
    fn adopt(&self, now: &State, mut next: State) -> Result<(State, Outcome), ConfigError> {
        let origin = if next.patches.is_empty() { config::WHOLE } else { SET };
        let wanted = next
            .patches
            .iter()
            .fold(next.base.clone(), |tree, patch| config::merge_patch(&tree, patch));
        let wished: Config = config::from_tree(&wanted, origin)?;
        self.inner.parts.check(&wished)?;
        let wanted = config::whole_tree(&wished, &wanted)?;
        let mut outcome = Outcome::default();
        let mut tree = now.tree.clone();
        for change in config::diff(&now.tree, &wanted) {
            match effect::of(&change.key) {
                Effect::Now => {
                    let path = config::split(&change.key);
                    put(&mut tree, &path, get(&wanted, &path));
                    outcome.applied.push(change);
                }
                Effect::Restart => outcome.pending.push(change),
            }
        }
        let holds: Config = config::from_tree(&tree, origin)?;
        if !outcome.pending.is_empty() {
            self.inner.parts.check(&holds)?;
        }
        self.inner.parts.apply(&now.config, &holds)?;
        (next.tree, next.config) = (tree, holds);
        next.pending.clone_from(&outcome.pending);
        Ok((next, outcome))
    }

    /// Counts and logs what a change came to.
    fn settle(
        &self,
        state: &mut State,
        outcome: Result<(State, Outcome), ConfigError>,
        cause: &'static str,
    ) -> Result<Outcome, ConfigError> {
        let (next, outcome) = outcome.inspect_err(|error| {
            self.inner.metrics.config_changed("refused");
            tracing::error!(cause, %error, "the changed configuration is refused; nothing has changed");
        })?;
        *state = next;
        let unchanged = outcome.applied.is_empty() && outcome.pending.is_empty();
        self.inner
            .metrics
            .config_changed(if unchanged { "unchanged" } else { "applied" });
        for change in &outcome.applied {
            tracing::info!(cause, %change, "the configuration has changed");
        }
        for change in &outcome.pending {
            tracing::warn!(cause, %change, "this change of the configuration needs a restart");
        }
        Ok(outcome)
    }

    /// `QgisAdmin.GetConfig`.
    pub(super) fn get_config(&self, _: Request<GetConfigRequest>) -> Response<GetConfigReply> {
        let state = self.state();
        let mut origins = state.origins.clone();
        for (path, value) in state.patches.iter().flat_map(config::leaves) {
            let origin = if value.is_null() { config::DEFAULT } else { SET };
            origins.insert(config::join(&path), origin.to_owned());
        }
        origins.retain(|key, _| !get(&state.tree, &config::split(key)).is_null());
        Response::new(GetConfigReply {
            config: config::redacted(&state.tree).to_string(),
            origins: origins.into_iter().collect(),
            needs_restart: state.pending.iter().map(told).collect(),
        })
    }

    /// `QgisAdmin.SetConfig`.
    pub(super) fn set_config(&self, request: Request<SetConfigRequest>) -> Result<Response<SetConfigReply>, Status> {
        let SetConfigRequest { patch, reset } = request.into_inner();
        let text = if patch.is_empty() { "{}" } else { patch.as_str() };
        let patch: Value = serde_json::from_str(text)
            .map_err(|error| Status::invalid_argument(format!("the patch is no JSON: {error}")))?;
        let outcome = self.set(&patch, reset).map_err(refused)?;
        Ok(Response::new(SetConfigReply {
            applied: outcome.applied.iter().map(told).collect(),
            needs_restart: outcome.pending.iter().map(told).collect(),
        }))
    }

    /// `QgisAdmin.SetLogLevel`.
    pub(super) fn set_log_level(
        &self,
        request: Request<SetLogLevelRequest>,
    ) -> Result<Response<SetLogLevelReply>, Status> {
        let level = request.into_inner().level;
        let before = self.state().config.logging.level.clone();
        self.set(&json!({ "logging": { "level": level } }), false)
            .map_err(refused)?;
        let after = level;
        Ok(Response::new(SetLogLevelReply { before, after }))
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn refused(error: ConfigError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn told(change: &Change) -> ConfigChange {
    ConfigChange {
        key: change.key.clone(),
        before: change.before.to_string(),
        after: change.after.to_string(),
    }
}

/// Puts a patch after those before, or in their place.
fn patched(state: &mut State, patch: &Value, reset: bool) -> Result<(), ConfigError> {
    let wrong = |problem: String| ConfigError::Layer {
        origin: "patch".into(),
        problem,
    };
    if !patch.is_object() {
        return Err(wrong(
            "expected a table as JSON, such as {\"server\": {\"timeout\": 30}}".into(),
        ));
    }
    if let Some(key) = config::set_to_hidden(patch) {
        let hidden = config::HIDDEN;
        return Err(wrong(format!(
            "`{key}` would be set to {hidden}, which stands for a secret: leave it out, or write the secret"
        )));
    }
    if reset {
        state.patches.clear();
    }
    // What is said again need not have been said before: the last word on a key counts.
    state.patches.retain(|before| before != patch);
    if *patch != Value::Object(Map::new()) {
        state.patches.push(patch.clone());
    }
    Ok(())
}

/// What stands at a key; null when nothing does.
fn get(tree: &Value, path: &[String]) -> Value {
    let found = path.iter().try_fold(tree, |tree, key| tree.get(key));
    found.cloned().unwrap_or(Value::Null)
}

/// Sets a key, or removes it when the value is null.
fn put(tree: &mut Value, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    let Some(table) = tree.as_object_mut() else { return };
    match rest {
        [] if value.is_null() => drop(table.remove(first)),
        [] => drop(table.insert(first.clone(), value)),
        rest => {
            let below = table.entry(first).or_insert_with(|| Value::Object(Map::new()));
            put(below, rest, value);
        }
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
