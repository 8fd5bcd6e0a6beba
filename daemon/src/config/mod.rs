//! Layered configuration into one typed tree: command line over environment over URL over file over defaults.
//!
//! The types' own JSON Schema is the list of known keys, of their types and ranges: that is how an unknown key finds its
//! nearest neighbour and how `CONF_WORKER__NAME=7` stays a text while `CONF_SERVER__TIMEOUT=7` becomes a number. Every key
//! remembers which layer set it, so that an error and `check-config` can say where to look. This module knows no daemon's
//! keys by name.

mod document;
mod error;
mod layer;
mod listing;
mod reference;
mod remote;
mod secret;
mod shape;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::Serialized;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use document::{Format, document};
pub use error::{ConfigError, WHOLE, nearest};
pub use layer::{Alias, ENV_PREFIX};
pub use listing::listing;
pub use reference::reference;
pub use remote::{MAX_DOCUMENT, kept_in};
pub use secret::Secret;
pub use shape::keys;
pub use tree::{Change, HIDDEN, diff, is_secret_key, join, leaves, merge_patch, redacted, set_to_hidden, split};

use document::Document;
use layer::Layer;
use remote::Fetched;

/// Names the URL of a configuration that is fetched at the start.
pub const URL_VARIABLE: &str = "CONF_URL";

/// What QJazz's images call it.
const QJAZZ_URL_VARIABLE: &str = "QJAZZ_CONFIG_REMOTE_URL";

/// Where a configuration is read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A file, or a URL that starts with `http://` or `https://`.
    pub conf: Option<String>,
    /// The environment. What does not begin with `CONF_` is passed over, but for [`URL_VARIABLE`] and other names.
    pub variables: Vec<(String, String)>,
    /// The command line's `key=value`.
    pub set: Vec<String>,
    /// Other names of keys.
    pub aliases: &'static [Alias],
    /// Where the last good copy of what the URL gave is kept; nowhere when none.
    pub kept: Option<PathBuf>,
}

/// A configuration with where it comes from.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The typed tree.
    pub config: T,
    /// The same as JSON, every default included, secrets too: show only what [`redacted`] leaves of it.
    pub tree: Value,
    /// Where each value comes from, by its key: a file with the line, a variable, the command line, or `default`.
    pub origins: BTreeMap<String, String>,
    /// What an operator should hear of, though it can be used.
    pub warnings: Vec<String>,
    fetched: Option<Fetched>,
}

impl Sources {
    /// This process's environment, with what its command line says.
    #[must_use]
    pub fn of_process(conf: Option<String>, set: Vec<String>, aliases: &'static [Alias]) -> Self {
        // What is no text can be no variable of ours.
        let variables =
            std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
        let variables: Vec<(String, String)> = variables.collect();
        Self {
            conf,
            kept: kept_in(&variables),
            variables,
            set,
            aliases,
        }
    }
}

/// Reads the tree: defaults of `T`, then the file when one is named, then the `CONF_` variables of `env`.
///
/// # Errors
/// The first key that is unknown, or value that does not fit; nothing of a faulty layer is used.
pub fn load<T>(file: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Result<T, ConfigError>
where
    T: Serialize + DeserializeOwned + Default + JsonSchema,
{
    let sources = Sources {
        conf: file.map(|file| file.display().to_string()),
        variables: env.into_iter().collect(),
        ..Sources::default()
    };
    load_layers(&sources).map(|loaded| loaded.config)
}

/// Reads all layers of the tree.
///
/// # Errors
/// The first key that is unknown, or value that does not fit; nothing of a faulty layer is used.
pub fn load_layers<T>(sources: &Sources) -> Result<Loaded<T>, ConfigError>
where
    T: Serialize + DeserializeOwned + Default + JsonSchema,
{
    let schema = schema::<T>();
    let mut tree = as_tree(&T::default())?;
    let mut origins = BTreeMap::new();
    let (mut layers, fetched) = documents(sources)?;
    let reserved = [URL_VARIABLE];
    layers.extend(layer::variables(
        &sources.variables,
        &schema,
        sources.aliases,
        &reserved,
    )?);
    for word in &sources.set {
        layers.push(layer::word(word, &schema, sources.aliases)?);
    }
    for mut layer in layers {
        layer.rename(sources.aliases)?;
        let origin = |path: &[String]| layer.origin(path);
        shape::check(&schema, &layer.tree, &mut Vec::new(), &origin)?;
        tree::overlay(&mut tree, &layer.tree);
        typed::<T>(&tree).map_err(|error| found_in(&layer, &error))?;
        for (path, _) in leaves(&layer.tree).into_iter().filter(|(_, value)| !value.is_null()) {
            origins.insert(join(&path), layer.origin(&path));
        }
    }
    let config = typed::<T>(&tree).map_err(|error| invalid(WHOLE, &error))?;
    let normal = whole_tree(&config, &tree)?;
    let origins = origins_of(&normal, &origins);
    let warnings = fetched.iter().filter_map(|fetched| fetched.warning.clone()).collect();
    Ok(Loaded {
        config,
        tree: normal,
        origins,
        warnings,
        fetched,
    })
}

/// Reads a tree as [`Loaded::tree`] has it, such as one that was patched.
///
/// # Errors
/// The first key that is unknown, or value that does not fit; `origin` is said to be where it comes from.
pub fn from_tree<T>(tree: &Value, origin: &str) -> Result<T, ConfigError>
where
    T: DeserializeOwned + JsonSchema,
{
    if !tree.is_object() {
        return Err(ConfigError::Layer {
            origin: origin.to_owned(),
            problem: "expected a table of keys".into(),
        });
    }
    shape::check(&schema::<T>(), tree, &mut Vec::new(), &|_| origin.to_owned())?;
    typed(tree).map_err(|error| invalid(origin, &error))
}

/// The tree of a configuration with every default in it, and with the secrets of `raw`, the tree it was read from.
///
/// # Errors
/// Never, for trees that were read before.
pub fn whole_tree<T: Serialize>(config: &T, raw: &Value) -> Result<Value, ConfigError> {
    let mut tree = as_tree(config)?;
    tree::unhide(&mut tree, raw);
    Ok(tree)
}

/// The JSON Schema of a tree, without references.
#[must_use]
pub fn schema<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

impl<T> Loaded<T> {
    /// Says of an error that was found in the whole tree where its key comes from.
    #[must_use]
    pub fn locate(&self, error: ConfigError) -> ConfigError {
        match error {
            ConfigError::Invalid { origin, key, problem } if origin == WHOLE => ConfigError::Invalid {
                origin: self.origin_of(&key).unwrap_or(origin),
                key,
                problem,
            },
            other => other,
        }
    }

    /// The origin of a key or of what is below it; of one that nobody set, as it is lacking, that of another key of its table,
    /// where it has to be added. None when nobody set any.
    #[must_use]
    pub fn origin_of(&self, key: &str) -> Option<String> {
        let set = |origin: &&String| *origin != DEFAULT;
        let table = format!("{key}.");
        let below = || {
            let below = self.origins.iter().filter(|(other, _)| other.starts_with(&table));
            below.map(|(_, origin)| origin).find(set)
        };
        let exact = self.origins.get(key).filter(set).or_else(below);
        // A table of the first level is about too much.
        let beside = || {
            let (table, _) = key.rsplit_once('.').filter(|(table, _)| table.contains('.'))?;
            let table = format!("{table}.");
            let beside = self.origins.iter().filter(|(other, _)| other.starts_with(&table));
            beside.map(|(_, origin)| origin).find(set)
        };
        let list = || {
            let (list, _) = key.split_once('[')?;
            self.origins.get(list).filter(set)
        };
        exact.or_else(list).or_else(beside).cloned()
    }

    /// Keeps what the URL gave for a start at which it is down. Call it once the configuration has proved sound.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn keep(&self) -> std::io::Result<()> {
        self.fetched.as_ref().map_or(Ok(()), Fetched::keep)
    }
}

