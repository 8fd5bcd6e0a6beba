//! Answers that are given again: whole ones, within a bound of bytes, each for as long as it may be kept.
//!
//! An answer is found by the whole text of its question, which begins with the project's file and version. So an answer of
//! one version is never given for another, and two questions are never taken for one. When room is needed, the entry
//! goes that saves the least work for its size (`GreedyDual-Size-Frequency`): a legend of 1 kB that took 50 ms and is
//! asked for all the time outlives a document of 2 MB that took the same and was asked for once. What a question's text
//! has to hold is for [`sharing`](super::ogc::sharing) to know.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// What an entry takes beside its texts, in bytes: what the indexes cost, roughly.
const OVERHEAD: usize = 512;

/// An entry that was given so many times does not gain by being given again.
const MOST_USES: u64 = 1 << 16;

/// How large the cache and its entries may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// All entries together, in bytes; 0: nothing is kept.
    pub max_bytes: usize,
    /// One entry, in bytes.
    pub max_entry_bytes: usize,
}

/// What an answer is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key<'a> {
    /// The project's file; empty for an answer that needs none.
    pub project: &'a str,
    /// The version that it was rendered from.
    pub version: &'a str,
    /// What was asked, in full.
    pub question: &'a str,
}

impl Key<'_> {
    /// One text: no file name, version or question has a NUL.
    fn text(&self) -> String {
        [self.project, self.version, self.question].join("\0")
    }
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The HTTP status.
    pub status: u16,
    /// All headers that every client gets, `ETag` among them.
    pub headers: Vec<(String, String)>,
    /// The body, in one piece of its own: a slice of something larger would keep all of that in memory.
    pub body: Bytes,
    /// How long QGIS worked on it.
    pub cost: Duration,
}

/// An answer that was kept, and how old it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The answer.
    pub answer: Arc<Stored>,
    /// Since it was kept.
    pub age: Duration,
}

/// What has happened, and what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Answers that were there.
    pub hits: u64,
    /// Answers that were not.
    pub misses: u64,
    /// Answers held now.
    pub entries: usize,
    /// What they take, in bytes.
    pub bytes: usize,
}

#[derive(Debug)]
struct Entry {
    answer: Arc<Stored>,
    kept: Instant,
    expires: Instant,
    size: usize,
    uses: u64,
    priority: u64,
    /// Tells entries of the same priority or time apart: the older goes first.
    number: u64,
    project: Arc<str>,
}

/// All entries of one project are of one version.
#[derive(Debug, Default)]
struct Project {
    version: String,
    keys: BTreeSet<Arc<str>>,
}

/// The cache. It knows no clock; `now` must not run backwards.
#[derive(Debug)]
pub struct ResponseCache {
    limits: Limits,
    entries: HashMap<Arc<str>, Entry>,
    by_priority: BTreeSet<(u64, u64, Arc<str>)>,
    by_end: BTreeSet<(Instant, u64, Arc<str>)>,
    projects: HashMap<Arc<str>, Project>,
    bytes: usize,
    next_number: u64,
    /// The priority of what was last evicted: what comes now starts from there, so that old fame fades.
    floor: u64,
    hits: u64,
    misses: u64,
}

