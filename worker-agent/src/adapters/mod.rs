//! Everything that touches the world: processes, sockets, files, the control plane. It carries out what `core` decides.

pub mod calls;
pub mod channel;
pub mod demand;
pub mod exchange;
pub mod fleet_pins;
pub mod link;
pub mod memory;
pub mod output;
pub mod pins;
pub mod processes;
pub mod python;
pub mod quarantine;
pub mod runtime;
pub mod storage;
pub mod supervisor;
pub mod user;
pub mod watch;
pub mod zygote;
