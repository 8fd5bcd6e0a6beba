//! A configuration for people: every key with its value and where that comes from.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::tree::{join, leaves, redacted, split};

/// One line for each key, secrets hidden; only those at or below `key` when one is given.
#[must_use]
pub fn listing(tree: &Value, origins: &BTreeMap<String, String>, key: Option<&str>) -> String {
    let tree = redacted(tree);
    let within = key.map(split).unwrap_or_default();
    let shown: Vec<(String, String)> = leaves(&tree)
        .into_iter()
        .filter(|(path, _)| path.starts_with(&within))
        .map(|(path, value)| (join(&path), value.to_string()))
        .collect();
    let width = |texts: &mut dyn Iterator<Item = usize>| texts.filter(|width| *width <= 48).max().unwrap_or_default();
    let keys = width(&mut shown.iter().map(|(key, _)| key.chars().count()));
    let values = width(&mut shown.iter().map(|(_, value)| value.chars().count()));
    let mut text = String::new();
    for (key, value) in shown {
        let origin = origins.get(&key).map_or("default", String::as_str);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key:keys$} = {value:values$}  # {origin}");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_key_has_a_line_and_secrets_are_hidden() {
        let tree = json!({"a": {"b": 1, "password": "s3cret"}, "c": [], "d": {}});
        let origins = BTreeMap::from([("a.b".to_owned(), "x.toml, line 2".to_owned())]);
        assert_eq!(
            listing(&tree, &origins, None),
            "a.b        = 1      # x.toml, line 2\na.password = \"***\"  # default\nc          = []     # default\nd          = {}     # default\n"
        );
        assert_eq!(listing(&tree, &origins, Some("a.b")), "a.b = 1  # x.toml, line 2\n");
    }
}
