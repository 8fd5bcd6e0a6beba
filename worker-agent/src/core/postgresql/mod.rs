//! How a PostgreSQL database is reached: what the operator wrote as a search path, what libpq would add to it from service
//! files, password files and the environment, and how QGIS spells it.
//!
//! Pure: texts come in as arguments, nothing is opened. Workers use libpq itself, through QGIS; the agent speaks to the
//! same database with a library of its own and has to come to the same conclusions.

pub mod backoff;
mod connections;
pub mod passfile;
mod service;
mod settings;
mod uri;

pub use connections::{Connections, connections};
pub use settings::{Host, Settings, Ssl, Variables, service_files, service_parameters};
pub use uri::{Server, Source};
