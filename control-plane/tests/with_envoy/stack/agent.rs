//! A fake worker-agent: it attaches over FleetLink, comes back when the stream breaks, and answers every HTTP request
//! with its name and what it saw.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use graticule_daemon::tls::{ServerTls, Stream, TlsServer};
use graticule_proto::v1::fleet_link_client::FleetLinkClient;
use graticule_proto::v1::{
    AgentDemand, AgentHello, AgentPhase, AgentState, AgentUpdate, FleetPins, ProjectDemand, agent_intent, agent_update,
};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

/// How often it says how it stands though nothing has changed.
const SAYS_AGAIN: Duration = Duration::from_secs(5);

/// How it answers HTTP requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At once.
    Prompt,
    /// After this time.
    Slow(Duration),
    /// With 503 and the wish that another agent be asked.
    Elsewhere,
    /// By closing the connection after it has read the request.
    Crash,
    /// At once, but checks find it not ready.
    Unwell,
}

/// A fake agent. Dropping it is its sudden death.
pub struct Agent {
    pub id: String,
    pub address: SocketAddr,
    state: watch::Sender<AgentState>,
    demand: watch::Sender<AgentDemand>,
    mode: Arc<Mutex<Mode>>,
    served: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Agent {
    /// Starts it, ready, on a port of its own.
    pub fn start(id: &str, pool: &str, control_plane: SocketAddr) -> Self {
        Self::patient(id, pool, control_plane, 0.0)
    }

    /// The same; it attaches to several control planes at once.
    pub fn of_all(id: &str, control_planes: &[SocketAddr]) -> Self {
        Self::make(id, "default", control_planes, 0.0, None, None)
    }

    /// The same; its data port speaks TLS.
    pub fn secured(id: &str, pool: &str, control_plane: SocketAddr, tls: &TlsServer) -> Self {
        let tls = ServerTls::open("agent", tls, &[b"http/1.1"]).unwrap();
        Self::make(id, pool, &[control_plane], 0.0, None, tls)
    }

    /// The same; it says that a request may take so many seconds there.
    pub fn patient(id: &str, pool: &str, control_plane: SocketAddr, longest_timeout: f64) -> Self {
        Self::make(id, pool, &[control_plane], longest_timeout, None, None)
    }

    /// One that does what it is told of pins, as a real one: it loads them, which takes this time, and is ready when it has
    /// them.
    pub fn keeper(id: &str, control_plane: SocketAddr, load: Duration) -> Self {
        Self::make(id, "default", &[control_plane], 0.0, Some(load), None)
    }

    /// One that no control plane hears of.
    pub fn unregistered(id: &str) -> Self {
        Self::make(id, "default", &[], 0.0, None, None)
    }

    fn make(
        id: &str,
        pool: &str,
        control_planes: &[SocketAddr],
        longest_timeout: f64,
        load: Option<Duration>,
        tls: Option<ServerTls>,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let hello = AgentHello {
            agent_id: id.to_owned(),
            pool: pool.to_owned(),
            data_address: address.to_string(),
            longest_timeout,
            ..Default::default()
        };
        let mut first = AgentState {
            capacity: 2,
            live: 2,
            ..AgentState::default()
        };
        first.set_phase(if load.is_some() {
            AgentPhase::Starting
        } else {
            AgentPhase::Ready
        });
        let (state, states) = watch::channel(first);
        let (demand, demands) = watch::channel(AgentDemand::default());
        let (mode, served) = (Arc::new(Mutex::new(Mode::Prompt)), Arc::<AtomicUsize>::default());
        let answers = Answers {
            id: id.to_owned(),
            mode: Arc::clone(&mode),
            served: Arc::clone(&served),
            state: states.clone(),
        };
        let mut tasks = vec![tokio::spawn(answers.serve(listener, tls))];
        let (tell, told) = watch::channel(None);
        for control_plane in control_planes {
            let (hello, states, demands) = (hello.clone(), states.clone(), demands.clone());
            tasks.push(tokio::spawn(attach(
                hello,
                *control_plane,
                states,
                demands,
                tell.clone(),
            )));
        }
        if let Some(load) = load {
            tasks.push(tokio::spawn(keep(told, state.clone(), load)));
        }
        Self {
            id: id.to_owned(),
            address,
            state,
            demand,
            mode,
            served,
            tasks,
        }
    }

    pub fn say(&self, phase: AgentPhase) {
        self.state.send_modify(|state| state.set_phase(phase));
    }

    /// Has it say something else of itself.
    pub fn tell(&self, change: impl FnOnce(&mut AgentState)) {
        self.state.send_modify(change);
    }

    /// Has it say that it is asked for these projects.
    pub fn is_asked(&self, projects: impl IntoIterator<Item = String>) {
        let projects = projects
            .into_iter()
            .map(|project| ProjectDemand { project, requests: 4 });
        let projects = projects.collect();
        self.demand.send_replace(AgentDemand { projects });
    }

    /// The pinned projects that it has.
    pub fn loaded(&self) -> BTreeSet<String> {
        self.state.borrow().pins.iter().cloned().collect()
    }

    pub fn is_ready(&self) -> bool {
        self.state.borrow().phase() == AgentPhase::Ready
    }

    /// Its data port takes no connections any more, and nobody is told.
    pub fn close(&self) {
        self.tasks[0].abort();
    }

    /// It is cut off from its control planes, and serves on.
    pub fn part(&self) {
        for link in &self.tasks[1..] {
            link.abort();
        }
    }

    pub fn be(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    /// Requests that reached it.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Loads what is pinned, and drops what is not.
async fn keep(mut told: watch::Receiver<Option<FleetPins>>, state: watch::Sender<AgentState>, load: Duration) {
    while told.changed().await.is_ok() {
        let Some(pins) = told.borrow_and_update().clone() else {
            continue;
        };
        let has: BTreeSet<String> = state.borrow().pins.iter().cloned().collect();
        if pins.projects.iter().any(|project| !has.contains(project)) {
            tokio::time::sleep(load).await;
        }
        state.send_modify(|state| {
            (state.pins, state.pins_revision) = (pins.projects, pins.revision);
            if state.phase() == AgentPhase::Starting {
                state.set_phase(AgentPhase::Ready);
            }
        });
    }
}

async fn attach(
    hello: AgentHello,
    control_plane: SocketAddr,
    mut states: watch::Receiver<AgentState>,
    mut demands: watch::Receiver<AgentDemand>,
    told: watch::Sender<Option<FleetPins>>,
) {
    loop {
        // Whatever ends the stream, the agent comes back.
        let _ = one_stream(hello.clone(), control_plane, &mut states, &mut demands, &told).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn one_stream(
    hello: AgentHello,
    control_plane: SocketAddr,
    states: &mut watch::Receiver<AgentState>,
    demands: &mut watch::Receiver<AgentDemand>,
    told: &watch::Sender<Option<FleetPins>>,
) -> anyhow::Result<()> {
    let (updates, outgoing) = mpsc::channel(8);
    let update = |update| AgentUpdate { update: Some(update) };
    updates.send(update(agent_update::Update::Hello(hello))).await?;
    let mut client = FleetLinkClient::connect(format!("http://{control_plane}")).await?;
    let mut intents = client.attach(ReceiverStream::new(outgoing)).await?.into_inner();
    demands.mark_changed();
    // As a real one: who is silent for `fleet.silence_limit` counts as gone. The first tick comes at once.
    let mut again = tokio::time::interval(SAYS_AGAIN);
    loop {
        tokio::select! {
            _ = again.tick() => states.mark_changed(),
            intent = intents.message() => {
                let Some(intent) = intent? else { return Ok(()) };
                if let Some(agent_intent::Intent::Pins(pins)) = intent.intent {
                    told.send_replace(Some(pins));
                }
            }
            changed = states.changed() => {
                changed?;
                let state = states.borrow_and_update().clone();
                updates.send(update(agent_update::Update::State(state))).await?;
            }
            changed = demands.changed() => {
                changed?;
                let demand = demands.borrow_and_update().clone();
                updates.send(update(agent_update::Update::Demand(demand))).await?;
            }
        }
    }
}

/// Answers HTTP requests.
#[derive(Clone)]
struct Answers {
    id: String,
    mode: Arc<Mutex<Mode>>,
    served: Arc<AtomicUsize>,
    state: watch::Receiver<AgentState>,
}

impl Answers {
    async fn serve(self, listener: std::net::TcpListener, tls: Option<ServerTls>) {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        // Connections die with the agent.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (answers, tls) = (self.clone(), tls.clone());
            connections.spawn(async move {
                // Envoy may show no certificate that is believed.
                let Ok(stream) = Stream::open(stream, tls.as_ref()).await else {
                    return;
                };
                let service = service_fn(move |request| answers.clone().any(request));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // Envoy may go away at any time.
                let _ = connection.await;
            });
        }
    }

    async fn any(self, request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
        let mode = *self.mode.lock().unwrap();
        if request.uri().path() == "/readyz" {
            return Ok(checked(mode));
        }
        self.served.fetch_add(1, Ordering::SeqCst);
        let project = request.headers().get("x-graticule-project");
        let project = format!("/{}", project.map_or("", |project| project.to_str().unwrap()));
        let warm = self.state.borrow().pins.contains(&project);
        let mut answer = one_answer(self.id, mode, request).await?;
        answer
            .headers_mut()
            .insert("x-test-warm", if warm { "yes" } else { "no" }.parse()?);
        Ok(answer)
    }
}

/// What Envoy's checks are answered. They are no requests, and a slow agent answers them as fast as another.
fn checked(mode: Mode) -> Response<Full<Bytes>> {
    let status = if mode == Mode::Unwell { 503 } else { 200 };
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
    answer
}

async fn one_answer(id: String, mode: Mode, request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    match mode {
        Mode::Crash => anyhow::bail!("the connection is closed without an answer"),
        Mode::Slow(time) => tokio::time::sleep(time).await,
        Mode::Prompt | Mode::Elsewhere | Mode::Unwell => {}
    }
    let headers: BTreeMap<String, String> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let seen = serde_json::json!({"path": head.uri.to_string(), "headers": headers, "body_bytes": body.len()});
    let mut answer = Response::builder()
        .header("x-graticule-agent", id)
        .header("x-powered-by", "fake");
    // What a test wants to have in the answer.
    if let Some(wished) = headers.get("x-test-answer") {
        let wished: BTreeMap<String, String> = serde_json::from_str(wished)?;
        for (name, value) in wished {
            answer = answer.header(name, value);
        }
    }
    if mode == Mode::Elsewhere {
        answer = answer.status(503).header("x-agent-retry", "1");
    }
    Ok(answer.body(Full::new(Bytes::from(seen.to_string())))?)
}
