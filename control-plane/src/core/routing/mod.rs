//! Which pool a request goes to, by its host, its path and its headers: the claims of all pools put in one order, host by
//! host, most specific first. It is the same order on every start, and a claim that no request could tell from another
//! is an error before anything is published.
//!
//! What comes first: the host (a name before `*.example.org` before `www.*` before `*`), then the longer prefix, then
//! more headers. A host's own claims are followed by those of the wildcards that cover it, so `*` means every host.
//!
//! What it does not know: Envoy, and what a pool is besides a name.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

#[cfg(test)]
mod tests;

/// The value of a header that may be any.
pub const ANY: &str = "*";

/// What a pool claims: requests for these hosts, below this path, with these headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    /// Whose it is.
    pub pool: &'a str,
    /// Host names, `*.example.org`, `www.*` or `*`.
    pub hosts: &'a [String],
    /// A path without a slash at its end, or `/`.
    pub prefix: String,
    /// Values by header name in small letters; [`ANY`] for whatever value.
    pub headers: BTreeMap<String, String>,
}

impl fmt::Display for Claim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "prefix `{}`", self.prefix)?;
        if !self.headers.is_empty() {
            let headers: Vec<String> = self
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {value}"))
                .collect();
            write!(f, " with {}", headers.join(", "))?;
        }
        Ok(())
    }
}

impl Claim<'_> {
    /// Whether no request can fit both by its headers.
    fn excludes(&self, other: &Self) -> bool {
        let differs = |(name, value): (&String, &String)| {
            let theirs = other.headers.get(name);
            theirs.is_some_and(|theirs| theirs != value && value != ANY && theirs != ANY)
        };
        self.headers.iter().any(differs)
    }

    fn catches_all(&self) -> bool {
        self.prefix.len() <= 1 && self.headers.is_empty()
    }
}

/// Two claims that lead the same requests to two places.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// They are the same.
    #[error(
        "`pools.{second}` and `pools.{first}` both claim {claim} of the host `{host}`; give one of them another host, a longer prefix or one more header"
    )]
    Same {
        /// The host.
        host: String,
        /// What both claim.
        claim: String,
        /// One pool.
        first: String,
        /// The other.
        second: String,
    },
    /// One pool has it twice.
    #[error("`pools.{pool}.routes` has {claim} twice; remove one of them")]
    Twice {
        /// The pool.
        pool: String,
        /// What it has twice.
        claim: String,
    },
    /// Neither is more specific, and a request with the headers of both fits both.
    #[error(
        "`pools.{second}.routes`: a request for the host `{host}` with the headers of both fits {other} and {claim} of `pools.{first}`; give one of them also the other's headers"
    )]
    Ambiguous {
        /// The host.
        host: String,
        /// One claim.
        claim: String,
        /// Whose it is.
        first: String,
        /// The other claim.
        other: String,
        /// Whose that is.
        second: String,
    },
}

/// The order of claims for one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostClaims {
    /// The host, in small letters.
    pub host: String,
    /// Positions of claims, the one to try first in front.
    pub claims: Vec<usize>,
}

/// Puts the claims in order for every host, hosts in the order of their names.
///
/// # Errors
/// The first two claims that cannot be told apart.
pub fn order(claims: &[Claim<'_>]) -> Result<Vec<HostClaims>, Conflict> {
    let mut by_host: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (index, claim) in claims.iter().enumerate() {
        for host in claim.hosts {
            by_host.entry(host.to_lowercase()).or_default().insert(index);
        }
    }
    let own = |indices: &BTreeSet<usize>| {
        let mut own: Vec<usize> = indices.iter().copied().collect();
        own.sort_by_key(|index| {
            let claim = &claims[*index];
            (
                Reverse(claim.prefix.len()),
                Reverse(claim.headers.len()),
                claim.prefix.clone(),
                claim.headers.clone(),
                claim.pool,
            )
        });
        own
    };
    for (host, indices) in &by_host {
        tell_apart(host, claims, &own(indices))?;
    }
    let mut ordered = Vec::new();
    for host in by_host.keys() {
        let mut wider: Vec<&String> = by_host
            .keys()
            .filter(|wide| *wide == host || covers(wide, host))
            .collect();
        wider.sort_by_key(|wide| (*wide != host, rank(wide)));
        let mut list: Vec<usize> = Vec::new();
        for index in wider.into_iter().flat_map(|wide| own(&by_host[wide])) {
            if !list.contains(&index) {
                list.push(index);
            }
            if claims[index].catches_all() {
                break;
            }
        }
        ordered.push(HostClaims {
            host: host.clone(),
            claims: list,
        });
    }
    Ok(ordered)
}

/// Claims of one host; only neighbours with the same prefix can be taken for each other.
fn tell_apart(host: &str, claims: &[Claim<'_>], own: &[usize]) -> Result<(), Conflict> {
    for (at, one) in own.iter().enumerate() {
        let one = &claims[*one];
        let rivals = own[at + 1..].iter().map(|index| &claims[*index]);
        let rivals = rivals.take_while(|other| other.prefix == one.prefix && other.headers.len() == one.headers.len());
        for other in rivals {
            let (first, second) = (one.pool.to_owned(), other.pool.to_owned());
            let (host, claim) = (host.to_owned(), one.to_string());
            if one.headers == other.headers && first == second {
                return Err(Conflict::Twice { pool: first, claim });
            }
            if one.headers == other.headers {
                return Err(Conflict::Same {
                    host,
                    claim,
                    first,
                    second,
                });
            }
            if first != second && !one.excludes(other) {
                let other = other.to_string();
                return Err(Conflict::Ambiguous {
                    host,
                    claim,
                    first,
                    other,
                    second,
                });
            }
        }
    }
    Ok(())
}

/// Names first, then what begins with a wildcard, then what ends with one, the longer before the shorter, `*` last.
fn rank(host: &str) -> (u8, Reverse<usize>) {
    let kind = match host {
        "*" => 3,
        _ if host.starts_with('*') => 1,
        _ if host.ends_with('*') => 2,
        _ => 0,
    };
    (kind, Reverse(host.len()))
}

/// Whether every host that `narrow` means is one that `wide` means too.
fn covers(wide: &str, narrow: &str) -> bool {
    let more = narrow.len() >= wide.len();
    match wide.strip_prefix('*') {
        Some("") => narrow != "*",
        Some(end) => more && narrow != wide && narrow.ends_with(end),
        None => wide
            .strip_suffix('*')
            .is_some_and(|start| more && narrow != wide && !narrow.starts_with('*') && narrow.starts_with(start)),
    }
}
