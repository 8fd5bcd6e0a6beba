//! The control plane with the real Envoy and fake agents. One binary, so that it is linked once.

#![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod affinity;
mod answers;
mod fleet_changes;
mod pins;
mod ports;
mod quarantine;
mod stack;
