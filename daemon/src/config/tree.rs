//! Configuration trees as JSON: keys with dots, merging, what differs between two, and what of them is a secret.
//!
//! Knows no schema: which keys hold secrets is a rule over their names, [`is_secret_key`]. Each daemon has a test that its
//! secret types all have such names.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map, Value};

use crate::redact;

/// What stands in a secret's place.
pub const HIDDEN: &str = "***";

/// One key that differs between two trees. Secrets are hidden; what is not there is null.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The key, joined by dots.
    pub key: String,
    /// What it was.
    pub before: Value,
    /// What it is.
    pub after: Value,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} → {}", self.key, self.before, self.after)
    }
}

/// Joins the parts of a key by dots; a part that would be misread is quoted, as TOML has it.
pub fn join<'a>(parts: impl IntoIterator<Item = &'a String>) -> String {
    let parts = parts.into_iter().map(|part| {
        let plain = !part.is_empty() && !part.contains(|c: char| c == '.' || c == '"' || c.is_whitespace());
        if plain {
            Cow::Borrowed(part.as_str())
        } else {
            Cow::Owned(format!("{part:?}"))
        }
    });
    parts.collect::<Vec<_>>().join(".")
}

/// Takes a key apart at its dots, but for those within quotes.
#[must_use]
pub fn split(key: &str) -> Vec<String> {
    let (mut parts, mut part, mut quoted) = (Vec::new(), String::new(), false);
    for c in key.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(std::mem::take(&mut part)),
            _ => part.push(c),
        }
    }
    parts.push(part);
    parts
}

/// Puts one layer over another: tables key by key, all else as a whole. A null says nothing.
pub fn overlay(below: &mut Value, above: &Value) {
    match (below, above) {
        (_, Value::Null) => {}
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above.iter().filter(|(_, value)| !value.is_null()) {
                overlay(below.entry(key).or_insert(Value::Null), value);
            }
        }
        (below, Value::Object(above)) => {
            *below = Value::Object(Map::new());
            overlay(below, &Value::Object(above.clone()));
        }
        (below, above) => *below = above.clone(),
    }
}

/// Applies a JSON merge patch as RFC 7386 has it: tables key by key, null removes, all else replaces.
#[must_use]
pub fn merge_patch(tree: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut merged = tree.as_object().cloned().unwrap_or_default();
    for (key, value) in patch {
        if value.is_null() {
            merged.remove(key);
        } else {
            let below = merged.get(key).unwrap_or(&Value::Null);
            let value = merge_patch(below, value);
            merged.insert(key.clone(), value);
        }
    }
    Value::Object(merged)
}

/// What differs between two trees, key by key and in their order. Secrets are hidden, but that they changed is not.
#[must_use]
pub fn diff(before: &Value, after: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(&mut Vec::new(), before, after, &mut changes);
    changes
}

fn compare(path: &mut Vec<String>, before: &Value, after: &Value, changes: &mut Vec<Change>) {
    if before == after {
        return;
    }
    let none = Map::new();
    let (left, right) = match (before, after) {
        (Value::Object(left), Value::Object(right)) => (left, right),
        (Value::Object(left), Value::Null) if !left.is_empty() => (left, &none),
        (Value::Null, Value::Object(right)) if !right.is_empty() => (&none, right),
        _ => {
            changes.push(Change {
                key: join(path.iter()),
                before: redacted_at(path, before),
                after: redacted_at(path, after),
            });
            return;
        }
    };
    let mut keys: Vec<&String> = left.keys().chain(right.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        path.push(key.clone());
        let of = |tree: &Map<String, Value>| tree.get(key).cloned().unwrap_or(Value::Null);
        compare(path, &of(left), &of(right), changes);
        path.pop();
    }
}

/// Every key that has a value of its own, with it: tables are walked through, lists are values.
#[must_use]
pub fn leaves(tree: &Value) -> Vec<(Vec<String>, &Value)> {
    fn walk<'a>(path: &mut Vec<String>, tree: &'a Value, found: &mut Vec<(Vec<String>, &'a Value)>) {
        match tree {
            Value::Object(inner) if !inner.is_empty() || path.is_empty() => {
                for (key, value) in inner {
                    path.push(key.clone());
                    walk(path, value, found);
                    path.pop();
                }
            }
            _ => found.push((path.clone(), tree)),
        }
    }
    let mut found = Vec::new();
    walk(&mut Vec::new(), tree, &mut found);
    found
}

/// Whether the key of this name holds a secret, or a table of them. Names of files and directories do not.
#[must_use]
pub fn is_secret_key(name: &str) -> bool {
    let is_place = ["_file", "_dir", "_path", "_id"].iter().any(|end| name.ends_with(end));
    name == "options" || !is_place && redact::is_secret(name)
}

/// The tree without its secrets: what stands at a secret key, and passwords within texts such as URLs.
#[must_use]
pub fn redacted(tree: &Value) -> Value {
    redacted_at(&[], tree)
}