impl ResponseCache {
    /// An empty cache.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            by_priority: BTreeSet::new(),
            by_end: BTreeSet::new(),
            projects: HashMap::new(),
            bytes: 0,
            next_number: 0,
            floor: 0,
            hits: 0,
            misses: 0,
        }
    }

    /// Keeps to other limits from now on. What is larger than they allow goes at once, entry by entry as when room is needed.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        while self.bytes > limits.max_bytes {
            self.evict();
        }
    }

    /// The answer to a question, where it is held and not too old.
    pub fn get(&mut self, now: Instant, key: Key<'_>) -> Option<Hit> {
        self.expire(now);
        let floor = self.floor;
        let Some((key, _)) = self.entries.get_key_value(key.text().as_str()) else {
            self.misses += 1;
            return None;
        };
        let key = Arc::clone(key);
        let entry = self.entries.get_mut(&key)?;
        self.hits += 1;
        self.by_priority
            .remove(&(entry.priority, entry.number, Arc::clone(&key)));
        entry.uses = (entry.uses + 1).min(MOST_USES);
        entry.priority = priority(floor, &entry.answer, entry.size, entry.uses);
        self.by_priority.insert((entry.priority, entry.number, key));
        Some(Hit {
            answer: Arc::clone(&entry.answer),
            age: now.saturating_duration_since(entry.kept),
        })
    }

    /// Keeps an answer for `max_age`, in the place of an older one to the same question. Answers of other versions of the
    /// project leave. Says whether it was kept: not when it is too large, or would not live.
    pub fn put(&mut self, now: Instant, key: Key<'_>, answer: Arc<Stored>, max_age: Duration) -> bool {
        self.expire(now);
        let text: Arc<str> = key.text().into();
        self.remove(&text);
        let other_version = |project: &Project| project.version != key.version;
        if self.projects.get(key.project).is_some_and(other_version) {
            self.forget_project(key.project);
        }
        let size = size(&text, &answer);
        let Some(expires) = now.checked_add(max_age).filter(|_| !max_age.is_zero()) else {
            return false;
        };
        if size > self.limits.max_entry_bytes.min(self.limits.max_bytes) {
            return false;
        }
        while self.bytes + size > self.limits.max_bytes {
            self.evict();
        }
        self.next_number += 1;
        self.insert(
            text,
            key,
            Entry {
                priority: priority(self.floor, &answer, size, 1),
                answer,
                kept: now,
                expires,
                size,
                uses: 1,
                number: self.next_number,
                project: key.project.into(),
            },
        );
        true
    }

    /// Drops every answer of a project, of whatever version.
    pub fn forget_project(&mut self, uri: &str) {
        let keys = self.projects.get(uri).map(|project| project.keys.clone());
        for key in keys.unwrap_or_default() {
            self.remove(&key);
        }
    }

    /// Drops everything; the counts of hits and misses stay.
    pub fn clear(&mut self) {
        let (hits, misses) = (self.hits, self.misses);
        *self = Self {
            hits,
            misses,
            ..Self::new(self.limits)
        };
    }

    /// What has happened, and what is held. Entries that are too old leave with the next question or answer.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            hits: self.hits,
            misses: self.misses,
            entries: self.entries.len(),
            bytes: self.bytes,
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, _, key)) = self.by_end.first().filter(|(end, ..)| *end <= now) {
            let key = Arc::clone(key);
            self.remove(&key);
        }
    }

    fn evict(&mut self) {
        let Some((priority, _, key)) = self.by_priority.first().cloned() else {
            return;
        };
        self.floor = self.floor.max(priority);
        self.remove(&key);
    }

    fn insert(&mut self, text: Arc<str>, key: Key<'_>, entry: Entry) {
        self.bytes += entry.size;
        self.by_priority
            .insert((entry.priority, entry.number, Arc::clone(&text)));
        self.by_end.insert((entry.expires, entry.number, Arc::clone(&text)));
        let project = self.projects.entry(Arc::clone(&entry.project)).or_default();
        key.version.clone_into(&mut project.version);
        project.keys.insert(Arc::clone(&text));
        self.entries.insert(text, entry);
    }

    fn remove(&mut self, text: &str) {
        let Some((text, entry)) = self.entries.remove_entry(text) else {
            return;
        };
        self.bytes -= entry.size;
        self.by_priority
            .remove(&(entry.priority, entry.number, Arc::clone(&text)));
        self.by_end.remove(&(entry.expires, entry.number, Arc::clone(&text)));
        if let Some(project) = self.projects.get_mut(&entry.project) {
            project.keys.remove(&text);
            if project.keys.is_empty() {
                self.projects.remove(&entry.project);
            }
        }
    }

    /// Checks that the indexes agree with each other and with the limits.
    ///
    /// # Panics
    /// When they do not.
    #[cfg(test)]
    fn check_invariants(&self) {
        assert!(self.bytes <= self.limits.max_bytes);
        assert_eq!(self.bytes, self.entries.values().map(|entry| entry.size).sum::<usize>());
        assert_eq!(self.by_priority.len(), self.entries.len());
        assert_eq!(self.by_end.len(), self.entries.len());
        let held: usize = self.projects.values().map(|project| project.keys.len()).sum();
        assert_eq!(held, self.entries.len());
        for (text, entry) in &self.entries {
            assert!(entry.size <= self.limits.max_entry_bytes, "an entry over its limit");
            assert_eq!(entry.size, size(text, &entry.answer));
            assert!(entry.priority >= 1 && entry.kept < entry.expires);
            let (number, key) = (entry.number, Arc::clone(text));
            assert!(self.by_priority.contains(&(entry.priority, number, Arc::clone(&key))));
            assert!(self.by_end.contains(&(entry.expires, number, key)));
            let project = &self.projects[&entry.project];
            assert!(project.keys.contains(text));
            assert!(
                text.starts_with(&format!("{}\0{}\0", entry.project, project.version)),
                "every entry of a project is of the version that the project has"
            );
        }
    }
}

/// What an entry is worth: microseconds of work per kilobyte, for each time it was asked for, above the floor.
fn priority(floor: u64, answer: &Stored, size: usize, uses: u64) -> u64 {
    let cost = u64::try_from(answer.cost.as_micros()).unwrap_or(u64::MAX).max(1);
    let worth = cost.saturating_mul(uses).saturating_mul(1024) / (size as u64).max(1);
    floor.saturating_add(worth.max(1))
}

/// What an entry takes, in bytes.
fn size(text: &str, answer: &Stored) -> usize {
    let headers: usize = answer
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    OVERHEAD + text.len() + headers + answer.body.len()
}

#[cfg(test)]
#[path = "response_cache_tests.rs"]
mod tests;
