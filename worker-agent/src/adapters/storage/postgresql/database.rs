//! A database with its few connections: queries take turns on them, one more listens for changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use tokio_util::task::AbortOnDropHandle;

use super::connect::{Bounds, Connection, Failure, Surroundings, connect, explain, name};
use crate::core::postgresql::backoff::Backoff;
use crate::core::postgresql::{Server, Settings};

/// A connection that nobody used for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// More databases than this are not remembered: names of databases may be clients' to choose.
const MOST: usize = 64;

/// A connection that only listens is asked for a sign of life as often as this.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// So many notifications wait for who reads them.
const NEWS: usize = 1024;

/// What a listening connection heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// A notification with its payload.
    Said(String),
    /// Some may have been missed.
    Missed,
}

/// How databases are spoken to.
#[derive(Debug)]
pub(super) struct Manner {
    pub(super) surroundings: Surroundings,
    pub(super) bounds: Bounds,
    /// Connections for queries, for each database.
    pub(super) connections: usize,
    /// Where changes are notified; empty: nobody listens.
    pub(super) channel: String,
}

/// The databases of all search paths: those of one database share its connections.
#[derive(Debug)]
pub(super) struct Databases {
    pub(super) manner: Arc<Manner>,
    open: Mutex<HashMap<Server, Arc<Database>>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Database {
    manner: Arc<Manner>,
    server: Server,
    turns: Semaphore,
    state: Mutex<State>,
    news: OnceLock<(broadcast::Sender<News>, AbortOnDropHandle<()>)>,
}

#[derive(Debug)]
struct State {
    idle: Vec<Connection>,
    backoff: Backoff,
    used: Instant,
}

impl Databases {
    pub(super) fn new(manner: Manner) -> Self {
        Self {
            manner: Arc::new(manner),
            open: Mutex::default(),
        }
    }

    /// The database of that name; nothing is connected to yet.
    pub(super) fn get(&self, server: &Server) -> Arc<Database> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        for database in open.values() {
            database.state().idle.retain(|connection| now < connection.used + IDLE);
        }
        if open.len() >= MOST && !open.contains_key(server) {
            let oldest = open.iter().min_by_key(|(_, database)| database.state().used);
            if let Some(oldest) = oldest.map(|(server, _)| server.clone()) {
                open.remove(&oldest);
            }
        }
        let database = open
            .entry(server.clone())
            .or_insert_with(|| Arc::new(Database::new(&self.manner, server)));
        database.state().used = now;
        Arc::clone(database)
    }
}

