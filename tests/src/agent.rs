//! One worker-agent as a process, and what it says of itself over gRPC.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use graticule_proto::v1::qgis_admin_client::QgisAdminClient;
use graticule_proto::v1::{StatsReply, StatsRequest, WorkerInfo};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::Client;
use crate::memory::children;
use crate::ports::Port;
use crate::process::Process;
use crate::{PATIENCE, parts, until, until_within};

/// An agent of the stack. It keeps its name, its ports and its state when its process goes and another comes.
#[derive(Debug)]
pub struct Agent {
    /// Its name in the fleet.
    pub name: String,
    http: Port,
    grpc: Port,
    metrics: Port,
    folder: PathBuf,
    environment: BTreeMap<String, String>,
    process: Option<Process>,
}

impl Agent {
    pub(crate) fn new(name: &str, folder: &Path, mut environment: BTreeMap<String, String>) -> Self {
        let (http, grpc, metrics) = (Port::reserve(), Port::reserve(), Port::reserve());
        let folder = folder.join(name);
        let (state, run) = (folder.join("state"), folder.join("run"));
        std::fs::create_dir_all(&state).unwrap();
        for (key, value) in [
            ("CONF_WORKER__NAME", name.to_owned()),
            ("CONF_SERVER__HTTP_LISTEN", http.address().to_string()),
            ("CONF_SERVER__GRPC_LISTEN", grpc.address().to_string()),
            ("CONF_SERVER__METRICS_LISTEN", metrics.address().to_string()),
            ("CONF_WORKER__STATE_DIR", state.display().to_string()),
            ("CONF_WORKER__RUNTIME_DIR", run.display().to_string()),
        ] {
            environment.entry(key.to_owned()).or_insert(value);
        }
        Self {
            name: name.to_owned(),
            http,
            grpc,
            metrics,
            folder,
            environment,
            process: None,
        }
    }

    /// Starts its process and does not wait.
    pub fn start(&mut self) {
        let mut command = Command::new(parts::binary("worker-agent"));
        command.arg("serve").envs(&self.environment);
        self.process = Some(Process::start(&self.name, &mut command, &self.folder.join("log")));
    }

    /// Changes its environment from its next start on.
    pub fn set(&mut self, key: &str, value: &str) {
        self.environment.insert(key.to_owned(), value.to_owned());
    }

    /// Where its gRPC port is.
    #[must_use]
    pub fn grpc(&self) -> SocketAddr {
        self.grpc.address()
    }

    /// A client of its HTTP data port, without Envoy.
    #[must_use]
    pub fn direct(&self) -> Client {
        Client::new(self.http.address())
    }

    /// A client of its metrics port.
    #[must_use]
    pub fn metrics(&self) -> Client {
        Client::new(self.metrics.address())
    }

    /// Where it keeps temporary files.
    #[must_use]
    pub fn runtime_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// What its processes wrote, since its first start.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// The process's number.
    ///
    /// # Panics
    /// When it was never started.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().pid()
    }

    /// Waits until it is ready.
    pub async fn until_ready(&mut self) {
        let metrics = self.metrics();
        let name = self.name.clone();
        until(&format!("{name} to be ready"), async || {
            let ended = self.ended();
            assert!(
                ended.is_none(),
                "{name} ended before it was ready: {ended:?}\n{}",
                self.log()
            );
            let asked = metrics.ask(http::Method::GET, "/readyz", &[], "").await;
            asked.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }

    /// How its process ended, when it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::ended)
    }

    /// Waits until its process has ended by itself.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn until_ended(&mut self) -> ExitStatus {
        assert!(
            until_within(PATIENCE, async || self.ended().is_some()).await,
            "{} does not end",
            self.name
        );
        self.ended().unwrap()
    }

    /// Sends SIGTERM and does not wait.
    pub fn terminate(&mut self) {
        if let Some(process) = &mut self.process {
            process.signal(Signal::SIGTERM);
        }
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// What it says of its pool.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn try_stats(&self) -> anyhow::Result<StatsReply> {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", self.grpc()))?;
        let channel = channel.timeout(Duration::from_secs(10)).connect().await?;
        Ok(QgisAdminClient::new(channel).stats(StatsRequest {}).await?.into_inner())
    }

    /// What it says of its pool.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn stats(&self) -> StatsReply {
        self.try_stats()
            .await
            .unwrap_or_else(|error| panic!("{}: {error:#}", self.name))
    }

    /// Its workers that can take or are serving a request.
    pub async fn workers(&self) -> Vec<WorkerInfo> {
        let workers = self.stats().await.workers;
        workers
            .into_iter()
            .filter(|worker| matches!(worker.state.as_str(), "idle" | "busy"))
            .collect()
    }

    /// Ends its zygotes with SIGKILL and says how many there were.
    ///
    /// # Panics
    /// When the kernel does not say which processes are the agent's.
    #[must_use]
    pub fn kill_zygotes(&self) -> usize {
        let zygotes = children(self.pid()).into_iter().filter(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.starts_with("graticule-z")
        });
        zygotes
            .map(|pid| kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap())
            .count()
    }

    /// Sends a signal to a worker of this agent.
    ///
    /// # Panics
    /// When the number is not that of a child of the agent's.
    pub fn signal_worker(&self, worker: &WorkerInfo, signal: Signal) {
        assert!(worker.pid > 1, "{worker:?} has no process");
        let parent = std::fs::read_to_string(format!("/proc/{}/status", worker.pid))
            .ok()
            .and_then(|status| {
                status
                    .lines()
                    .find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<u32>().ok())
            });
        // It may have ended by itself just now.
        if let Some(parent) = parent {
            assert_eq!(parent, self.pid(), "worker {} is no child of {}", worker.pid, self.name);
            let _ = kill(Pid::from_raw(i32::try_from(worker.pid).unwrap()), signal);
        }
    }

    /// Runs the command line against this agent.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(parts::binary("worker-agent"));
        command.args(arguments).arg("--host").arg(self.grpc().to_string());
        command.output().unwrap()
    }
}
