//! What the commands of both daemons are told of the way to a port: which authorities to believe, what certificate and what
//! token to show. It knows no command.

use std::path::PathBuf;
use std::sync::OnceLock;

use tonic::Status;
use tonic::transport::Endpoint;

use crate::config::Secret;
use crate::tls::{Channel, Dial, DialError, TlsClient, chain};

/// How a command connects. Options go before variables.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Secured ports")]
pub struct Secured {
    /// Speak TLS, as with the next two
    #[arg(long, global = true, env = "GRATICULE_TLS", hide_env = true)]
    tls: bool,
    /// Authorities to believe; else the system's
    #[arg(long, global = true, value_name = "FILE", env = "GRATICULE_TLS_CA", hide_env = true)]
    tls_ca: Option<PathBuf>,
    /// The certificate to show
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "GRATICULE_TLS_CERT",
        hide_env = true
    )]
    tls_cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, global = true, value_name = "FILE", env = "GRATICULE_TLS_KEY", hide_env = true)]
    tls_key: Option<PathBuf>,
    /// The name in the server's certificate
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "GRATICULE_TLS_SERVER_NAME",
        hide_env = true
    )]
    tls_server_name: Option<String>,
    /// A file with the token to show
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "GRATICULE_TOKEN_FILE",
        hide_env = true
    )]
    token_file: Option<PathBuf>,
}

/// What this process was told on its command line; it is told once.
static TOLD: OnceLock<Secured> = OnceLock::new();

impl Secured {
    /// Makes it count for every connection of this process.
    pub fn remember(self) {
        // Only the first counts, and there is one command line.
        let _ = TOLD.set(self);
    }

    fn speaks_tls(&self) -> bool {
        self.tls || self.tls_ca.is_some() || self.tls_cert.is_some()
    }

    fn dial(&self) -> Dial {
        let tls = TlsClient {
            ca_file: self.tls_ca.clone().unwrap_or_default(),
            cert_file: self.tls_cert.clone().unwrap_or_default(),
            key_file: self.tls_key.clone().unwrap_or_default(),
            server_name: self.tls_server_name.clone().unwrap_or_default(),
        };
        Dial::new(
            "command line",
            tls,
            Secret::default(),
            self.token_file.clone().unwrap_or_default(),
        )
    }
}

/// The endpoint at `HOST:PORT`, with the scheme that the command line asks for.
///
/// # Errors
/// When that is no address; `example` is one.
pub fn endpoint(host: &str, example: &str) -> Result<Endpoint, String> {
    let scheme = if TOLD.get().is_some_and(Secured::speaks_tls) {
        "https"
    } else {
        "http"
    };
    Endpoint::from_shared(format!("{scheme}://{host}"))
        .map_err(|_| format!("--host `{host}`: expected HOST:PORT, such as {example}"))
}

/// Connects there as the command line says.
///
/// # Errors
/// When files cannot be used, or nobody is there who can be believed.
pub async fn connect(endpoint: &Endpoint) -> Result<Channel, DialError> {
    TOLD.get().cloned().unwrap_or_default().dial().connect(endpoint).await
}

/// What to look at when a call broke off without an answer of the other side; `None` when it has answered.
#[must_use]
pub fn broken(status: &Status) -> Option<String> {
    let source = std::error::Error::source(status)?;
    source
        .is::<tonic::transport::Error>()
        .then(|| hint(&DialError::Away(chain(source))))
}

/// What to look at when there was no connection.
#[must_use]
pub fn hint(error: &DialError) -> String {
    let text = error.to_string();
    let secured = TOLD.get().is_some_and(Secured::speaks_tls);
    let certificate = text.contains("certificate");
    match error {
        DialError::Settings(_) => text,
        DialError::Away(_) if secured && certificate => {
            format!("{text}; see --tls-ca, --tls-server-name and --tls-cert")
        }
        DialError::Away(_) if secured => format!("{text}; does this port speak TLS?"),
        DialError::Away(_) => format!("{text}; a port with TLS needs --tls or --tls-ca FILE"),
    }
}
