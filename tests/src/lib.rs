//! What the end-to-end tests stand on: real control planes, agents and Envoys on free loopback ports, clients that load
//! them, and readers of what they answer. A [`Stack`] is the whole of it; it ends everything it started when it goes.
//!
//! Nothing here waits without a bound, and nothing here asserts a speed.
#![allow(
    clippy::unwrap_used,
    reason = "a harness fails by panicking, at the place that failed"
)]

mod agent;
pub mod bench;
pub mod bucket_server;
pub mod certificates;
pub mod client;
mod control_plane;
pub mod draw;
mod incumbent;
pub mod links;
pub mod load;
pub mod memory;
pub mod parts;
pub mod ports;
pub mod postgres;
mod process;
pub mod proxy;
pub mod reference;
pub mod shots;
mod side;
mod stack;
pub mod storage_cases;
pub mod towns;
pub mod xml;

pub use agent::Agent;
pub use client::{Answer, Client};
pub use control_plane::ControlPlane;
pub use graticule_proto::v1::WorkerInfo;
pub use incumbent::Incumbent;
pub use load::{Load, Tally};
pub use side::Side;
pub use stack::{Plan, Stack};

use std::time::{Duration, Instant};

/// How long anything that must happen may take. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// Waits until `holds`, asked every 20 ms.
///
/// # Panics
/// When it does not hold within [`PATIENCE`]; the text names `what`.
pub async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    assert!(
        until_within(PATIENCE, holds).await,
        "waited {PATIENCE:?} in vain for {what}"
    );
}

/// Waits until `holds`, asked every 20 ms, and says whether it did within `bound`.
pub async fn until_within(bound: Duration, mut holds: impl AsyncFnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if holds().await {
            return true;
        }
        if started.elapsed() > bound {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
