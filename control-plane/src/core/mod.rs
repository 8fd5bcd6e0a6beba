//! What the control plane decides, as synchronous state machines: time is an argument, and nothing here knows Envoy's
//! types, gRPC or sockets.

pub mod delta;
pub mod fleet;
pub mod pins;
pub mod quarantine;
pub mod resources;
