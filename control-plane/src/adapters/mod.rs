//! What the control plane's decisions look like in the words of others, and where they are kept.

pub mod envoy;
pub mod fragment_files;
pub mod layers;
pub mod openapi;
pub mod secrets;
pub mod store;
