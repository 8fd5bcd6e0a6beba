//! Connections of a port, secured or not, and the loop that takes them. Handshakes run beside each other, so that a client that
//! is slow with its own keeps nobody waiting.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::server;
use tokio_util::sync::CancellationToken;

use super::{Facts, ServerTls};

/// A client that has not finished its handshake after this long is disconnected.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A pause after a failed accept, so that a process out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that are there and have not been taken yet.
const WAITING: usize = 64;

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// As it came.
    Plain(TcpStream),
    /// Secured.
    Tls(Box<server::TlsStream<TcpStream>>),
}

impl Stream {
    /// Where the client is.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.tcp().peer_addr().ok()
    }

    /// The port's own address.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.tcp().local_addr().ok()
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// The names in the certificate that the client has shown; none when it has shown none.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let Self::Tls(stream) = self else { return Vec::new() };
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        shown
            .and_then(|certificate| Facts::of(certificate).ok())
            .map_or_else(Vec::new, |facts| facts.names)
    }

    /// Takes a connection: with its handshake, where the port has TLS.
    ///
    /// # Errors
    /// When the handshake fails or takes too long.
    pub async fn open(stream: TcpStream, tls: Option<&ServerTls>) -> io::Result<Self> {
        // A change is one small message that must not wait for more (Nagle).
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "could not set TCP_NODELAY");
        }
        let Some(tls) = tls else { return Ok(Self::Plain(stream)) };
        let handshake = tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream)).await;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long");
        Ok(Self::Tls(Box::new(handshake.map_err(late)??)))
    }
}

/// Takes connections until `stop` and gives them out as soon as their handshakes are done. The port is closed with `stop`, or
/// when nobody takes them any more.
pub fn accept(listener: TcpListener, tls: Option<ServerTls>, stop: CancellationToken) -> mpsc::Receiver<Stream> {
    let (give, taken) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                () = give.closed() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "could not accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let (give, tls) = (give.clone(), tls.clone());
            tokio::spawn(async move {
                match Stream::open(stream, tls.as_ref()).await {
                    // Nobody takes it when the port has just been closed.
                    Ok(stream) => drop(give.send(stream).await),
                    Err(error) => tracing::debug!(%error, "a client's handshake failed"),
                }
            });
        }
    });
    taken
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
