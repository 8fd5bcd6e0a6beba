//! The control planes of this agent: which it is attached to, and which of the fleet's pins count when they tell different
//! ones.
//!
//! Control planes that share a store count its changes together, so the latest revision that any of them tells is the
//! newest; an older one never takes its place, whoever tells it. What a control plane tells also depends on where it has
//! placed projects, which it does by itself: of those that tell the same revision, whatever one wants kept is kept.
//!
//! Revisions of different stores say nothing about each other. That is a mistake in the configuration, and can be seen
//! ([`Standing::OtherStore`]); the first control plane in the configuration that is attached and has told its pins counts.
//! A store gets a new identity when its revisions are to begin anew, so that going back on purpose is possible.
//!
//! What it does not know: streams, messages, files, clocks.

use std::collections::BTreeSet;

#[cfg(test)]
mod tests;

/// Where pins are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The identity of the store.
    pub store: String,
    /// The store's revision.
    pub revision: u64,
}

/// The pins of the fleet that this agent keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Where they are from.
    pub origin: Origin,
    /// What is to be kept loaded, as clients name it.
    pub projects: BTreeSet<String>,
}

/// How the agent stands with one control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There is no stream.
    Away,
    /// It has told no pins on this stream.
    Silent,
    /// The pins that count are of its revision, or of a revision that it will hear of.
    Agrees,
    /// It has told an older revision than the one that counts.
    Behind,
    /// The pins of another store count.
    OtherStore,
}

impl Standing {
    /// The word for people and programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Silent => "silent",
            Self::Agrees => "agrees",
            Self::Behind => "behind",
            Self::OtherStore => "other store",
        }
    }

    /// Whether there is a stream.
    #[must_use]
    pub const fn is_attached(self) -> bool {
        !matches!(self, Self::Away)
    }

    /// Whether it has told pins that do not count.
    #[must_use]
    pub const fn is_ignored(self) -> bool {
        matches!(self, Self::Behind | Self::OtherStore)
    }
}

#[derive(Debug, Clone, Default)]
enum Seat {
    #[default]
    Away,
    Attached {
        store: String,
        told: Option<(u64, BTreeSet<String>)>,
    },
}

impl Seat {
    fn told(&self) -> Option<(&str, u64, &BTreeSet<String>)> {
        match self {
            Self::Attached {
                store,
                told: Some((revision, projects)),
            } => Some((store, *revision, projects)),
            _ => None,
        }
    }
}

/// See the module. Control planes are known by their places in the configuration, from 0.
#[derive(Debug, Clone)]
pub struct ControlPlanes {
    seats: Vec<Seat>,
    counts: Option<Counts>,
}

impl ControlPlanes {
    /// So many, with none of them attached, and the pins that counted before the agent was restarted.
    #[must_use]
    pub fn new(how_many: usize, before: Option<Counts>) -> Self {
        Self {
            seats: vec![Seat::default(); how_many],
            counts: before,
        }
    }

    /// A stream begins, to a control plane with this store: nothing has been told on it.
    pub fn attached(&mut self, place: usize, store: &str) {
        let (store, told) = (store.to_owned(), None);
        self.put(place, Seat::Attached { store, told });
    }

    /// The stream has ended. What counts stays so until somebody else tells otherwise.
    pub fn lost(&mut self, place: usize) {
        self.put(place, Seat::Away);
    }

    fn put(&mut self, place: usize, seat: Seat) {
        if let Some(there) = self.seats.get_mut(place) {
            *there = seat;
        }
        self.decide();
    }

    /// A control plane tells what is to be kept; it replaces what it told before.
    pub fn told(&mut self, place: usize, revision: u64, projects: BTreeSet<String>) {
        if let Some(Seat::Attached { told, .. }) = self.seats.get_mut(place) {
            *told = Some((revision, projects));
        }
        self.decide();
    }

    /// What counts; none before the first word.
    #[must_use]
    pub const fn counts(&self) -> Option<&Counts> {
        self.counts.as_ref()
    }

    /// How the agent stands with a control plane.
    #[must_use]
    pub fn standing(&self, place: usize) -> Standing {
        let seat = self.seats.get(place).unwrap_or(&Seat::Away);
        match (seat, seat.told(), &self.counts) {
            (Seat::Away, ..) => Standing::Away,
            (_, None, _) | (_, _, None) => Standing::Silent,
            (_, Some((store, ..)), Some(counts)) if store != counts.origin.store => Standing::OtherStore,
            (_, Some((_, revision, _)), Some(counts)) if revision < counts.origin.revision => Standing::Behind,
            _ => Standing::Agrees,
        }
    }

    /// The store and the revision that a control plane has told on its stream.
    #[must_use]
    pub fn has_told(&self, place: usize) -> Option<Origin> {
        let (store, revision, _) = self.seats.get(place)?.told()?;
        let store = store.to_owned();
        Some(Origin { store, revision })
    }

    /// The revision that a control plane is told to have been taken, when that from `origin` has been: a revision of its own
    /// store only, and none before it has told one on this stream.
    #[must_use]
    pub fn taken(&self, place: usize, origin: &Origin) -> u64 {
        let told = self.seats.get(place).and_then(Seat::told);
        match told {
            Some((store, ..)) if store == origin.store => origin.revision,
            _ => 0,
        }
    }

    fn decide(&mut self) {
        let told = || self.seats.iter().filter_map(Seat::told);
        let Some((store, ..)) = told().next() else { return };
        let of_store = || told().filter(|(other, ..)| *other == store);
        let newest = of_store().map(|(_, revision, _)| revision).max().unwrap_or_default();
        let known = self.counts.as_ref().filter(|counts| counts.origin.store == store);
        if known.is_some_and(|counts| counts.origin.revision > newest) {
            return;
        }
        let of_newest = of_store().filter(|(_, revision, _)| *revision == newest);
        let counts = Counts {
            origin: Origin {
                store: store.to_owned(),
                revision: newest,
            },
            projects: of_newest.flat_map(|(.., projects)| projects).cloned().collect(),
        };
        self.counts = Some(counts);
    }
}
