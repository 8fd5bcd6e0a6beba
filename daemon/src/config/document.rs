//! Reads one configuration file: TOML, JSON or YAML, by the end of its name; and knows on which line its keys stand.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use toml_edit::{ImDocument, Item, Value as Toml};

use super::tree::join;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The format of the documentation; whatever has no other name.
    Toml,
    /// `.json`
    Json,
    /// `.yaml`, `.yml`
    Yaml,
}

impl Format {
    /// By the end of a file's name.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
        match end.to_ascii_lowercase().as_str() {
            "json" => Self::Json,
            "yaml" | "yml" => Self::Yaml,
            _ => Self::Toml,
        }
    }
}

/// What a text in that format says.
///
/// # Errors
/// What is wrong in it, with the line.
pub fn document(text: &str, format: Format) -> Result<Value, String> {
    Document::read(text, format).map(|document| document.tree)
}

/// A file that was read.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// What it says.
    pub tree: Value,
    /// The lines of its keys, from 1. Only TOML tells.
    lines: BTreeMap<String, usize>,
}

impl Document {
    /// Reads it; the problem names the line.
    pub fn read(text: &str, format: Format) -> Result<Self, String> {
        let document = match format {
            Format::Toml => toml(text)?,
            Format::Json => {
                let tree = serde_json::from_str(text).map_err(|error| error.to_string())?;
                let lines = BTreeMap::new();
                Self { tree, lines }
            }
            Format::Yaml => {
                // An empty file, or one of comments only, says nothing.
                let tree: Option<Value> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
                let tree = tree.unwrap_or_else(|| Value::Object(Map::new()));
                let lines = BTreeMap::new();
                Self { tree, lines }
            }
        };
        if !document.tree.is_object() {
            return Err("expected a table of keys".into());
        }
        Ok(document)
    }

    /// The line of a key, or of the innermost table around it that has one.
    pub fn line(&self, path: &[String]) -> Option<usize> {
        // Of a list, the line of its key counts.
        let plain = |part: &String| match part.split_once('[') {
            Some((list, index)) if index.ends_with(']') => list.to_owned(),
            _ => part.clone(),
        };
        let path: Vec<String> = path.iter().map(plain).collect();
        (1..=path.len())
            .rev()
            .find_map(|length| self.lines.get(&join(&path[..length])).copied())
    }
}

fn toml(text: &str) -> Result<Document, String> {
    let parsed = ImDocument::parse(text).map_err(|error| error.to_string().trim().replace('\n', "\n  "))?;
    let mut document = Document::default();
    let line = |offset: usize| 1 + text[..offset].matches('\n').count();
    let mut path = Vec::new();
    document.tree = table(
        parsed.as_table().iter_with_keys(),
        &mut path,
        &line,
        &mut document.lines,
    )?;
    Ok(document)
}

/// The keys of a table with where they stand.
trait Keys {
    fn iter_with_keys(&self) -> Vec<(String, Option<usize>, Item)>;
}

impl Keys for toml_edit::Table {
    fn iter_with_keys(&self) -> Vec<(String, Option<usize>, Item)> {
        let all = self.iter().map(|(name, item)| {
            let at = self.key(name).and_then(toml_edit::Key::span).or_else(|| item.span());
            (name.to_owned(), at.map(|at| at.start), item.clone())
        });
        all.collect()
    }
}

impl Keys for toml_edit::InlineTable {
    fn iter_with_keys(&self) -> Vec<(String, Option<usize>, Item)> {
        let all = self.iter().map(|(name, value)| {
            let at = self.key(name).and_then(toml_edit::Key::span).or_else(|| value.span());
            (name.to_owned(), at.map(|at| at.start), Item::Value(value.clone()))
        });
        all.collect()
    }
}

type Line<'a> = &'a dyn Fn(usize) -> usize;

fn table(
    keys: Vec<(String, Option<usize>, Item)>,
    path: &mut Vec<String>,
    line: Line<'_>,
    lines: &mut BTreeMap<String, usize>,
) -> Result<Value, String> {
    let mut read = Map::new();
    for (name, at, item) in keys {
        path.push(name.clone());
        if let Some(at) = at {
            lines.insert(join(path.iter()), line(at));
        }
        read.insert(name, of_item(&item, path, line, lines)?);
        path.pop();
    }
    Ok(Value::Object(read))
}

