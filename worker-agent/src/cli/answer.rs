//! What a verb has come to at an agent, and how that is printed. Answers go to standard output, everything else to standard
//! error.

use graticule_cli::{exit, say};
use serde_json::{Value, json};

/// What an agent has answered, for people and for programs.
#[derive(Debug)]
pub(super) struct Answer {
    /// Lines for people.
    pub(super) text: String,
    /// The same for programs.
    pub(super) value: Value,
    /// What people are to know besides; programs find it in the value.
    pub(super) notes: Vec<String>,
    /// The exit code.
    pub(super) code: u8,
}

impl Answer {
    /// All went well.
    pub(super) fn new(text: impl Into<String>, value: Value) -> Self {
        let text = text.into();
        Self {
            text,
            value,
            notes: Vec::new(),
            code: exit::DONE,
        }
    }

    /// Only what a program gets as well.
    pub(super) fn code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// Refused unless `well`.
    pub(super) fn unless(self, well: bool) -> Self {
        if well { self } else { self.code(exit::REFUSED) }
    }

    pub(super) fn notes(self, notes: Vec<String>) -> Self {
        Self { notes, ..self }
    }
}

/// What one agent of a fleet has come to.
pub(super) type Outcome = (String, anyhow::Result<Answer>);

/// An answer of the only agent that was asked; gives the exit code.
pub(super) fn print_one(answer: anyhow::Result<Answer>, json: bool) -> u8 {
    match answer {
        Ok(answer) => {
            say(&if json {
                format!("{:#}\n", answer.value)
            } else {
                ended(&answer.text)
            });
            if !json {
                answer.notes.iter().for_each(|note| super::complain(note));
            }
            answer.code
        }
        Err(error) => super::fail(&error),
    }
}

/// A text that ends with the end of a line, unless it is empty.
fn ended(text: &str) -> String {
    let text = text.trim_end_matches('\n');
    if text.is_empty() {
        String::new()
    } else {
        format!("{text}\n")
    }
}

/// The lines of an agent of a fleet: its name before a line, or above several.
pub(super) fn under_name(name: &str, text: &str) -> String {
    let text = ended(text);
    if text.lines().count() > 1 {
        format!("{name}:\n{text}\n")
    } else {
        format!("{name}: {text}")
    }
}

/// What all agents have come to, for programs.
pub(super) fn all_as_json(outcomes: &[Outcome]) -> Value {
    let agents = outcomes.iter().map(|(name, outcome)| match outcome {
        Ok(answer) => json!({"agent": name, "exit": answer.code, "answer": answer.value}),
        Err(error) => json!({"agent": name, "exit": exit::code(error), "problem": format!("{error:#}")}),
    });
    json!({ "agents": agents.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_follows_its_agent_and_a_table_stands_below() {
        assert_eq!(under_name("a", "drained"), "a: drained\n");
        assert_eq!(under_name("a", "X  Y\n1  2\n"), "a:\nX  Y\n1  2\n\n");
        assert_eq!((ended("").as_str(), ended("x\n\n").as_str()), ("", "x\n"));
    }

    #[test]
    fn programs_get_every_agent_with_its_code() {
        let outcomes = [
            ("a".to_owned(), Ok(Answer::new("", json!({"x": 1})).unless(false))),
            ("b".to_owned(), Err(anyhow::anyhow!("no"))),
        ];
        assert_eq!(
            all_as_json(&outcomes),
            json!({"agents": [
                {"agent": "a", "exit": 1, "answer": {"x": 1}},
                {"agent": "b", "exit": 1, "problem": "no"},
            ]})
        );
    }
}
