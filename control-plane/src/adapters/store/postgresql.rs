//! The documents as rows of one table, which several control planes share. Whoever changes one says which revision it was made
//! from; who comes second is refused and reads again. Changes are notified, and looked for now and then all the same.
//!
//! While the database is away, what was read last goes on to count, and nothing can be changed.

use std::error::Error as _;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::{Mutex, Notify};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use super::{Kind, StoreError};
use crate::config::StoreConfig;

/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long after the last look it is looked for changes that nobody has notified.
const LOOK: Duration = Duration::from_secs(3);

/// Made by whoever comes first; the lock keeps two that come at once from both doing it.
const PREPARE: &str = "
    BEGIN;
    SELECT pg_advisory_xact_lock(7471526);
    CREATE TABLE IF NOT EXISTS graticule_documents
        (kind text PRIMARY KEY, revision bigint NOT NULL, body text NOT NULL);
    COMMIT";

const READ: &str = "SELECT revision, body FROM graticule_documents WHERE kind = $1";

/// The row that names the store; it is no document, and nobody changes it. Whoever takes it away makes another store of this
/// one, whose revisions begin anew.
const IDENTIFY: &str = "
    INSERT INTO graticule_documents VALUES ('identity', 1, md5(random()::text || clock_timestamp()::text))
    ON CONFLICT (kind) DO NOTHING";

const IDENTITY: &str = "SELECT body FROM graticule_documents WHERE kind = 'identity'";

/// Writes when the revision before is there, and says so to all.
const WRITE: &str = "
    WITH written AS (
        INSERT INTO graticule_documents VALUES ($1, $2, $3)
        ON CONFLICT (kind) DO UPDATE SET revision = excluded.revision, body = excluded.body
            WHERE graticule_documents.revision = excluded.revision - 1
        RETURNING kind)
    SELECT pg_notify('graticule_documents', kind) FROM written";

/// A database.
pub struct PostgreSql {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    place: String,
    connection: Mutex<Option<Connection>>,
    news: Arc<Notify>,
}

struct Connection {
    client: Arc<Client>,
    _driver: AbortOnDropHandle<()>,
}

impl PostgreSql {
    /// Connects, and makes the table when it is not there.
    ///
    /// # Errors
    /// When the URL cannot be used, or the database does not answer or refuses.
    pub async fn open(settings: &StoreConfig) -> Result<Arc<Self>, StoreError> {
        let mut config: Config = settings.url.parse().map_err(|error| StoreError::Unusable {
            place: "store.url".to_owned(),
            problem: format!("{}; correct it", chain(&error)),
        })?;
        config
            .application_name("graticule control-plane")
            .connect_timeout(PATIENCE)
            .keepalives_idle(Duration::from_secs(30))
            .keepalives_interval(Duration::from_secs(10))
            .keepalives_retries(3);
        let place = place(&config);
        let tls = secured(&mut config, settings).map_err(|problem| StoreError::Unusable {
            place: place.clone(),
            problem,
        })?;
        let opened = Self {
            config,
            tls,
            place,
            connection: Mutex::default(),
            news: Arc::default(),
        };
        let client = opened.client().await?;
        let there = client.query_one("SELECT to_regclass('graticule_documents') IS NOT NULL", &[]);
        if !opened.bounded(there).await?.get::<_, bool>(0) {
            opened.bounded(client.batch_execute(PREPARE)).await?;
        }
        Ok(Arc::new(opened))
    }

    /// For people; without its password.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What tells this store from others, whoever asks; it is made when it is not there.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn identity(&self) -> Result<String, StoreError> {
        let client = self.client().await?;
        if let Some(row) = self.bounded(client.query_opt(IDENTITY, &[])).await? {
            return Ok(row.get(0));
        }
        self.bounded(client.execute(IDENTIFY, &[])).await?;
        Ok(self.bounded(client.query_one(IDENTITY, &[])).await?.get(0))
    }

    /// Waits until something may have changed.
    pub async fn changed(&self) {
        // In time or not, it is worth a look.
        let _ = tokio::time::timeout(LOOK, self.news.notified()).await;
    }

    /// A document and its revision; none when it has never been written.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn read(&self, kind: Kind) -> Result<Option<(u64, String)>, StoreError> {
        let (name, client) = (kind.name(), self.client().await?);
        let row = self.bounded(client.query_opt(READ, &[&name])).await?;
        Ok(row.map(|row| (u64::try_from(row.get::<_, i64>(0)).unwrap_or(0), row.get(1))))
    }

    /// Puts this in the place of the revision before.
    ///
    /// # Errors
    /// When the database does not answer, or another revision is there.
    pub async fn write(&self, kind: Kind, revision: u64, text: &str) -> Result<(), StoreError> {
        let (name, revision) = (kind.name(), i64::try_from(revision).unwrap_or(i64::MAX));
        let client = self.client().await?;
        let written = self.bounded(client.query(WRITE, &[&name, &revision, &text])).await?;
        if written.is_empty() {
            return Err(StoreError::Conflict { kind });
        }
        Ok(())
    }

    fn away(&self, problem: String) -> StoreError {
        let place = self.place.clone();
        StoreError::Away { place, problem }
    }

    fn failed(&self, error: &tokio_postgres::Error) -> StoreError {
        let (place, problem) = (self.place.clone(), explain(error));
        if may_pass(error) {
            StoreError::Away { place, problem }
        } else {
            StoreError::Unusable { place, problem }
        }
    }

    /// The one connection, which is made when there is none.
    async fn client(&self) -> Result<Arc<Client>, StoreError> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| !connection.client.is_closed()) {
            return Ok(Arc::clone(&connection.client));
        }
        let made = tokio::time::timeout(PATIENCE, self.connect()).await;
        let made = made.map_err(|_| self.away(silence()))?;
        let made = made.map_err(|error| self.failed(&error))?;
        Ok(Arc::clone(&kept.insert(made).client))
    }

    /// Waits for an answer, within bounds. A connection that has failed once is not used again.
    async fn bounded<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        let error = match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => self.failed(&error),
            Err(_) => self.away(silence()),
        };
        *self.connection.lock().await = None;
        Err(error)
    }

    async fn connect(&self) -> Result<Connection, tokio_postgres::Error> {
        let (client, driver) = match &self.tls {
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                (client, tokio::spawn(drive(connection, Arc::clone(&self.news))))
            }
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                (client, tokio::spawn(drive(connection, Arc::clone(&self.news))))
            }
        };
        let driver = AbortOnDropHandle::new(driver);
        client
            .batch_execute("SET statement_timeout = '4s'; LISTEN graticule_documents")
            .await?;
        Ok(Connection {
            client: Arc::new(client),
            _driver: driver,
        })
    }
}

