//! Reads what the repository holds as data: text, YAML, JSON, the names of metrics.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use stack::parts;

/// The text of a file of the repository.
pub fn text(path: &str) -> String {
    std::fs::read_to_string(parts::root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A JSON file of the repository.
pub fn json(path: &str) -> Value {
    serde_json::from_str(&text(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A YAML file of the repository, anchors and merge keys resolved. Read by the Python that QGIS needs anyway.
pub fn yaml(path: &str) -> Value {
    let read = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let output = Command::new("/usr/bin/python3")
        .args(["-c", read])
        .arg(parts::root().join(path))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{path}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The entries of an object.
pub fn fields(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value
        .as_object()
        .unwrap_or_else(|| panic!("{value} is no object"))
        .iter()
        .map(|(key, value)| (key.as_str(), value))
}

/// The entries of a list; none when it is not there.
pub fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A field that must be a text.
pub fn string<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no `{key}` in {value}"))
}

/// The variables `${NAME:-default}` of a text, in order.
pub fn variables(text: &str) -> Vec<(String, String)> {
    let after = text.split("${").skip(1);
    after
        .map(|rest| {
            let inner = rest
                .split_once('}')
                .unwrap_or_else(|| panic!("`${{{rest}` does not end"))
                .0;
            let (name, default) = inner
                .split_once(":-")
                .unwrap_or_else(|| panic!("${{{inner}}} has no default"));
            (name.to_owned(), default.to_owned())
        })
        .collect()
}

/// A value as it is when no variable is set.
pub fn with_defaults(value: &Value) -> Value {
    match value {
        Value::String(text) => {
            let fill = |text: String, (name, default): (String, String)| {
                text.replace(&format!("${{{name}:-{default}}}"), &default)
            };
            variables(text).into_iter().fold(text.clone(), fill).into()
        }
        Value::Array(values) => values.iter().map(with_defaults).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), with_defaults(value)))
            .collect(),
        other => other.clone(),
    }
}

/// The metrics that a source file defines: every literal that begins with `graticule_`.
pub fn metrics_of(path: &str) -> BTreeSet<String> {
    assert!(Path::new(path).extension().is_some_and(|extension| extension == "rs"));
    let source = text(path);
    let literals = source.split('"').skip(1).step_by(2);
    let names: BTreeSet<String> = literals
        .filter(|name| name.starts_with("graticule_") && is_name(name))
        .map(str::to_owned)
        .collect();
    assert!(
        names.len() > 1,
        "{path} no longer defines metrics as text literals: {names:?}"
    );
    names
}

fn is_name(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The metrics that a PromQL expression asks for, without what a histogram adds to its name.
pub fn metrics_in(expression: &str) -> BTreeSet<String> {
    // Labels stand in braces and after `by`, `on` and the like; what is quoted is within braces.
    let mut bare = String::new();
    let mut depth = 0_u32;
    for c in expression.chars() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                bare.push(' ');
            }
            c if depth == 0 => bare.push(c),
            _ => {}
        }
    }
    for word in ["by", "without", "on", "ignoring", "group_left", "group_right"] {
        while let Some(at) = bare.find(&format!("{word} (")) {
            let end = at + bare[at..].find(')').expect("a parenthesis ends");
            bare.replace_range(at..=end, " ");
        }
    }
    let words = bare.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let metrics = words.filter(|word| word.starts_with("graticule_") || word.starts_with("envoy_"));
    metrics.map(|name| base_name(name).to_owned()).collect()
}

/// A metric's name without what a histogram adds to it.
pub fn base_name(name: &str) -> &str {
    ["_bucket", "_count", "_sum"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name)
}

/// What a page in Prometheus's text format shows: each metric with the labels of its series.
pub fn scraped(page: &str) -> BTreeMap<String, Vec<String>> {
    let mut metrics: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        metrics
            .entry(base_name(name).to_owned())
            .or_default()
            .push(line.to_owned());
    }
    metrics
}
