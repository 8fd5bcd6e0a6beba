//! Ports for servers that tests start. They are below those that the system hands out by itself (32768 and above), or a
//! connection made meanwhile could take one before its server does; and each is reserved by a locked file, so that
//! stacks of tests that run at once never choose the same. The lock goes with the process that holds it.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use nix::fcntl::{Flock, FlockArg};

const FIRST: u16 = 24_000;
const COUNT: u16 = 8_000;

/// A port that belongs to this process for as long as this lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reserved: Flock<File>,
}

impl Port {
    /// Reserves a port on which nobody listens.
    ///
    /// # Panics
    /// When none is free.
    #[must_use]
    pub fn reserve() -> Self {
        static TRIED: AtomicU16 = AtomicU16::new(0);
        let folder = std::env::temp_dir().join(format!("graticule-test-ports-{}", nix::unistd::getuid()));
        std::fs::create_dir_all(&folder).unwrap();
        // Processes that run at once start looking at different places.
        let start = u16::try_from(u64::from(std::process::id()) * 61 % u64::from(COUNT)).unwrap();
        for _ in 0..COUNT {
            let number = FIRST + (start + TRIED.fetch_add(1, Ordering::Relaxed)) % COUNT;
            let file = File::create(folder.join(number.to_string())).unwrap();
            let Ok(reserved) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
                continue;
            };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self {
                    number,
                    _reserved: reserved,
                };
            }
        }
        panic!("no port from {FIRST} on is free");
    }

    /// The port on loopback.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}
