//! Checks a tree against a JSON Schema as far as our own schemas go: names of keys, types, ranges, choices.
//!
//! The schema is the types' own (`schemars`), without references. What it cannot say is found when the tree is read into
//! the types, and by each daemon's checks.

use serde_json::{Map, Value};

use super::error::{ConfigError, nearest, unknown};
use super::tree::{is_secret_key, join};

/// What a schema says stands below a key.
pub(super) enum Below<'a> {
    /// This.
    Known(&'a Value),
    /// Anything.
    Any,
    /// No such key; these are known.
    Unknown(Vec<String>),
}

/// What stands at `key` of a table of this schema.
pub(super) fn below<'a>(schema: &'a Value, key: &str) -> Below<'a> {
    let mut known = Vec::new();
    for schema in variants(schema) {
        let properties = schema["properties"].as_object();
        if let Some(found) = properties.and_then(|properties| properties.get(key)) {
            return Below::Known(found);
        }
        match &schema["additionalProperties"] {
            Value::Bool(false) => {}
            any @ Value::Object(_) => return Below::Known(any),
            Value::Bool(true) => return Below::Any,
            _ if properties.is_none() && takes(schema, "object") => return Below::Any,
            _ => {}
        }
        known.extend(properties.into_iter().flat_map(Map::keys).cloned());
    }
    Below::Unknown(known)
}

/// The schema itself, or those of which one holds.
fn variants(schema: &Value) -> Vec<&Value> {
    let of = |name: &str| schema[name].as_array();
    match of("anyOf").or_else(|| of("oneOf")) {
        Some(variants) => variants.iter().flat_map(variants_of).collect(),
        None => vec![schema],
    }
}

fn variants_of(schema: &Value) -> Vec<&Value> {
    variants(schema)
}

/// Whether a value of this type may stand here.
pub(super) fn takes(schema: &Value, kind: &str) -> bool {
    variants(schema).into_iter().any(|schema| match &schema["type"] {
        Value::String(one) => one == kind,
        Value::Array(some) => some.iter().any(|one| one == kind),
        _ => choices_of(schema).is_empty() || kind == "string",
    })
}

/// The words of which one must stand here; none when any may.
pub(super) fn choices(schema: &Value) -> Vec<String> {
    let mut words = Vec::new();
    for schema in variants(schema) {
        let these = choices_of(schema);
        if these.is_empty() && schema["type"] != "null" {
            return Vec::new();
        }
        words.extend(these);
    }
    words
}

fn choices_of(schema: &Value) -> Vec<String> {
    let constant = schema["const"].as_str().map(str::to_owned);
    let several = schema["enum"].as_array().into_iter().flatten();
    constant
        .into_iter()
        .chain(several.filter_map(|word| word.as_str().map(str::to_owned)))
        .collect()
}

/// Every key that can be set, joined by dots: tables of named keys are walked through, tables of names of one's own and
/// lists are keys themselves.
#[must_use]
pub fn keys(schema: &Value) -> Vec<String> {
    fn walk(schema: &Value, path: &mut Vec<String>, keys: &mut Vec<String>) {
        let properties = variants(schema)
            .into_iter()
            .find_map(|schema| schema["properties"].as_object());
        let Some(properties) = properties else {
            keys.push(join(path.iter()));
            return;
        };
        for (name, schema) in properties {
            path.push(name.clone());
            walk(schema, path, keys);
            path.pop();
        }
    }
    let mut keys = Vec::new();
    walk(schema, &mut Vec::new(), &mut keys);
    keys
}

