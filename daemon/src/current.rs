//! A value that many read and that is replaced as a whole now and then, such as a part of the configuration.

use std::sync::{Arc, PoisonError, RwLock};

/// The value; clones share it.
#[derive(Debug)]
pub struct Current<T> {
    value: Arc<RwLock<Arc<T>>>,
}

impl<T> Current<T> {
    /// Holds `value` until another is set.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self {
            value: Arc::new(RwLock::new(Arc::new(value))),
        }
    }

    /// The value as it is now. Who keeps it does not see later ones.
    #[must_use]
    pub fn get(&self) -> Arc<T> {
        // It is replaced in one step, so a panic elsewhere does not spoil it.
        Arc::clone(&self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces it for all who read from now on.
    pub fn set(&self, value: T) {
        *self.value.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

impl<T> Clone for Current<T> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_see_what_was_set_and_who_keeps_it_does_not() {
        let one = Current::new(1);
        let (other, kept) = (one.clone(), one.get());
        one.set(2);
        assert_eq!((*other.get(), *kept), (2, 1));
    }
}