impl Database {
    fn new(manner: &Arc<Manner>, server: &Server) -> Self {
        Self {
            manner: Arc::clone(manner),
            server: server.clone(),
            turns: Semaphore::new(manner.connections),
            state: Mutex::new(State {
                idle: Vec::new(),
                backoff: Backoff::default(),
                used: Instant::now(),
            }),
            news: OnceLock::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the database, and gives up after `patience`: then the connection is closed.
    pub(super) async fn query(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
        patience: Duration,
    ) -> Result<Vec<Row>, Failure> {
        let settings = self.manner.surroundings.settings(&self.server)?;
        let asked = Box::pin(self.ask(&settings, sql, parameters));
        match tokio::time::timeout(patience, asked).await {
            Ok(answered) => answered,
            Err(_) => Err(format!("{}: no answer within {:.1} s", name(&settings), patience.as_secs_f64()).into()),
        }
    }

    async fn ask(
        &self,
        settings: &Settings,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Failure> {
        let _turn = self.turns.acquire().await.map_err(|error| error.to_string())?;
        let mut doubt = Doubt {
            database: self,
            settings,
            dispelled: false,
        };
        loop {
            let idle = self.state().idle.pop();
            let fresh = idle.is_none();
            let mut connection = match idle {
                Some(idle) if idle.client.is_closed() => continue,
                Some(idle) => idle,
                None => match self.connect(settings).await {
                    Ok(connection) => connection,
                    Err(failure) => {
                        doubt.dispelled = true;
                        return Err(failure);
                    }
                },
            };
            let answered = connection.client.query(sql, parameters).await;
            // One that was cut while nobody used it says nothing of the server: it may have been started anew.
            if connection.client.is_closed() && !fresh && answered.is_err() {
                continue;
            }
            doubt.dispelled = true;
            if !connection.client.is_closed() {
                connection.used = Instant::now();
                self.state().idle.push(connection);
            }
            return answered.map_err(|error| explain(&error, settings));
        }
    }

    /// Connects, unless that failed a moment ago.
    async fn connect(&self, settings: &Settings) -> Result<Connection, Failure> {
        if let Some(why) = self.state().backoff.closed(Instant::now()) {
            return Err(why.to_owned().into());
        }
        let connected = connect(settings, self.manner.bounds, None).await;
        let mut state = self.state();
        match &connected {
            Ok(_) => state.backoff.reached(),
            // The server itself is well.
            Err(failure) if failure.nothing_there => {}
            Err(failure) => {
                state.backoff.failed(failure.text.clone(), Instant::now());
            }
        }
        connected
    }

    /// What is notified from now on. One connection more is held for it as long as the database is.
    pub(super) fn news(self: &Arc<Self>) -> broadcast::Receiver<News> {
        let (sender, _) = self.news.get_or_init(|| {
            let (sender, _) = broadcast::channel(NEWS);
            let listening = listen(Arc::clone(&self.manner), self.server.clone(), sender.clone());
            (sender, AbortOnDropHandle::new(tokio::spawn(listening)))
        });
        sender.subscribe()
    }
}

/// A query whose caller gave up in the middle: the other connections are of no use either, and the server is left alone for
/// a moment.
struct Doubt<'a> {
    database: &'a Database,
    settings: &'a Settings,
    dispelled: bool,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.dispelled {
            let why = format!("{}: it does not answer", name(self.settings));
            let mut state = self.database.state();
            state.idle.clear();
            state.backoff.failed(why, Instant::now());
        }
    }
}

/// Listens for ever, and connects again whenever that breaks.
async fn listen(manner: Arc<Manner>, server: Server, news: broadcast::Sender<News>) {
    let mut backoff = Backoff::default();
    let mut missed = false;
    loop {
        let (heard, mut hears) = mpsc::unbounded_channel();
        let problem = match begin(&manner, &server, heard).await {
            Ok(connection) => {
                backoff.reached();
                if missed {
                    tracing::info!(%server, "changes of projects are heard of again");
                    let _ = news.send(News::Missed);
                    missed = false;
                }
                hear(&connection, &mut hears, &news, manner.bounds).await;
                "the connection was lost".to_owned()
            }
            Err(failure) => failure.text,
        };
        if !missed {
            tracing::warn!(
                %server,
                problem,
                "changes of projects are not heard of; they are looked for meanwhile"
            );
        }
        missed = true;
        tokio::time::sleep(backoff.failed(problem, Instant::now())).await;
    }
}

async fn begin(manner: &Manner, server: &Server, heard: mpsc::UnboundedSender<String>) -> Result<Connection, Failure> {
    let settings = manner.surroundings.settings(server)?;
    let connection = connect(&settings, manner.bounds, Some(heard)).await?;
    let channel = manner.channel.replace('"', "\"\"");
    let listen = connection.client.batch_execute(&format!("LISTEN \"{channel}\"")).await;
    listen.map_err(|error| explain(&error, &settings))?;
    Ok(connection)
}

/// Passes on what is heard until the connection is lost.
async fn hear(
    connection: &Connection,
    hears: &mut mpsc::UnboundedReceiver<String>,
    news: &broadcast::Sender<News>,
    bounds: Bounds,
) {
    loop {
        tokio::select! {
            said = hears.recv() => match said {
                Some(payload) => drop(news.send(News::Said(payload))),
                None => return,
            },
            () = tokio::time::sleep(SIGN_OF_LIFE) => {
                let sign = connection.client.batch_execute("");
                if !matches!(tokio::time::timeout(bounds.connect, sign).await, Ok(Ok(()))) {
                    return;
                }
            }
        }
    }
}
