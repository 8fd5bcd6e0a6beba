//! TLS of a port that is served, following its files.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::files::{Authority, Identity, TlsError};
use super::watch::{Gauges, LOOK_EVERY, Looked};
use super::{TlsServer, provider};
use crate::current::Current;

/// How connections to a port are secured. Clones follow the same files.
#[derive(Clone, Debug)]
pub struct ServerTls {
    key: String,
    settings: TlsServer,
    protocols: &'static [&'static [u8]],
    config: Current<ServerConfig>,
    until_unix: Current<i64>,
    /// What was wrong with the certificate's time when it was first read.
    warning: Option<String>,
}

impl ServerTls {
    /// Reads the files; `None` when the port speaks no TLS. `key` is where the settings stand in the configuration, and
    /// `protocols` what is spoken there (ALPN), such as `h2`.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn open(
        key: &str,
        settings: &TlsServer,
        protocols: &'static [&'static [u8]],
    ) -> Result<Option<Self>, TlsError> {
        settings.check(key)?;
        if !settings.is_on() {
            return Ok(None);
        }
        let (config, identity) = read(key, settings, protocols)?;
        Ok(Some(Self {
            key: key.to_owned(),
            settings: settings.clone(),
            protocols,
            config: Current::new(config),
            until_unix: Current::new(identity.facts.until_unix()),
            warning: identity
                .warning()
                .map(|problem| format!("the certificate of `{key}`: {problem}; renew it")),
        }))
    }

    /// What is to be said of the certificate as it was at the start, though it is used.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// What takes the next connection.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.get())
    }

    /// Follows the files until `stop`: what they become is used for new connections; what cannot be used is said, and what was
    /// there before stays.
    pub async fn follow(self, gauges: Gauges, stop: CancellationToken) {
        let TlsServer {
            cert_file,
            key_file,
            client_ca_file,
            ..
        } = self.settings.clone();
        let mut looked = Looked::at(vec![cert_file, key_file, client_ca_file]);
        gauges.in_use(&self.key, *self.until_unix.get());
        gauges.usable(&self.key, true);
        // They may have changed between the start and the first look.
        self.again(&gauges);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if looked.changed() && self.again(&gauges) {
                tracing::info!(used_for = self.key, "the certificate was read again");
            }
        }
    }

    /// Reads the files again; false when they cannot be used.
    pub(super) fn again(&self, gauges: &Gauges) -> bool {
        let read = read(&self.key, &self.settings, self.protocols);
        gauges.usable(&self.key, read.is_ok());
        match read {
            Ok((config, identity)) => {
                warn(&self.key, &identity);
                gauges.in_use(&self.key, identity.facts.until_unix());
                self.until_unix.set(identity.facts.until_unix());
                self.config.set(config);
                true
            }
            Err(problem) => {
                tracing::error!(%problem, "changed files of TLS cannot be used, what was read before stays in use");
                false
            }
        }
    }
}

fn warn(key: &str, identity: &Identity) {
    if let Some(problem) = identity.warning() {
        tracing::warn!(
            used_for = key,
            problem,
            "clients will not trust this certificate; renew it"
        );
    }
}

fn read(key: &str, settings: &TlsServer, protocols: &[&[u8]]) -> Result<(ServerConfig, Identity), TlsError> {
    let identity = Identity::read(key, &settings.cert_file, &settings.key_file)?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| TlsError::of(key.to_owned(), error.to_string()))?;
    let builder = if settings.asks_clients() {
        let name = format!("{key}.client_ca_file");
        let authority = Authority::read(&name, &settings.client_ca_file)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(authority.roots, provider()).build();
        let verifier = verifier.map_err(|error| TlsError::new(name, &settings.client_ca_file, error.to_string()))?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_cert_resolver(Arc::new(Always(Arc::clone(&identity.certified))));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok((config, identity))
}

/// One certificate for whoever asks.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
