//! What both daemons do the same way: layered configuration, logs, named readiness, the operations port with its
//! metrics, an HTTP accept loop that can be drained, what a service manager is told, calls of an agent over its own stream,
//! the rule of the quarantine, what a project may be called, what of a text is a secret, TLS, and who may do what on a port.
//! It knows nothing of QGIS, Envoy or the fleet.

pub mod access;
pub mod calls;
pub mod client;
pub mod config;
pub mod current;
pub mod dice;
pub mod http;
pub mod journal;
pub mod ops;
pub mod project;
pub mod quarantine;
pub mod ready;
pub mod redact;
pub mod service;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
