//! Layered configuration: environment over file over defaults, into one typed tree.
//!
//! The defaults, serialised, are also the list of known keys and of their types: that is how an unknown key finds its
//! nearest neighbour and how `CONF_WORKER__NAME=7` stays a text while `CONF_SERVER__TIMEOUT=7` becomes a number. A table
//! whose keys in the defaults are no names of fields, or that is empty there, takes any keys. This module knows no
//! daemon's keys by name.

use std::path::{Path, PathBuf};

use figment::providers::{Format as _, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Every variable that configures a daemon starts with this.
pub const ENV_PREFIX: &str = "CONF_";

/// A configuration that cannot be used; the text says where and what to change.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("configuration file {}: {problem}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        problem: String,
    },
    /// A key that no part of the tree has.
    #[error("{origin}: unknown key `{key}`{}", nearest.as_ref().map(|n| format!(", did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey {
        /// File or variable.
        origin: String,
        /// The key with its path, joined by dots.
        key: String,
        /// The known key that is most alike, when one is.
        nearest: Option<String>,
    },
    /// A value of the wrong type or outside its range.
    #[error("{origin}: `{key}`: {problem}")]
    Invalid {
        /// File or variable.
        origin: String,
        /// The key with its path, joined by dots.
        key: String,
        /// What was found and what was expected.
        problem: String,
    },
}

/// Reads the tree: defaults of `T`, then the TOML file when one is named, then the `CONF_` variables of `env`.
///
/// # Errors
/// The first key that is unknown, or value that does not fit; nothing of a faulty layer is used.
pub fn load<T>(file: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Result<T, ConfigError>
where
    T: Serialize + DeserializeOwned + Default,
{
    let defaults = Value::serialize(T::default()).map_err(|error| invalid("defaults", &error))?;
    let mut figment = Figment::from(Serialized::defaults(T::default()));
    if let Some(path) = file {
        let origin = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            path: path.to_owned(),
            problem: error.to_string(),
        })?;
        let tree: Dict = Toml::from_str(&text).map_err(|error| ConfigError::Unreadable {
            path: path.to_owned(),
            problem: error.to_string(),
        })?;
        known_keys(&origin, &defaults, &tree, &mut Vec::new())?;
        figment = figment.merge(Toml::string(&text));
        check::<T>(&figment, &origin)?;
    }
    for (name, text) in env {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else {
            continue;
        };
        let layer = Variable::parse(&name, rest, &text, &defaults)?;
        figment = figment.merge(layer);
        check::<T>(&figment, &format!("environment variable {name}"))?;
    }
    figment.extract().map_err(|error| invalid("configuration", &error))
}

fn check<T: DeserializeOwned>(figment: &Figment, origin: &str) -> Result<(), ConfigError> {
    figment
        .extract::<T>()
        .map(drop)
        .map_err(|error| invalid(origin, &error))
}

fn invalid(origin: &str, error: &figment::Error) -> ConfigError {
    ConfigError::Invalid {
        origin: origin.to_owned(),
        key: error.path.join("."),
        problem: error.kind.to_string(),
    }
}

/// One `CONF_` variable as a layer of its own.
struct Variable {
    name: String,
    tree: Dict,
}

impl Variable {
    fn parse(name: &str, rest: &str, text: &str, defaults: &Value) -> Result<Self, ConfigError> {
        let origin = format!("environment variable {name}");
        let path: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
        let mut node = Some(defaults);
        for (depth, key) in path.iter().enumerate() {
            node = match node {
                Some(Value::Dict(_, dict)) if takes_any_key(dict) => None,
                Some(Value::Dict(_, dict)) => match dict.get(key) {
                    Some(inner) => Some(inner),
                    None => return Err(unknown(&origin, &path[..=depth], dict)),
                },
                Some(_) => return Err(unknown(&origin, &path[..=depth], &Dict::new())),
                None => None,
            };
        }
        let value = typed(text, node).map_err(|problem| ConfigError::Invalid {
            origin: origin.clone(),
            key: path.join("."),
            problem,
        })?;
        if let (Some(known), Value::Dict(_, dict)) = (node, &value) {
            known_keys(&origin, known, dict, &mut path.clone())?;
        }
        let tree = path
            .iter()
            .rev()
            .fold(value, |inner, key| Dict::from([(key.clone(), inner)]).into());
        let Value::Dict(_, tree) = tree else {
            unreachable!("a path has at least one key")
        };
        Ok(Self {
            name: name.to_owned(),
            tree,
        })
    }
}

