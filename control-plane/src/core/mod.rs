//! What the control plane decides, as synchronous state machines: time is an argument, and nothing here knows Envoy's
//! types, gRPC or sockets.

pub mod ads;
pub mod discovery;
pub mod fleet;
pub mod pins;
pub mod placement;
pub mod quarantine;
pub mod resources;
pub mod rollout;
pub mod routing;
pub mod settings;
pub mod views;
pub mod weights;