/// Finds the first key of `tree` that the schema does not have, or value that it does not allow.
pub(super) fn check(
    schema: &Value,
    tree: &Value,
    path: &mut Vec<String>,
    origin: &dyn Fn(&[String]) -> String,
) -> Result<(), ConfigError> {
    if tree.is_null() {
        return Ok(());
    }
    let wrong = |path: &[String], problem: String| {
        Err(ConfigError::Invalid {
            origin: origin(path),
            key: join(path),
            problem,
        })
    };
    let kind = kind(tree);
    let fits = takes(schema, kind) || (kind == "integer" && takes(schema, "number"));
    if !fits {
        let (expected, found) = (expected(schema), found(path, tree));
        return wrong(path, format!("expected {expected}, found {found}"));
    }
    match tree {
        Value::Object(inner) => {
            for (key, value) in inner {
                path.push(key.clone());
                match below(schema, key) {
                    Below::Known(schema) => check(schema, value, path, origin)?,
                    Below::Any => {}
                    Below::Unknown(known) => return Err(unknown(&origin(path), path, &known)),
                }
                path.pop();
            }
        }
        Value::Array(items) => {
            let of_items = variants(schema).into_iter().find_map(|schema| schema.get("items"));
            for (index, item) in items.iter().enumerate() {
                let Some(schema) = of_items else { break };
                let list = path.pop().unwrap_or_default();
                path.push(format!("{list}[{index}]"));
                check(schema, item, path, origin)?;
                path.pop();
                path.push(list);
            }
        }
        Value::String(text) => {
            let words = choices(schema);
            if !words.is_empty() && !words.contains(text) {
                let hint = nearest(text, &words).map(|word| format!(", did you mean `{word}`?"));
                let (expected, hint) = (expected(schema), hint.unwrap_or_default());
                return wrong(path, format!("expected {expected}, found `{text}`{hint}"));
            }
        }
        Value::Number(number) => {
            if number.as_f64().is_some_and(|number| !within(schema, number)) {
                let range = bounds(schema).map(|bounds| range(&bounds)).unwrap_or_default();
                return wrong(path, format!("expected {range}, found {number}"));
            }
        }
        Value::Bool(_) | Value::Null => {}
    }
    Ok(())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What was found, without what may be a secret.
fn found(path: &[String], value: &Value) -> String {
    let word = match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    };
    let shown = matches!(value, Value::Bool(_) | Value::Number(_)) && !path.iter().any(|part| is_secret_key(part));
    if shown { value.to_string() } else { word.to_owned() }
}

/// The bounds of a number: least, whether that itself is excluded, greatest.
struct Bounds {
    least: Option<f64>,
    above: Option<f64>,
    most: Option<f64>,
}

fn bounds(schema: &Value) -> Option<Bounds> {
    let schema = variants(schema)
        .into_iter()
        .find(|schema| takes(schema, "number") || takes(schema, "integer"))?;
    let at = |name: &str| schema[name].as_f64();
    Some(Bounds {
        least: at("minimum"),
        above: at("exclusiveMinimum"),
        most: at("maximum"),
    })
}

fn within(schema: &Value, number: f64) -> bool {
    bounds(schema).is_none_or(|bounds| {
        bounds.least.is_none_or(|least| number >= least)
            && bounds.above.is_none_or(|above| number > above)
            && bounds.most.is_none_or(|most| number <= most)
    })
}

/// What may stand here, in words: the type's own (`x-expected`), else its kind and its range.
pub(super) fn expected(schema: &Value) -> String {
    if let Some(words) = schema["x-expected"].as_str() {
        return words.to_owned();
    }
    let words = choices(schema);
    if !words.is_empty() {
        return format!("one of {}", words.join(", "));
    }
    let kinds = [
        ("string", "a text"),
        ("boolean", "true or false"),
        ("integer", "a whole number"),
        ("number", "a number"),
        ("array", "a list"),
        ("object", "a table"),
    ];
    let kinds: Vec<&str> = kinds
        .into_iter()
        .filter(|(kind, _)| takes(schema, kind))
        .map(|(_, words)| words)
        .collect();
    match bounds(schema).map(|bounds| range(&bounds)) {
        Some(range) if !range.is_empty() => format!("{} of {range}", kinds.join(" or ")),
        _ => kinds.join(" or "),
    }
}

/// The range in words; empty when there is none.
fn range(bounds: &Bounds) -> String {
    let least = match (bounds.least, bounds.above) {
        (_, Some(above)) => Some(format!("more than {above}")),
        (Some(least), None) => Some(format!("at least {least}")),
        (None, None) => None,
    };
    match (least, bounds.most) {
        (Some(least), Some(most)) => format!("{least} and at most {most}"),
        (Some(least), None) => least,
        (None, Some(most)) => format!("at most {most}"),
        (None, None) => String::new(),
    }
}
