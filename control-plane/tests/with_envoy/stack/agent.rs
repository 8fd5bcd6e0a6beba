//! A fake worker-agent: it attaches over FleetLink, comes back when the stream breaks, and answers every HTTP request
//! with its name and what it saw.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use graticule_proto::v1::fleet_link_client::FleetLinkClient;
use graticule_proto::v1::{AgentHello, AgentPhase, AgentState, AgentUpdate, agent_update};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

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
}

/// A fake agent. Dropping it is its sudden death.
pub struct Agent {
    pub id: String,
    phase: watch::Sender<AgentPhase>,
    mode: Arc<Mutex<Mode>>,
    served: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Agent {
    /// Starts it, ready, on a port of its own.
    pub fn start(id: &str, pool: &str, control_plane: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let hello = AgentHello {
            agent_id: id.to_owned(),
            pool: pool.to_owned(),
            data_address: listener.local_addr().unwrap().to_string(),
            ..Default::default()
        };
        let (phase, phases) = watch::channel(AgentPhase::Ready);
        let (mode, served) = (Arc::new(Mutex::new(Mode::Prompt)), Arc::<AtomicUsize>::default());
        let answers = answer(id.to_owned(), Arc::clone(&mode), Arc::clone(&served), listener);
        let tasks = vec![
            tokio::spawn(attach(hello, control_plane, phases)),
            tokio::spawn(answers),
        ];
        Self {
            id: id.to_owned(),
            phase,
            mode,
            served,
            tasks,
        }
    }

    pub fn say(&self, phase: AgentPhase) {
        self.phase.send_replace(phase);
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

async fn attach(hello: AgentHello, control_plane: SocketAddr, mut phases: watch::Receiver<AgentPhase>) {
    loop {
        // Whatever ends the stream, the agent comes back.
        let _ = one_stream(hello.clone(), control_plane, &mut phases).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn one_stream(
    hello: AgentHello,
    control_plane: SocketAddr,
    phases: &mut watch::Receiver<AgentPhase>,
) -> anyhow::Result<()> {
    let (updates, outgoing) = mpsc::channel(8);
    let update = |update| AgentUpdate { update: Some(update) };
    updates.send(update(agent_update::Update::Hello(hello))).await?;
    let mut client = FleetLinkClient::connect(format!("http://{control_plane}")).await?;
    let mut intents = client.attach(ReceiverStream::new(outgoing)).await?.into_inner();
    phases.mark_changed();
    loop {
        tokio::select! {
            intent = intents.message() => if intent?.is_none() { return Ok(()) },
            changed = phases.changed() => {
                changed?;
                let phase = *phases.borrow_and_update() as i32;
                let state = AgentState { phase, capacity: 2, live: 2, ..Default::default() };
                updates.send(update(agent_update::Update::State(state))).await?;
            }
        }
    }
}

async fn answer(id: String, mode: Arc<Mutex<Mode>>, served: Arc<AtomicUsize>, listener: std::net::TcpListener) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    // Connections die with the agent.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (id, mode, served) = (id.clone(), Arc::clone(&mode), Arc::clone(&served));
        connections.spawn(async move {
            let service = service_fn(move |request| {
                served.fetch_add(1, Ordering::SeqCst);
                let mode = *mode.lock().unwrap();
                one_answer(id.clone(), mode, request)
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // Envoy may go away at any time.
            let _ = connection.await;
        });
    }
}

async fn one_answer(id: String, mode: Mode, request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    match mode {
        Mode::Crash => anyhow::bail!("the connection is closed without an answer"),
        Mode::Slow(time) => tokio::time::sleep(time).await,
        Mode::Prompt | Mode::Elsewhere => {}
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
    if mode == Mode::Elsewhere {
        answer = answer.status(503).header("x-agent-retry", "1");
    }
    Ok(answer.body(Full::new(Bytes::from(seen.to_string())))?)
}
