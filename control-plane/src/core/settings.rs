//! Settings: what operators have changed of the configuration while the control plane ran, kept in the store and laid over
//! the file and the environment. And the rule of which keys may change while it runs.
//!
//! What it does not know: files, the keys' meaning.

use serde_json::{Map, Value};

/// What needs a restart: the ports of this daemon itself, who may ask there, where state is kept, and the form of the log.
/// Everything else is carried by what agents and Envoys are told, and may change at any time. A key stands for all below it.
pub const FIXED: [&str; 7] = [
    "xds",
    "fleet.listen",
    "fleet.tls",
    "fleet.access",
    "status",
    "store",
    "logging.format",
];

/// What operators have set, as it is kept. Each change has a revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Grows with every change; 0 before the first.
    pub revision: u64,
    /// The keys that are set, in the configuration's own shape. It has no nulls.
    pub tree: Map<String, Value>,
}

impl Settings {
    /// The same after a merge patch (RFC 7386): what is null there is no longer set, and the file counts again.
    #[must_use]
    pub fn patched(&self, patch: &Map<String, Value>) -> Self {
        let mut tree = self.tree.clone();
        merge(&mut tree, patch);
        let revision = self.revision + u64::from(tree != self.tree);
        Self { revision, tree }
    }
}

fn merge(tree: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                tree.remove(key);
            }
            Value::Object(below) => {
                let inner = tree.entry(key.clone()).or_insert_with(|| Value::Object(Map::new()));
                if !inner.is_object() {
                    *inner = Value::Object(Map::new());
                }
                if let Value::Object(inner) = inner {
                    merge(inner, below);
                }
                // A table of which nothing is set any more would still say that it is there.
                if !below.is_empty() && tree.get(key).and_then(Value::as_object).is_some_and(Map::is_empty) {
                    tree.remove(key);
                }
            }
            value => {
                tree.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Those of the changed keys that need a restart.
pub fn fixed<'a>(changed: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let is_below = |key: &str, above: &str| {
        key.strip_prefix(above)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    changed
        .into_iter()
        .filter(|key| FIXED.iter().any(|fixed| is_below(key, fixed) || is_below(fixed, key)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn a_patch_sets_and_takes_back() {
        let none = Settings::default();
        let set = none.patched(&object(&json!({"front": {"request_timeout": 9.0, "affinity": false}})));
        assert_eq!(
            (set.revision, set.tree["front"]["request_timeout"].clone()),
            (1, json!(9.0))
        );
        let again = set.patched(&object(&json!({"front": {"affinity": false}})));
        assert_eq!(again, set, "nothing new, no new revision");
        let fewer = set.patched(&object(&json!({"front": {"affinity": null}})));
        assert_eq!(
            (fewer.revision, fewer.tree["front"].clone()),
            (2, json!({"request_timeout": 9.0}))
        );
        let back = fewer.patched(&object(&json!({"front": {"request_timeout": null}})));
        assert_eq!((back.revision, back.tree.len()), (3, 0), "no empty table stays behind");
        let nothing = none.patched(&object(&json!({"front": {"affinity": null}, "pools": null})));
        assert_eq!(nothing, none, "nulls are never kept");
        // A pool of defaults is an empty table, and is kept.
        let pool = none.patched(&object(&json!({"pools": {"maps": {}}})));
        assert_eq!(pool.tree["pools"], json!({"maps": {}}));
    }

    #[test]
    fn what_needs_a_restart_is_found_above_and_below() {
        let changed = [
            "front.listen",
            "xds.listen",
            "store",
            "fleet.silence_limit",
            "statuses",
            "logging.format",
            "fleet",
        ];
        assert_eq!(fixed(changed), ["xds.listen", "store", "logging.format", "fleet"]);
    }
}
