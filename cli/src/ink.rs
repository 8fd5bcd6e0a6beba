//! Colour: on a terminal only, and never where `NO_COLOR` is set. Pure but for the look at the process's own terminal.

use std::ffi::OsString;
use std::io::IsTerminal as _;

/// Whether words are coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ink {
    colours: bool,
}

/// Words for what is as it should be.
const GOOD: [&str; 10] = [
    "ready", "loaded", "done", "synced", "current", "idle", "ok", "yes", "healthy", "serving",
];

/// Words for what is about to change, or deserves a look.
const NOTABLE: [&str; 14] = [
    "starting",
    "draining",
    "loading",
    "waiting",
    "asked",
    "settling",
    "stale",
    "suspected",
    "changed",
    "leaving",
    "cancelling",
    "skipped",
    "busy",
    "not ready",
];

/// Words for what is not as it should be.
const BAD: [&str; 9] = [
    "failed",
    "failing",
    "missing",
    "refused",
    "gone",
    "unavailable",
    "removed",
    "unreachable",
    "degraded",
];

impl Ink {
    /// No colours.
    pub const PLAIN: Self = Self { colours: false };

    /// What standard output takes.
    #[must_use]
    pub fn of_stdout() -> Self {
        Self {
            colours: wanted(std::io::stdout().is_terminal(), |name| std::env::var_os(name)),
        }
    }

    /// The head of a column.
    #[must_use]
    pub fn head(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// A cell: green, yellow or red when it is a word for how something stands.
    #[must_use]
    pub fn cell(self, text: &str) -> String {
        if GOOD.contains(&text) {
            self.paint("32", text)
        } else if NOTABLE.contains(&text) {
            self.paint("33", text)
        } else if BAD.contains(&text) {
            self.paint("31", text)
        } else {
            text.to_owned()
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colours && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// As <https://no-color.org> has it; a dumb terminal knows no colours either.
fn wanted(terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let forbidden = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = variable("TERM").is_some_and(|value| value == "dumb");
    terminal && !forbidden && !dumb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_needs_a_terminal_that_wants_it() {
        let none = |_: &str| None;
        assert!(wanted(true, none) && !wanted(false, none));
        assert!(!wanted(true, |name| (name == "NO_COLOR").then(|| "1".into())));
        assert!(wanted(true, |name| (name == "NO_COLOR").then(OsString::new)));
        assert!(!wanted(true, |name| (name == "TERM").then(|| "dumb".into())));
    }

    #[test]
    fn words_for_a_state_have_its_colour() {
        let ink = Ink { colours: true };
        assert_eq!(ink.cell("ready"), "\x1b[32mready\x1b[0m");
        assert_eq!(ink.cell("failed"), "\x1b[31mfailed\x1b[0m");
        assert_eq!(ink.cell("/ready"), "/ready");
        assert_eq!(Ink::PLAIN.cell("ready"), "ready");
        let mut all: Vec<&str> = [&GOOD[..], &NOTABLE[..], &BAD[..]].concat();
        all.sort_unstable();
        assert!(all.is_sorted_by(|a, b| a < b), "a word has two colours: {all:?}");
    }
}
