//! A further proxy in front of Envoy, as organisations have them: it takes a prefix off the path, goes by another name,
//! and says so in `X-Forwarded-*` headers.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What clients know of the service, where the proxy answers for it.
#[derive(Debug, Clone, Copy)]
pub struct Public {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The host name.
    pub host: &'static str,
    /// The port, said in `X-Forwarded-Port`; none for the scheme's own.
    pub port: Option<u16>,
    /// The path prefix, such as `/gis`.
    pub prefix: &'static str,
}

impl Public {
    /// What every URL of the service starts with.
    #[must_use]
    pub fn base(&self) -> String {
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{}{port}{}", self.scheme, self.host, self.prefix)
    }
}

/// A running proxy; it ends with its value.
pub struct Proxy {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts one before `server`, on a loopback port of its own.
    pub async fn start(server: SocketAddr, public: Public) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let client = client.clone();
                let service = service_fn(move |request| {
                    let client = client.clone();
                    async move {
                        let answer = forward(&client, server, public, request).await;
                        Ok::<_, Infallible>(answer.unwrap_or_else(|error| {
                            let mut answer = Response::new(Full::from(format!("{error:#}")));
                            *answer.status_mut() = StatusCode::BAD_GATEWAY;
                            answer
                        }))
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, task }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    client: &Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
    server: SocketAddr,
    public: Public,
    request: Request<Incoming>,
) -> anyhow::Result<Response<Full<Bytes>>> {
    let (mut head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let Some(rest) = target.strip_prefix(public.prefix) else {
        anyhow::bail!("{target} is not below {}", public.prefix);
    };
    let rest = if rest.starts_with('/') {
        rest.to_owned()
    } else {
        format!("/{rest}")
    };
    head.uri = format!("http://{server}{rest}").parse()?;
    let mut set = |name: &'static str, value: String| {
        head.headers.insert(name, HeaderValue::try_from(value).unwrap());
    };
    set("host", "behind.internal:8080".to_owned());
    set("x-forwarded-for", "203.0.113.7".to_owned());
    set("x-forwarded-proto", public.scheme.to_owned());
    set("x-forwarded-host", public.host.to_owned());
    if let Some(port) = public.port {
        set("x-forwarded-port", port.to_string());
    }
    if !public.prefix.is_empty() {
        set("x-forwarded-prefix", public.prefix.to_owned());
    }
    let body = body.collect().await?.to_bytes();
    let answer = client.request(Request::from_parts(head, Full::new(body))).await?;
    let (head, body) = answer.into_parts();
    Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
}
