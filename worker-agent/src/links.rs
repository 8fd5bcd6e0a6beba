//! The ways to the control planes, from the configuration, and what this agent says there of itself.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

use anyhow::Context as _;
use graticule_daemon::tls::Dial;
use graticule_proto::v1::AgentHello;
use tonic::transport::{Endpoint, Uri};

use crate::config::Config;

/// The way to one control plane.
#[derive(Debug, Clone)]
pub struct Way {
    /// Where it is.
    pub endpoint: Endpoint,
    /// How connections are made.
    pub dial: Dial,
}

/// The control planes that are configured, in the order in which they count, and the hello that each of them is told: the same,
/// for they tell Envoys of one agent. None of both when the agent stands alone.
///
/// # Errors
/// When an address cannot be used, or it cannot be found out how this agent is reached.
pub fn links(
    config: &Config,
    name: &str,
    http: SocketAddr,
    grpc: SocketAddr,
) -> anyhow::Result<(Vec<Way>, AgentHello)> {
    let endpoints = config.control_planes()?;
    if endpoints.is_empty() {
        return Ok((Vec::new(), AgentHello::default()));
    }
    let fleet = &config.fleet;
    let reached = |configured: &str, bound: SocketAddr, key: &str| -> anyhow::Result<String> {
        if !configured.is_empty() {
            let address: SocketAddr = configured
                .parse()
                .with_context(|| format!("{key} `{configured}`: expected an IP address and a port"))?;
            return Ok(address.to_string());
        }
        if bound.ip().is_unspecified() {
            let own = own_address(endpoints.iter().map(Endpoint::uri))
                .with_context(|| format!("{key} is not set and could not be found out: set it"))?;
            return Ok(SocketAddr::new(own, bound.port()).to_string());
        }
        Ok(bound.to_string())
    };
    let hello = AgentHello {
        agent_id: name.to_owned(),
        pool: fleet.pool.clone(),
        data_address: reached(&fleet.advertise_http, http, "fleet.advertise_http")?,
        grpc_address: reached(&fleet.advertise_grpc, grpc, "fleet.advertise_grpc")?,
        version: env!("CARGO_PKG_VERSION").into(),
        longest_timeout: config.longest_timeout(),
    };
    let dial = config.dial()?;
    let ways = endpoints.into_iter().map(|endpoint| Way {
        endpoint,
        dial: dial.clone(),
    });
    Ok((ways.collect(), hello))
}

/// The address from which this machine would speak to the first control plane of which that can be told: the name of one that
/// is away may have no address just now.
fn own_address<'a>(control_planes: impl Iterator<Item = &'a Uri>) -> anyhow::Result<IpAddr> {
    let mut problem = None;
    for control_plane in control_planes {
        match towards(control_plane) {
            Ok(own) => return Ok(own),
            Err(error) => problem = problem.or(Some(error)),
        }
    }
    Err(problem.unwrap_or_else(|| anyhow::anyhow!("there is no control plane")))
}

/// The address from which this machine would speak to a control plane, by asking the kernel's routing table.
fn towards(control_plane: &Uri) -> anyhow::Result<IpAddr> {
    let host = control_plane.host().context("the control plane's URL names no host")?;
    let secured = control_plane.scheme_str() == Some("https");
    let port = control_plane.port_u16().unwrap_or(if secured { 443 } else { 80 });
    let target = (host, port)
        .to_socket_addrs()?
        .next()
        .context("its name has no address")?;
    let socket = std::net::UdpSocket::bind(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_plane_is_told_the_same_address() {
        let mut config = Config::default();
        let any: SocketAddr = "0.0.0.0:23457".parse().unwrap();
        assert!(links(&config, "a", any, any).unwrap().0.is_empty());
        config.fleet.control_plane = serde_json::from_value(serde_json::json!([
            "http://nowhere.invalid:18001",
            "http://127.0.0.1:18001"
        ]))
        .unwrap();
        let (ways, hello) = links(&config, "a", any, any).unwrap();
        assert_eq!(ways.len(), 2);
        assert_eq!(
            (hello.data_address.as_str(), hello.agent_id.as_str()),
            ("127.0.0.1:23457", "a"),
            "by the second, for the first has no address"
        );
        config.fleet.advertise_http = "10.0.0.7:80".to_owned();
        let hello = links(&config, "a", any, any).unwrap().1;
        assert_eq!(hello.data_address, "10.0.0.7:80");
    }
}
