//! A commented reference of a configuration: a whole TOML file with every key, its default, and what the schema says of it.
//!
//! The order is that in which the types declare their keys. Descriptions, ranges and choices are the schema's; its `examples`
//! fill tables of names, and keys that have no default. This module knows no daemon's keys by name.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use toml_edit::ser::ValueSerializer;
use toml_edit::{InlineTable, Key, Value as Toml};

use super::error::ConfigError;
use super::layer::ENV_PREFIX;
use super::shape::expected;
use super::tree::{join, overlay};
use super::{as_tree, invalid, schema, typed};

/// Lines are broken here, in columns.
const WIDTH: usize = 120;

/// What is said of an error in a schema, which no operator can make.
const ORIGIN: &str = "schema";

/// The reference of a daemon's configuration, the same on every machine. Its lines that begin with `#` and no space can be
/// used without that: they are examples, keys that have no default, and secrets.
///
/// # Errors
/// A key that has no description, one that has neither a default nor an example, or an example that does not fit.
pub fn reference<T>(program: &str) -> Result<String, ConfigError>
where
    T: Serialize + DeserializeOwned + Default + JsonSchema,
{
    let schema = schema::<T>();
    let default = as_tree(&T::default())?;
    let mut tree = default.clone();
    add_examples(&schema, &mut tree);
    let config: T = typed(&tree).map_err(|error| invalid(ORIGIN, &error))?;
    let whole = config
        .serialize(ValueSerializer::new())
        .map_err(|error| ConfigError::Layer {
            origin: ORIGIN.into(),
            problem: error.to_string(),
        })?;
    let mut page = Page::default();
    page.comment(&format!(
        "Every key of {program}'s configuration with its default, as `{program} config reference` prints it. Used as it is, this \
         file changes nothing."
    ));
    page.text.push_str("#\n");
    page.comment(
        "A line that begins with # and no space is an example, a key that has no default, or a secret: take the # away to use \
         it. Below each description stands what the key takes, and the environment variable that goes over the file; lists and \
         tables are written as JSON in variables.",
    );
    if let Some(entries) = whole.as_inline_table() {
        page.keys(&schema, entries, Some(&default), &[])?;
    }
    Ok(page.text)
}

