//! TLS of everything that a daemon serves or calls: what is configured, what stands in the files, and connections that follow
//! the files when these change. It knows nothing of who may do what behind a connection; that is [`crate::access`].
//!
//! The files are PEM. They are looked at every few seconds, by content, so that it does not matter whether a tool
//! writes them anew, renames them or swaps a symbolic link. What cannot be used is said in the log and in a metric, and
//! what was read before stays in use.

mod certificate;
mod config;
mod dial;
mod files;
mod server;
mod stream;
#[cfg(test)]
mod tests;
mod watch;

pub use certificate::Facts;
pub use config::{TlsClient, TlsServer};
pub(crate) use dial::chain;
pub use dial::{Bearer, Channel, Dial, DialError};
pub use files::{Authority, Identity, TlsError};
pub use server::ServerTls;
pub use stream::{Stream, accept};
pub use watch::{CERTIFICATE_EXPIRES, FILES_UNUSABLE, Gauges, LOOK_EVERY, digest};

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// What does the cryptography: one for the whole process.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
