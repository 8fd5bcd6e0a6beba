//! What the targets reach of the worker-agent's core, compiled from its own files.
//!
//! The core is pure and needs only a few small crates. Depending on the whole worker-agent instead would build its gRPC
//! and HTTP stack once more, with coverage counters, for code that no target reaches.

/// As in the worker-agent.
pub mod core {
    #[path = "../../../worker-agent/src/core/frame.rs"]
    pub mod frame;
    #[path = "../../../worker-agent/src/core/lane.rs"]
    pub mod lane;
    #[path = "../../../worker-agent/src/core/locate/mod.rs"]
    pub mod locate;
    #[path = "../../../worker-agent/src/core/ogc/mod.rs"]
    pub mod ogc;
    #[path = "../../../worker-agent/src/core/redact.rs"]
    mod redact;
}
