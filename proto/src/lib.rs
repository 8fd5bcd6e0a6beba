//! The contracts between Graticule's processes. The `.proto` files beside this crate are the text to read; what stands
//! here is generated from them.

pub mod access;

/// Package `graticule.v1`.
pub mod v1 {
    tonic::include_proto!("graticule.v1");
}

/// The metadata that names the agent for which a call of `QgisAdmin` to the control plane is meant.
pub const AGENT_METADATA: &str = "x-graticule-agent";

/// Every file of the contracts as a serialised `FileDescriptorSet`, for gRPC server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
