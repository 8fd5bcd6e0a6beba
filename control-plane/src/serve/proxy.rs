//! `QgisAdmin` of every agent, on the control plane's port for tools: a call goes over the stream of the agent that its
//! metadata names, as the bytes that it is. Methods that agents learn later are carried all the same.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use graticule_daemon::calls::raw::RawCodec;
use graticule_proto::AGENT_METADATA as AGENT;
use graticule_proto::v1::qgis_admin_server;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};

use super::calls::{Messages, PATIENCE, Switchboard};

/// Serves every method of `QgisAdmin`.
#[derive(Clone, Debug)]
pub struct Proxy {
    switchboard: Switchboard,
}

impl Proxy {
    /// One over these lines.
    #[must_use]
    pub const fn new(switchboard: Switchboard) -> Self {
        Self { switchboard }
    }

    fn call(&self, method: &str, request: Request<Bytes>) -> Result<Response<Messages>, Status> {
        let Some(agent) = request.metadata().get(AGENT) else {
            return Err(Status::invalid_argument(format!(
                "set the metadata `{AGENT}` to the agent that is meant; {}",
                self.switchboard.known()
            )));
        };
        let agent = agent
            .to_str()
            .map_err(|_| Status::invalid_argument(format!("the metadata `{AGENT}` is no agent's name")))?;
        let line = self.switchboard.line(agent)?;
        let patience = patience(request.metadata()).unwrap_or(PATIENCE);
        Ok(Response::new(line.call(method, request.into_inner(), patience)?))
    }
}

/// For how long the client waits, as gRPC's `grpc-timeout` says it: up to eight digits and a unit.
fn patience(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

impl NamedService for Proxy {
    const NAME: &'static str = qgis_admin_server::SERVICE_NAME;
}

impl Service<http::Request<Body>> for Proxy {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = Method {
            proxy: self.clone(),
            path: request.uri().path().to_owned(),
        };
        async move { Ok(Grpc::new(RawCodec).server_streaming(method, request).await) }.boxed()
    }
}

/// One method of the service.
struct Method {
    proxy: Proxy,
    path: String,
}

impl Service<Request<Bytes>> for Method {
    type Response = Response<Messages>;
    type Error = Status;
    type Future = std::future::Ready<Result<Response<Messages>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        std::future::ready(self.proxy.call(&self.path, request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_patience_is_read_as_grpc_writes_it() {
        let read = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            patience(&metadata)
        };
        assert_eq!(read("20S"), Some(Duration::from_secs(20)));
        assert_eq!(read("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for nonsense in ["", "S", "20", "123456789S", "-1S", "2x", "é"] {
            let mut metadata = MetadataMap::new();
            metadata.insert(
                "grpc-timeout",
                tonic::metadata::MetadataValue::try_from(nonsense.as_bytes()).unwrap(),
            );
            assert_eq!(patience(&metadata), None, "{nonsense}");
        }
        assert_eq!(patience(&MetadataMap::new()), None);
    }
}
