//! Calls of an agent's methods over the stream that the agent itself has opened: what both ends must agree on, and how
//! each end keeps its books.
//!
//! The control plane is the [`Caller`], the agent the [`Callee`]. Neither knows sockets, messages or methods: both are told
//! what has happened and asked what there is to say. What an answer may hold back at either end is bounded: a callee sends
//! no more than a [`WINDOW`] ahead of what was taken, so a slow reader slows down its own call and nothing else.

mod callee;
mod caller;
pub mod raw;
#[cfg(test)]
mod simulation;

use bytes::Bytes;

pub use callee::{Callee, Offer, Order};
pub use caller::{Caller, Refused, Told};

/// Calls at once over one stream.
pub const MOST_CALLS: usize = 64;

/// The largest request message, in bytes.
pub const MOST_REQUEST: usize = 1024 * 1024;

/// The largest message of an answer, in bytes; with its wrapping it stays below what gRPC takes unless told otherwise.
pub const MOST_MESSAGE: usize = 3 * 1024 * 1024;

/// How many bytes of messages, as [`weight`] counts them, a callee sends ahead of what was taken. A larger message goes alone.
pub const WINDOW: usize = 256 * 1024;

/// What a message counts for: somewhat more than its bytes, so that empty ones are bounded, too.
#[must_use]
pub const fn weight(message: &Bytes) -> usize {
    message.len().saturating_add(32)
}

/// The longest text of an error, in bytes.
const MOST_TEXT: usize = 16 * 1024;

/// How a call has ended, as gRPC says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// gRPC's code; 0 is well.
    pub code: i32,
    /// What went wrong, in words.
    pub message: String,
    /// The same for programs.
    pub details: Bytes,
}

impl End {
    /// All is well.
    #[must_use]
    pub const fn well() -> Self {
        Self {
            code: 0,
            message: String::new(),
            details: Bytes::new(),
        }
    }

    /// It went wrong.
    pub fn failed(code: tonic::Code, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            details: Bytes::new(),
        }
    }

    /// The error, unless all is well.
    ///
    /// # Errors
    /// That it did not end well.
    pub fn status(self) -> Result<(), tonic::Status> {
        match tonic::Code::from(self.code) {
            tonic::Code::Ok => Ok(()),
            code => Err(tonic::Status::with_details(code, self.message, self.details)),
        }
    }
}

impl From<&tonic::Status> for End {
    fn from(status: &tonic::Status) -> Self {
        let text = status.message();
        let details = status.details();
        Self {
            code: status.code().into(),
            message: start(text).to_owned(),
            details: Bytes::copy_from_slice(if details.len() <= MOST_TEXT { details } else { &[] }),
        }
    }
}

/// As much of a text as is carried.
fn start(text: &str) -> &str {
    let mut end = text.len().min(MOST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What a caller says to a callee.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Call this.
    Call {
        /// Grows from call to call.
        id: u64,
        /// gRPC's path of the method.
        method: String,
        /// The request message.
        request: Bytes,
        /// For how long the answer is awaited.
        patience: std::time::Duration,
    },
    /// Nobody waits for it any more.
    Cancel(u64),
    /// So much of its messages was taken, by weight.
    Taken(u64, usize),
}

/// What a callee says to a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A message of the answer.
    Message(u64, Bytes),
    /// It is over.
    End(u64, End),
}
