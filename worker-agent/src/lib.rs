//! The worker-agent: looks after a pool of QGIS processes and serves OGC requests with them.
//!
//! Read it from the outside in: [`app`] builds everything, [`serve`] takes requests, [`adapters`] holds processes and
//! files, [`core`] decides. Lower layers never use higher ones.

pub mod adapters;
pub mod app;
pub mod cli;
pub mod config;
pub mod core;
pub mod links;
pub mod live;
#[cfg(test)]
mod pages;
pub mod serve;
