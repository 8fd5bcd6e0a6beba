//! One connection to a PostgreSQL server, by the parameters that libpq would come to, and its errors in words.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt::Write as _;
use std::fs;
use std::future::poll_fn;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config};
use tokio_util::task::AbortOnDropHandle;

use super::tls::Tls;
use crate::core::postgresql::{Host, Server, Settings, Ssl, Variables, service_files, service_parameters};

/// Where Debian's libpq looks for the server's socket, and where the one of the PostgreSQL project does.
const SOCKETS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// What this process knows beside its configuration.
#[derive(Debug)]
pub(super) struct Surroundings {
    variables: Variables,
    login: String,
    socket: String,
}

/// The bounds of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Until it is there.
    pub(super) connect: Duration,
    /// Until the server gives up on a statement by itself.
    pub(super) statement: Duration,
}

/// A connection that is there; dropped, it is closed, whatever it is doing.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: Client,
    /// When it was last used.
    pub(super) used: Instant,
    _driver: AbortOnDropHandle<()>,
}

/// Why the database has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// What was asked for is not there: the database, the schema or its table.
    pub(super) nothing_there: bool,
    /// In words, with what to change; no secrets.
    pub(super) text: String,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self {
            nothing_there: false,
            text,
        }
    }
}

impl Surroundings {
    /// Of this process.
    pub(super) fn own() -> Self {
        let wanted = |name: &str| name == "HOME" || name.starts_with("PG");
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let variables: BTreeMap<_, _> = std::env::vars_os()
            .filter_map(text)
            .filter(|(name, _)| wanted(name))
            .collect();
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
        let socket = SOCKETS
            .into_iter()
            .find(|dir| Path::new(dir).is_dir())
            .unwrap_or(SOCKETS[0]);
        Self {
            variables,
            login: user.map_or_else(|| "postgres".into(), |user| user.name),
            socket: socket.to_owned(),
        }
    }

    /// What a connection to `server` uses now: files may have changed.
    pub(super) fn settings(&self, server: &Server) -> Result<Settings, String> {
        let service = match service_files(server, &self.variables) {
            None => Variables::new(),
            Some((name, files)) => {
                let read = |path: PathBuf| Some((path.clone(), fs::read_to_string(path).ok()?));
                service_parameters(&name, &files.into_iter().filter_map(read).collect::<Vec<_>>())?
            }
        };
        Settings::resolve(server, &service, &self.variables, &self.socket, &self.login)
    }
}

/// The text of a password file; empty when libpq would not take it.
pub(super) fn passfile(path: Option<&Path>) -> String {
    let Some(path) = path else { return String::new() };
    let Ok(metadata) = fs::metadata(path) else {
        return String::new();
    };
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(file = %path.display(), "others may read this password file, so it is not used: chmod 600");
        return String::new();
    }
    fs::read_to_string(path).unwrap_or_default()
}

/// Connects to the first host that answers. What the server notifies of goes to `heard`.
pub(super) async fn connect(
    settings: &Settings,
    bounds: Bounds,
    heard: Option<UnboundedSender<String>>,
) -> Result<Connection, Failure> {
    let passwords = passfile(settings.passfile.as_deref());
    let tls = Tls::new(settings)?;
    let mut failure = Failure::from(String::new());
    for host in &settings.hosts {
        let config = config(settings, host, &passwords, bounds)?;
        let attempt = attempt(&config, tls.clone(), bounds, heard.clone());
        failure = match tokio::time::timeout(bounds.connect, attempt).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => explain(&error, settings),
            Err(_) => format!(
                "{}: no answer within {} s",
                name(settings),
                bounds.connect.as_secs_f64()
            )
            .into(),
        };
    }
    Err(failure)
}

