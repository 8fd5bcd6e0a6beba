//! The Envoys that are attached, as people see them on the status page.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::core::delta::{Node, Rejection, Standing};
use crate::core::resources::Kind;
use crate::metrics::Metrics;

/// How one Envoy stands.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// Where it connected from.
    pub peer: Option<SocketAddr>,
    /// Who it says it is.
    pub node: Option<Node>,
    /// Whether it is served.
    pub admitted: bool,
    /// What it has, kind by kind.
    pub standing: Vec<Standing>,
    /// What it refused last, of each kind.
    pub refused: BTreeMap<Kind, Rejection>,
}

/// Every attached Envoy. Clones share the list.
#[derive(Clone, Debug)]
pub struct Clients {
    cards: Arc<Mutex<(u64, BTreeMap<u64, Card>)>>,
    metrics: Metrics,
}

impl Clients {
    /// Nobody is attached yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self {
            cards: Arc::default(),
            metrics,
        }
    }

    /// Takes one in, for as long as the guard lives.
    #[must_use]
    pub fn attach(&self, peer: Option<SocketAddr>) -> Attached {
        let mut cards = self.lock();
        cards.0 += 1;
        let number = cards.0;
        cards.1.insert(
            number,
            Card {
                peer,
                ..Card::default()
            },
        );
        self.metrics.clients.inc();
        drop(cards);
        Attached {
            number,
            clients: self.clone(),
        }
    }

    /// Everybody, in the order in which they came.
    #[must_use]
    pub fn list(&self) -> Vec<Card> {
        self.lock().1.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Card>)> {
        self.cards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An Envoy that is attached for as long as this lives.
#[derive(Debug)]
pub struct Attached {
    number: u64,
    clients: Clients,
}

impl Attached {
    /// Changes its card.
    pub fn update(&self, change: impl FnOnce(&mut Card)) {
        if let Some(card) = self.clients.lock().1.get_mut(&self.number) {
            change(card);
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.clients.lock().1.remove(&self.number);
        self.clients.metrics.clients.dec();
    }
}
