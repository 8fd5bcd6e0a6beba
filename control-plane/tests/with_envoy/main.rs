//! The control plane with the real Envoy and fake agents. One binary, so that it is linked once.

#![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod affinity;
mod answers;
mod balancing;
mod calls;
mod everything;
mod fleet_admin;
mod fleet_changes;
mod fragments;
mod front;
mod frozen;
mod http3;
mod pins;
mod pools;
mod ports;
mod quarantine;
mod rest;
mod soak;
mod stack;
mod state;
mod tls;
mod twins;
mod validate;
mod world;
