//! How a command ends. The codes are the same for both command lines.

use std::process::ExitCode;

use clap::Parser;

/// It was done.
pub const DONE: u8 = 0;

/// It was refused, or did not succeed for everybody who was asked.
pub const REFUSED: u8 = 1;

/// Who was asked answers, and is not ready.
pub const NOT_READY: u8 = 2;

/// Failure pressure went above its limit, and the agent has ended; an orchestrator should start it anew.
pub const GAVE_UP: u8 = 3;

/// Wrong usage or configuration (`EX_USAGE`): trying again is of no use.
pub const USAGE: u8 = 64;

/// Nobody answers where it was asked (`EX_UNAVAILABLE`).
pub const UNREACHABLE: u8 = 69;

/// Every code and what it means.
pub const CODES: [(u8, &str); 6] = [
    (DONE, "done"),
    (REFUSED, "refused, or not done by everybody who was asked"),
    (NOT_READY, "`healthcheck`: answers and is not ready"),
    (GAVE_UP, "`worker-agent serve`: failure pressure above its limit"),
    (USAGE, "wrong usage or configuration"),
    (
        UNREACHABLE,
        "nobody answers there, or no agent of that name is attached",
    ),
];

/// Why a command came to nothing, for its exit code; other errors count as refused.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Wrong usage.
    #[error("{0}")]
    Usage(String),
    /// Nobody there.
    #[error("{0}")]
    Unreachable(String),
    /// Somebody there who does not want it.
    #[error("{0}")]
    Refused(String),
}

/// The exit code of an error.
#[must_use]
pub fn code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Failure>() {
        Some(Failure::Usage(_)) => USAGE,
        Some(Failure::Unreachable(_)) => UNREACHABLE,
        Some(Failure::Refused(_)) | None => REFUSED,
    }
}

/// The code for several who were asked: that of those who have not done it, when they agree.
#[must_use]
pub fn together(codes: impl IntoIterator<Item = u8>) -> u8 {
    let mut wrong = codes.into_iter().filter(|code| *code != DONE);
    let Some(first) = wrong.next() else { return DONE };
    if wrong.all(|code| code == first) {
        first
    } else {
        REFUSED
    }
}

/// Reads the command line.
///
/// # Errors
/// Help, the version, or what is wrong has been printed; then this is how to end. (clap itself would end with 2 for wrong
/// usage, which means something else here.)
pub fn parse<T: Parser>() -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| {
        // Nobody is left to be told when that fails.
        let _ = error.print();
        ExitCode::from(if error.use_stderr() { USAGE } else { DONE })
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn an_error_has_its_code_whatever_stands_before_it() {
        let gone: Result<(), Failure> = Err(Failure::Unreachable("nobody".into()));
        let error = gone.context("agent-1").unwrap_err();
        assert_eq!((code(&error), format!("{error:#}").as_str()), (69, "agent-1: nobody"));
        assert_eq!(code(&Failure::Usage(String::new()).into()), 64);
        assert_eq!(code(&anyhow::anyhow!("else")), 1);
    }

    #[test]
    fn several_agree_or_it_is_refused() {
        assert_eq!(together([]), 0);
        assert_eq!(together([0, 2, 2]), 2);
        assert_eq!(together([0, 2, 69]), 1);
    }

    #[test]
    fn the_page_has_every_code_and_no_other() {
        assert!(CODES.is_sorted_by(|a, b| a.0 < b.0));
        let page = include_str!("../../docs/cli.md");
        let rows = page.lines().filter(|line| {
            let digit = line.strip_prefix("| ").and_then(|rest| rest.chars().next());
            digit.is_some_and(|first| first.is_ascii_digit())
        });
        let codes = CODES.map(|(code, means)| format!("| {code} | {means} |"));
        assert_eq!(rows.collect::<Vec<_>>(), codes);
    }
}
