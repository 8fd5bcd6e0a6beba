//! Which control plane a command is for, and the way to it.

use graticule_cli::wire::CONTROL_PLANE;
use graticule_cli::{Failure, Wire, connect, refused};
use graticule_proto::v1::fleet_admin_client::FleetAdminClient;

/// The longest answer that is read, in bytes: a snapshot holds every resource of every Envoy.
pub const LONGEST: usize = 256 << 20;

/// Whom to ask, and how to show what it says.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The control plane's port for agents and tools (fleet.listen); else GRATICULE_FLEET
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "GRATICULE_FLEET",
        hide_env = true,
        default_value = CONTROL_PLANE.usual
    )]
    pub host: String,
}

impl Target {
    /// The way to it.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn wire(&self) -> Result<Wire, Failure> {
        Ok(connect(&self.host, CONTROL_PLANE).await?.own())
    }

    /// What the fleet is asked with.
    ///
    /// # Errors
    /// When no control plane answers there.
    pub async fn admin(&self) -> Result<FleetAdminClient<Wire>, Failure> {
        Ok(FleetAdminClient::new(self.wire().await?).max_decoding_message_size(LONGEST))
    }
}

/// What a refusal says.
#[allow(clippy::needless_pass_by_value, reason = "as map_err wants it")]
pub fn said(status: tonic::Status) -> anyhow::Error {
    refused(CONTROL_PLANE, &status).into()
}
