//! What both command lines do the same way. Answers go to standard output, everything else to standard error; tables and
//! words in colour are for people at a terminal, JSON is for programs, and the exit code says what has come of it.
//!
//! It knows neither daemons nor their configuration; how to reach one is in [`wire`], and nowhere else.

pub mod exit;
pub mod ink;
pub mod pages;
pub mod progress;
pub mod reference;
pub mod table;
pub mod wire;

pub use exit::{Failure, parse};
pub use ink::Ink;
pub use progress::Progress;
pub use table::{row, table};
pub use wire::{Line, Whose, Wire, connect, refused};

use std::io::Write as _;

/// Writes to standard output; false when nobody reads it any more, as when `head` has what it wanted.
pub fn say(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// Writes a line to standard error, for whoever asked: what is wrong, or worth knowing besides the answer.
pub fn complain(text: &str) {
    // Nobody is left to be told when that fails.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
