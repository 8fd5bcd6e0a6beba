//! Types and decisions: everything here is synchronous, takes time as an argument and opens nothing.

pub mod blame;
pub mod bucket;
pub mod bucket_fault;
pub mod catalog;
pub mod conditional;
pub mod control_planes;
pub mod demand;
pub mod effect;
pub mod environment;
pub mod file_cache;
pub mod frame;
pub mod handler;
pub mod index;
pub mod known;
pub mod lane;
pub mod leftover;
pub mod locate;
pub mod memory;
pub mod message;
pub mod ogc;
pub mod plugins;
pub mod pool;
pub mod postgresql;
pub mod pressure;
pub mod project_files;
pub mod quarantine;
pub mod response_cache;
pub mod stored;

pub use graticule_daemon::redact;
