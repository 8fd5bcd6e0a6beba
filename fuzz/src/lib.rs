//! What the targets reach of the worker-agent's core, compiled from its own files.
//!
//! The core is pure and needs only a few small crates. Depending on the whole worker-agent instead would build its gRPC
//! and HTTP stack once more, with coverage counters, for code that no target reaches.

/// As in the worker-agent.
#[path = "../../worker-agent/src/core"]
pub mod core {
    pub mod frame;
    pub mod lane;
    pub mod locate;
    pub mod ogc;
    pub use graticule_daemon::redact;
}
