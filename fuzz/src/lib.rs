//! The worker-agent's core, compiled from its own files.
//!
//! The core is pure and needs only a few small crates. Depending on the whole worker-agent instead would build its gRPC
//! and HTTP stack once more, with coverage counters, for code that no target reaches.

#[path = "../../worker-agent/src/core/mod.rs"]
pub mod core;
