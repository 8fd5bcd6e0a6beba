//! What a client has of single resources, and what it refused of them. How it comes to have them is the lane's.

use std::sync::Arc;

use bytes::Bytes;

use super::Carries;
use crate::core::resources::{Kind, Reference, Resource};

/// A version of a resource that a client has, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its version; empty when the client brought it along and did not say.
    pub version: String,
    /// What it mentions; `None` when the client brought it along from an earlier control plane.
    pub refs: Option<Arc<[Reference]>>,
    /// It may be gone: the client refused an answer with its removal, and may have carried that out all the same; or nobody
    /// knows what it has of an earlier stream.
    pub may_have_left: bool,
    /// The client brought it along, and took nothing in its place since: it may not be ready for use yet.
    pub brought: bool,
    /// Its content, where answers carry everything and so have to repeat it.
    pub(super) body: Bytes,
}

impl Held {
    /// It as an answer carries it.
    pub(super) fn of(resource: &Resource, carries: Carries) -> Self {
        let body = if carries == Carries::Everything {
            resource.body.clone()
        } else {
            Bytes::new()
        };
        Self {
            version: resource.version.clone(),
            refs: Some(Arc::clone(&resource.refs)),
            may_have_left: false,
            brought: false,
            body,
        }
    }

    /// What a client says it has of an earlier stream.
    pub(super) const fn brought(version: String) -> Self {
        Self {
            version,
            refs: None,
            may_have_left: false,
            brought: true,
            body: Bytes::new(),
        }
    }

    /// Whether a client that has it need not be sent what there is.
    pub(super) fn satisfies(&self, there: &Resource) -> bool {
        self.version == there.version || self.brought && there.provisional
    }

    /// Whether it mentions the resource, or might.
    pub(super) fn may_mention(&self, kind: Kind, name: &str) -> bool {
        self.refs
            .as_ref()
            .is_none_or(|refs| refs.iter().any(|r| r.kind == kind && r.name == name))
    }
}

/// Something that the client refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What was refused; `None` for a removal.
    pub(super) held: Option<Held>,
    /// What was refused of it before that, and never taken: the client may have any of them.
    pub(super) earlier: Vec<Held>,
    /// It was refused by itself, so it is not sent again until the content changes. Refused in company it may be
    /// innocent, and is sent once more, alone.
    pub(super) alone: bool,
    /// The client's words.
    pub message: Arc<str>,
}

impl Refusal {
    /// Every version that the client may have, one for each set of references.
    pub(super) fn all(self) -> Vec<Held> {
        let Self { held, mut earlier, .. } = self;
        if let Some(held) = held
            && !earlier.iter().any(|before| before.refs == held.refs)
        {
            earlier.push(held);
        }
        earlier
    }

    /// Whether it tells against sending this version, or with `None` the removal.
    pub(super) fn forbids(&self, version: Option<&str>) -> bool {
        self.alone && self.held.as_ref().map(|held| held.version.as_str()) == version
    }

    /// The version that was refused; empty for a removal.
    pub fn version(&self) -> &str {
        self.held.as_ref().map_or("", |held| &held.version)
    }
}
