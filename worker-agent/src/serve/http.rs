//! The HTTP data port: requests from Envoy to the [`Front`], its answers back.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use graticule_daemon::tls::ServerTls;
use graticule_proto::v1::AgentState;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::front::Front;
use super::probe;
use super::told::{Asked, Told, ToldBody};
use crate::adapters::exchange::Cut;
use crate::core::ogc::Refusal;

/// Envoy's name for a request's id; taken over, so that one id goes through all logs.
const REQUEST_ID: &str = "x-request-id";

/// The longest id that is taken over, in bytes.
const LONGEST_ID: usize = 128;

/// Serves the data port until `stop` is cancelled and the last answer has been sent. Checks are answered from `state`.
pub async fn serve(
    listener: TcpListener,
    tls: Option<ServerTls>,
    front: Front,
    state: watch::Receiver<AgentState>,
    stop: CancellationToken,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (front, state) = (front.clone(), state.clone());
        async move {
            let uri = request.uri();
            if probe::is_check(request.method(), uri.path(), uri.query()) {
                return Ok::<_, Infallible>(response(probe::answer(&state.borrow(), &front.standing.get())));
            }
            Ok(respond(&front, request).await)
        }
    });
    graticule_daemon::http::serve(listener, tls, service, stop).await;
}

/// The client's request id where it can be trusted to fit in a log line, else a new one.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let given = headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| {
            !id.is_empty()
                && id.len() <= LONGEST_ID
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
        });
    given.map_or_else(
        || format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)),
        ToOwned::to_owned,
    )
}

async fn respond(front: &Front, request: Request<Incoming>) -> Response<Pieces> {
    let accepted = Instant::now();
    let (head, body) = request.into_parts();
    let id = request_id(&head.headers);
    let path = head.uri.path().to_owned();
    let query = head.uri.query().map(str::to_owned);
    let reading = Limited::new(body, front.max_body_size).collect();
    let told = match tokio::time::timeout(front.classes.get().timeout(), reading).await {
        Ok(Ok(body)) => {
            let authority = head.uri.authority().map(ToString::to_string);
            let (method, headers, body) = (head.method, head.headers, body.to_bytes());
            front
                .answer(Asked {
                    method,
                    path,
                    query,
                    headers,
                    authority,
                    body,
                    id,
                    accepted,
                })
                .await
        }
        failed => {
            let reason = match failed {
                Err(_) => Refusal::deadline(front.classes.get().timeout()),
                Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Refusal::BodyTooLarge {
                    limit: front.max_body_size as u64,
                },
                _ => Refusal::Malformed("the request's body broke off".into()),
            };
            front.refuse_unread(reason, &path, query.as_deref(), &id)
        }
    };
    response(told)
}

fn response(told: Told) -> Response<Pieces> {
    let mut headers = HeaderMap::with_capacity(told.headers.len());
    for (name, value) in &told.headers {
        match (
            HeaderName::try_from(name.as_str()),
            HeaderValue::try_from(value.as_str()),
        ) {
            (Ok(name), Ok(value)) => drop(headers.append(name, value)),
            _ => tracing::warn!(name, "a header of QGIS's answer is no valid HTTP and was left out"),
        }
    }
    let pieces = match told.body {
        ToldBody::Whole(pieces) => Pieces::Whole(pieces.into_iter()),
        ToldBody::Stream(stream) => Pieces::Stream(stream),
    };
    let mut response = Response::new(pieces);
    *response.headers_mut() = headers;
    *response.status_mut() = told.status;
    // 1xx would leave the client waiting for another answer.
    if told.status.is_informational() {
        *response.status_mut() = StatusCode::BAD_GATEWAY;
    }
    response
}

/// An answer's body, piece by piece.
pub enum Pieces {
    /// All of it is there.
    Whole(std::vec::IntoIter<Bytes>),
    /// It comes from a worker.
    Stream(tokio::sync::mpsc::Receiver<Result<Bytes, Cut>>),
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Whole(pieces) => Poll::Ready(pieces.next().map(|piece| Ok(Frame::data(piece)))),
            Self::Stream(stream) => stream
                .poll_recv(context)
                .map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(pieces) => SizeHint::with_exact(pieces.as_slice().iter().map(|piece| piece.len() as u64).sum()),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
