//! One control plane as a process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};

use nix::sys::signal::Signal;

use crate::client::Client;
use crate::ports::Port;
use crate::process::Process;
use crate::{parts, until};

/// A control plane of the stack. It keeps its ports and its store when its process goes and another comes.
pub struct ControlPlane {
    name: String,
    pub(crate) xds: Port,
    fleet: Port,
    status: Port,
    environment: BTreeMap<String, String>,
    log: PathBuf,
    process: Option<Process>,
}

impl ControlPlane {
    /// One that keeps its log below `folder`, and its store there unless the environment says where that is.
    pub(crate) fn new(name: &str, folder: &Path, store: &str, mut environment: BTreeMap<String, String>) -> Self {
        let [xds, fleet, status] = std::array::from_fn(|_| Port::reserve());
        for (part, port) in [("XDS", &xds), ("FLEET", &fleet), ("STATUS", &status)] {
            environment.insert(format!("CONF_{part}__LISTEN"), port.address().to_string());
        }
        if !environment.contains_key("CONF_STORE__URL") {
            let store = folder.join(store).display().to_string();
            environment.entry("CONF_STORE__DIR".to_owned()).or_insert(store);
        }
        Self {
            name: name.to_owned(),
            xds,
            fleet,
            status,
            environment,
            log: folder.join(format!("{name}.log")),
            process: None,
        }
    }

    /// Starts its process and does not wait.
    pub fn start(&mut self) {
        let mut command = Command::new(parts::binary("control-plane"));
        command.arg("serve").envs(&self.environment);
        self.process = Some(Process::start(&self.name, &mut command, &self.log));
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Sends it a signal and does not wait.
    pub fn signal(&mut self, signal: Signal) {
        if let Some(process) = &mut self.process {
            process.signal(signal);
        }
    }

    /// Waits until it has ended by itself; gives how, and what it wrote since the stack was started.
    ///
    /// # Panics
    /// When it does not run, or does not end in time.
    pub async fn until_ended(&mut self) -> (ExitStatus, String) {
        let process = self.process.as_mut().unwrap();
        until("the control plane to end", async || process.ended().is_some()).await;
        (process.ended().unwrap(), process.log())
    }

    /// Where agents and tools reach it.
    #[must_use]
    pub fn fleet(&self) -> SocketAddr {
        self.fleet.address()
    }

    /// A client of its operations port.
    #[must_use]
    pub fn status(&self) -> Client {
        Client::new(self.status.address())
    }

    /// Runs the command line against it.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(parts::binary("control-plane"));
        command.args(arguments).arg("--host").arg(self.fleet().to_string());
        command.output().unwrap()
    }

    /// Its process's number, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }
}
