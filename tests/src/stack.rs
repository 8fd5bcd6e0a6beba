//! The whole stack: a control plane or two, agents and an Envoy, each a process of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::agent::Agent;
use crate::client::{Answer, Client};
use crate::control_plane::ControlPlane;
use crate::memory::family;
use crate::ports::Port;
use crate::process::Process;
use crate::{parts, until};

/// What to start.
#[derive(Debug, Clone)]
pub struct Plan {
    agents: usize,
    workers: usize,
    projects: PathBuf,
    agent_environment: BTreeMap<String, String>,
    control_plane_environment: BTreeMap<String, String>,
    control_planes: usize,
}

impl Plan {
    /// So many agents of two workers each, with the demo projects.
    #[must_use]
    pub fn agents(agents: usize) -> Self {
        let (agent_environment, control_plane_environment) = (BTreeMap::new(), BTreeMap::new());
        let projects = parts::projects();
        Self {
            agents,
            workers: 2,
            projects,
            agent_environment,
            control_plane_environment,
            control_planes: 1,
        }
    }

    /// Two control planes, and Envoy as `envoy/bootstrap-twin.yaml` has it. Each has a store of its own unless
    /// `CONF_STORE__URL` is set.
    #[must_use]
    pub fn twins(self) -> Self {
        Self {
            control_planes: 2,
            ..self
        }
    }

    /// So many workers for each agent.
    #[must_use]
    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// Other projects.
    #[must_use]
    pub fn projects(self, projects: impl Into<PathBuf>) -> Self {
        Self {
            projects: projects.into(),
            ..self
        }
    }

    /// A `CONF_` variable for every agent.
    #[must_use]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "numbers and texts alike read best by value"
    )]
    pub fn agent(mut self, key: &str, value: impl ToString) -> Self {
        self.agent_environment.insert(key.to_owned(), value.to_string());
        self
    }

    /// A `CONF_` variable for the control plane.
    #[must_use]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "numbers and texts alike read best by value"
    )]
    pub fn control_plane(mut self, key: &str, value: impl ToString) -> Self {
        self.control_plane_environment.insert(key.to_owned(), value.to_string());
        self
    }

    /// Starts it and waits until Envoy has every agent.
    pub async fn start(self) -> Stack {
        let mut stack = Stack::without_agents(self);
        for _ in 0..stack.plan.agents {
            stack.add_agent();
        }
        for agent in &mut stack.agents {
            agent.until_ready().await;
        }
        stack.until_in_service(stack.plan.agents).await;
        stack
    }
}

/// A running stack. When it goes, everything it started is ended; after a failure, the logs' ends are shown.
///
/// Fields are dropped in the order they stand: first what serves clients, last control planes and the files.
pub struct Stack {
    envoy: Process,
    /// The agents, in the order they were started.
    pub agents: Vec<Agent>,
    /// The control planes, in the order in which they count.
    pub control_planes: Vec<ControlPlane>,
    front: Port,
    admin: Port,
    plan: Plan,
    client: Client,
    folder: TempDir,
}

impl Stack {
    fn without_agents(plan: Plan) -> Self {
        let folder = tempfile::Builder::new().prefix("graticule-test-").tempdir().unwrap();
        let [front, admin] = std::array::from_fn(|_| Port::reserve());
        let mut environment = plan.control_plane_environment.clone();
        environment
            .entry("CONF_FRONT__LISTEN".to_owned())
            .or_insert(front.address().to_string());
        let named = [("control-plane", "store"), ("control-plane-2", "store-2")].into_iter();
        let control_planes: Vec<ControlPlane> = named
            .take(plan.control_planes)
            .map(|(name, store)| ControlPlane::new(name, folder.path(), store, environment.clone()))
            .collect();
        let bootstrap = folder.path().join("bootstrap.yaml");
        let xds: Vec<SocketAddr> = control_planes.iter().map(|one| one.xds.address()).collect();
        std::fs::write(&bootstrap, bootstrap_text(&xds, admin.address())).unwrap();
        let mut command = Command::new(parts::envoy());
        command
            .args([
                "--disable-hot-restart",
                "--concurrency",
                "2",
                "--log-level",
                "warning",
                "--config-path",
            ])
            .arg(&bootstrap);
        let envoy = Process::start("envoy", &mut command, &folder.path().join("envoy.log"));
        let client = Client::new(front.address());
        let mut stack = Self {
            envoy,
            agents: Vec::new(),
            control_planes,
            front,
            admin,
            plan,
            client,
            folder,
        };
        stack.control_planes.iter_mut().for_each(ControlPlane::start);
        stack
    }

    /// Starts the control plane and does not wait.
    pub fn start_control_plane(&mut self) {
        self.control_planes[0].start();
    }

    /// Ends the control plane with SIGKILL.
    pub fn kill_control_plane(&mut self) {
        self.control_planes[0].kill();
    }

    /// Sends SIGTERM to the control plane and does not wait.
    pub fn terminate_control_plane(&mut self) {
        self.control_planes[0].signal(Signal::SIGTERM);
    }

    /// Where agents and tools reach the control plane.
    #[must_use]
    pub fn fleet(&self) -> SocketAddr {
        self.control_planes[0].fleet()
    }

