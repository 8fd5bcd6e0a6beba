//! One layer of a configuration: a file, a variable, or a word of the command line; each knows where its keys come from.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::document::Document;
use super::error::{ConfigError, unknown};
use super::shape::{Below, below, takes};
use super::tree::{join, split};

/// Every variable that configures a daemon starts with this.
pub const ENV_PREFIX: &str = "CONF_";

/// The longest secret that is read from a file of its own, in bytes.
const MAX_SECRET: u64 = 64 * 1024;

/// Another name for a key: what QJazz calls the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    /// A key, such as `worker.projects.search_paths`; or a whole variable, such as `CONF_GRPC_TLS_KEYFILE`.
    pub name: &'static str,
    /// Our key.
    pub key: &'static str,
}

/// A part of the tree and where it comes from.
pub(super) struct Layer {
    /// What it sets.
    pub tree: Value,
    name: String,
    document: Option<Document>,
    /// Keys that stood under another name, each with that name.
    renamed: BTreeMap<String, Vec<String>>,
}

impl Layer {
    /// A file or what a URL gave.
    pub fn document(name: String, mut document: Document) -> Self {
        Self {
            tree: std::mem::take(&mut document.tree),
            name,
            document: Some(document),
            renamed: BTreeMap::new(),
        }
    }

    /// One value at one key.
    pub fn single(name: String, path: &[String], value: Value) -> Self {
        let tree = path.iter().rev().fold(value, |inner, key| {
            Value::Object(Map::from_iter([(key.clone(), inner)]))
        });
        Self {
            tree,
            name,
            document: None,
            renamed: BTreeMap::new(),
        }
    }

    /// Where a key of it comes from: with the line, where the file's format tells it.
    pub fn origin(&self, path: &[String]) -> String {
        let was = (0..=path.len())
            .rev()
            .find_map(|length| Some((self.renamed.get(&join(&path[..length]))?, &path[length..])));
        let path = match was {
            Some((name, rest)) => [name.as_slice(), rest].concat(),
            None => path.to_vec(),
        };
        match self.document.as_ref().and_then(|document| document.line(&path)) {
            Some(line) => format!("{}, line {line}", self.name),
            None => self.name.clone(),
        }
    }

    /// Moves what stands under other names to where we have it.
    pub fn rename(&mut self, aliases: &[Alias]) -> Result<(), ConfigError> {
        for alias in aliases.iter().filter(|alias| !is_variable(alias)) {
            let (name, key) = (split(alias.name), split(alias.key));
            let Some(value) = take(&mut self.tree, &name) else {
                continue;
            };
            self.renamed.insert(join(&key), name.clone());
            let moved = Self::single(String::new(), &key, value).tree;
            if let Some(twice) = both(&self.tree, &moved, &mut Vec::new()) {
                return Err(ConfigError::Layer {
                    origin: self.origin(&name),
                    problem: format!("`{}` means the same as `{twice}`: write one of them", alias.name),
                });
            }
            super::tree::overlay(&mut self.tree, &moved);
        }
        Ok(())
    }
}

fn is_variable(alias: &Alias) -> bool {
    alias.name.starts_with(|c: char| c.is_ascii_uppercase())
}

/// Takes a key out of a tree, and tables along that are empty without it.
fn take(tree: &mut Value, path: &[String]) -> Option<Value> {
    let (first, rest) = path.split_first()?;
    let inner = tree.as_object_mut()?;
    if rest.is_empty() {
        return inner.remove(first);
    }
    let below = inner.get_mut(first)?;
    let taken = take(below, rest)?;
    if below.as_object().is_some_and(Map::is_empty) {
        inner.remove(first);
    }
    Some(taken)
}

/// The first key that both trees set.
fn both(left: &Value, right: &Value, path: &mut Vec<String>) -> Option<String> {
    let (Value::Object(left), Value::Object(right)) = (left, right) else {
        return Some(join(path.iter()));
    };
    for (key, value) in right {
        let Some(other) = left.get(key) else { continue };
        path.push(key.clone());
        if let Some(twice) = both(other, value, path) {
            return Some(twice);
        }
        path.pop();
    }
    None
}

