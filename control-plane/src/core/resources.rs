//! Named, versioned resources and what makes a set of them fit to publish. The bytes are opaque here; what a resource
//! says about others stands beside them as references.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Weak};

use bytes::Bytes;

/// The kinds of resources a client can ask for, in the order in which additions must reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Certificates and keys (SDS). A client asks for one when it hears of what needs it.
    Secret,
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
    pub const ALL: [Self; 5] = [
        Self::Secret,
        Self::Cluster,
        Self::Endpoints,
        Self::Listener,
        Self::Route,
    ];

    /// A short name for logs, metrics and pages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Secret => "sds",
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

    /// The kinds whose resources may refer to resources of this kind.
    #[must_use]
    pub const fn referrers(self) -> &'static [Self] {
        match self {
            Self::Secret => &[Self::Cluster, Self::Listener],
            Self::Cluster => &[Self::Listener, Self::Route],
            Self::Endpoints => &[Self::Cluster],
            Self::Listener => &[],
            Self::Route => &[Self::Listener],
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
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    /// Unique among its kind.
    pub name: String,
    /// A hash of its content: the same content has the same version, also after a restart.
    pub version: String,
    /// The encoded message.
    pub body: Bytes,
    /// What it mentions, sorted.
    pub refs: Arc<[Reference]>,
    /// Whether its content may have something that is for clients alone, such as a private key.
    pub confidential: bool,
    /// Nobody has told yet what belongs in it: a client that brings another version along knows more, and keeps that.
    pub provisional: bool,
}

/// Without its content, which may be a private key.
impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("bytes", &self.body.len())
            .field("refs", &self.refs)
            .finish()
    }
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
    /// A part in the user's own words that is none of Envoy's messages.
    #[error("{0}")]
    Fragment(String),
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

/// Names by kind.
pub type Names = BTreeMap<Kind, Vec<String>>;

/// Everything that clients may be told at one moment. It can only be made consistent: every reference resolves and no
/// name is there twice. Two are equal when they say the same.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    kinds: BTreeMap<Kind, BTreeMap<String, Resource>>,
    /// The one before it, and what is different.
    since: Option<(Weak<Snapshot>, Names)>,
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.kinds == other.kinds
    }
}

impl Eq for Snapshot {}

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
        let snapshot = Self { kinds, since: None };
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

    /// The same, to be given to whoever has `before`: it knows what is different, so that not everybody has to find out.
    #[must_use]
    pub fn after(mut self, before: &Arc<Self>) -> Self {
        let mut changed = Names::new();
        for kind in Kind::ALL {
            let new = self.of(kind).filter(|r| before.get(kind, &r.name) != Some(r));
            let gone = before.of(kind).filter(|r| self.get(kind, &r.name).is_none());
            changed.insert(kind, new.chain(gone).map(|r| r.name.clone()).collect());
        }
        self.since = Some((Arc::downgrade(before), changed));
        self
    }

    /// Marks those of a kind that are named as [provisional](Resource::provisional).
    pub fn mark_provisional(&mut self, kind: Kind, names: &BTreeSet<String>) {
        let all = self.kinds.get_mut(&kind).into_iter().flatten();
        for (_, resource) in all.filter(|(name, _)| names.contains(*name)) {
            resource.provisional = true;
        }
    }

    /// What is different from that one, by kind, if this is known to come after it.
    #[must_use]
    pub fn changed_since(&self, before: &Arc<Self>) -> Option<&Names> {
        let (previous, changed) = self.since.as_ref()?;
        std::ptr::eq(previous.as_ptr(), Arc::as_ptr(before)).then_some(changed)
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

/// The version of a set of resources, of their names with their versions: the same set has the same version, in whatever order
/// it is given. It lasts for as long as the program is the same; after that everybody is sent everything once more.
#[must_use]
pub fn set_version<'a>(resources: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let one = |resource: (&str, &str)| {
        let mut hasher = DefaultHasher::new();
        resource.hash(&mut hasher);
        hasher.finish()
    };
    let (count, sum) = resources
        .into_iter()
        .fold((0_u64, 0_u64), |(count, sum), r| (count + 1, sum.wrapping_add(one(r))));
    let mut hasher = DefaultHasher::new();
    (count, sum).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_one_version_in_whatever_order() {
        let version = set_version([("a", "1"), ("b", "2")]);
        assert_eq!(version, set_version([("b", "2"), ("a", "1")]));
        for other in [&[("a", "2"), ("b", "1")][..], &[("a", "1")], &[]] {
            assert_ne!(version, set_version(other.iter().copied()));
        }
    }

    #[test]
    fn a_snapshot_knows_what_is_different_from_the_one_before_and_from_no_other() {
        let of = |clusters: &[(&str, &str)]| {
            let cluster = |(name, version): &(&str, &str)| {
                let version = (*version).to_owned();
                (
                    Kind::Cluster,
                    Resource {
                        version,
                        ..resource(name, &[])
                    },
                )
            };
            Snapshot::new(clusters.iter().map(cluster)).unwrap()
        };
        let before = Arc::new(of(&[("same", "1"), ("changed", "1"), ("gone", "1")]));
        let after = of(&[("same", "1"), ("changed", "2"), ("new", "1")]).after(&before);
        let changed = after.changed_since(&before).unwrap();
        assert_eq!(changed[&Kind::Cluster], ["changed", "new", "gone"]);
        assert!(changed[&Kind::Route].is_empty());
        assert_eq!(after.changed_since(&Arc::new((*before).clone())), None);
        assert_eq!(after, of(&[("same", "1"), ("changed", "2"), ("new", "1")]));
    }

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
            confidential: false,
            provisional: false,
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
    fn a_secret_is_looked_for_by_all_that_may_need_it() {
        let refs = [(Kind::Secret, "cert")];
        let needs = |kind| Snapshot::new([(kind, resource("a", &refs))]).unwrap_err()[0].to_string();
        for kind in Kind::Secret.referrers() {
            let expected = format!("{kind} resource `a` refers to sds `cert`, which does not exist");
            assert_eq!(needs(*kind), expected);
        }
        let there = [Kind::Cluster, Kind::Listener].map(|kind| (kind, resource("a", &refs)));
        let secret = (Kind::Secret, resource("cert", &[]));
        assert!(Snapshot::new(there.into_iter().chain([secret])).is_ok());
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
