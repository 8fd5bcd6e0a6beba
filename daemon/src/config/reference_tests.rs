use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::{Secret, load};
use super::*;

/// The order of the fields is not the alphabet's.
#[derive(Debug, Default, Serialize, Deserialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Tree {
    /// How it
    /// works.
    zone: Zone,
    /// Roots.
    #[schemars(extend("examples" = [{"/": "/srv"}]))]
    paths: BTreeMap<String, String>,
    /// Buckets.
    #[schemars(extend("examples" = [{"maps": {"region": "x"}}]))]
    buckets: BTreeMap<String, Bucket>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Zone {
    /// How long, in seconds.
    #[schemars(range(min = 0, max = 60))]
    timeout: f64,
    /// How.
    method: Method,
    /// Rules.
    rules: Vec<Rule>,
    /// Whether.
    #[schemars(extend("examples" = [false]))]
    enabled: Option<bool>,
    /// Times.
    #[schemars(extend("examples" = [{"b": 2.0}]))]
    times: BTreeMap<String, f64>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Method {
    /// One.
    Fork,
    /// Another.
    Spawn,
}

#[derive(Debug, Default, Serialize, Deserialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Rule {
    /// What.
    service: String,
    /// For whom.
    project: String,
}

/// A bucket.
#[derive(Debug, Default, Serialize, Deserialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Bucket {
    /// Where.
    region: String,
    /// The secret.
    password: Secret,
    /// A token.
    token: Secret,
    /// A file with it.
    token_file: String,
    /// Tags.
    tags: BTreeMap<String, String>,
}

impl Default for Zone {
    fn default() -> Self {
        let rule = |service: &str| Rule {
            service: service.repeat(60),
            project: String::new(),
        };
        Self {
            timeout: 20.0,
            method: Method::Fork,
            rules: vec![rule("a"), rule("b")],
            enabled: None,
            times: [("A/b".to_owned(), 1.0)].into(),
        }
    }
}

const KEYS: &str = r##"
# How it works.
[zone]

# How long, in seconds.
# Takes a number of at least 0 and at most 60. Variable: CONF_ZONE__TIMEOUT.
timeout = 20.0

# How.
#   fork: One.
#   spawn: Another.
# Takes one of fork, spawn. Variable: CONF_ZONE__METHOD.
method = "fork"

# Rules.
#   service: What. Takes a text; "" when left out.
#   project: For whom. Takes a text; "" when left out.
# Takes a list, each entry a table. Variable: CONF_ZONE__RULES.
rules = [
    { service = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", project = "" },
    { service = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", project = "" },
]

# Whether.
# Takes true or false. Variable: CONF_ZONE__ENABLED.
#enabled = false

# Times.
# Takes a table of names, each with a number. Variable: CONF_ZONE__TIMES.
[zone.times]
"A/b" = 1.0
#b = 2.0

# Roots.
# Takes a table of names, each with a text. Variable: CONF_PATHS.
[paths]
#"/" = "/srv"

# Buckets.
# Takes a table of names, each with a table. Variable: CONF_BUCKETS.
[buckets]

# A bucket.
#[buckets.maps]

# Where.
# Takes a text. Variable: CONF_BUCKETS__MAPS__REGION.
#region = "x"

# The secret.
# Takes a text. Variable: CONF_BUCKETS__MAPS__PASSWORD, or CONF_BUCKETS__MAPS__PASSWORD_FILE for a file that holds it.
#password = ""

# A token.
# Takes a text. Variable: CONF_BUCKETS__MAPS__TOKEN.
#token = ""

# A file with it.
# Takes a text. Variable: CONF_BUCKETS__MAPS__TOKEN_FILE.
#token_file = ""

# Tags.
# Takes a table of names, each with a text. Variable: CONF_BUCKETS__MAPS__TAGS.
#[buckets.maps.tags]
"##;

fn loaded(text: &str) -> Tree {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    load(Some(file.path()), []).unwrap()
}

#[test]
fn a_reference_has_every_key_in_the_order_of_the_types_and_changes_nothing() {
    let text = reference::<Tree>("tool").unwrap();
    let head = text.find("\n\n").unwrap() + 1;
    assert!(text.starts_with("# Every key of tool's configuration"), "{text}");
    assert_eq!(&text[head..], KEYS);
    assert_eq!(loaded(&text), Tree::default());
}

#[test]
fn its_examples_can_be_used() {
    let tree = loaded(&stack::reference::with_examples(&reference::<Tree>("tool").unwrap()));
    assert_eq!((tree.zone.enabled, tree.zone.times.len()), (Some(false), 2));
    assert_eq!(tree.paths["/"], "/srv");
    assert_eq!(tree.buckets["maps"].region, "x");
    assert!(tree.buckets["maps"].password.is_empty());
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Mute {
    silent: u8,
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Open {
    /// It has no default.
    open: Option<u8>,
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Unnamed {
    /// It has no entry.
    open: BTreeMap<String, Open>,
}

#[test]
fn a_key_of_which_too_little_is_known_is_named() {
    let said = reference::<Mute>("tool").unwrap_err().to_string();
    assert_eq!(said, "schema: `silent`: it has no description");
    let said = reference::<Open>("tool").unwrap_err().to_string();
    assert_eq!(said, "schema: `open`: it has neither a default nor an example");
    let said = reference::<Unnamed>("tool").unwrap_err().to_string();
    assert_eq!(said, "schema: `open`: it has no example");
}
