//! What both daemons do the same way: layered configuration, logs, named readiness, the operations port with its
//! metrics, an HTTP accept loop that can be drained, the rule of the quarantine, and what a project may be called. It
//! knows nothing of QGIS, Envoy or the fleet.

pub mod config;
pub mod dice;
pub mod http;
pub mod ops;
pub mod project;
pub mod quarantine;
pub mod ready;
pub mod shutdown;
pub mod telemetry;

/// The exit code for a configuration that cannot be used (`EX_USAGE` of BSD's `sysexits.h`).
pub const EXIT_USAGE: u8 = 64;