/// The layers of the environment: the deeper its key, the later a variable comes.
pub(super) fn variables(
    variables: &[(String, String)],
    schema: &Value,
    aliases: &[Alias],
    reserved: &[&str],
) -> Result<Vec<Layer>, ConfigError> {
    let mut found: Vec<(Vec<String>, Layer)> = Vec::new();
    for (name, text) in variables {
        let alias = aliases.iter().find(|alias| alias.name == name);
        let mut path = match (alias, name.strip_prefix(ENV_PREFIX)) {
            _ if reserved.contains(&name.as_str()) => continue,
            (Some(alias), _) => split(alias.key),
            (None, Some(rest)) => rest.split("__").map(str::to_lowercase).collect(),
            (None, None) => continue,
        };
        let origin = format!("environment variable {name}");
        path = renamed(path, aliases);
        let from_file = resolve(schema, &path, &origin).is_err() && strip_file(schema, &mut path);
        let text = if from_file {
            secret(Path::new(text), &origin)?
        } else {
            text.clone()
        };
        let layer = typed_layer(origin, &path, &text, schema)?;
        if let Some((_, other)) = found.iter().find(|(other, _)| *other == path) {
            return Err(ConfigError::Layer {
                origin: layer.name,
                problem: format!("sets `{}` as {} does: keep one of them", join(&path), other.name),
            });
        }
        found.push((path, layer));
    }
    found.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
    Ok(found.into_iter().map(|(_, layer)| layer).collect())
}

/// The layer of one `key=value` of the command line.
pub(super) fn word(word: &str, schema: &Value, aliases: &[Alias]) -> Result<Layer, ConfigError> {
    let Some((key, text)) = word.split_once('=') else {
        return Err(ConfigError::Layer {
            origin: format!("--set {word}"),
            problem: "expected key=value, such as --set server.timeout=30".into(),
        });
    };
    let path = renamed(split(key.trim()), aliases);
    typed_layer(format!("--set {key}"), &path, text, schema)
}

fn typed_layer(origin: String, path: &[String], text: &str, schema: &Value) -> Result<Layer, ConfigError> {
    let node = resolve(schema, path, &origin)?;
    let value = typed(text, node).map_err(|problem| ConfigError::Invalid {
        origin: origin.clone(),
        key: join(path),
        problem,
    })?;
    Ok(Layer::single(origin, path, value))
}

/// The key under our name.
fn renamed(path: Vec<String>, aliases: &[Alias]) -> Vec<String> {
    let alias = aliases.iter().filter(|alias| !is_variable(alias)).find_map(|alias| {
        let rest = path.strip_prefix(split(alias.name).as_slice())?;
        Some([split(alias.key).as_slice(), rest].concat())
    });
    alias.unwrap_or(path)
}

/// The schema of a key; none where anything may stand.
fn resolve<'a>(schema: &'a Value, path: &[String], origin: &str) -> Result<Option<&'a Value>, ConfigError> {
    let mut node = Some(schema);
    for depth in 0..path.len() {
        node = match node.map(|schema| below(schema, &path[depth])) {
            Some(Below::Known(inner)) => Some(inner),
            Some(Below::Any) | None => None,
            Some(Below::Unknown(known)) => return Err(unknown(origin, &path[..=depth], &known)),
        };
    }
    Ok(node)
}

/// Whether the key without its `_file` is known and takes a text; it is that key then.
fn strip_file(schema: &Value, path: &mut [String]) -> bool {
    let Some(stripped) = path
        .last()
        .and_then(|last| last.strip_suffix("_file"))
        .map(str::to_owned)
    else {
        return false;
    };
    let (count, mut of_file) = (path.len(), path.to_vec());
    of_file[count - 1].clone_from(&stripped);
    let known = matches!(resolve(schema, &of_file, ""), Ok(Some(node)) if takes(node, "string"));
    if known {
        path[count - 1] = stripped;
    }
    known
}

/// A secret that stands in a file of its own, as container platforms hand them out.
fn secret(file: &Path, origin: &str) -> Result<String, ConfigError> {
    let read = || -> std::io::Result<String> {
        if std::fs::metadata(file)?.len() > MAX_SECRET {
            return Err(std::io::Error::other(format!("is longer than {MAX_SECRET} bytes")));
        }
        std::fs::read_to_string(file)
    };
    let text = read().map_err(|error| ConfigError::Layer {
        origin: origin.to_owned(),
        problem: format!("{}: {error}", file.display()),
    })?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Reads a text as what its key takes; where anything may stand, as JSON where it looks like it.
fn typed(text: &str, schema: Option<&Value>) -> Result<Value, String> {
    let json = |expected: &str| -> Result<Value, String> {
        serde_json::from_str(text).map_err(|error| format!("expected {expected}: {error}"))
    };
    let Some(schema) = schema.filter(|schema| !(takes(schema, "string") && takes(schema, "boolean"))) else {
        return json("JSON").or_else(|_| Ok(text.into()));
    };
    if takes(schema, "string") {
        return Ok(text.into());
    }
    if takes(schema, "boolean") {
        return match text.to_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true.into()),
            "false" | "no" | "off" | "0" => Ok(false.into()),
            _ => Err(format!("expected yes or no, found `{text}`")),
        };
    }
    if takes(schema, "number") || takes(schema, "integer") {
        return json("a number");
    }
    if takes(schema, "object") {
        return json("a table written as JSON, such as {\"key\": \"value\"}");
    }
    json("a list written as JSON, such as [\"a\", \"b\"]")
}
