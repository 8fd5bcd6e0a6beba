//! Named, versioned resources and what makes a set of them fit to publish. The bytes are opaque here; what a resource
//! says about others stands beside them as references.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// The kinds of resources a client can ask for, in the order in which additions must reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Where a pool of agents is found and how requests are spread over it (CDS).
    Cluster,
    /// The agents of a pool (EDS).
    Endpoints,
    /// What Envoy listens on (LDS).
    Listener,
    /// Which request goes to which cluster (RDS).
    Route,
}

impl Kind {
    /// Every kind, in the order of sending.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Route];

    /// A short name for logs, metrics and pages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cds",
            Self::Endpoints => "eds",
            Self::Listener => "lds",
            Self::Route => "rds",
        }
    }

    /// Whether an empty first request asks for everything. The xDS protocol grants that to listeners and clusters only.
    #[must_use]
    pub const fn silence_is_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// The kind whose resources may refer to resources of this kind.
    #[must_use]
    pub const fn referrer(self) -> Option<Self> {
        match self {
            Self::Cluster => Some(Self::Route),
            Self::Endpoints => Some(Self::Cluster),
            Self::Listener => None,
            Self::Route => Some(Self::Listener),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A resource that another one mentions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

/// One resource as it goes to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Unique among its kind.
    pub name: String,
    /// A hash of its content: the same content has the same version, also after a restart.
    pub version: String,
    /// The encoded message.
    pub body: Bytes,
    /// What it mentions, sorted.
    pub refs: Arc<[Reference]>,
}

/// What a snapshot lacks to be fit to publish.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    /// Two resources of one kind have the same name.
    #[error("two {kind} resources are named `{name}`")]
    Duplicate {
        /// Their kind.
        kind: Kind,
        /// Their name.
        name: String,
    },
    /// A resource mentions one that is not there.
    #[error("{kind} resource `{name}` refers to {} `{}`, which does not exist", .missing.kind, .missing.name)]
    Dangling {
        /// The kind of the resource that mentions it.
        kind: Kind,
        /// Its name.
        name: String,
        /// What is not there.
        missing: Reference,
    },
}

/// Everything that clients may be told at one moment. It can only be made consistent: every reference resolves and no
/// name is there twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    kinds: BTreeMap<Kind, BTreeMap<String, Resource>>,
}

impl Snapshot {
    /// Checks and takes the resources.
    ///
    /// # Errors
    /// Every [`Inconsistency`] found, in the order of kinds and names.
    pub fn new(resources: impl IntoIterator<Item = (Kind, Resource)>) -> Result<Self, Vec<Inconsistency>> {
        let mut kinds: BTreeMap<Kind, BTreeMap<String, Resource>> = BTreeMap::new();
        let mut problems = Vec::new();
        for (kind, resource) in resources {
            let name = resource.name.clone();
            if kinds.entry(kind).or_default().insert(name.clone(), resource).is_some() {
                problems.push(Inconsistency::Duplicate { kind, name });
            }
        }
        let snapshot = Self { kinds };
        for kind in Kind::ALL {
            for resource in snapshot.of(kind) {
                for missing in resource.refs.iter().filter(|r| snapshot.get(r.kind, &r.name).is_none()) {
                    let (name, missing) = (resource.name.clone(), missing.clone());
                    problems.push(Inconsistency::Dangling { kind, name, missing });
                }
            }
        }
        if problems.is_empty() {
            Ok(snapshot)
        } else {
            Err(problems)
        }
    }

    /// The resource of that name.
    #[must_use]
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Resource> {
        self.kinds.get(&kind)?.get(name)
    }

    /// Every resource of a kind, in the order of names.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Resource> {
        self.kinds.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    /// The names of a kind.
    #[must_use]
    pub fn names(&self, kind: Kind) -> BTreeSet<&str> {
        self.of(kind).map(|r| r.name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(name: &str, refs: &[(Kind, &str)]) -> Resource {
        let refs = refs
            .iter()
            .map(|(kind, name)| Reference {
                kind: *kind,
                name: (*name).to_owned(),
            })
            .collect();
        Resource {
            name: name.to_owned(),
            version: "1".to_owned(),
            body: Bytes::new(),
            refs,
        }
    }

    #[test]
    fn a_consistent_set_is_taken() {
        let snapshot = Snapshot::new([
            (Kind::Route, resource("web", &[(Kind::Cluster, "a")])),
            (Kind::Cluster, resource("a", &[(Kind::Endpoints, "a")])),
            (Kind::Endpoints, resource("a", &[])),
        ])
        .expect("every reference resolves");
        assert_eq!(snapshot.names(Kind::Cluster), BTreeSet::from(["a"]));
        assert!(snapshot.get(Kind::Listener, "a").is_none());
    }

    #[test]
    fn a_reference_to_nothing_is_named() {
        let problems = Snapshot::new([(Kind::Route, resource("web", &[(Kind::Cluster, "gone")]))]).unwrap_err();
        assert_eq!(
            problems[0].to_string(),
            "rds resource `web` refers to cds `gone`, which does not exist"
        );
    }

    #[test]
    fn a_name_that_is_there_twice_is_named() {
        let twice = [(Kind::Cluster, resource("a", &[])), (Kind::Cluster, resource("a", &[]))];
        assert_eq!(
            Snapshot::new(twice).unwrap_err()[0].to_string(),
            "two cds resources are named `a`"
        );
    }

    #[test]
    fn the_same_name_in_two_kinds_is_fine() {
        assert!(
            Snapshot::new([
                (Kind::Cluster, resource("a", &[])),
                (Kind::Endpoints, resource("a", &[]))
            ])
            .is_ok()
        );
    }
}
