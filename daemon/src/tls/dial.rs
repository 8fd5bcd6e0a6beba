//! gRPC connections that are made: plain to `http://…`, secured to `https://…`, with a token where one is configured. Files are
//! read for each connection, so that a change of them counts for the next; a pair that cannot be used gives way to the one
//! before.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{self, Endpoint};
use tonic::{Request, Status};

use super::config::is_set;
use super::files::{Authority, Identity, TlsError};
use super::{TlsClient, provider};
use crate::access::first_token;
use crate::config::Secret;

/// A channel that shows the configured token with each call.
pub type Channel = InterceptedService<transport::Channel, Bearer>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Files or tokens cannot be used.
    #[error(transparent)]
    Settings(#[from] TlsError),
    /// The other side is not there, or is not who it should be.
    #[error("{0}")]
    Away(String),
}

/// How connections are made. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Dial {
    key: String,
    tls: TlsClient,
    token: Secret,
    token_file: PathBuf,
    /// What was last read and could be used.
    good: Arc<Mutex<Option<Arc<ClientConfig>>>>,
}

impl Dial {
    /// With these settings, which stand below `key` in the configuration; nothing is read yet.
    #[must_use]
    pub fn new(key: &str, tls: TlsClient, token: Secret, token_file: PathBuf) -> Self {
        Self {
            key: key.to_owned(),
            tls,
            token,
            token_file,
            good: Arc::default(),
        }
    }

    /// Reads every file that is named, so that what is wrong with them is said before anybody is called.
    ///
    /// # Errors
    /// What is wrong with which.
    pub fn check(&self) -> Result<(), TlsError> {
        self.tls.check(&self.tls_key())?;
        self.bearer()?;
        if self.tls.is_set() {
            self.client()?;
        }
        Ok(())
    }

    /// Connects.
    ///
    /// # Errors
    /// Why that is not possible.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, DialError> {
        let bearer = self.bearer()?;
        let secured = endpoint.uri().scheme_str() == Some("https");
        let connector = Connector {
            config: if secured { Some(self.client()?) } else { None },
            server_name: self.tls.server_name.clone(),
        };
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.map_err(|error| DialError::Away(chain(&error)))?;
        Ok(InterceptedService::new(channel, bearer))
    }

    fn tls_key(&self) -> String {
        format!("{}.tls", self.key)
    }

    fn bearer(&self) -> Result<Bearer, TlsError> {
        let token = first_token(&self.key, &self.token, &self.token_file)?;
        let Some(token) = token else { return Ok(Bearer(None)) };
        let unprintable = |_| {
            TlsError::of(
                format!("{}.token", self.key),
                "a token has only visible ASCII characters",
            )
        };
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(unprintable)?;
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
    }

    fn client(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        match (client(&self.tls_key(), &self.tls), &*good) {
            (Ok(config), _) => Ok(Arc::clone(good.insert(Arc::new(config)))),
            (Err(problem), Some(before)) => {
                tracing::error!(%problem, "changed files of TLS cannot be used, what was read before stays in use");
                Ok(Arc::clone(before))
            }
            (Err(problem), None) => Err(problem),
        }
    }
}

fn client(key: &str, tls: &TlsClient) -> Result<ClientConfig, TlsError> {
    let wrong = |problem: String| TlsError::of(key.to_owned(), problem);
    let roots = if is_set(&tls.ca_file) {
        Authority::read(&format!("{key}.ca_file"), &tls.ca_file)?.roots
    } else {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    };
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots);
    let mut config = if tls.shows_certificate() {
        let identity = Identity::read(key, &tls.cert_file, &tls.key_file)?;
        if let Some(problem) = identity.warning() {
            tracing::warn!(
                used_for = key,
                problem,
                "servers will not trust this certificate; renew it"
            );
        }
        let resolver = rustls::sign::SingleCertAndKey::from(identity.certified);
        builder.with_client_cert_resolver(Arc::new(resolver))
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// An error with all that led to it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// Shows the token with each call.
#[derive(Clone, Debug)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Opens one connection.
#[derive(Clone)]
struct Connector {
    config: Option<Arc<ClientConfig>>,
    server_name: String,
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

type Opened = TokioIo<Box<dyn Both>>;

impl Service<Uri> for Connector {
    type Response = Opened;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Opened, std::io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { config, server_name } = self.clone();
        Box::pin(async move {
            let wrong = |problem: &str| std::io::Error::new(std::io::ErrorKind::InvalidInput, problem);
            let host = uri.host().ok_or_else(|| wrong("the address names no host"))?;
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let port = uri.port_u16().unwrap_or(if config.is_some() { 443 } else { 80 });
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            let Some(config) = config else {
                return Ok(TokioIo::new(Box::new(stream) as Box<dyn Both>));
            };
            let name = if server_name.is_empty() { host } else { server_name };
            let name = ServerName::try_from(name)
                .map_err(|_| wrong("the server's name is none that a certificate can have"))?;
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            Ok(TokioIo::new(Box::new(stream) as Box<dyn Both>))
        })
    }
}
