//! A gRPC port with its door: TLS, who may do what, and the files of both, which may change while it is open.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::StreamExt as _;
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataValue;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::{Access, Holders, Refused, Table};
use crate::current::Current;
use crate::tls::{Gauges, LOOK_EVERY, ServerTls, Stream, TlsError, TlsServer, accept, digest};

/// What is spoken on a gRPC port.
const HTTP2: &[&[u8]] = &[b"h2"];

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it is.
    pub address: Option<SocketAddr>,
    /// Where it has come to.
    pub local: Option<SocketAddr>,
    /// The names in its certificate.
    pub names: Arc<[String]>,
}

impl Connected for Stream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer {
            address: self.peer(),
            local: self.local(),
            names: self.names().into(),
        }
    }
}

/// The door of a gRPC port. Clones are the same door.
#[derive(Clone, Debug)]
pub struct Door {
    key: String,
    access: Access,
    table: Table,
    tls: Option<ServerTls>,
    holders: Current<Holders>,
}

impl Door {
    /// Reads what is configured for a port: its `tls` and its `access`, and where it listens, each under the key that it has in
    /// the configuration.
    ///
    /// # Errors
    /// What of it cannot be used.
    pub fn open(
        (tls_key, tls): (&str, &TlsServer),
        (access_key, access): (&str, &Access),
        listen: (&str, SocketAddr),
        table: Table,
    ) -> Result<Self, TlsError> {
        access.check(access_key, tls, listen)?;
        Ok(Self {
            key: access_key.to_owned(),
            access: access.clone(),
            table,
            tls: ServerTls::open(tls_key, tls, HTTP2)?,
            holders: Current::new(access.read(access_key)?),
        })
    }

    /// What is to be said of its certificate, though it is used.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        self.tls.as_ref().and_then(ServerTls::warning)
    }

    /// Serves these routes with the settings of `server` until `stop`, lets calls that run finish, and follows the files.
    ///
    /// # Errors
    /// When the port breaks.
    pub async fn serve(
        self,
        server: Server,
        routes: Routes,
        listener: TcpListener,
        gauges: Gauges,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        // What follows files ends with the port, however that ends.
        let ended = stop.child_token();
        let _ends = ended.clone().drop_guard();
        if let Some(tls) = self.tls.clone() {
            tokio::spawn(tls.follow(gauges.clone(), ended.clone()));
        }
        let connections = accept(listener, self.tls.clone(), ended.clone());
        tokio::spawn(self.clone().follow(gauges, ended));
        let guarded = Guarded {
            inner: routes.prepare(),
            door: self,
        };
        let incoming = ReceiverStream::new(connections).map(Ok::<_, Infallible>);
        server
            .serve_with_incoming_shutdown(guarded, incoming, stop.cancelled_owned())
            .await
    }

    async fn follow(self, gauges: Gauges, stop: CancellationToken) {
        let files: Vec<_> = self.access.files().collect();
        if files.is_empty() {
            return;
        }
        let mut seen = None;
        loop {
            let now = digest(files.iter().map(|file| file.as_path()));
            if seen.replace(now) != Some(now) {
                self.again(&gauges);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    pub(super) fn again(&self, gauges: &Gauges) {
        let read = self.access.read(&self.key);
        gauges.usable(&self.key, read.is_ok());
        match read {
            Ok(holders) => self.holders.set(holders),
            Err(problem) => {
                tracing::error!(%problem, "changed tokens cannot be used, those that were read before count");
            }
        }
    }

    fn admit(&self, request: &http::Request<Body>, names: &[String]) -> Result<(), Status> {
        let method = request.uri().path();
        let authorization = request
            .headers()
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        self.holders
            .get()
            .admit(self.table.need(method), authorization, names)
            .map_err(|refused| {
                tracing::warn!(method, ?names, ?refused, "a call was refused");
                match refused {
                    Refused::Unknown(says) => {
                        let mut status = Status::unauthenticated(says);
                        // What an answer 401 is to have where somebody makes HTTP of this (RFC 9110, RFC 6750).
                        let challenge = MetadataValue::from_static("Bearer");
                        status.metadata_mut().insert("www-authenticate", challenge);
                        status
                    }
                    Refused::NotAllowed(says) => Status::permission_denied(says),
                }
            })
    }
}

/// Routes behind a door.
#[derive(Clone, Debug)]
struct Guarded {
    inner: Routes,
    door: Door,
}

impl Service<http::Request<Body>> for Guarded {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>().cloned();
        let names = peer.as_ref().map(|peer| Arc::clone(&peer.names)).unwrap_or_default();
        if let Err(status) = self.door.admit(&request, &names) {
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        if self.door.access.is_closed() {
            // The token is nobody's business behind the door.
            request.headers_mut().remove("authorization");
        }
        // Where tonic looks for the address of the other side.
        request.extensions_mut().insert(TcpConnectInfo {
            local_addr: peer.as_ref().and_then(|peer| peer.local),
            remote_addr: peer.as_ref().and_then(|peer| peer.address),
        });
        Box::pin(self.inner.call(request))
    }
}