/// What a key takes that says where a port is: its schema's `x-expected`.
pub const ADDRESS: &str = "an IP address and a port, such as 127.0.0.1:9080";

/// What stands as the origin of what nobody set.
pub const DEFAULT: &str = "default";

/// What is said once by hand stands in the tree in its normal form: its keys are looked up in what the layers set.
fn origins_of(tree: &Value, set: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let of = |path: &[String]| {
        let lengths = (1..=path.len()).rev();
        let around = lengths.into_iter().find_map(|length| set.get(&join(&path[..length])));
        around.map_or_else(|| DEFAULT.to_owned(), Clone::clone)
    };
    leaves(tree).iter().map(|(path, _)| (join(path), of(path))).collect()
}

/// The layers below the environment: the file, then the URL.
fn documents(sources: &Sources) -> Result<(Vec<Layer>, Option<Fetched>), ConfigError> {
    let variable = |name: &str| {
        let found = sources.variables.iter().find(|(variable, _)| variable == name);
        found
            .map(|(_, url)| (name.to_owned(), url.clone()))
            .filter(|(_, url)| !url.is_empty())
    };
    let mut layers = Vec::new();
    let mut url = variable(URL_VARIABLE).or_else(|| variable(QJAZZ_URL_VARIABLE));
    match &sources.conf {
        Some(conf) if remote::is_url(conf) => url = Some(("--conf".into(), conf.clone())),
        Some(file) => layers.push(file_layer(Path::new(file))?),
        None => {}
    }
    let Some((from, url)) = url else {
        return Ok((layers, None));
    };
    if !remote::is_url(&url) {
        return Err(ConfigError::Layer {
            origin: from,
            problem: "expected a URL such as https://config.example.org/agent.toml".into(),
        });
    }
    let fetched = Fetched::get(&url, sources.kept.as_deref())?;
    let document = Document::read(&fetched.text, fetched.format).map_err(|problem| ConfigError::Layer {
        origin: fetched.name.clone(),
        problem,
    })?;
    layers.push(Layer::document(fetched.name.clone(), document));
    Ok((layers, Some(fetched)))
}

fn file_layer(path: &Path) -> Result<Layer, ConfigError> {
    let unreadable = |problem: String| ConfigError::Unreadable {
        path: path.to_owned(),
        problem,
    };
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let document = Document::read(&text, Format::of(path)).map_err(unreadable)?;
    Ok(Layer::document(path.display().to_string(), document))
}

fn as_tree<T: Serialize>(config: &T) -> Result<Value, ConfigError> {
    serde_json::to_value(config).map_err(|error| ConfigError::Layer {
        origin: WHOLE.into(),
        problem: error.to_string(),
    })
}

/// Reads a tree into the types; only this tells of an error where it is.
#[allow(clippy::result_large_err, reason = "it is figment's")]
fn typed<T: DeserializeOwned>(tree: &Value) -> Result<T, figment::Error> {
    Figment::from(Serialized::defaults(tree)).extract()
}

fn invalid(origin: &str, error: &figment::Error) -> ConfigError {
    ConfigError::Invalid {
        origin: origin.to_owned(),
        key: error.path.join("."),
        problem: error.kind.to_string(),
    }
}

fn found_in(layer: &Layer, error: &figment::Error) -> ConfigError {
    invalid(&layer.origin(&error.path), error)
}

#[cfg(test)]
mod tests;
