//! Projects that QGIS keeps in PostgreSQL: rows of the table `qgis_projects` of a schema. QGIS opens them itself, by a URI
//! without a password; here they are found, listed, and their changes are heard of.

mod connect;
mod database;
mod secrets;
mod tls;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use graticule_daemon::config::ConfigError;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinSet;

use super::{Backend, Change, LISTING, Listed, Trouble};
use crate::core::locate::{At, Place, SearchPaths};
use crate::core::message::{Begun, ProjectRef};
use crate::core::postgresql::{Server, Source};
use crate::core::stored;
use connect::{Bounds, Failure, Surroundings};
use database::{Databases, Manner, News};

pub use secrets::worker_variables;

/// More projects than this are not listed.
const MOST_LISTED: i64 = 100_000;

/// The URL schemes that mean PostgreSQL.
pub const SCHEMES: [&str; 2] = ["postgresql", "postgres"];

/// The databases of search paths into PostgreSQL, as configured.
pub fn servers(paths: &SearchPaths) -> Vec<Server> {
    let stores = paths
        .iter()
        .filter(|(_, root)| root.scheme().is_some_and(|scheme| SCHEMES.contains(&scheme)));
    let sources = stores.filter_map(|(_, root)| Source::parse(root.as_str()).ok());
    sources.map(|source| source.server).collect()
}

/// What all search paths into PostgreSQL share.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Databases>);

impl Shared {
    /// Reads the environment. Nothing is connected to yet.
    ///
    /// # Errors
    /// A value that is out of its range.
    pub fn new(config: &crate::config::Storage) -> Result<Self, ConfigError> {
        let own = &config.postgresql;
        Ok(Self(Arc::new(Databases::new(Manner {
            surroundings: Surroundings::own(),
            bounds: Bounds {
                connect: own.connect_timeout()?,
                statement: config.timeout()?,
            },
            connections: own.max_connections()?,
            channel: own.channel()?,
        }))))
    }
}

/// A search path into PostgreSQL.
#[derive(Debug)]
pub struct PostgreSql {
    databases: Arc<Databases>,
    /// As configured: the database, the schema and the project may have dynamic segments.
    template: Source,
    believed_for: Duration,
    /// Databases in which a project was found, for the follower.
    found: Mutex<HashSet<Server>>,
    more_found: Notify,
}

impl PostgreSql {
    /// The search path with this URL.
    ///
    /// # Errors
    /// What is wrong with the URL and what to change; without its password.
    pub fn new(url: &str, shared: &Shared, believed_for: Duration) -> Result<Self, String> {
        let template = Source::parse(url)?;
        if let Some(project) = &template.project {
            stored::check_template("project", project)?;
        }
        let databases = Arc::clone(&shared.0);
        let found = Mutex::default();
        Ok(Self {
            databases,
            template,
            believed_for,
            found,
            more_found: Notify::new(),
        })
    }

    /// Somewhat less than callers have, so that who does not answer can be named.
    fn patience(&self) -> Duration {
        self.databases.manner.bounds.statement.mul_f64(0.9)
    }

    /// Whether clients choose the database or the schema, so that one which is not there is no project and no fault.
    fn is_chosen(&self) -> bool {
        let dbname = self.template.server.dbname.as_deref().unwrap_or_default();
        dbname.contains('{') || self.template.schema.contains('{')
    }

    fn trouble(&self, failure: &Failure, schema: &str) -> Trouble {
        if failure.nothing_there && self.is_chosen() {
            return Trouble::Missing;
        }
        // Else it does not even come to a server.
        let of = if failure.text.starts_with("PostgreSQL at ") {
            format!("schema {schema} of ")
        } else {
            String::new()
        };
        Trouble::Down(of + &failure.text)
    }

    fn note(&self, server: &Server) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if !found.contains(server) {
            found.insert(server.clone());
            self.more_found.notify_one();
        }
    }

    /// What a notification means for this search path. The payload is `schema.project`, or nothing, which means all.
    fn change(&self, server: &Server, payload: &str) -> Option<Change> {
        if payload.is_empty() {
            return Some(Change::Everything);
        }
        let template = &self.template;
        let (schema, row) = if template.schema.contains('{') {
            payload.split_once('.')?
        } else {
            let row = payload.strip_prefix(&template.schema)?.strip_prefix('.')?;
            (template.schema.as_str(), row)
        };
        let source = Source {
            server: server.clone(),
            schema: schema.to_owned(),
            project: None,
        };
        source.uri(row).ok().map(Change::Uri)
    }
}

