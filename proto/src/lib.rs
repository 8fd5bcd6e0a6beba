//! The contracts between Graticule's processes. The `.proto` files beside this crate are the text to read; what stands
//! here is generated from them.

pub mod access;

/// Package `graticule.v1`.
pub mod v1 {
    tonic::include_proto!("graticule.v1");
}

/// The metadata that names the agent for which a call of `QgisAdmin` to the control plane is meant.
pub const AGENT_METADATA: &str = "x-graticule-agent";

/// Every file of the contracts as a serialised `FileDescriptorSet` with its comments and with what it imports, for gRPC server
/// reflection and descriptions of interfaces. The options of methods (`google.api.http`) are in the bytes; the types of
/// `prost-types` drop them.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The same without comments: for programs that call methods, such as Envoy.
pub const BARE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bare.bin"));
