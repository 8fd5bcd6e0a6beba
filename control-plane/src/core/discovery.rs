//! Where agents are that cannot register by themselves: what names have resolved to, over some time.
//!
//! A name that cannot be resolved keeps its addresses, for a name server may be away while agents are well; whether they are,
//! Envoy's own checks find out. An address that is missing from an answer stays for some answers more, for servers give
//! different parts of long lists in turn.
//!
//! What it does not know: sockets, name servers, Envoy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// An address that was missing from so many answers in a row is gone.
const MISSES: u32 = 3;

/// What names have resolved to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    names: BTreeMap<String, Known>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    /// In how many answers in a row each has been missing.
    addresses: BTreeMap<SocketAddr, u32>,
    /// The last try failed; said once.
    failed: bool,
}

/// What there is to say of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing new.
    None,
    /// It could be resolved before, or was never tried.
    Failed,
    /// It can be resolved again.
    Again,
}

impl Names {
    /// Only these are asked for from now on; others are forgotten.
    pub fn retain(&mut self, asked: &BTreeSet<String>) {
        self.names.retain(|name, _| asked.contains(name));
    }

    /// What a name has resolved to now; `None` when it could not be resolved. An empty answer is none.
    pub fn answered(&mut self, name: &str, answer: Option<BTreeSet<SocketAddr>>) -> News {
        let known = self.names.entry(name.to_owned()).or_default();
        let Some(answer) = answer.filter(|answer| !answer.is_empty()) else {
            let news = if known.failed { News::None } else { News::Failed };
            known.failed = true;
            return news;
        };
        for (address, misses) in &mut known.addresses {
            *misses = if answer.contains(address) { 0 } else { *misses + 1 };
        }
        known.addresses.retain(|_, misses| *misses < MISSES);
        for address in answer {
            known.addresses.insert(address, 0);
        }
        if std::mem::take(&mut known.failed) {
            News::Again
        } else {
            News::None
        }
    }

    /// The addresses of a name.
    pub fn of(&self, name: &str) -> impl Iterator<Item = SocketAddr> {
        self.names
            .get(name)
            .into_iter()
            .flat_map(|known| known.addresses.keys().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ports: &[u16]) -> BTreeSet<SocketAddr> {
        ports
            .iter()
            .map(|port| SocketAddr::from(([10, 0, 0, 1], *port)))
            .collect()
    }

    fn known(names: &Names) -> BTreeSet<SocketAddr> {
        names.of("agents:80").collect()
    }

    #[test]
    fn a_server_that_is_away_takes_nobody_away() {
        let mut names = Names::default();
        assert_eq!(names.answered("agents:80", Some(addresses(&[1, 2]))), News::None);
        for answer in [None, Some(BTreeSet::new())] {
            names.answered("agents:80", answer);
            assert_eq!(known(&names), addresses(&[1, 2]));
        }
        assert_eq!(names.answered("agents:80", Some(addresses(&[1, 2]))), News::Again);
        assert_eq!(names.answered("agents:80", None), News::Failed);
        assert_eq!(names.answered("agents:80", None), News::None, "said once");
        names.retain(&BTreeSet::new());
        assert_eq!(known(&names), addresses(&[]));
    }

    #[test]
    fn parts_of_a_long_list_make_the_whole_and_what_stays_away_goes() {
        let mut names = Names::default();
        for ports in [&[1, 2], &[3, 4], &[1, 3], &[2, 4]] {
            names.answered("agents:80", Some(addresses(ports)));
        }
        assert_eq!(known(&names), addresses(&[1, 2, 3, 4]));
        for _ in 0..2 {
            names.answered("agents:80", Some(addresses(&[1, 2, 4])));
        }
        assert_eq!(known(&names), addresses(&[1, 2, 4]), "missing three times");
    }
}
