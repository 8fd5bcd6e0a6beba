//! Asks a running control plane whether it is ready, as an orchestrator's health check does: one `GET /readyz` on the
//! operations port. It needs no configuration but that port.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context as _;
use graticule_cli::Failure;

/// How long each step may take: connecting, sending, reading.
const PATIENCE: Duration = Duration::from_secs(2);

/// More than `/readyz` ever says.
const LONGEST: u64 = 64 * 1024;

/// What the control plane says of itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether it is ready.
    pub ready: bool,
    /// What it waits for, or that it is ready.
    pub says: String,
}

/// Asks the control plane whose `status.listen` is `listen`.
///
/// # Errors
/// When nobody answers there, or not as a control plane does.
pub fn ask(listen: SocketAddr) -> anyhow::Result<Health> {
    let address = SocketAddr::new(reached(listen.ip()), listen.port());
    let answer = exchange(address).map_err(|error| {
        Failure::Unreachable(format!(
            "no control plane answers at {address} (status.listen): is it running? ({error})"
        ))
    })?;
    read(&answer).with_context(|| format!("what answers at {address} (status.listen) is no control plane"))
}

/// Where a server that listens on every address is reached from its own machine.
const fn reached(listen: IpAddr) -> IpAddr {
    match listen {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    }
}

fn exchange(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer)?;
    Ok(answer)
}

fn read(answer: &str) -> anyhow::Result<Health> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("its answer has no end of headers")?;
    let status = head.split(' ').nth(1).context("its answer has no status")?;
    let ready = match status {
        "200" => true,
        "503" => false,
        other => anyhow::bail!("/readyz answers {other}"),
    };
    Ok(Health {
        ready,
        says: body.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood() {
        let health = read("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n").unwrap();
        assert_eq!(
            health,
            Health {
                ready: true,
                says: "ready".into()
            }
        );
        let health = read("HTTP/1.1 503 Service Unavailable\r\n\r\nwaiting for: the fleet\n").unwrap();
        assert_eq!(
            health,
            Health {
                ready: false,
                says: "waiting for: the fleet".into()
            }
        );
        assert!(read("HTTP/1.1 404 Not Found\r\n\r\nno").is_err());
        assert!(read("SSH-2.0-OpenSSH").is_err());
    }

    #[test]
    fn a_server_on_every_address_is_asked_on_loopback() {
        assert_eq!(reached(Ipv4Addr::UNSPECIFIED.into()), IpAddr::from(Ipv4Addr::LOCALHOST));
        assert_eq!(reached(Ipv6Addr::UNSPECIFIED.into()), IpAddr::from(Ipv6Addr::LOCALHOST));
        assert_eq!(reached([192, 0, 2, 1].into()), IpAddr::from([192, 0, 2, 1]));
    }

    #[test]
    fn nobody_there_is_said_so() {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let error = ask(port).unwrap_err();
        assert!(error.to_string().contains("is it running?"), "{error}");
    }
}