#[tonic::async_trait]
impl Backend for PostgreSql {
    async fn look(&self, place: &Place) -> Result<ProjectRef, Trouble> {
        let At::Store(url) = &place.at else {
            return Err(Trouble::Missing);
        };
        let source = Source::parse(url).map_err(Trouble::Unusable)?;
        let rows = stored::rows(source.project.as_deref().unwrap_or(&place.relative), place.suffix);
        let sql = format!(
            "SELECT name, xmin::text, metadata->>'last_modified_time', octet_length(content)::bigint FROM {} WHERE name = ANY($1)",
            table(&source.schema)
        );
        let database = self.databases.get(&source.server);
        let found = database.query(&sql, &[&rows], self.patience()).await;
        let found = found.map_err(|failure| self.trouble(&failure, &source.schema))?;
        let named = |row: &tokio_postgres::Row| {
            let name: String = row.get(0);
            rows.iter().position(|wanted| *wanted == name).map(|rank| (rank, name))
        };
        let best = found
            .iter()
            .filter_map(|row| Some((named(row)?, row)))
            .min_by_key(|((rank, _), _)| *rank);
        let ((_, name), row) = best.ok_or(Trouble::Missing)?;
        self.note(&source.server);
        let (change, written, length): (String, Option<String>, Option<i64>) = (row.get(1), row.get(2), row.get(3));
        Ok(ProjectRef {
            uri: source.uri(&name).map_err(Trouble::Unusable)?,
            version: stored::version(&[
                &written.unwrap_or_default(),
                &change,
                &length.unwrap_or_default().to_string(),
            ]),
            file: None,
            begun: Begun::default(),
        })
    }

    async fn list(&self) -> Result<Vec<Listed>, Trouble> {
        let template = &self.template;
        let sql = format!(
            "SELECT name, metadata->>'last_modified_time', octet_length(content)::bigint FROM {} ORDER BY name LIMIT {}",
            table(&template.schema),
            MOST_LISTED + 1
        );
        let database = self.databases.get(&template.server);
        let rows = database.query(&sql, &[], self.patience() * LISTING).await;
        let rows = rows.map_err(|failure| self.trouble(&failure, &template.schema))?;
        if rows.len() as u64 > MOST_LISTED.unsigned_abs() {
            return Err(Trouble::Unusable(format!("it has more than {MOST_LISTED} projects")));
        }
        let listed = |row: &tokio_postgres::Row| {
            let (relative, suffix) = stored::listed(template.project.as_deref(), row.get(0))?;
            let (written, length): (Option<String>, Option<i64>) = (row.get(1), row.get(2));
            Some(Listed {
                relative,
                suffix,
                modified: written.as_deref().and_then(stored::written),
                bytes: length.and_then(|length| u64::try_from(length).ok()),
            })
        };
        Ok(rows.iter().filter_map(listed).collect())
    }

    fn believed_for(&self) -> Option<Duration> {
        Some(self.believed_for)
    }

    async fn follow(&self, changed: UnboundedSender<Change>) {
        if self.databases.manner.channel.is_empty() {
            return std::future::pending().await;
        }
        let fixed = |server: &Server| !server.dbname.as_deref().unwrap_or_default().contains('{');
        if fixed(&self.template.server) {
            self.note(&self.template.server);
        }
        let mut followed = HashSet::new();
        let mut heard = JoinSet::new();
        loop {
            let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for server in found {
                if followed.insert(server.clone()) {
                    let news = self.databases.get(&server).news();
                    heard.spawn(next(server, news));
                }
            }
            tokio::select! {
                () = self.more_found.notified() => {}
                Some(Ok((server, news, receiver))) = heard.join_next() => {
                    let change = match news {
                        Some(News::Said(payload)) => self.change(&server, &payload),
                        Some(News::Missed) => Some(Change::Everything),
                        // Its database was not used for long and is forgotten: it is followed again when it is.
                        None => {
                            self.found.lock().unwrap_or_else(PoisonError::into_inner).remove(&server);
                            followed.remove(&server);
                            continue;
                        }
                    };
                    heard.spawn(next(server, receiver));
                    if change.is_some_and(|change| changed.send(change).is_err()) {
                        return;
                    }
                }
            }
        }
    }
}

/// The next news of a database; none when there will be no more.
async fn next(
    server: Server,
    mut news: broadcast::Receiver<News>,
) -> (Server, Option<News>, broadcast::Receiver<News>) {
    let heard = match news.recv().await {
        Ok(heard) => Some(heard),
        Err(RecvError::Lagged(_)) => Some(News::Missed),
        Err(RecvError::Closed) => None,
    };
    (server, heard, news)
}

/// The table of projects of a schema, as SQL has it.
fn table(schema: &str) -> String {
    format!("\"{}\".qgis_projects", schema.replace('"', "\"\""))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
