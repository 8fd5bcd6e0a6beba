//! Sockets and timers: what agents, Envoys, tools and people talk to.

pub mod ads;
pub mod bound;
pub mod clients;
pub mod fleet;
pub mod hub;
pub mod pins;
mod quarantine;
pub mod status;
