//! The words between the agent and the process of a handler of projects: a line of JSON each way.
//!
//! What comes back is code of an operator's: it is checked, and what it says is cut to one line without secrets.

use serde::{Deserialize, Serialize};

use super::message::ProjectRef;
use super::redact;

/// The longest line that a handler's process may say, in bytes: a listing of 100,000 projects fits.
pub const LONGEST_LINE: usize = 32 << 20;

/// The longest text that is passed on.
const LONGEST_TEXT: usize = 500;

/// The first line to the process.
#[derive(Debug, Serialize)]
pub struct Begin<'a> {
    /// The class.
    pub handler: &'a str,
    /// What it is made with.
    pub options: &'a std::collections::BTreeMap<String, serde_json::Value>,
    /// Where its module is looked for first.
    pub python_path: &'a [std::path::PathBuf],
}

/// What the handler is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "call", rename_all = "lowercase")]
pub enum Question {
    /// For a project.
    Look {
        /// The root with its dynamic segments filled in.
        url: String,
        /// The name below the location, without suffix.
        relative: String,
        /// The suffix that the client wrote.
        suffix: Option<&'static str>,
    },
    /// For all projects.
    List {
        /// The root as configured.
        url: String,
    },
}

/// A question with its number.
#[derive(Debug, Serialize)]
pub struct Order<'a> {
    /// Named in the answer.
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub question: &'a Question,
}

/// What the handler says to a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// A project is there.
    Found(ProjectRef),
    /// There is none.
    Missing,
    /// Every project.
    Listed(Vec<Entry>),
    /// It could not say, and why.
    Failed(String),
}

/// A project of a listing.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The name below the location, without suffix.
    pub relative: String,
    /// Its suffix, when the handler says one.
    #[serde(default)]
    pub suffix: Option<String>,
    /// When it was changed, in seconds since 1970.
    #[serde(default)]
    pub modified: Option<f64>,
    /// How long it is.
    #[serde(default)]
    pub bytes: Option<u64>,
}

#[derive(Deserialize)]
struct First {
    #[serde(default)]
    ready: bool,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
struct Line {
    id: u64,
    #[serde(default)]
    found: Option<ProjectRef>,
    #[serde(default)]
    listed: Option<Vec<Entry>>,
    #[serde(default)]
    error: Option<String>,
}

/// Whether the handler is there, by its first line.
///
/// # Errors
/// Why it is not.
pub fn first(line: &[u8]) -> Result<(), String> {
    match serde_json::from_slice::<First>(line) {
        Ok(First { ready: true, .. }) => Ok(()),
        Ok(First { error, .. }) => Err(shown(&error)),
        Err(_) => Err("its process does not keep to the protocol".into()),
    }
}

/// What the line says to order `id`; nothing when it is no answer to it, and the process cannot be trusted any more.
#[must_use]
pub fn answer(line: &[u8], id: u64) -> Option<Said> {
    let line: Line = serde_json::from_slice(line).ok().filter(|line: &Line| line.id == id)?;
    Some(match line {
        Line { error: Some(error), .. } => Said::Failed(shown(&error)),
        Line {
            listed: Some(listed), ..
        } => Said::Listed(listed),
        Line { found: Some(found), .. } => Said::Found(found),
        _ => Said::Missing,
    })
}

/// A text of the handler's for clients and logs.
fn shown(text: &str) -> String {
    let line: String = text
        .chars()
        .take(LONGEST_TEXT)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    redact::text(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_one_line() {
        let question = Question::Look {
            url: "depot:maps".into(),
            relative: "a\nb".into(),
            suffix: Some(".qgz"),
        };
        let order = serde_json::to_string(&Order {
            id: 3,
            question: &question,
        })
        .unwrap();
        assert_eq!(
            order,
            r#"{"id":3,"call":"look","url":"depot:maps","relative":"a\nb","suffix":".qgz"}"#
        );
    }

    #[test]
    fn answers_are_read() {
        let project = ProjectRef {
            uri: "depot:x".into(),
            version: "1".into(),
            file: Some("/x.qgs".into()),
            begun: crate::core::message::Begun::default(),
        };
        let entry = Entry {
            relative: "a".into(),
            suffix: Some(".qgs".into()),
            modified: Some(7.5),
            bytes: None,
        };
        for (line, expected) in [
            (
                r#"{"id":1,"found":{"uri":"depot:x","version":"1","file":"/x.qgs"}}"#,
                Some(Said::Found(project)),
            ),
            (r#"{"id":1,"found":null}"#, Some(Said::Missing)),
            (
                r#"{"id":1,"listed":[{"relative":"a","suffix":".qgs","modified":7.5}]}"#,
                Some(Said::Listed(vec![entry])),
            ),
            (
                r#"{"id":1,"error":"cannot open https://me:s3cret@host/\n x"}"#,
                Some(Said::Failed("cannot open https://***@host/  x".into())),
            ),
            (r#"{"id":2,"found":null}"#, None),
            (r#"{"found":null}"#, None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(answer(line.as_bytes(), 1), expected, "{line}");
        }
        let long = format!(r#"{{"id":1,"error":"{}"}}"#, "x".repeat(9999));
        assert_eq!(answer(long.as_bytes(), 1), Some(Said::Failed("x".repeat(LONGEST_TEXT))));
    }

    #[test]
    fn a_start_is_told() {
        assert_eq!(first(br#"{"ready": true}"#), Ok(()));
        assert_eq!(
            first(br#"{"error": "KeyError: token=s3cret"}"#),
            Err("KeyError: token=***".into())
        );
        assert!(first(b"x").unwrap_err().contains("protocol"));
    }
}