fn of_item(
    item: &Item,
    path: &mut Vec<String>,
    line: Line<'_>,
    lines: &mut BTreeMap<String, usize>,
) -> Result<Value, String> {
    match item {
        Item::None => Ok(Value::Null),
        Item::Value(value) => of_value(value, path, line, lines),
        Item::Table(inner) => table(inner.iter_with_keys(), path, line, lines),
        Item::ArrayOfTables(items) => items
            .iter()
            .map(|inner| table(inner.iter_with_keys(), path, line, lines))
            .collect(),
    }
}

fn of_value(
    value: &Toml,
    path: &mut Vec<String>,
    line: Line<'_>,
    lines: &mut BTreeMap<String, usize>,
) -> Result<Value, String> {
    Ok(match value {
        Toml::String(text) => text.value().clone().into(),
        Toml::Integer(number) => (*number.value()).into(),
        Toml::Boolean(word) => (*word.value()).into(),
        Toml::Datetime(time) => time.value().to_string().into(),
        Toml::Float(number) => serde_json::Number::from_f64(*number.value())
            .map(Value::Number)
            .ok_or_else(|| {
                let at = value.span().map_or(1, |at| line(at.start));
                format!(
                    "line {at}: `{}`: expected a number, found {}",
                    join(path.iter()),
                    number.value()
                )
            })?,
        Toml::Array(items) => {
            let items = items.iter().map(|item| of_value(item, path, line, lines));
            items.collect::<Result<_, _>>()?
        }
        Toml::InlineTable(inner) => table(inner.iter_with_keys(), path, line, lines)?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str, format: Format) -> Document {
        Document::read(text, format).unwrap()
    }

    #[test]
    fn the_three_formats_say_the_same() {
        let expected = json!({"worker": {"n": 2, "t": 1.5, "on": true, "paths": {"/": "/a"}, "l": [1, "x"]}});
        let toml = "[worker]\nn = 2\nt = 1.5\non = true\nl = [1, 'x']\n[worker.paths]\n'/' = '/a'\n";
        let yaml = "# a comment\nworker:\n  n: 2\n  t: 1.5\n  on: true\n  l: [1, x]\n  paths: {/: /a}\n";
        assert_eq!(read(toml, Format::Toml).tree, expected);
        assert_eq!(read(yaml, Format::Yaml).tree, expected);
        assert_eq!(read(&expected.to_string(), Format::Json).tree, expected);
        assert_eq!(read("# nothing\n", Format::Yaml).tree, json!({}));
        assert_eq!(read("", Format::Toml).tree, json!({}));
    }

    #[test]
    fn toml_knows_its_lines() {
        let text = "[a]\nb = 1\nc = { d = 2,\n e = 3 }\n\n[[l]]\nx = 1\n[[l]]\nx = 2\n[a.\"f.g\"]\n";
        let document =
            Document::read(text, Format::Toml).or_else(|_| Document::read(&text.replace(",\n e", ", e"), Format::Toml));
        let document = document.unwrap();
        let line = |key: &str| document.line(&super::super::tree::split(key));
        assert_eq!(line("a.b"), Some(2));
        assert_eq!(line("a.c.d"), Some(3));
        assert_eq!(line("a.b.inner.most"), Some(2));
        assert!(line("a.\"f.g\"") > line("l"));
        assert_eq!(line("nowhere"), None);
    }

    #[test]
    fn what_cannot_be_read_names_the_line() {
        for (text, format) in [
            ("[a]\nb = 1\nc = \n", Format::Toml),
            ("[a]\nb = 1\nc = nan\n", Format::Toml),
            ("{\n\"a\": 1,\n\"b\": }\n", Format::Json),
            ("a: 1\nb: 2\nc: [1\n", Format::Yaml),
        ] {
            let problem = Document::read(text, format).unwrap_err();
            assert!(
                problem.contains("line 3") || problem.contains("line 4"),
                "{format:?}: {problem}"
            );
        }
        for (text, format) in [("[1]", Format::Json), ("- a", Format::Yaml), ("7", Format::Json)] {
            assert!(Document::read(text, format).unwrap_err().contains("expected a table"));
        }
    }

    #[test]
    fn the_end_of_the_name_tells_the_format() {
        for (name, format) in [
            ("a.toml", Format::Toml),
            ("a.JSON", Format::Json),
            ("a.yml", Format::Yaml),
            ("a.yaml", Format::Yaml),
            ("a", Format::Toml),
            ("a.conf", Format::Toml),
        ] {
            assert_eq!(Format::of(Path::new(name)), format, "{name}");
        }
    }
}