/// Moves bytes until the connection ends, and says when somebody has changed something.
async fn drive<T>(mut connection: tokio_postgres::Connection<tokio_postgres::Socket, T>, news: Arc<Notify>)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        if matches!(message, AsyncMessage::Notification(_)) {
            news.notify_one();
        }
    }
}

/// How connections are secured: not at all over a Unix socket, over loopback, or where `sslmode=disable` says so; else with the
/// server's certificate checked, its host name too. An address (`hostaddr`) goes before the name that stands beside it.
fn secured(config: &mut Config, settings: &StoreConfig) -> Result<Option<MakeRustlsConnect>, String> {
    let near = config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
    });
    let near = near && config.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback);
    match config.get_ssl_mode() {
        SslMode::Disable => return Ok(None),
        SslMode::Prefer if near => {
            config.ssl_mode(SslMode::Disable);
            return Ok(None);
        }
        _ => config.ssl_mode(SslMode::Require),
    };
    let mut roots = rustls::RootCertStore::empty();
    let file = &settings.ca_file;
    if file.as_os_str().is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    } else {
        let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let read = read.map_err(|error| format!("store.ca_file {}: {error}; correct it", file.display()))?;
        roots.add_parsable_certificates(read);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some(MakeRustlsConnect::new(tls)))
}

fn place(config: &Config) -> String {
    let hosts = config
        .get_hosts()
        .iter()
        .zip(config.get_ports().iter().chain(std::iter::repeat(&5432)));
    let hosts = hosts.map(|(host, port)| match host {
        Host::Tcp(name) => format!("{name}:{port}"),
        Host::Unix(path) => path.display().to_string(),
    });
    let database = config.get_dbname().or(config.get_user()).unwrap_or("");
    format!(
        "PostgreSQL at {}, database {database}",
        hosts.collect::<Vec<_>>().join(",")
    )
}

fn silence() -> String {
    format!(
        "no answer within {} s; see that it runs and can be reached",
        PATIENCE.as_secs()
    )
}

/// Whether an error may be over by itself: nobody answers, or the server is starting or stopping, has no room for one more, or
/// only reads for as long as another one is the primary.
fn may_pass(error: &tokio_postgres::Error) -> bool {
    if let Some(said) = error.as_db_error() {
        let class = said.code().code().get(..2).unwrap_or_default();
        return ["08", "25", "40", "53", "57", "58"].contains(&class);
    }
    // What the library does not tell in any other way: no password is configured, or another kind of proof is asked for.
    let text = error.to_string();
    let is_ours = ["invalid configuration", "authentication error"]
        .iter()
        .any(|kind| text.starts_with(kind));
    let mut source = error.source();
    while let Some(inner) = source {
        // A certificate that nobody vouches for, or of another name.
        let io = inner.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::InvalidData) {
            return false;
        }
        source = inner.source();
    }
    !is_ours
}

/// An error in words, and what to change.
fn explain(error: &tokio_postgres::Error) -> String {
    use tokio_postgres::error::SqlState;
    let Some(said) = error.as_db_error() else {
        return format!("{}; see that it runs and can be reached (store.url)", chain(error));
    };
    let remedy = match *said.code() {
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "correct user and password in store.url, or allow them in the server's pg_hba.conf"
        }
        SqlState::INVALID_CATALOG_NAME => "create the database, or correct its name in store.url",
        SqlState::INSUFFICIENT_PRIVILEGE | SqlState::INVALID_SCHEMA_NAME => {
            "let its user create tables in its schema, or make the table graticule_documents for it"
        }
        SqlState::DISK_FULL => "make room on the server's disk",
        SqlState::READ_ONLY_SQL_TRANSACTION => "name the primary server in store.url, this one only reads",
        _ => "see the server's log",
    };
    format!("{}; {remedy}", said.message())
}

fn chain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_on_this_machine_goes_unencrypted() {
        let is_secured = |url: &str| {
            let mut config: Config = url.parse().unwrap();
            secured(&mut config, &StoreConfig::default()).unwrap().is_some()
        };
        for near in [
            "host=localhost",
            "host=127.0.0.1,::1",
            "host=/run/postgresql",
            "host=localhost hostaddr=127.0.0.1",
            "host=db hostaddr=192.0.2.7 sslmode=disable",
        ] {
            assert!(!is_secured(near), "{near}");
        }
        for far in [
            "host=db",
            "host=localhost,db",
            "host=localhost hostaddr=192.0.2.7",
            "hostaddr=192.0.2.7",
            "host=db hostaddr=127.0.0.1",
            "host=localhost sslmode=require",
        ] {
            assert!(is_secured(far), "{far}");
        }
    }
}
