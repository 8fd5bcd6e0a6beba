//! A simulated world around one control plane, a process of its own: many agents over few connections, and xDS clients that
//! take everything like an Envoy does and answer nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::stack::ports::Port;
use control_plane::adapters::envoy::type_url;
use control_plane::core::resources::Kind;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use graticule_proto::v1::fleet_link_client::FleetLinkClient;
use graticule_proto::v1::{AgentHello, AgentPhase, AgentState, AgentUpdate, agent_update};
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Agents that share a connection.
const PER_CONNECTION: usize = 500;

/// The longest that anything may take here.
const PATIENCE: Duration = Duration::from_secs(120);

/// A control plane as a process of its own.
pub struct Program {
    child: Child,
    pub fleet: SocketAddr,
    pub xds: SocketAddr,
    pub status: SocketAddr,
    folder: tempfile::TempDir,
    _ports: [Port; 3],
}

impl Program {
    /// Starts it with these variables besides its ports.
    pub async fn start(binary: &Path, variables: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
        let [fleet, xds, status] = ports.each_ref().map(Port::address);
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(binary)
            .arg("serve")
            .env("CONF_FLEET__LISTEN", fleet.to_string())
            .env("CONF_XDS__LISTEN", xds.to_string())
            .env("CONF_STATUS__LISTEN", status.to_string())
            .env("CONF_STORE__DIR", folder.path().join("store"))
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let program = Self {
            child,
            fleet,
            xds,
            status,
            folder,
            _ports: ports,
        };
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(program.fleet).await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "the control plane does not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        program
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// The processor time that it has used.
    pub fn cpu(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // After the name, which may have spaces: user and system time are the 14th and 15th field, in ticks of 10 ms.
        let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// Its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// What it has to say for itself: the end of its log, its metrics, its agents and clients.
    fn tell(&self) {
        println!("the end of its log:");
        let log = self.log();
        for line in log.lines().skip(log.lines().count().saturating_sub(20)) {
            println!("{line:.300}");
        }
        for path in ["/metrics", "/"] {
            let page = page(self.status, path).unwrap_or_else(|problem| problem.to_string());
            let own = |line: &&str| path != "/metrics" || line.starts_with("graticule_");
            println!("{path}:\n{}", page.lines().filter(own).collect::<Vec<_>>().join("\n"));
        }
    }
}

/// A page of the status port, read by a thread that is about to fail.
fn page(status: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect_timeout(&status, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Agents that say what they are told to say, and nothing else but signs of life.
pub struct Agents {
    say: Vec<watch::Sender<AgentPhase>>,
    _streams: JoinSet<()>,
}

impl Agents {
    /// So many, ready, each in the pool that `pool` says.
    pub async fn attach(fleet: SocketAddr, count: usize, pool: impl Fn(usize) -> String) -> Self {
        let (mut say, mut streams) = (Vec::new(), JoinSet::new());
        let mut channel = connect(fleet).await;
        for number in 0..count {
            if number > 0 && number % PER_CONNECTION == 0 {
                channel = connect(fleet).await;
            }
            let hello = AgentHello {
                agent_id: format!("agent-{number:05}"),
                pool: pool(number),
                data_address: format!("10.{}.{}.{}:23457", number >> 16, (number >> 8) & 255, number & 255),
                ..Default::default()
            };
            let (phase, phases) = watch::channel(AgentPhase::Ready);
            say.push(phase);
            streams.spawn(attached(channel.clone(), hello, phases));
        }
        Self { say, _streams: streams }
    }

    /// One of them says how it stands.
    pub fn say(&self, agent: usize, phase: AgentPhase) {
        self.say[agent].send_replace(phase);
    }
}

async fn connect(address: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

async fn attached(channel: Channel, hello: AgentHello, mut phases: watch::Receiver<AgentPhase>) {
    let (updates, outgoing) = mpsc::channel(4);
    let update = |update| AgentUpdate { update: Some(update) };
    let mut client = FleetLinkClient::new(channel);
    updates.send(update(agent_update::Update::Hello(hello))).await.unwrap();
    let intents = match client.attach(ReceiverStream::new(outgoing)).await {
        Ok(intents) => intents,
        Err(status) => {
            println!("an agent cannot attach: {status}");
            return;
        }
    };
    let mut intents = intents.into_inner();
    loop {
        let state = AgentState {
            phase: *phases.borrow_and_update() as i32,
            capacity: 2,
            live: 2,
            ..Default::default()
        };
        if updates.send(update(agent_update::Update::State(state))).await.is_err() {
            return;
        }
        let quiet = tokio::time::sleep(Duration::from_secs(5));
        tokio::pin!(quiet);
        loop {
            tokio::select! {
                changed = phases.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = &mut quiet => break,
                intent = intents.message() => if !matches!(intent, Ok(Some(_))) { return },
            }
        }
    }
}

/// What a client has been told.
#[derive(Debug, Default)]
pub struct Told {
    /// Answers that had endpoints in them, by cluster.
    pub endpoints: BTreeMap<String, u64>,
    /// The endpoints that were told last, by cluster, as they came.
    pub last: BTreeMap<String, Vec<u8>>,
    /// All answers.
    pub answers: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// An xDS client that speaks the delta variant, takes everything and says so.
pub struct Envoy {
    pub told: watch::Receiver<Told>,
    _stream: JoinSet<()>,
}

impl Envoy {
    /// Connects it.
    pub async fn start(xds: SocketAddr, id: &str) -> Self {
        let (telling, told) = watch::channel(Told::default());
        let mut stream = JoinSet::new();
        let (channel, id) = (connect(xds).await, id.to_owned());
        stream.spawn(async move {
            // It ends with the control plane.
            let _ = takes_all(channel, &id, &telling).await;
        });
        Self { told, _stream: stream }
    }

    /// Waits until it has been told of this cluster's endpoints more than so many times; gives how many times.
    pub async fn until_told(&mut self, cluster: &str, more_than: u64) -> u64 {
        let count = |told: &Told| told.endpoints.get(cluster).copied().unwrap_or(0);
        let told = self.told.wait_for(|told| count(told) > more_than);
        let told = tokio::time::timeout(PATIENCE, told).await;
        match told.map(|told| told.map(|told| count(&told))) {
            Ok(told) => told.expect("the stream goes on"),
            Err(_) => panic!(
                "no update of endpoints of {cluster}; it was told {:?}",
                self.told.borrow().endpoints
            ),
        }
    }

    /// Waits until the last it has been told of this cluster are so many endpoints.
    pub async fn until_told_of(&mut self, cluster: &str, count: usize) {
        let has = |told: &Told| {
            let endpoints = told.last.get(cluster).map(Vec::as_slice).unwrap_or_default();
            let endpoints = ClusterLoadAssignment::decode(endpoints).unwrap().endpoints;
            endpoints.iter().map(|place| place.lb_endpoints.len()).sum::<usize>() == count
        };
        let told = tokio::time::timeout(PATIENCE, self.told.wait_for(has)).await;
        assert!(told.is_ok(), "it is not told of {count} endpoints of {cluster}");
    }

    /// How often it has been told of this cluster's endpoints.
    pub fn times_told(&self, cluster: &str) -> u64 {
        self.told.borrow().endpoints.get(cluster).copied().unwrap_or(0)
    }
}

/// The first words of a client that takes everything.
pub fn asks(id: &str, kind: Kind, names: &[String]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node {
            id: id.to_owned(),
            cluster: "graticule".to_owned(),
            ..Default::default()
        }),
        type_url: type_url(kind),
        resource_names_subscribe: names.to_vec(),
        ..Default::default()
    }
}

async fn takes_all(channel: Channel, id: &str, telling: &watch::Sender<Told>) -> anyhow::Result<()> {
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let (requests, outgoing) = mpsc::channel(64);
    requests.send(asks(id, Kind::Cluster, &[])).await?;
    requests.send(asks(id, Kind::Listener, &[])).await?;
    let mut answers = client
        .delta_aggregated_resources(ReceiverStream::new(outgoing))
        .await?
        .into_inner();
    let (mut clusters, mut has_routes) = (BTreeSet::new(), false);
    while let Some(answer) = answers.message().await? {
        requests
            .send(DeltaDiscoveryRequest {
                type_url: answer.type_url.clone(),
                response_nonce: answer.nonce.clone(),
                ..Default::default()
            })
            .await?;
        let names: Vec<String> = answer.resources.iter().map(|resource| resource.name.clone()).collect();
        if answer.type_url == type_url(Kind::Cluster) {
            let new: Vec<String> = names
                .iter()
                .filter(|name| clusters.insert((*name).clone()))
                .cloned()
                .collect();
            if !new.is_empty() {
                requests.send(asks(id, Kind::Endpoints, &new)).await?;
            }
        }
        if answer.type_url == type_url(Kind::Listener) && !std::mem::replace(&mut has_routes, true) {
            requests.send(asks(id, Kind::Route, &["front".to_owned()])).await?;
        }
        note(telling, answer);
    }
    Ok(())
}

fn note(telling: &watch::Sender<Told>, answer: DeltaDiscoveryResponse) {
    telling.send_modify(|told| {
        told.answers += 1;
        told.bytes += answer.encoded_len() as u64;
        if answer.type_url == type_url(Kind::Endpoints) {
            for resource in answer.resources {
                *told.endpoints.entry(resource.name.clone()).or_default() += 1;
                told.last
                    .insert(resource.name, resource.resource.unwrap_or_default().value);
            }
        }
    });
}

/// A client that asks for everything and reads nothing.
pub async fn stuck(xds: SocketAddr) -> Arc<tonic::Streaming<DeltaDiscoveryResponse>> {
    let mut client = AggregatedDiscoveryServiceClient::new(connect(xds).await);
    let all = [Kind::Cluster, Kind::Listener].map(|kind| asks("stuck", kind, &[]));
    let endpoints = asks("stuck", Kind::Endpoints, &["pool/default".to_owned()]);
    let requests = futures::StreamExt::chain(
        tokio_stream::iter(all.into_iter().chain([endpoints])),
        tokio_stream::pending(),
    );
    Arc::new(client.delta_aggregated_resources(requests).await.unwrap().into_inner())
}
