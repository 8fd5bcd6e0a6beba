//! `QgisServer`: the data port's requests over gRPC. A call becomes the HTTP request that it stands for, and goes the
//! same way through the [`Front`].

use std::pin::Pin;
use std::time::Instant;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use graticule_proto::v1::qgis_server_server::QgisServer;
use graticule_proto::v1::response_chunk::Part;
use graticule_proto::v1::{ApiRequest, Header, OwsRequest, PingReply, PingRequest, ResponseChunk, ResponseHead};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::front::Front;
use super::http::request_id;
use super::told::{Asked, Told, ToldBody};

/// What may not stand in a path as it is.
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'%')
    .add(b'`');

/// The deadline of a call, as gRPC has it.
const DEADLINE: &str = "grpc-timeout";

/// Bodies go out in messages of at most this size, well below gRPC's usual bound of 4 MiB.
const MESSAGE: usize = 256 * 1024;

/// The service.
#[derive(Clone)]
pub struct Grpc {
    front: Front,
    own_address: String,
}

type Chunks = Pin<Box<dyn Stream<Item = Result<ResponseChunk, Status>> + Send>>;

/// What both kinds of calls have in common.
struct Call {
    project: String,
    path: String,
    query: String,
    method: String,
    content_type: String,
    body: Vec<u8>,
    public_url: String,
    headers: std::collections::HashMap<String, String>,
    request_id: String,
    /// The metadata `grpc-timeout` of the call.
    deadline: Option<HeaderValue>,
}

impl Grpc {
    /// Serves through `front`; links in answers start with `own_address` unless the caller names a URL.
    #[must_use]
    pub fn new(front: Front, own_address: String) -> Self {
        Self { front, own_address }
    }

    async fn call(&self, call: Call) -> Result<Response<Chunks>, Status> {
        let accepted = Instant::now();
        if call.body.len() > self.front.max_body_size {
            return Err(Status::invalid_argument(format!(
                "the body is larger than {} bytes; send less, or raise server.max_body_size",
                self.front.max_body_size
            )));
        }
        let method = if call.method.is_empty() { "GET" } else { &call.method };
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| Status::invalid_argument("`method` is no HTTP method; use GET or POST"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &call.headers {
            insert(&mut headers, name, value)?;
        }
        if !call.content_type.is_empty() {
            insert(&mut headers, "content-type", &call.content_type)?;
        }
        if !call.request_id.is_empty() {
            insert(&mut headers, "x-request-id", &call.request_id)?;
        }
        if let Some(deadline) = call.deadline.clone() {
            headers.insert(DEADLINE, deadline);
        }
        let (path, query) = self.locate(&call, &mut headers)?;
        let id = request_id(&headers);
        let body = Bytes::from(call.body);
        let told = self
            .front
            .answer(Asked {
                method,
                path,
                query,
                headers,
                authority: None,
                body,
                id,
                accepted,
            })
            .await;
        Ok(Response::new(chunks(told)))
    }

    /// The path and query that name the project as the caller's public URL does: in the path when that ends with it.
    fn locate(&self, call: &Call, headers: &mut HeaderMap) -> Result<(String, Option<String>), Status> {
        let project = call.project.trim_start_matches('/');
        if project.is_empty() {
            return Err(Status::invalid_argument("`project` is empty; name one, such as /world"));
        }
        let (scheme, rest) = match call.public_url.split_once("://") {
            Some(parts) => parts,
            None if call.public_url.is_empty() => ("http", self.own_address.as_str()),
            None => {
                return Err(Status::invalid_argument(
                    "`public_url` needs a scheme, such as https://host/ows/world",
                ));
            }
        };
        let (host, public_path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = format!("/ows/{}", utf8_percent_encode(project, PATH));
        let public_path = format!("/{}", public_path.trim_end_matches('/'));
        let prefix = public_path
            .strip_suffix(&path)
            .unwrap_or(public_path.trim_end_matches('/'));
        insert(headers, "host", host)?;
        insert(headers, "x-forwarded-proto", scheme)?;
        if !prefix.is_empty() {
            insert(headers, "x-forwarded-prefix", prefix)?;
        }
        Ok((
            path + &call.path,
            Some(call.query.clone()).filter(|query| !query.is_empty()),
        ))
    }
}

fn insert(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), Status> {
    let bad = |what: &str| Status::invalid_argument(format!("the header `{name}` has {what} that HTTP does not allow"));
    let key = HeaderName::try_from(name).map_err(|_| bad("a name"))?;
    headers.insert(key, HeaderValue::try_from(value).map_err(|_| bad("a value"))?);
    Ok(())
}

/// The call's deadline as its client wrote it.
fn deadline<T>(request: &Request<T>) -> Option<HeaderValue> {
    let value = request.metadata().get(DEADLINE)?;
    HeaderValue::from_bytes(value.as_encoded_bytes()).ok()
}

fn chunks(told: Told) -> Chunks {
    let headers = told
        .headers
        .into_iter()
        .map(|(name, value)| Header { name, value })
        .collect();
    let head = ResponseHead {
        status: told.status.as_u16().into(),
        headers,
    };
    let head = stream::iter([Ok(ResponseChunk {
        part: Some(Part::Head(head)),
    })]);
    match told.body {
        ToldBody::Whole(pieces) => Box::pin(head.chain(stream::iter(pieces.into_iter().flat_map(messages)))),
        ToldBody::Stream(pieces) => {
            let pieces = ReceiverStream::new(pieces).flat_map(|piece| {
                stream::iter(match piece {
                    Ok(piece) => messages(piece),
                    Err(cut) => vec![Err(Status::aborted(cut.to_string()))],
                })
            });
            Box::pin(head.chain(pieces))
        }
    }
}

fn messages(mut piece: Bytes) -> Vec<Result<ResponseChunk, Status>> {
    let mut messages = Vec::with_capacity(piece.len().div_ceil(MESSAGE));
    while !piece.is_empty() {
        let body = piece.split_to(piece.len().min(MESSAGE));
        messages.push(Ok(ResponseChunk {
            part: Some(Part::Body(body.to_vec())),
        }));
    }
    messages
}

#[tonic::async_trait]
impl QgisServer for Grpc {
    type ExecuteOwsRequestStream = Chunks;
    type ExecuteApiRequestStream = Chunks;

    async fn execute_ows_request(&self, request: Request<OwsRequest>) -> Result<Response<Chunks>, Status> {
        let deadline = deadline(&request);
        let OwsRequest {
            project,
            query,
            method,
            content_type,
            body,
            public_url,
            headers,
            request_id,
        } = request.into_inner();
        let path = String::new();
        self.call(Call {
            project,
            path,
            query,
            method,
            content_type,
            body,
            public_url,
            headers,
            request_id,
            deadline,
        })
        .await
    }

    async fn execute_api_request(&self, request: Request<ApiRequest>) -> Result<Response<Chunks>, Status> {
        let deadline = deadline(&request);
        let ApiRequest {
            project,
            path,
            method,
            content_type,
            body,
            public_url,
            headers,
            request_id,
        } = request.into_inner();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let (path, query) = (path.to_owned(), query.to_owned());
        if !path.starts_with('/') {
            return Err(Status::invalid_argument(
                "`path` starts with `/`, such as /wfs3/collections",
            ));
        }
        self.call(Call {
            project,
            path,
            query,
            method,
            content_type,
            body,
            public_url,
            headers,
            request_id,
            deadline,
        })
        .await
    }

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingReply>, Status> {
        Ok(Response::new(PingReply {
            echo: request.into_inner().echo,
        }))
    }
}
