//! A request and its answer as the ports hand them to the [`Front`](super::front::Front) and get them back: HTTP's words
//! without a connection.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::mpsc;

use crate::adapters::exchange::Cut;

/// A request as it came in, its body whole.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The method.
    pub method: Method,
    /// The path, not decoded.
    pub path: String,
    /// The query without its `?`, not decoded.
    pub query: Option<String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The authority of the request's URI, where it has one.
    pub authority: Option<String>,
    /// The body.
    pub body: Bytes,
    /// Names the request in logs and in the answer.
    pub id: String,
    /// When it was accepted.
    pub accepted: Instant,
}

/// An answer for a port to send.
#[derive(Debug)]
pub struct Told {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers, the agent's own among them.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: ToldBody,
}

/// The body of an answer.
#[derive(Debug)]
pub enum ToldBody {
    /// All of it.
    Whole(Vec<Bytes>),
    /// Piece by piece.
    Stream(mpsc::Receiver<Result<Bytes, Cut>>),
}
