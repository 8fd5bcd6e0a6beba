//! What a client asks for of one kind, in either form of the protocol.

use std::collections::BTreeSet;

/// The name that asks for everything.
pub const WILDCARD: &str = "*";

/// Names that a client asks for weigh their length and this, which is about what else they cost.
const NAME_COST: usize = 64;

/// What names of one kind may weigh together. It is what one message may be long, so whoever can say it at once may ask for it.
const WEIGHT: usize = 4 * 1024 * 1024;

/// What a client asked for.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    everything: bool,
    /// It asked for everything by saying nothing, which its first explicit name ends.
    by_silence: bool,
    names: BTreeSet<String>,
    weight: usize,
}

impl Watch {
    /// The first request: these names, or everything when `silence` says so and there are none.
    pub fn open(names: impl IntoIterator<Item = String>, silence: bool) -> Self {
        let mut watch = Self::default();
        let mut said_any = false;
        for name in names {
            said_any = true;
            watch.add(&name);
        }
        if !said_any && silence {
            (watch.everything, watch.by_silence) = (true, true);
        }
        watch
    }

    /// Whether the client asked for this resource.
    pub fn covers(&self, name: &str) -> bool {
        self.everything || self.names.contains(name)
    }

    /// Whether it asks for everything.
    pub const fn everything(&self) -> bool {
        self.everything
    }

    /// The names it asks for.
    pub const fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// Whether it asks for more than anybody needs.
    pub const fn is_excessive(&self) -> bool {
        self.weight > WEIGHT
    }

    /// Asks for a name more.
    pub fn add(&mut self, name: &str) {
        if name == WILDCARD {
            (self.everything, self.by_silence) = (true, false);
            return;
        }
        if self.by_silence {
            (self.everything, self.by_silence) = (false, false);
        }
        if self.names.insert(name.to_owned()) {
            self.weight += name.len() + NAME_COST;
        }
    }

    /// Asks for a name no longer. True when it had asked for it.
    pub fn drop(&mut self, name: &str) -> bool {
        if name == WILDCARD {
            let did = self.everything;
            (self.everything, self.by_silence) = (false, false);
            return did;
        }
        let did = self.names.remove(name);
        if did {
            self.weight -= name.len() + NAME_COST;
        }
        did
    }

    /// What a client that says all its names each time adds and drops with these. Nothing said leaves everything asked for
    /// when that was asked for by saying nothing.
    pub fn difference(&self, names: &[String]) -> (Vec<String>, Vec<String>) {
        if names.is_empty() && self.by_silence {
            return (Vec::new(), Vec::new());
        }
        let said: BTreeSet<&String> = names.iter().collect();
        let everything = said.iter().any(|name| *name == WILDCARD);
        let news = said
            .iter()
            .filter(|name| **name != WILDCARD && !self.names.contains(**name))
            .map(|name| (*name).clone());
        let mut added: Vec<String> = news.collect();
        if everything && (!self.everything || self.by_silence) {
            added.insert(0, WILDCARD.to_owned());
        }
        let mut dropped: Vec<String> = self.names.iter().filter(|name| !said.contains(name)).cloned().collect();
        if self.everything && !self.by_silence && !everything {
            dropped.push(WILDCARD.to_owned());
        }
        (added, dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn names_said_as_a_whole_are_compared_with_what_was_asked_for() {
        let silent = Watch::open([], true);
        assert_eq!(silent.difference(&[]), (vec![], vec![]));
        assert_eq!(silent.difference(&owned(&["a"])), (owned(&["a"]), vec![]));
        assert_eq!(silent.difference(&owned(&["*"])), (owned(&["*"]), vec![]));
        let named = Watch::open(owned(&["a", "b"]), true);
        assert_eq!(named.difference(&owned(&["b", "c"])), (owned(&["c"]), owned(&["a"])));
        assert_eq!(named.difference(&[]), (vec![], owned(&["a", "b"])));
        let both = Watch::open(owned(&["*", "a"]), true);
        assert_eq!(both.difference(&owned(&["*", "a"])), (vec![], vec![]));
        assert_eq!(both.difference(&owned(&["a"])), (vec![], owned(&["*"])));
        assert_eq!(both.difference(&[]), (vec![], owned(&["a", "*"])));
    }

    #[test]
    fn names_have_a_weight_that_goes_with_them() {
        let mut watch = Watch::default();
        let long = "n".repeat(WEIGHT - NAME_COST);
        watch.add(&long);
        watch.add(&long);
        assert!(!watch.is_excessive());
        watch.add("a");
        assert!(watch.is_excessive());
        watch.drop(&long);
        watch.drop(&long);
        assert!(!watch.is_excessive());
        assert_eq!(watch.weight, 1 + NAME_COST);
    }
}
