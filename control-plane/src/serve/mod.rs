//! Sockets and timers: what agents, Envoys, tools and people talk to.

pub mod admin;
pub mod ads;
pub mod balance;
pub mod bound;
pub mod calls;
pub mod clients;
pub mod csds;
pub mod discovery;
pub mod fleet;
pub mod hub;
mod keeping;
pub mod live;
pub mod orders;
mod pace;
pub mod pins;
pub mod proxy;
mod quarantine;
mod renewing;
mod snapshots;
pub mod status;
mod wire;
