//! The layers of the configuration: what this process was started with (file, variables, command line), and over it what operators
//! have set. It decides nothing about changes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use graticule_daemon::config::{self, ConfigError, Loaded, Sources, join, leaves, merge_patch};
use serde_json::Value;

use super::envoy::fragments;
use super::fragment_files;
use crate::config::Config;
use crate::core::settings::Settings;

/// What stands as the origin of what operators have set.
pub const SETTINGS: &str = "settings";

/// Where the layers below the settings come from.
#[derive(Clone, Debug)]
pub enum Layers {
    /// Files and variables, which may be read again.
    Sources(Box<Sources>),
    /// A configuration that somebody has made, such as a test.
    Fixed(Box<Config>),
}

/// The layers below the settings, read.
#[derive(Clone, Debug)]
pub struct Base {
    /// The whole tree, secrets too.
    tree: Value,
    origins: BTreeMap<String, String>,
}

/// A whole configuration, checked as far as one can without the fleet.
#[derive(Clone, Debug)]
pub struct Whole {
    /// The typed tree.
    pub config: Arc<Config>,
    /// The same as JSON, secrets too.
    pub tree: Value,
    /// Where each value comes from, by its key.
    pub origins: BTreeMap<String, String>,
}

impl Layers {
    /// The file that may change while the control plane runs.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Sources(sources) => {
                let conf = sources.conf.as_deref()?;
                (!conf.contains("://")).then(|| Path::new(conf))
            }
            Self::Fixed(_) => None,
        }
    }

    /// Reads them.
    ///
    /// # Errors
    /// What is wrong where, and what to change.
    pub fn read(&self) -> Result<Base, ConfigError> {
        let Loaded { tree, origins, .. } = match self {
            Self::Sources(sources) => config::load_layers::<Config>(sources)?,
            Self::Fixed(fixed) => {
                let mut loaded = config::load_layers::<Config>(&Sources::default())?;
                loaded.tree = serde_json::to_value(fixed).map_err(|error| ConfigError::Layer {
                    origin: "the configuration".to_owned(),
                    problem: error.to_string(),
                })?;
                loaded
            }
        };
        Ok(Base { tree, origins })
    }
}

impl Base {
    /// Lays the settings over it.
    ///
    /// # Errors
    /// What cannot be used, and what to change.
    pub fn with(&self, settings: &Settings) -> Result<Whole, String> {
        let set = Value::Object(settings.tree.clone());
        let tree = fragment_files::filled(&merge_patch(&self.tree, &set))?;
        let config: Config =
            config::from_tree(&tree, "the settings over the configuration").map_err(|e| e.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        fragments::check(&config).map_err(|error| error.to_string())?;
        let mut origins = self.origins.clone();
        for (path, _) in leaves(&set) {
            origins.insert(join(&path), SETTINGS.to_owned());
        }
        Ok(Whole {
            config: Arc::new(config),
            tree,
            origins,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_go_over_variables_and_are_listed_as_such() {
        let variables = vec![("CONF_FRONT__REQUEST_TIMEOUT".to_owned(), "30".to_owned())];
        let sources = Sources {
            variables,
            ..Sources::default()
        };
        let base = Layers::Sources(Box::new(sources)).read().unwrap();
        let plain = base.with(&Settings::default()).unwrap();
        assert_eq!(plain.config.front.request_timeout, 30.0);
        let patch = json!({"front": {"request_timeout": 9.0}, "pools": {"maps": {"hosts": ["a"]}}});
        let settings = Settings::default().patched(patch.as_object().unwrap());
        let set = base.with(&settings).unwrap();
        assert_eq!((set.config.front.request_timeout, set.config.pools.len()), (9.0, 1));
        assert_eq!(set.origins["front.request_timeout"], SETTINGS);
        assert_eq!(set.origins["pools.maps.hosts"], SETTINGS);
        assert_ne!(set.origins["front.affinity"], SETTINGS);
        let refused = |patch: Value| {
            let settings = Settings::default().patched(patch.as_object().unwrap());
            base.with(&settings).unwrap_err()
        };
        assert!(refused(json!({"front": {"request_timout": 9.0}})).contains("request_timeout"));
        assert!(refused(json!({"front": {"request_timeout": -1.0}})).contains("front.request_timeout"));
    }
}
