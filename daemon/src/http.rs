//! An HTTP accept loop that can be drained: HTTP/1.1 and HTTP/2 with prior knowledge on one port, with TLS or without.

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::tls::{ServerTls, Stream};

/// A client that has not sent its whole request head after this long is disconnected.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A pause after a failed accept, so that a process out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `service` on `listener` until `stop` is cancelled; then takes no new connection, lets the requests that
/// run finish, and returns when the last connection has closed.
pub async fn serve<S, B>(listener: TcpListener, tls: Option<ServerTls>, service: S, stop: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let graceful = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (builder, service, watcher) = (builder.clone(), service.clone(), graceful.watcher());
        let (tls, stop) = (tls.clone(), stop.clone());
        tokio::spawn(async move {
            // Without TLS it is open at once: a connection that was taken is served, also at the very end.
            let opened = tokio::select! {
                biased;
                opened = Stream::open(stream, tls.as_ref()) => opened,
                () = stop.cancelled() => return,
            };
            let stream = match opened {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%error, "a client's handshake failed");
                    return;
                }
            };
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}