impl Provider for Variable {
    fn metadata(&self) -> Metadata {
        Metadata::named(format!("environment variable {}", self.name))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.tree.clone())]))
    }
}

/// Reads a variable's text as what its default is; without a default, as JSON where it looks like it.
fn typed(text: &str, default: Option<&Value>) -> Result<Value, String> {
    let json = |expected: &str| -> Result<Value, String> {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| format!("expected {expected}: {error}"))?;
        Value::serialize(value).map_err(|error| error.to_string())
    };
    match default {
        Some(Value::String(..) | Value::Char(..)) => Ok(text.into()),
        Some(Value::Bool(..)) => match text.to_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true.into()),
            "false" | "no" | "off" | "0" => Ok(false.into()),
            _ => Err(format!("expected yes or no, found `{text}`")),
        },
        Some(Value::Num(..)) => json("a number"),
        Some(Value::Dict(..)) => json("a table written as JSON, such as {\"key\": \"value\"}"),
        Some(Value::Array(..)) => json("a list written as JSON, such as [\"a\", \"b\"]"),
        Some(Value::Empty(..)) | None => json("JSON").or_else(|_| Ok(text.into())),
    }
}

/// Whether a table of the defaults is a map and no struct: the names of Rust's fields have no other characters.
fn takes_any_key(defaults: &Dict) -> bool {
    let is_field = |key: &String| {
        key.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    !defaults.keys().any(is_field)
}

/// Finds the first key of `tree` that `known` does not have.
fn known_keys(origin: &str, known: &Value, tree: &Dict, path: &mut Vec<String>) -> Result<(), ConfigError> {
    let Value::Dict(_, dict) = known else { return Ok(()) };
    if takes_any_key(dict) {
        return Ok(());
    }
    for (key, value) in tree {
        path.push(key.clone());
        match (dict.get(key), value) {
            (None, _) => return Err(unknown(origin, path, dict)),
            (Some(inner), Value::Dict(_, below)) => known_keys(origin, inner, below, path)?,
            _ => {}
        }
        path.pop();
    }
    Ok(())
}

fn unknown(origin: &str, path: &[String], siblings: &Dict) -> ConfigError {
    let (last, parents) = path.split_last().expect("a key has a name");
    let nearest = siblings
        .keys()
        .map(|key| (distance(key, last), key))
        .filter(|(distance, key)| *distance <= 1 + key.len() / 3)
        .min()
        .map(|(_, key)| parents.iter().chain([key]).cloned().collect::<Vec<_>>().join("."));
    ConfigError::UnknownKey {
        origin: origin.to_owned(),
        key: path.join("."),
        nearest,
    }
}

/// Levenshtein's distance: how many letters must change to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for j in 0..b.len() {
            let replaced = diagonal + usize::from(letter != b[j]);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write as _;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Tree {
        worker: Worker,
        paths: BTreeMap<String, String>,
        times: BTreeMap<String, f64>,
    }

    impl Default for Tree {
        fn default() -> Self {
            Self {
                worker: Worker::default(),
                paths: BTreeMap::new(),
                times: BTreeMap::from([("A/b".to_owned(), 1.0)]),
            }
        }
    }

    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Worker {
        name: String,
        num_processes: u32,
        restore: bool,
    }

    impl Default for Worker {
        fn default() -> Self {
            Self {
                name: "worker".into(),
                num_processes: 2,
                restore: false,
            }
        }
    }

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn fails(pairs: &[(&str, &str)]) -> String {
        load::<Tree>(None, env(pairs))
            .expect_err("this configuration is wrong")
            .to_string()
    }

    #[test]
    fn a_map_takes_any_key_beside_those_of_the_defaults() {
        let times = |pairs: &[(&str, &str)]| load::<Tree>(None, env(pairs)).unwrap().times;
        let both = BTreeMap::from([("A/b".to_owned(), 1.0), ("c".to_owned(), 2.0)]);
        assert_eq!(times(&[("CONF_TIMES", r#"{"c": 2}"#)]), both);
        assert_eq!(times(&[("CONF_TIMES__C", "2.0")]), both);
        assert_eq!(times(&[("CONF_TIMES", r#"{"A/b": 3.5}"#)])["A/b"], 3.5);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "[times]\nc = 2.0\n").unwrap();
        assert_eq!(load::<Tree>(Some(file.path()), []).unwrap().times, both);
        assert!(fails(&[("CONF_TIMES", r#"{"c": "long"}"#)]).contains("times.c"));
    }

    #[test]
    fn environment_goes_over_file_over_defaults() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(
            file,
            "[worker]\nname = \"file\"\nnum_processes = 3\n[paths]\n\"/\" = \"/a\"\n"
        )
        .unwrap();
        let tree: Tree = load(Some(file.path()), env(&[("CONF_WORKER__NUM_PROCESSES", "4")])).unwrap();
        assert_eq!(
            tree.worker,
            Worker {
                name: "file".into(),
                num_processes: 4,
                restore: false
            }
        );
        assert_eq!(tree.paths["/"], "/a");
    }

    #[test]
    fn a_variable_takes_its_type_from_the_default() {
        let tree: Tree = load(
            None,
            env(&[
                ("CONF_WORKER__NAME", "7"),
                ("CONF_WORKER__RESTORE", "yes"),
                ("CONF_PATHS", r#"{"/": "/b"}"#),
                ("PATH", "x"),
            ]),
        )
        .unwrap();
        assert_eq!(tree.worker.name, "7");
        assert!(tree.worker.restore);
        assert_eq!(tree.paths["/"], "/b");
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        assert_eq!(
            fails(&[("CONF_WORKER__NUM_PROCESES", "1")]),
            "environment variable CONF_WORKER__NUM_PROCESES: unknown key `worker.num_proceses`, did you mean `worker.num_processes`?"
        );
        assert!(fails(&[("CONF_WORKER", r#"{"nam": "x"}"#)]).contains("did you mean `worker.name`?"));
        assert!(!fails(&[("CONF_QQQQQQQQ", "1")]).contains("did you mean"));
    }

    #[test]
    fn a_wrong_type_says_what_was_expected() {
        assert!(fails(&[("CONF_WORKER__NUM_PROCESSES", "many")]).contains("`worker.num_processes`: expected a number"));
        assert!(fails(&[("CONF_WORKER__NUM_PROCESSES", "-1")]).contains("worker.num_processes"));
        assert!(fails(&[("CONF_WORKER__RESTORE", "perhaps")]).contains("expected yes or no, found `perhaps`"));
    }

    #[test]
    fn a_file_that_is_missing_or_broken_is_named() {
        let missing = load::<Tree>(Some(Path::new("/nowhere/x.toml")), []).unwrap_err();
        assert!(missing.to_string().starts_with("configuration file /nowhere/x.toml: "));
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "[worker").unwrap();
        assert!(matches!(
            load::<Tree>(Some(file.path()), []),
            Err(ConfigError::Unreadable { .. })
        ));
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "[worker]\nnames = 1\n").unwrap();
        assert!(
            load::<Tree>(Some(file.path()), [])
                .unwrap_err()
                .to_string()
                .contains("did you mean `worker.name`?")
        );
    }
}
