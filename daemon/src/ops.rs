//! The operations port of a daemon: `/metrics` for Prometheus, `/healthz` and `/readyz` for orchestrators, and what
//! further pages the daemon shows there.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::ready::Readiness;

/// A page of the daemon's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its media type.
    pub content_type: &'static str,
    /// Its text.
    pub body: String,
}

/// Gives the page at a path, where there is one.
pub type Pages = Arc<dyn Fn(&str) -> Option<Page> + Send + Sync>;

/// Runs just before the metrics are read, to bring gauges up to date.
pub type Refresh = Arc<dyn Fn() + Send + Sync>;

/// What the operations port shows.
#[derive(Clone)]
pub struct Ops {
    /// The daemon's metrics.
    pub registry: Registry,
    /// What it still waits for.
    pub readiness: Readiness,
    /// Brings gauges up to date.
    pub refresh: Refresh,
    /// Further pages.
    pub pages: Pages,
}

/// Serves the operations port until `stop` is cancelled.
pub async fn serve(listener: TcpListener, ops: Ops, stop: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = ops.answer(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    crate::http::serve(listener, None, service, stop).await;
}

impl Ops {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return text(
                StatusCode::METHOD_NOT_ALLOWED,
                "text/plain",
                "only GET and HEAD are answered here\n".into(),
            );
        }
        match path {
            "/metrics" => self.metrics(),
            "/healthz" => text(StatusCode::OK, "text/plain", "alive\n".into()),
            "/readyz" => {
                let awaited = self.readiness.awaited();
                if awaited.is_empty() {
                    text(StatusCode::OK, "text/plain", "ready\n".into())
                } else {
                    let body = format!("waiting for: {}\n", awaited.join(", "));
                    text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", body)
                }
            }
            other => match (self.pages)(other) {
                Some(page) => text(StatusCode::OK, page.content_type, page.body),
                None => text(
                    StatusCode::NOT_FOUND,
                    "text/plain",
                    "try /metrics, /healthz or /readyz\n".into(),
                ),
            },
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        (self.refresh)();
        let mut body = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut body) {
            Ok(()) => text(
                StatusCode::OK,
                prometheus::TEXT_FORMAT,
                String::from_utf8_lossy(&body).into_owned(),
            ),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
        }
    }
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(content_type),
    );
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn ops() -> Ops {
        let registry = Registry::new();
        registry
            .register(Box::new(prometheus::IntGauge::new("a_gauge", "a gauge").unwrap()))
            .unwrap();
        Ops {
            registry,
            readiness: Readiness::new(),
            refresh: Arc::new(|| {}),
            pages: Arc::new(|path| {
                (path == "/").then(|| Page {
                    content_type: "text/html",
                    body: "home".into(),
                })
            }),
        }
    }

    async fn get(ops: &Ops, path: &str) -> (StatusCode, String) {
        let answer = ops.answer(&Method::GET, path);
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readyz_names_what_is_awaited() {
        let ops = ops();
        let guard = ops.readiness.wait_for("workers");
        assert_eq!(
            get(&ops, "/readyz").await,
            (StatusCode::SERVICE_UNAVAILABLE, "waiting for: workers\n".into())
        );
        drop(guard);
        assert_eq!(get(&ops, "/readyz").await, (StatusCode::OK, "ready\n".into()));
        assert_eq!(get(&ops, "/healthz").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_and_pages_are_shown() {
        let ops = ops();
        assert!(get(&ops, "/metrics").await.1.contains("a_gauge 0"));
        assert_eq!(get(&ops, "/").await, (StatusCode::OK, "home".into()));
        assert_eq!(get(&ops, "/else").await.0, StatusCode::NOT_FOUND);
        assert_eq!(
            ops.answer(&Method::POST, "/metrics").status(),
            StatusCode::METHOD_NOT_ALLOWED
        );
    }
}
