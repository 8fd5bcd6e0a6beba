//! How a command reaches a daemon. All connections of both command lines are made here.

use std::error::Error as _;
use std::time::Duration;

use graticule_daemon::client;
use graticule_daemon::tls::Channel;
use graticule_proto::AGENT_METADATA;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

use crate::exit::Failure;

/// Who has not taken the connection after this long is not there.
const PATIENCE: Duration = Duration::from_secs(5);

/// A kind of daemon, in words.
#[derive(Clone, Copy, Debug)]
pub struct Whose {
    /// What it is.
    pub name: &'static str,
    /// The option that says where it is.
    pub option: &'static str,
    /// Its port for commands, and the key that configures it.
    pub port: &'static str,
    /// Where it is unless somebody says otherwise.
    pub usual: &'static str,
}

/// A worker-agent.
pub const AGENT: Whose = Whose {
    name: "agent",
    option: "--host",
    port: "its gRPC port (server.grpc_listen)",
    usual: "127.0.0.1:23456",
};

/// A control plane.
pub const CONTROL_PLANE: Whose = Whose {
    name: "control plane",
    option: "--host",
    port: "its port for tools (fleet.listen)",
    usual: "127.0.0.1:18001",
};

/// A control plane through which agents are asked.
pub const FLEET: Whose = Whose {
    option: "--fleet",
    ..CONTROL_PLANE
};

/// What goes with every call.
#[derive(Clone, Debug, Default)]
pub struct Words {
    agent: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Words {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(agent) = &self.agent {
            request.metadata_mut().insert(AGENT_METADATA, agent.clone());
        }
        Ok(request)
    }
}

/// A way to a daemon, or through a control plane to an agent.
pub type Wire = InterceptedService<Channel, Words>;

/// A connection.
#[derive(Clone, Debug)]
pub struct Line {
    channel: Channel,
}

impl Line {
    /// The way to the daemon itself.
    #[must_use]
    pub fn own(&self) -> Wire {
        InterceptedService::new(self.channel.clone(), Words::default())
    }

    /// The way through a control plane to one of its agents.
    ///
    /// # Errors
    /// When no agent may have that name.
    pub fn toward(&self, agent: &str) -> Result<Wire, Failure> {
        let name = MetadataValue::try_from(agent);
        let agent = name.map_err(|_| Failure::Usage(format!("`{agent}` is no agent's name")))?;
        Ok(InterceptedService::new(
            self.channel.clone(),
            Words { agent: Some(agent) },
        ))
    }
}

/// Connects.
///
/// # Errors
/// [`Failure::Usage`] when that is no address, [`Failure::Unreachable`] when nobody answers there.
pub async fn connect(address: &str, whose: Whose) -> Result<Line, Failure> {
    let Whose {
        name,
        option,
        port,
        usual,
    } = whose;
    let wrong = || Failure::Usage(format!("{option} `{address}`: expected HOST:PORT, such as {usual}"));
    let endpoint = client::endpoint(address, usual).map_err(|_| wrong())?;
    if endpoint.uri().port().is_none() {
        return Err(wrong());
    }
    let endpoint = endpoint.connect_timeout(PATIENCE);
    let channel = client::connect(&endpoint).await.map_err(|error| {
        let hint = client::hint(&error);
        Failure::Unreachable(format!(
            "no {name} answers at {address}: is it running, and is this {port}? {hint}"
        ))
    })?;
    Ok(Line { channel })
}

/// What a call has come to that did not succeed.
#[must_use]
pub fn refused(whose: Whose, status: &Status) -> Failure {
    let name = whose.name;
    // A daemon's own words come without a cause; a connection that breaks has one.
    if status.source().is_some() {
        let why = client::broken(status).unwrap_or_else(|| status.message().to_owned());
        return Failure::Unreachable(format!("the {name} went away: {why}"));
    }
    Failure::Refused(format!("the {name} refused: {}", status.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_a_broken_connection() {
        let said = refused(AGENT, &Status::unavailable("it drains"));
        assert!(matches!(said, Failure::Refused(_)), "{said}");
        assert_eq!(said.to_string(), "the agent refused: it drains");
        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        assert!(matches!(refused(AGENT, &broken), Failure::Unreachable(_)));
    }

    #[test]
    fn the_agent_goes_with_a_call() {
        let mut words = Words {
            agent: Some(MetadataValue::from_static("maps-1")),
        };
        let request = words.call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get(AGENT_METADATA).unwrap(), "maps-1");
        assert!(Words::default().call(Request::new(())).unwrap().metadata().is_empty());
    }
}
