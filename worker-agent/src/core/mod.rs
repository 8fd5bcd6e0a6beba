//! Types and decisions: everything here is synchronous, takes time as an argument and opens nothing.

pub mod environment;
pub mod frame;
pub mod index;
pub mod leftover;
pub mod locate;
pub mod memory;
pub mod message;
pub mod ogc;
pub mod pool;
pub mod pressure;