/// Puts the schema's examples where the tree has nothing, and beside the entries of tables of names.
fn add_examples(schema: &Value, tree: &mut Value) {
    let (Some(known), Some(tree)) = (schema["properties"].as_object(), tree.as_object_mut()) else {
        return;
    };
    for (name, schema) in known {
        let names = &schema["additionalProperties"];
        let below = tree.entry(name).or_insert(Value::Null);
        if below.is_null() && schema["properties"].is_object() {
            *below = Value::Object(Map::new());
        }
        let mut filled = schema["examples"].get(0).cloned().unwrap_or_default();
        if below.is_null() || names.is_object() {
            overlay(&mut filled, below);
            *below = filled;
        }
        if names.is_object() {
            let entries = below.as_object_mut().into_iter().flat_map(Map::values_mut);
            entries.for_each(|entry| add_examples(names, entry));
        } else {
            add_examples(schema, below);
        }
        // Nothing is said where there is nothing to say, so that types fill in their defaults.
        if below.is_null() {
            tree.remove(name);
        }
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    /// The keys of a table, then its tables. `default` is what it holds by default; none for an example.
    fn keys(
        &mut self,
        schema: &Value,
        entries: &InlineTable,
        default: Option<&Value>,
        path: &[String],
    ) -> Result<(), ConfigError> {
        let known = schema["properties"].as_object();
        if let Some(name) = known
            .into_iter()
            .flat_map(Map::keys)
            .find(|name| !entries.contains_key(name))
        {
            return Err(lacks(&within(path, name), "neither a default nor an example"));
        }
        for (name, value) in entries.iter().filter(|(_, value)| !value.is_inline_table()) {
            let schema = &schema["properties"][name];
            let path = within(path, name);
            self.text.push('\n');
            self.comment(described(schema, &path)?);
            self.choices(schema);
            self.choices(&schema["items"]);
            self.entries(&schema["items"], value, &path)?;
            let variable = variable(&path);
            // A secret is never shown, and here there is none.
            let secret = schema["writeOnly"] == true;
            let has_file_key = entries.contains_key(&format!("{name}_file"));
            let of_secret = if secret && !has_file_key {
                format!(", or {variable}_FILE for a file that holds it")
            } else {
                String::new()
            };
            self.comment(&format!("Takes {}. Variable: {variable}{of_secret}.", taken(schema)));
            let used = default.is_some_and(|default| !default[name].is_null()) && !secret;
            self.line(used, name, value);
        }
        for (name, value) in entries.iter() {
            let Some(entries) = value.as_inline_table() else {
                continue;
            };
            let schema = &schema["properties"][name];
            let (path, default) = (within(path, name), default.map(|default| &default[name]));
            self.text.push('\n');
            self.comment(described(schema, &path)?);
            if schema["properties"].is_object() {
                self.head(default.is_some(), &path);
                self.keys(schema, entries, default, &path)?;
            } else {
                self.names(schema, entries, default, &path)?;
            }
        }
        Ok(())
    }

    /// A table whose keys are names of the operator's own.
    fn names(
        &mut self,
        schema: &Value,
        entries: &InlineTable,
        default: Option<&Value>,
        path: &[String],
    ) -> Result<(), ConfigError> {
        let entry = &schema["additionalProperties"];
        let is_table = entry["properties"].is_object();
        if is_table && entries.is_empty() {
            return Err(lacks(path, "no example"));
        }
        self.choices(entry);
        let each = if entry.is_object() {
            expected(entry)
        } else {
            "anything".into()
        };
        self.comment(&format!(
            "Takes a table of names, each with {each}. Variable: {}.",
            variable(path)
        ));
        self.head(default.is_some(), path);
        for (name, value) in entries.iter() {
            let default = default
                .map(|default| &default[name])
                .filter(|default| !default.is_null());
            match value.as_inline_table().filter(|_| is_table) {
                Some(entries) => {
                    let path = within(path, name);
                    self.text.push('\n');
                    self.comment(described(entry, &path)?);
                    self.head(default.is_some(), &path);
                    self.keys(entry, entries, default, &path)?;
                }
                None => self.line(default.is_some(), name, value),
            }
        }
        Ok(())
    }

    /// What each word means of which one must be taken.
    fn choices(&mut self, schema: &Value) {
        for choice in schema["oneOf"].as_array().into_iter().flatten() {
            if let (Some(word), Some(means)) = (choice["const"].as_str(), choice["description"].as_str()) {
                self.indented(&format!("{word}: {means}"));
            }
        }
    }

    /// The keys of a list's entries, in the order of its first one.
    fn entries(&mut self, schema: &Value, list: &Toml, path: &[String]) -> Result<(), ConfigError> {
        let first = list.as_array().and_then(|list| list.get(0)?.as_inline_table());
        let place = |name: &String| first.and_then(|first| first.iter().position(|(other, _)| other == name));
        let mut keys: Vec<(&String, &Value)> = schema["properties"].as_object().into_iter().flatten().collect();
        keys.sort_by_key(|(name, _)| place(name));
        for (name, of_key) in keys {
            let means = described(of_key, &within(path, name))?;
            let default = &of_key["default"];
            self.indented(&format!(
                "{name}: {means} Takes {}; {default} when left out.",
                taken(of_key)
            ));
        }
        Ok(())
    }

    fn head(&mut self, used: bool, path: &[String]) {
        let path: Vec<String> = path.iter().map(|part| Key::new(part).to_string()).collect();
        self.text.push_str(&format!("{}[{}]\n", mark(used), path.join(".")));
    }

    /// A key with its value, over several lines when it is a long list.
    fn line(&mut self, used: bool, name: &str, value: &Toml) {
        let (mark, name) = (mark(used), Key::new(name));
        let whole = format!("{mark}{name} = {value}\n");
        let list = value.as_array().filter(|_| whole.chars().count() > WIDTH);
        let Some(list) = list else {
            self.text.push_str(&whole);
            return;
        };
        self.text.push_str(&format!("{mark}{name} = [\n"));
        for item in list.iter() {
            let indent = if used { "    " } else { mark };
            self.text.push_str(&format!("{indent}{},\n", item.to_string().trim()));
        }
        self.text.push_str(&format!("{mark}]\n"));
    }

    fn comment(&mut self, text: &str) {
        self.wrapped("# ", text);
    }

    fn indented(&mut self, text: &str) {
        self.wrapped("#   ", text);
    }

    fn wrapped(&mut self, before: &str, text: &str) {
        let mut line = String::new();
        for word in text.split_whitespace() {
            let length = before.len() + line.chars().count() + 1 + word.chars().count();
            if !line.is_empty() && length > WIDTH {
                self.text.push_str(&format!("{before}{line}\n"));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.text.push_str(&format!("{before}{line}\n"));
    }
}

const fn mark(used: bool) -> &'static str {
    if used { "" } else { "#" }
}

fn within(path: &[String], name: &str) -> Vec<String> {
    [path, &[name.to_owned()]].concat()
}

fn variable(path: &[String]) -> String {
    let parts: Vec<String> = path.iter().map(|part| part.to_uppercase()).collect();
    format!("{ENV_PREFIX}{}", parts.join("__"))
}

/// What a key takes; of a list, also what its entries are.
fn taken(schema: &Value) -> String {
    let whole = expected(schema);
    match schema.get("items") {
        Some(item) if whole == "a list" && item.is_object() => format!("a list, each entry {}", expected(item)),
        _ => whole,
    }
}

fn described<'a>(schema: &'a Value, path: &[String]) -> Result<&'a str, ConfigError> {
    let text = schema["description"].as_str().filter(|text| !text.trim().is_empty());
    text.ok_or_else(|| lacks(path, "no description"))
}

fn lacks(path: &[String], what: &str) -> ConfigError {
    ConfigError::Invalid {
        origin: ORIGIN.into(),
        key: join(path),
        problem: format!("it has {what}"),
    }
}

#[cfg(test)]
#[path = "reference_tests.rs"]
mod tests;
