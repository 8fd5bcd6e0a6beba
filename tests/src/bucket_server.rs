//! An S3 server with one bucket, and a gate before it that can be closed or made narrow.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use nix::sys::signal::Signal;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::ports::Port;
use crate::process::Process;
use crate::storage_cases::Outage;
use crate::{parts, until};

/// The bucket that is there.
pub const BUCKET: &str = "maps";

/// The server believes any signature; it wants to see one.
const SIGNED: &str =
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x";

/// What stays as it is in a key's URL.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A running server.
pub struct BucketServer {
    process: Process,
    client: Client,
    server: SocketAddr,
    gate: Port,
    /// What passes through the gate; gone while it is closed.
    passing: Option<JoinSet<()>>,
    bytes_per_second: Arc<AtomicU64>,
    _server_port: Port,
    _folder: TempDir,
}

impl BucketServer {
    /// Starts one, with its bucket.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("graticule-s3-").tempdir().unwrap();
        let (port, gate) = (Port::reserve(), Port::reserve());
        let server = port.address();
        let mut command = Command::new(parts::s3_server());
        command.args(["-H", "127.0.0.1", "-p", &server.port().to_string()]);
        let process = Process::start("S3 server", &mut command, &folder.path().join("log"));
        let client = Client::new(server);
        until("the S3 server", async || TcpStream::connect(server).await.is_ok()).await;
        let mut started = Self {
            process,
            client,
            server,
            gate,
            passing: None,
            bytes_per_second: Arc::new(AtomicU64::new(u64::MAX)),
            _server_port: port,
            _folder: folder,
        };
        started.ask(Method::PUT, &format!("/{BUCKET}"), Vec::new()).await;
        started.open().await;
        started
    }

    /// Its address, as agents are told it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.gate.address())
    }

    /// Stores an object.
    pub async fn put(&self, key: &str, content: impl Into<Vec<u8>>) {
        self.ask(Method::PUT, &path(key), content.into()).await;
    }

    /// Removes an object.
    pub async fn remove(&self, key: &str) {
        self.ask(Method::DELETE, &path(key), Vec::new()).await;
    }

    /// How often a whole object was asked for.
    #[must_use]
    pub fn fetches(&self, key: &str) -> usize {
        let line = format!("\"GET {} HTTP", path(key));
        self.process.log().matches(&line).count()
    }

    /// Lets so many bytes through each second.
    pub fn narrow(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Takes it away.
    pub fn stop(&mut self, how: Outage) {
        match how {
            Outage::Refuses => self.passing = None,
            Outage::Hangs => self.process.signal(Signal::SIGSTOP),
        }
    }

    /// Brings it back.
    pub async fn bring_back(&mut self) {
        self.process.signal(Signal::SIGCONT);
        if self.passing.is_none() {
            self.open().await;
        }
    }

    async fn open(&mut self) {
        let listener = TcpListener::bind(self.gate.address()).await.unwrap();
        let (server, rate) = (self.server, Arc::clone(&self.bytes_per_second));
        let mut passing = JoinSet::new();
        passing.spawn(async move {
            // Connections end with their gate.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(client, server, Arc::clone(&rate)));
                while connections.try_join_next().is_some() {}
            }
        });
        self.passing = Some(passing);
    }

    async fn ask(&self, method: Method, path: &str, content: Vec<u8>) {
        let headers = [("authorization", SIGNED), ("content-type", "application/octet-stream")];
        let answer = self.client.ask(method.clone(), path, &headers, content).await.unwrap();
        assert!(
            answer.status < 300,
            "{method} {path}: {} {}",
            answer.status,
            answer.text()
        );
    }
}

impl Drop for BucketServer {
    fn drop(&mut self) {
        // One that is stopped would not hear that it is to end.
        self.process.signal(Signal::SIGCONT);
    }
}

fn path(key: &str) -> String {
    format!("/{BUCKET}/{}", utf8_percent_encode(key, ESCAPED))
}

async fn pass(client: TcpStream, server: SocketAddr, rate: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let unbounded = Arc::new(AtomicU64::new(u64::MAX));
    tokio::join!(
        copy(from_client, to_server, unbounded),
        copy(from_server, to_client, rate)
    );
}

/// Copies at most so many bytes each second, in pieces of a tenth.
async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, rate: Arc<AtomicU64>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let rate = rate.load(Ordering::Relaxed);
        let most = usize::try_from(rate / 10).unwrap_or(usize::MAX).clamp(1, buffer.len());
        let Ok(read) = from.read(&mut buffer[..most]).await else {
            break;
        };
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
        if rate < u64::MAX {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let _ = to.shutdown().await;
}
