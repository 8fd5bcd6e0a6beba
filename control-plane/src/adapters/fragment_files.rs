//! Puts what stands in fragments' files into the configuration's tree, as if it stood there.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use graticule_daemon::config::{Format, document};
use serde_json::{Map, Value};

/// A larger file is refused, in bytes.
const LARGEST: u64 = 4 * 1024 * 1024;

/// What a file may say.
const KEYS: [&str; 3] = ["listeners", "clusters", "http_filters"];

/// The files that the fragments of a tree name.
#[must_use]
pub fn named(tree: &Value) -> Vec<PathBuf> {
    let fragments = tree["fragments"].as_object();
    let files = fragments.into_iter().flat_map(Map::values).filter_map(file_of);
    files.map(Path::to_owned).collect()
}

/// The tree with the contents of these files.
///
/// # Errors
/// The first file that cannot be read, or says something else.
pub fn filled(tree: &Value) -> Result<Value, String> {
    let mut filled = tree.clone();
    let fragments = filled.get_mut("fragments").and_then(Value::as_object_mut);
    for (name, fragment) in fragments.into_iter().flatten() {
        let Some(file) = file_of(fragment).map(Path::to_owned) else {
            continue;
        };
        let fault = |problem: String| format!("`fragments.{name}.file`: {}: {problem}", file.display());
        let is_said = |key: &&str| fragment[*key].as_array().is_some_and(|items| !items.is_empty());
        if let Some(key) = KEYS.into_iter().find(is_said) {
            return Err(fault(format!(
                "`{key}` stands beside it; it belongs into the file, or the file has to go"
            )));
        }
        for (key, value) in read(&file).map_err(fault)? {
            if !KEYS.contains(&key.as_str()) {
                let fits = format!("`{key}` cannot stand there, only {}", KEYS.join(", "));
                return Err(fault(fits));
            }
            if !value.is_array() {
                return Err(fault(format!("`{key}` is no list")));
            }
            fragment[key] = value;
        }
    }
    Ok(filled)
}

fn file_of(fragment: &Value) -> Option<&Path> {
    let file = fragment["file"].as_str().filter(|file| !file.is_empty())?;
    Some(Path::new(file))
}

fn read(file: &Path) -> Result<Map<String, Value>, String> {
    let said = |error: std::io::Error| error.to_string();
    let mut text = String::new();
    let read = File::open(file)
        .map_err(said)?
        .take(LARGEST + 1)
        .read_to_string(&mut text);
    if read.map_err(said)? as u64 > LARGEST {
        return Err(format!("it is larger than {} MiB", LARGEST / 1024 / 1024));
    }
    match document(&text, Format::of(file))? {
        Value::Object(keys) => Ok(keys),
        _ => Err("expected a table of keys".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_stands_for_what_it_says_and_what_it_must_not_say_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let tree = |name: &str, text: Option<&str>| {
            let file = dir.path().join(name);
            if let Some(text) = text {
                std::fs::write(&file, text).unwrap();
            }
            json!({"fragments": {"own": {"file": file, "listeners": [], "clusters": [], "http_filters": []}}})
        };
        let yaml = tree("own.yaml", Some("clusters:\n- name: a\n  connect_timeout: 1s\n"));
        let clusters = json!([{"name": "a", "connect_timeout": "1s"}]);
        assert_eq!(filled(&yaml).unwrap()["fragments"]["own"]["clusters"], clusters);
        assert_eq!(named(&yaml), [dir.path().join("own.yaml")]);
        let json = tree(
            "own.json",
            Some(r#"{"clusters": [{"name": "a", "connect_timeout": "1s"}]}"#),
        );
        assert_eq!(filled(&json).unwrap()["fragments"]["own"]["clusters"], clusters);
        let none = json!({"fragments": {"own": {"file": ""}}});
        assert_eq!((filled(&none).unwrap(), named(&none).len()), (none.clone(), 0));

        let large = " ".repeat(usize::try_from(LARGEST).unwrap() + 1);
        for (name, text, says) in [
            ("gone.yaml", None, "No such file"),
            ("half.yaml", Some("clusters: ["), "half.yaml: "),
            ("list.yaml", Some("- a"), "expected a table of keys"),
            (
                "routes.yaml",
                Some("routes: []"),
                "`routes` cannot stand there, only listeners",
            ),
            ("one.yaml", Some("clusters: {name: a}"), "`clusters` is no list"),
            ("large.yaml", Some(large.as_str()), "larger than 4 MiB"),
        ] {
            let said = filled(&tree(name, text)).unwrap_err();
            assert!(
                said.starts_with("`fragments.own.file`: ") && said.contains(says),
                "{said}"
            );
        }
        let mut both = yaml;
        both["fragments"]["own"]["listeners"] = json!([{}]);
        assert!(filled(&both).unwrap_err().contains("`listeners` stands beside it"));
    }
}
