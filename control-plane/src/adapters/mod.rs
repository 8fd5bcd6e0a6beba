//! What the control plane's decisions look like in the words of others.

pub mod envoy;
