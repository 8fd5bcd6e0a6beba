//! A whole front for tests: the control plane, a real Envoy with the repository's bootstrap, and fake agents that
//! attach over FleetLink and answer HTTP with their name. All on loopback, on ports of their own; every wait is bounded.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ::stack::ports::Port;
use bytes::Bytes;
use control_plane::{Bound, Config, build};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;

mod agent;
pub use agent::{Agent, Mode};

/// The longest that anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An answer with its body read.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: String,
}

impl Answer {
    /// The text of a header, empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The agent that answered.
    pub fn agent(&self) -> &str {
        self.header("x-graticule-agent")
    }

    /// What the agent saw of a request header.
    pub fn seen(&self, name: &str) -> Option<String> {
        let seen: serde_json::Value = serde_json::from_str(&self.body).expect(&self.body);
        seen["headers"][name].as_str().map(str::to_owned)
    }

    /// The project key that the agent was told.
    pub fn project(&self) -> Option<String> {
        self.seen("x-graticule-project")
    }
}

/// A directory for one control plane's store, empty at first.
pub fn store_dir() -> PathBuf {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let name = format!("store-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // A process of the same number may have left one.
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

/// Envoy with its control plane.
pub struct Stack {
    pub config: Config,
    pub front: SocketAddr,
    pub admin: SocketAddr,
    pub control_plane: Option<Bound>,
    envoy: Child,
    folder: tempfile::TempDir,
}

impl Stack {
    /// Starts both, with a short sync window and whatever `change` does to the configuration.
    pub async fn start(change: impl FnOnce(&mut Config)) -> Self {
        // Else every test would carry the whole start in its own state.
        Box::pin(Self::start_with(change, "bootstrap.yaml", |text| text)).await
    }

    /// The same with another bootstrap file of the repository, and whatever `edit` does to its text.
    pub async fn start_with(
        change: impl FnOnce(&mut Config),
        bootstrap: &str,
        edit: impl FnOnce(String) -> String,
    ) -> Self {
        let mut config = Config::default();
        let front = free_port();
        config.front.listen = front;
        config.fleet.sync_window = 0.3;
        config.store.dir = store_dir();
        for listen in [
            &mut config.xds.listen,
            &mut config.fleet.listen,
            &mut config.status.listen,
        ] {
            *listen = free_port();
        }
        change(&mut config);
        let control_plane = build(config.clone()).await.unwrap();
        let (folder, admin) = (tempfile::tempdir().unwrap(), free_port());
        let envoy = start_envoy(&folder, (bootstrap, edit), config.xds.listen, admin);
        Self {
            config,
            front,
            admin,
            control_plane: Some(control_plane),
            envoy,
            folder,
        }
    }

    /// Starts it all with these agents, ready, and waits until Envoy serves.
    pub async fn with_agents<const N: usize>(ids: [&str; N]) -> (Self, [Agent; N]) {
        Self::with_agents_and(ids, |_| {}).await
    }

    /// The same, with a changed configuration.
    pub async fn with_agents_and<const N: usize>(
        ids: [&str; N],
        change: impl FnOnce(&mut Config),
    ) -> (Self, [Agent; N]) {
        let stack = Self::start(change).await;
        let agents = ids.map(|id| Agent::start(id, "default", stack.config.fleet.listen));
        stack.until_healthy("pool/default", N).await;
        stack.until_listening().await;
        (stack, agents)
    }

    /// Stops the control plane and starts another in its place, with whatever `change` does to the configuration.
    pub async fn restart_control_plane(&mut self, pause: Duration, change: impl FnOnce(&mut Config)) {
        self.control_plane.take().unwrap().stop().await;
        tokio::time::sleep(pause).await;
        change(&mut self.config);
        self.control_plane = Some(build(self.config.clone()).await.unwrap());
    }

    /// Sends a request through Envoy on a connection of its own.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        exchange(self.front, request).await
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.send(request(Method::GET, target, &[], "")).await
    }

    pub async fn post(&self, target: &str, content_type: &str, body: &str) -> Answer {
        self.send(request(Method::POST, target, &[("content-type", content_type)], body))
            .await
    }

    /// One of Envoy's numbers, 0 while it is not there.
    pub async fn stat(&self, name: &str) -> u64 {
        let text = exchange(
            self.admin,
            request(Method::GET, &format!("/stats?filter=^{name}$"), &[], ""),
        )
        .await
        .body;
        text.trim()
            .rsplit(": ")
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    }

    /// A page of the control plane.
    pub async fn page(&self, path: &str) -> String {
        exchange(self.config.status.listen, request(Method::GET, path, &[], ""))
            .await
            .body
    }

    /// Waits until Envoy has so many healthy endpoints in a cluster.
    pub async fn until_healthy(&self, cluster: &str, count: usize) {
        let count = u64::try_from(count).unwrap();
        let name = format!("cluster.{cluster}.membership_healthy");
        until(&format!("{count} healthy in {cluster}"), async || {
            self.stat(&name).await == count
        })
        .await;
    }

    /// Waits until clients can connect.
    pub async fn until_listening(&self) {
        until("the listener", async || {
            tokio::net::TcpStream::connect(self.front).await.is_ok()
        })
        .await;
    }

    /// What Envoy wrote.
    pub fn envoy_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("envoy.log")).unwrap_or_default()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.envoy.kill();
        let _ = self.envoy.wait();
        if std::thread::panicking() {
            let log = self.envoy_log();
            // Its start lists every extension it has.
            let lines = log.lines().filter(|line| !line.contains("][main]"));
            eprintln!("--- what Envoy wrote ---\n{}", lines.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// A request with its headers.
pub fn request(method: Method, target: &str, headers: &[(&str, &str)], body: &str) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .header("host", "maps.example.org");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap()
}

/// Waits, within bounds, until something holds.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Sends a request on a connection of its own and reads the answer. A refused connection is status 599.
pub async fn exchange(address: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    exchange_over(tokio::net::TcpStream::connect(address), request).await
}

/// The same over a connection that is still to be made.
pub async fn exchange_over<S>(
    connection: impl Future<Output = std::io::Result<S>>,
    request: Request<Full<Bytes>>,
) -> Answer
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let exchange = async {
        let stream = connection.await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        anyhow::Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    };
    match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            let status = StatusCode::from_u16(599).unwrap();
            Answer {
                status,
                headers: http::HeaderMap::new(),
                body: format!("no answer: {error}"),
            }
        }
        Err(_) => panic!("no answer within {PATIENCE:?}"),
    }
}

