//! Holds `docs/limits.md` in step with the code: every refusal, every exit reason and every bounding key is in it.

use std::collections::BTreeSet;

use crate::config::Config;
use crate::core::pool::ExitReason;

const PAGE: &str = include_str!("../../docs/limits.md");
const REFUSALS: &str = include_str!("core/ogc/exception.rs");

/// The cells of the table rows below a heading, up to the next of its level.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, after) = PAGE
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("no heading {heading}"));
    let section = after.split("\n## ").next().unwrap_or(after);
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// What a cell names in backquotes at its beginning.
fn name(cell: &str) -> &str {
    cell.split('`').nth(1).unwrap_or_else(|| panic!("{cell} names nothing"))
}

/// The codes in the body of `Refusal::code`.
fn codes() -> BTreeSet<&'static str> {
    let (_, body) = REFUSALS.split_once("pub fn code(&self)").expect("it has a code");
    let body = body.split("\n    }\n").next().expect("the function ends");
    let codes: BTreeSet<&str> = body.split('"').skip(1).step_by(2).collect();
    assert!(
        codes.len() > 15 && codes.contains("DeadlineExceeded"),
        "the codes are no longer found in the source: {codes:?}"
    );
    codes
}

#[test]
fn every_refusal_is_explained_with_its_status() {
    let rows = rows("Refusals");
    for code in codes() {
        assert!(rows.iter().any(|row| name(row[0]) == code), "`{code}` is not explained");
    }
    for row in &rows {
        let [_, status, means, _, change] = row[..] else {
            panic!("{row:?}: five cells")
        };
        let status: u16 = status.parse().unwrap_or_else(|_| panic!("{row:?}: a status"));
        assert!((400..600).contains(&status), "{row:?}");
        assert!(
            means.len() > 15 && change.len() > 5,
            "{row:?}: say what it means and what to change"
        );
    }
}

#[test]
fn every_exit_reason_is_explained() {
    let rows = rows("Exits");
    for reason in ExitReason::NAMES {
        assert!(
            rows.iter().any(|row| name(row[0]) == reason),
            "`{reason}` is not explained"
        );
    }
    for row in &rows {
        let [_, failure, means, client, change] = row[..] else {
            panic!("{row:?}: five cells")
        };
        assert!(["yes", "no"].contains(&failure), "{row:?}: whether it is a failure");
        assert!(means.len() > 15 && !client.is_empty() && change.len() > 5, "{row:?}");
    }
}

/// Every number of the tree by its key; maps that operators fill count as one.
fn numbers(tree: &serde_json::Value, path: &str, found: &mut Vec<(String, Option<f64>)>) {
    for (key, value) in tree.as_object().into_iter().flatten() {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        match value {
            serde_json::Value::Number(number) => found.push((path, number.as_f64())),
            serde_json::Value::Object(map) if map.keys().any(|key| key.contains('/')) => found.push((path, None)),
            _ => numbers(value, &path, found),
        }
    }
}

#[test]
fn every_key_that_bounds_something_is_explained_with_its_default() {
    let tree = serde_json::to_value(Config::default()).expect("the tree can be written");
    let mut keys = Vec::new();
    numbers(&tree, "", &mut keys);
    assert!(keys.len() > 25, "{keys:?}");
    let rows = rows("Limits");
    for (key, default) in keys {
        let row = rows.iter().find(|row| name(row[0]) == key);
        let row = row.unwrap_or_else(|| panic!("`{key}` is not explained"));
        let [_, written, then] = row[..] else {
            panic!("{row:?}: three cells")
        };
        assert!(then.len() > 5, "{row:?}: say what happens");
        if let Some(default) = default {
            let number = written
                .split([' ', ':'])
                .next()
                .and_then(|text| text.parse::<f64>().ok());
            assert!(
                number.is_some_and(|number| (number - default).abs() < 1e-9),
                "{row:?}: the default is {default}"
            );
        }
    }
}
