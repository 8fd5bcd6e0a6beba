//! The Envoys that are attached, as people and tools see them. How one stands is asked of its own state machine, and only
//! when somebody wants to know.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::core::ads::{Client, Node, Rejection, Standing, Variant};
use crate::core::resources::Kind;
use crate::metrics::Metrics;

/// How one Envoy stands.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// Where it connected from.
    pub peer: Option<SocketAddr>,
    /// Which variant of the protocol it speaks.
    pub variant: Variant,
    /// Who it says it is.
    pub node: Option<Node>,
    /// Whether it is served.
    pub admitted: bool,
    /// The view it has; empty before it is known.
    pub view: String,
    /// What it has, kind by kind.
    pub standing: Vec<Standing>,
    /// What it refused last, of each kind.
    pub refused: BTreeMap<Kind, Rejection>,
}

#[derive(Debug)]
struct Entry {
    card: Card,
    client: Arc<Mutex<Client>>,
}

/// Every attached Envoy. Clones share the list.
#[derive(Clone, Debug)]
pub struct Clients {
    entries: Arc<Mutex<(u64, BTreeMap<u64, Entry>)>>,
    metrics: Metrics,
}

impl Clients {
    /// Nobody is attached yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self {
            entries: Arc::default(),
            metrics,
        }
    }

    /// Takes one in, for as long as the guard lives.
    #[must_use]
    pub fn attach(&self, peer: Option<SocketAddr>, client: Client) -> Attached {
        let card = Card {
            peer,
            variant: client.variant(),
            ..Card::default()
        };
        let client = Arc::new(Mutex::new(client));
        let mut entries = lock(&self.entries);
        entries.0 += 1;
        let number = entries.0;
        let entry = Entry {
            card,
            client: Arc::clone(&client),
        };
        entries.1.insert(number, entry);
        self.metrics.clients.inc();
        drop(entries);
        Attached {
            number,
            client,
            clients: self.clone(),
        }
    }

    /// What `tell` makes of everybody, in the order in which they came. The `standing` of the cards is empty.
    pub fn map<T>(&self, tell: impl Fn(Card, &Client) -> T) -> Vec<T> {
        // No stream waits for the whole list.
        let entries: Vec<(Card, Arc<Mutex<Client>>)> = lock(&self.entries)
            .1
            .values()
            .map(|entry| (entry.card.clone(), Arc::clone(&entry.client)))
            .collect();
        entries
            .into_iter()
            .map(|(card, client)| tell(card, &lock(&client)))
            .collect()
    }

    /// Everybody, in the order in which they came.
    #[must_use]
    pub fn list(&self) -> Vec<Card> {
        self.map(|card, client| Card {
            standing: client.standing(),
            ..card
        })
    }
}

/// A panic elsewhere has left a whole list behind: changes are single inserts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An Envoy that is attached for as long as this lives.
#[derive(Debug)]
pub struct Attached {
    number: u64,
    client: Arc<Mutex<Client>>,
    clients: Clients,
}

impl Attached {
    /// Its state machine. Do not hold it while waiting for anything.
    pub fn client(&self) -> MutexGuard<'_, Client> {
        lock(&self.client)
    }

    /// Changes its card.
    pub fn update(&self, change: impl FnOnce(&mut Card)) {
        if let Some(entry) = lock(&self.clients.entries).1.get_mut(&self.number) {
            change(&mut entry.card);
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        lock(&self.clients.entries).1.remove(&self.number);
        self.clients.metrics.clients.dec();
    }
}