fn config(settings: &Settings, host: &Host, passwords: &str, bounds: Bounds) -> Result<Config, Failure> {
    let mut config = Config::new();
    if host.is_socket() {
        config.host_path(&host.name);
    } else {
        config.host(&host.name);
        if let Some(address) = &host.address {
            let address = address
                .parse()
                .map_err(|_| format!("hostaddr `{address}` is no IP address"))?;
            config.hostaddr(address);
        }
    }
    let ssl = match settings.sslmode {
        _ if host.is_socket() => SslMode::Disable,
        Ssl::Disable => SslMode::Disable,
        Ssl::Allow | Ssl::Prefer => SslMode::Prefer,
        Ssl::Require | Ssl::VerifyCa | Ssl::VerifyFull => SslMode::Require,
    };
    config
        .port(host.port)
        .user(&settings.user)
        .dbname(&settings.dbname)
        .application_name("graticule worker-agent")
        .ssl_mode(ssl)
        .connect_timeout(bounds.connect)
        // A server that went without a word is noticed.
        .keepalives_idle(Duration::from_secs(30))
        .keepalives_interval(Duration::from_secs(10))
        .keepalives_retries(3);
    if let Some(options) = &settings.options {
        config.options(options);
    }
    if let Some(password) = settings.password(host, passwords) {
        config.password(password);
    }
    Ok(config)
}

async fn attempt(
    config: &Config,
    tls: Tls,
    bounds: Bounds,
    heard: Option<UnboundedSender<String>>,
) -> Result<Connection, tokio_postgres::Error> {
    let (client, mut connection) = config.connect(tls).await?;
    let driver = tokio::spawn(async move {
        // Ends with the connection; `heard` closes then, and requests in flight fail.
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let (AsyncMessage::Notification(said), Some(heard)) = (message, &heard)
                && heard.send(said.payload().to_owned()).is_err()
            {
                break;
            }
        }
    });
    let connection = Connection {
        client,
        used: Instant::now(),
        _driver: AbortOnDropHandle::new(driver),
    };
    let statement = bounds.statement.as_millis();
    let set = format!("SET statement_timeout = {statement}; SET default_transaction_read_only = on");
    connection.client.batch_execute(&set).await?;
    Ok(connection)
}

/// The database as errors name it.
pub(super) fn name(settings: &Settings) -> String {
    let hosts: Vec<_> = settings.hosts.iter().map(Host::to_string).collect();
    format!("PostgreSQL at {}, database {}", hosts.join(","), settings.dbname)
}

/// An error in words, and what to change.
pub(super) fn explain(error: &tokio_postgres::Error, settings: &Settings) -> Failure {
    let mut text = format!("{}: ", name(settings));
    let Some(said) = error.as_db_error() else {
        let _ = write!(text, "{error}");
        let mut source = error.source();
        while let Some(inner) = source {
            let inner_text = inner.to_string();
            if !text.ends_with(&inner_text) {
                let _ = write!(text, ": {inner_text}");
            }
            source = inner.source();
        }
        return text.into();
    };
    text += said.message();
    let code = said.code();
    let user = &settings.user;
    let remedy = match code {
        &SqlState::INVALID_PASSWORD => {
            format!(
                "correct the password of {user}: in the search path, in a password file (PGPASSFILE) or in PGPASSWORD"
            )
        }
        &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "allow it in the server's pg_hba.conf, or connect as another user or with another sslmode".to_owned()
        }
        &SqlState::INVALID_CATALOG_NAME => "create the database, or correct `dbname`".to_owned(),
        &SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME => {
            "correct `schema`, or save a project there once with QGIS, which makes the table".to_owned()
        }
        &SqlState::INSUFFICIENT_PRIVILEGE => {
            format!("let {user} read it: GRANT USAGE ON SCHEMA and GRANT SELECT ON its table qgis_projects")
        }
        &SqlState::TOO_MANY_CONNECTIONS => {
            "raise the server's max_connections, or have fewer workers and agents (docs/projects.md counts connections)"
                .to_owned()
        }
        _ => String::new(),
    };
    if !remedy.is_empty() {
        let _ = write!(text, "; {remedy}");
    }
    let absent = [
        &SqlState::INVALID_CATALOG_NAME,
        &SqlState::UNDEFINED_TABLE,
        &SqlState::INVALID_SCHEMA_NAME,
    ];
    Failure {
        nothing_there: absent.contains(&code),
        text,
    }
}