fn redacted_at(path: &[String], value: &Value) -> Value {
    if path.iter().any(|part| is_secret_key(part)) {
        return hidden(value);
    }
    match value {
        Value::Object(inner) => {
            let inner = inner.iter().map(|(key, value)| {
                let value = redacted_at(std::slice::from_ref(key), value);
                (key.clone(), value)
            });
            Value::Object(inner.collect())
        }
        Value::Array(items) => items.iter().map(|item| redacted_at(&[], item)).collect(),
        Value::String(text) => Value::String(redact::text(text)),
        other => other.clone(),
    }
}

/// A secret as it may be shown: whether there is one.
fn hidden(value: &Value) -> Value {
    match value {
        Value::Object(inner) => Value::Object(inner.iter().map(|(key, value)| (key.clone(), hidden(value))).collect()),
        Value::Array(items) => items.iter().map(hidden).collect(),
        Value::Null => Value::Null,
        Value::String(text) if text.is_empty() => value.clone(),
        _ => Value::String(HIDDEN.into()),
    }
}

/// Puts the secrets of `raw` where `shown` has something in their place.
pub(super) fn unhide(shown: &mut Value, raw: &Value) {
    match (shown, raw) {
        (Value::Object(shown), Value::Object(raw)) => {
            for (key, value) in shown {
                if let Some(raw) = raw.get(key) {
                    unhide(value, raw);
                }
            }
        }
        (Value::Array(shown), Value::Array(raw)) => {
            for (shown, raw) in shown.iter_mut().zip(raw) {
                unhide(shown, raw);
            }
        }
        (shown @ Value::String(_), Value::String(_)) if shown == HIDDEN => *shown = raw.clone(),
        _ => {}
    }
}

/// The first key at which a secret would be set to what stands for one.
#[must_use]
pub fn set_to_hidden(patch: &Value) -> Option<String> {
    fn holds(value: &Value) -> bool {
        match value {
            Value::Array(items) => items.iter().any(holds),
            Value::Object(inner) => inner.values().any(holds),
            other => other == HIDDEN,
        }
    }
    let leaves = leaves(patch);
    let hidden = leaves.iter().find(|(_, value)| holds(value));
    hidden.map(|(path, _)| join(path))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_does_what_the_rfc_shows() {
        // The cases of RFC 7386, appendix A.
        for (tree, patch, expected) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (
                json!({"a":{"b":"c"}}),
                json!({"a":{"b":"d","c":null}}),
                json!({"a":{"b":"d"}}),
            ),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"a":"foo"}), json!("bar"), json!("bar")),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            assert_eq!(merge_patch(&tree, &patch), expected, "{tree} {patch}");
        }
    }

    #[test]
    fn a_difference_names_keys_and_hides_secrets() {
        let before = json!({"a": {"b": 1, "c": [1]}, "password": "x", "gone": {"k": 1}, "same": 1});
        let after = json!({"a": {"b": 2, "c": [1]}, "password": "y", "x.y": "http://me:s3cret@h", "same": 1});
        let changes: Vec<String> = diff(&before, &after).iter().map(Change::to_string).collect();
        assert_eq!(
            changes,
            [
                "a.b: 1 → 2",
                "gone.k: 1 → null",
                "password: \"***\" → \"***\"",
                "\"x.y\": null → \"http://***@h\"",
            ]
        );
        assert_eq!(diff(&before, &before), []);
    }

    #[test]
    fn keys_come_apart_as_they_were_joined() {
        for parts in [
            vec!["a"],
            vec!["a", "b.c", "d"],
            vec!["", "x y"],
            vec!["/", "WMS/GetMap"],
        ] {
            let parts: Vec<String> = parts.into_iter().map(str::to_owned).collect();
            assert_eq!(split(&join(&parts)), parts);
        }
        assert_eq!(split("pools.\"a.b\".hosts"), ["pools", "a.b", "hosts"]);
    }

    #[test]
    fn secrets_are_shown_nowhere_and_places_are() {
        let tree = json!({
            "secret_access_key": "s3cret", "secret_access_key_file": "/run/secrets/x", "access_key_id": "who",
            "session_token": "", "options": {"url": "s3cret", "deep": ["s3cret", 5]},
            "search_paths": {"/": "postgresql://me:s3cret@host/db"}, "tokens": {"ann": "s3cret"},
            "list": [{"password": "s3cret"}], "key_file": "/a.key", "n": 1,
        });
        let shown = redacted(&tree);
        assert!(!shown.to_string().contains("s3cret"), "{shown}");
        assert_eq!(shown["secret_access_key_file"], "/run/secrets/x");
        assert_eq!(shown["access_key_id"], "who");
        assert_eq!(shown["session_token"], "");
        assert_eq!(shown["key_file"], "/a.key");
        assert_eq!(shown["n"], 1);
        assert_eq!(set_to_hidden(&shown).as_deref(), Some("list"));
    }

    #[test]
    fn layers_lie_over_each_other_key_by_key() {
        let mut tree = json!({"a": {"b": 1, "c": 2}, "l": [1, 2], "n": 1});
        overlay(
            &mut tree,
            &json!({"a": {"c": 3, "d": {"e": null}}, "l": [3], "n": null}),
        );
        assert_eq!(tree, json!({"a": {"b": 1, "c": 3, "d": {}}, "l": [3], "n": 1}));
    }
}
