//! Readiness as a set of named things that are still awaited, so that `/readyz` can say *what* is not ready.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a process still waits for before it can serve. Clones share the set.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    awaited: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Readiness {
    /// Nothing is awaited yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a thing to wait for; it is there when the guard is dropped.
    #[must_use]
    pub fn wait_for(&self, name: impl Into<String>) -> Awaited {
        let name = name.into();
        *self.lock().entry(name.clone()).or_default() += 1;
        Awaited {
            name,
            readiness: self.clone(),
        }
    }

    /// The names of what is still awaited, sorted; empty when ready.
    #[must_use]
    pub fn awaited(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that is awaited for as long as this lives.
#[derive(Debug)]
pub struct Awaited {
    name: String,
    readiness: Readiness,
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut awaited = self.readiness.lock();
        if let Some(count) = awaited.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                awaited.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_awaited_until_its_last_guard_goes() {
        let readiness = Readiness::new();
        let first = readiness.wait_for("workers");
        let second = readiness.wait_for("workers");
        let pins = readiness.wait_for("pins");
        assert_eq!(readiness.awaited(), ["pins", "workers"]);
        drop((first, pins));
        assert_eq!(readiness.awaited(), ["workers"]);
        drop(second);
        assert!(readiness.awaited().is_empty());
    }
}