    /// Where the control plane keeps the fleet's pins.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Waits until the control plane has ended by itself; gives how, and what it wrote since the stack was started.
    ///
    /// # Panics
    /// When it does not run, or does not end in time.
    pub async fn until_control_plane_ended(&mut self) -> (ExitStatus, String) {
        self.control_planes[0].until_ended().await
    }

    /// Runs the control plane's command line against the one of this stack.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.control_planes[0].cli(arguments)
    }

    /// Starts one agent more and does not wait.
    pub fn add_agent(&mut self) -> &mut Agent {
        let mut environment = self.plan.agent_environment.clone();
        let projects = serde_json::json!({"/": self.plan.projects}).to_string();
        let secured = self
            .plan
            .control_plane_environment
            .contains_key("CONF_FLEET__TLS__CERT_FILE");
        let scheme = if secured { "https" } else { "http" };
        let control_planes = self.control_planes.iter();
        let control_planes: Vec<String> = control_planes
            .map(|one| format!("{scheme}://{}", one.fleet()))
            .collect();
        let control_planes = match &control_planes[..] {
            [one] => one.clone(),
            several => serde_json::json!(several).to_string(),
        };
        for (key, value) in [
            ("CONF_WORKER__NUM_PROCESSES", self.plan.workers.to_string()),
            ("CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS", projects),
            ("CONF_FLEET__CONTROL_PLANE", control_planes),
        ] {
            environment.entry(key.to_owned()).or_insert(value);
        }
        let name = format!("agent-{}", self.agents.len() + 1);
        self.agents.push(Agent::new(&name, self.folder.path(), environment));
        let agent = self.agents.last_mut().unwrap();
        agent.start();
        agent
    }

    /// Waits until Envoy has exactly so many agents to send requests to, and listens.
    pub async fn until_in_service(&self, agents: usize) {
        until(&format!("{agents} agents in Envoy"), async || {
            self.in_service().await == Some(agents)
        })
        .await;
        let front = self.front.address();
        until("Envoy's listener", async || {
            tokio::net::TcpStream::connect(front).await.is_ok()
        })
        .await;
    }

    /// How many agents Envoy has to send requests to; none while it does not say.
    pub async fn in_service(&self) -> Option<usize> {
        self.count("membership_healthy").await
    }

    /// How often Envoy had to try a request again elsewhere; none while it does not say.
    pub async fn retries(&self) -> Option<usize> {
        self.count("upstream_rq_retry").await
    }

    /// A figure that Envoy keeps of the agents.
    async fn count(&self, name: &str) -> Option<usize> {
        let filter = format!("/stats?filter=^cluster.pool/default.{name}$");
        let answer = Client::new(self.admin.address())
            .ask(http::Method::GET, &filter, &[], "")
            .await
            .ok()?;
        answer.text().trim().rsplit(": ").next()?.parse().ok()
    }

    /// A client of Envoy's.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where clients reach Envoy.
    #[must_use]
    pub fn front(&self) -> SocketAddr {
        self.front.address()
    }

    /// `http://host:port` as clients know it.
    #[must_use]
    pub fn base(&self) -> String {
        self.client.base()
    }

    /// GET through Envoy.
    pub async fn get(&self, target: &str) -> Answer {
        self.client.get(target).await
    }

    /// The agent of that name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn agent(&self, name: &str) -> &Agent {
        self.agents
            .iter()
            .find(|agent| agent.name == name)
            .unwrap_or_else(|| panic!("no agent {name}"))
    }

    /// The same, to do something to it.
    ///
    /// # Panics
    /// When there is none.
    pub fn agent_mut(&mut self, name: &str) -> &mut Agent {
        self.agents
            .iter_mut()
            .find(|agent| agent.name == name)
            .unwrap_or_else(|| panic!("no agent {name}"))
    }

    /// A client of Envoy's admin port.
    #[must_use]
    pub fn admin(&self) -> Client {
        Client::new(self.admin.address())
    }

    /// A client of the control plane's operations port.
    #[must_use]
    pub fn status(&self) -> Client {
        self.control_planes[0].status()
    }

    /// What all its processes use of memory together, in bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let control_plane = self.control_planes.iter().filter_map(ControlPlane::pid);
        let agents = self.agents.iter().map(Agent::pid);
        agents.chain(control_plane).chain([self.envoy_pid()]).map(family).sum()
    }

    /// The process number of Envoy.
    #[must_use]
    pub fn envoy_pid(&self) -> u32 {
        self.envoy.pid()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // All at once, so that their drains run side by side; the fields' own drops wait for their ends.
        for agent in &mut self.agents {
            agent.terminate();
        }
    }
}

fn bootstrap_text(xds: &[SocketAddr], admin: SocketAddr) -> String {
    let file = if xds.len() == 1 {
        "bootstrap.yaml"
    } else {
        "bootstrap-twin.yaml"
    };
    let mut text = std::fs::read_to_string(parts::root().join("envoy").join(file)).unwrap();
    for (port, ours) in [18000, 28000].into_iter().zip(xds).chain([(9901, &admin)]) {
        let written = format!("port_value: {port}");
        assert_eq!(
            text.matches(&written).count(),
            1,
            "the bootstrap file no longer says `{written}` exactly once"
        );
        text = text.replace(&written, &format!("port_value: {}", ours.port()));
    }
    text
}