/// A port that nobody else gets while this process runs.
pub fn free_port() -> SocketAddr {
    static HELD: Mutex<Vec<Port>> = Mutex::new(Vec::new());
    let port = Port::reserve();
    let address = port.address();
    HELD.lock().unwrap().push(port);
    address
}

/// Where Envoy is.
pub fn envoy() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let binary = std::env::var_os("GRATICULE_ENVOY").map_or_else(|| root.join(".parts/envoy"), PathBuf::from);
    assert!(
        binary.is_file(),
        "Envoy is not at {}: run `make parts`, or set GRATICULE_ENVOY",
        binary.display()
    );
    binary
}

fn start_envoy(
    folder: &tempfile::TempDir,
    (bootstrap, edit): (&str, impl FnOnce(String) -> String),
    xds: SocketAddr,
    admin: SocketAddr,
) -> Child {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let binary = envoy();
    let bootstrap = std::fs::read_to_string(root.join("envoy").join(bootstrap)).unwrap();
    for once in ["port_value: 18000", "port_value: 9901"] {
        assert_eq!(
            bootstrap.matches(once).count(),
            1,
            "scripts rely on `{once}` being there exactly once"
        );
    }
    let bootstrap = bootstrap
        .replace("port_value: 18000", &format!("port_value: {}", xds.port()))
        .replace("port_value: 9901", &format!("port_value: {}", admin.port()));
    let path = folder.path().join("bootstrap.yaml");
    std::fs::write(&path, edit(bootstrap)).unwrap();
    let log = std::fs::File::create(folder.path().join("envoy.log")).unwrap();
    Command::new(binary)
        .args([
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "--log-level",
            "info",
            "--config-path",
        ])
        .arg(path)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}
