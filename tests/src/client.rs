//! A plain HTTP client with a pool of connections, and its answers.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self};
use hyper_util::rt::TokioExecutor;

use crate::xml::Element;

/// How long one answer may take.
const LONGEST: Duration = Duration::from_secs(90);

/// A client of one server; clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    server: SocketAddr,
    inner: legacy::Client<HttpConnector, Full<Bytes>>,
}

/// An answer with its whole body.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Client {
    /// A client of `server`.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        // A client that repeats requests by itself would hide lost ones.
        let inner = legacy::Client::builder(TokioExecutor::new())
            .retry_canceled_requests(false)
            .build(connector);
        Self { server, inner }
    }

    /// `http://host:port` of the server.
    #[must_use]
    pub fn base(&self) -> String {
        format!("http://{}", self.server)
    }

    /// Sends a request and gives the answer as soon as its head is there.
    ///
    /// # Errors
    /// When there is no answer; not for a bad status.
    pub async fn open(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<http::Response<Incoming>> {
        let url = if target.starts_with('/') {
            format!("{}{target}", self.base())
        } else {
            target.to_owned()
        };
        let mut request = Request::builder().method(method).uri(&url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(body.into()))
            .with_context(|| format!("a request for {url}"))?;
        Ok(self.inner.request(request).await?)
    }

    /// Sends a request and reads its answer whole.
    ///
    /// # Errors
    /// When the answer does not come, or breaks off; not for a bad status.
    pub async fn ask(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        let exchange = async {
            let (head, body) = self.open(method, target, headers, body).await?.into_parts();
            let body = body.collect().await.context("the answer broke off")?.to_bytes();
            anyhow::Ok(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body,
            })
        };
        tokio::time::timeout(LONGEST, exchange)
            .await
            .with_context(|| format!("no answer within {LONGEST:?}"))?
    }

    /// GET. `target` is a path with its query, or a whole URL.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn get(&self, target: &str) -> Answer {
        self.get_with(target, &[]).await
    }

    /// GET with headers.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn get_with(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        let answer = self.ask(Method::GET, target, headers, Bytes::new()).await;
        answer.unwrap_or_else(|error| panic!("GET {target}: {error:#}"))
    }

    /// POST.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn post(&self, target: &str, content_type: &str, body: impl Into<Bytes>) -> Answer {
        let answer = self
            .ask(Method::POST, target, &[("content-type", content_type)], body)
            .await;
        answer.unwrap_or_else(|error| panic!("POST {target}: {error:#}"))
    }
}

impl Answer {
    /// The text of a header, empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// What the agent says in `Vary`: without what Envoy adds where it may compress.
    #[must_use]
    pub fn agents_vary(&self) -> String {
        let names = self.header("vary").split(',').map(str::trim);
        let own = names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("accept-encoding"));
        own.collect::<Vec<_>>().join(", ")
    }

    /// The agent that answered.
    #[must_use]
    pub fn agent(&self) -> &str {
        self.header("x-graticule-agent")
    }

    /// The media type without its parameters.
    #[must_use]
    pub fn media_type(&self) -> &str {
        self.header("content-type").split(';').next().unwrap_or_default().trim()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Checks the status.
    ///
    /// # Panics
    /// When it is another; the text shows what came instead.
    pub fn expect(&self, status: u16) -> &Self {
        let start: String = self.text().chars().take(600).collect();
        assert_eq!(self.status, status, "{} {start}", self.media_type());
        self
    }

    /// The body as XML.
    ///
    /// # Panics
    /// When it is not well-formed.
    #[must_use]
    pub fn xml(&self) -> Element {
        Element::parse(&self.text()).unwrap_or_else(|error| panic!("{error:#}: {}", self.text()))
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Code and text of an OGC exception document, of whatever service; for OGC APIs that is JSON.
    ///
    /// # Panics
    /// When the body is no such document.
    pub fn exception(&self) -> (String, String) {
        if self.media_type().ends_with("json") {
            let json = self.json();
            let member = |name: &str| {
                json[name]
                    .as_str()
                    .unwrap_or_else(|| panic!("no {name} in {json}"))
                    .to_owned()
            };
            return (member("code"), member("description"));
        }
        assert!(
            self.media_type().contains("xml"),
            "{}: {}",
            self.media_type(),
            self.text()
        );
        let document = self.xml();
        match document.name.as_str() {
            "ServiceExceptionReport" => {
                let exception = document.find("ServiceException").expect("a ServiceException");
                (
                    exception.attribute("code").unwrap_or_default().to_owned(),
                    exception.text.trim().to_owned(),
                )
            }
            "ExceptionReport" => {
                let exception = document.find("Exception").expect("an Exception");
                let text = exception.find("ExceptionText").expect("an ExceptionText");
                (
                    exception.attribute("exceptionCode").unwrap().to_owned(),
                    text.text.trim().to_owned(),
                )
            }
            other => panic!("<{other}> is no exception document: {}", self.text()),
        }
    }
}
