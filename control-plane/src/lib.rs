//! The control plane: it learns from the agents who can serve maps, and tells a stock Envoy over xDS where to send
//! what.
//!
//! ```text
//! agents ─▶ serve::fleet_link ─▶ core::fleet ─▶ adapters::envoy ─▶ core::ads ─▶ serve::ads ─▶ Envoy
//!            (sockets)            (who is there)  (resources)        (per client)   (sockets)
//! ```
//!
//! Four layers, lower never importing higher: [`core`] decides and knows neither Envoy's types nor sockets,
//! [`adapters`] speaks Envoy's vocabulary, [`serve`] holds sockets and timers, `main` parses and waits.

pub mod adapters;
pub mod config;
pub mod core;
pub mod metrics;
pub mod serve;

pub use adapters::layers::Layers;
pub use config::Config;
pub use serve::bound::{Bound, BuildError, build, build_from, check_files};
