//! What others talk to: the HTTP data port, gRPC, and the operations port.

pub mod admin;
pub mod answers;
pub mod cache;
pub mod catalog;
pub mod fleet_pins;
pub mod front;
pub mod grpc;
pub mod home;
pub mod http;
pub mod metrics;
pub mod operate;
pub mod plugins;
pub mod probe;
pub mod render;
pub mod settings;
pub mod shared;
pub mod standing;
pub mod state;
pub mod told;
pub mod witness;
