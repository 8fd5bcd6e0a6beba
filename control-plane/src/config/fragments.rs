//! `[fragments.NAME]`: parts of Envoy's configuration in Envoy's own words, for what has no key of ours. Whether they are
//! what Envoy understands is looked at where Envoy's messages are known.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Config, Unusable, is_plain_name};
use crate::core::views::DEFAULT;

/// A fragment: listeners, clusters and HTTP filters of your own, as Envoy's documentation writes them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Fragment {
    /// A JSON or YAML file with `listeners`, `clusters` and `http_filters`, in place of these keys here; it is read again when
    /// it changes.
    pub file: PathBuf,
    /// The views that get it; []: every view.
    pub views: Vec<String>,
    /// Listeners beside the front (`envoy.config.listener.v3.Listener`).
    pub listeners: Vec<Value>,
    /// Clusters beside the pools (`envoy.config.cluster.v3.Cluster`).
    pub clusters: Vec<Value>,
    /// What the front's requests pass through between the finding of the project and the agents
    /// (`envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter`).
    pub http_filters: Vec<Value>,
}

/// Checks what can be said without knowing Envoy's messages.
pub(super) fn check(config: &Config) -> Result<(), Unusable> {
    for (name, fragment) in &config.fragments {
        let unusable = |key: &str, value: &str, problem: &str| Unusable::Value {
            key: format!("fragments.{name}{key}"),
            value: value.to_owned(),
            problem: problem.to_owned(),
        };
        if !is_plain_name(name) {
            let problem = "a fragment's name has letters, digits, `-`, `_` and `.`";
            return Err(unusable("", name, problem));
        }
        let known = |view: &String| view == DEFAULT || config.views.contains_key(view);
        if let Some(view) = fragment.views.iter().find(|view| !known(view)) {
            let problem = "there is no such view; name one of `views`, or `default`";
            return Err(unusable(".views", view, problem));
        }
    }
    Ok(())
}

/// The fragments that a view gets.
pub(super) fn of_view(all: &BTreeMap<String, Fragment>, view: &str) -> BTreeMap<String, Fragment> {
    let gets = |fragment: &Fragment| fragment.views.is_empty() || fragment.views.iter().any(|name| name == view);
    all.iter()
        .filter(|(_, fragment)| gets(fragment))
        .map(|(name, fragment)| (name.clone(), fragment.clone()))
        .collect()
}
