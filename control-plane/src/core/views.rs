//! Which Envoys are told what: one snapshot for each view, and the default one for Envoys that no view is for. What it does
//! not know: what is in a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::resources::{Kind, Snapshot};

/// The view of Envoys that no other view is for.
pub const DEFAULT: &str = "default";

/// A snapshot for every view. Clones are cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Views {
    snapshots: BTreeMap<String, Arc<Snapshot>>,
    /// Patterns of node ids with the views they lead to.
    nodes: Arc<[(String, String)]>,
}

impl Views {
    /// Takes the snapshots by the names of their views, the default one among them, and for each pattern of node ids the
    /// view it leads to.
    #[must_use]
    pub fn new(
        snapshots: impl IntoIterator<Item = (String, Snapshot)>,
        nodes: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let snapshots = snapshots.into_iter().map(|(view, snapshot)| (view, Arc::new(snapshot)));
        Self {
            snapshots: snapshots.collect(),
            nodes: nodes.into_iter().collect(),
        }
    }

    /// The same, to be given to whoever has `before`: what is the same in a view stays the same snapshot.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        for (view, snapshot) in &mut self.snapshots {
            let Some(known) = before.get(view) else { continue };
            *snapshot = if known == snapshot {
                Arc::clone(known)
            } else {
                Arc::new(Arc::unwrap_or_clone(std::mem::take(snapshot)).after(known))
            };
        }
        self
    }

    /// The same, with the endpoints of these names marked as [provisional](super::resources::Resource::provisional) in every view.
    #[must_use]
    pub fn with_provisional(mut self, endpoints: &BTreeSet<String>) -> Self {
        for snapshot in self.snapshots.values_mut().filter(|_| !endpoints.is_empty()) {
            Arc::make_mut(snapshot).mark_provisional(Kind::Endpoints, endpoints);
        }
        self
    }

    /// The name of the view that an Envoy has.
    #[must_use]
    pub fn name(&self, node: &str) -> &str {
        chosen(self.nodes.iter().map(|(pattern, view)| (&**pattern, &**view)), node).unwrap_or(DEFAULT)
    }

    /// The snapshot of a view; `None` when there is no such view.
    #[must_use]
    pub fn get(&self, view: &str) -> Option<&Arc<Snapshot>> {
        self.snapshots.get(view)
    }

    /// The patterns of node ids that lead to a view.
    pub fn nodes<'a>(&'a self, view: &'a str) -> impl Iterator<Item = &'a str> {
        let of_view = self.nodes.iter().filter(move |(_, leads_to)| leads_to == view);
        of_view.map(|(pattern, _)| pattern.as_str())
    }

    /// Every view with its snapshot, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Snapshot>)> {
        self.snapshots.iter().map(|(view, snapshot)| (view.as_str(), snapshot))
    }
}

/// What the longest of the patterns that match leads to. A pattern is a node id, or the beginning of one with a `*` behind
/// it; of two that match one id, one is longer.
fn chosen<'a>(patterns: impl Iterator<Item = (&'a str, &'a str)>, node: &str) -> Option<&'a str> {
    patterns
        .filter(|(pattern, _)| match pattern.strip_suffix('*') {
            Some(beginning) => node.starts_with(beginning),
            None => *pattern == node,
        })
        // An id in full goes before the same with a `*` behind it.
        .max_by_key(|(pattern, _)| (pattern.trim_end_matches('*').len(), !pattern.ends_with('*')))
        .map(|(_, view)| view)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::resources::Resource;

    #[test]
    fn what_is_the_same_in_a_view_stays_the_same_snapshot() {
        let snapshot = |version: &str| {
            let cluster = Resource {
                name: "a".to_owned(),
                version: version.to_owned(),
                body: bytes::Bytes::new(),
                refs: [].into(),
                confidential: false,
                provisional: false,
            };
            Snapshot::new([(Kind::Cluster, cluster)]).unwrap()
        };
        let of = |one: &str, two: &str| {
            let views = [("one".to_owned(), snapshot(one)), ("two".to_owned(), snapshot(two))];
            Views::new(views, [])
        };
        let before = of("1", "1");
        let after = of("1", "2").after(&before);
        assert!(Arc::ptr_eq(after.get("one").unwrap(), before.get("one").unwrap()));
        let (was, is) = (before.get("two").unwrap(), after.get("two").unwrap());
        assert_eq!(is.changed_since(was).unwrap()[&Kind::Cluster], ["a"]);
    }

    #[test]
    fn the_longest_pattern_counts_and_without_one_the_default() {
        let nodes = [
            ("edge-*", "edge"),
            ("edge-north-*", "north"),
            ("edge-north-1", "one"),
            ("edge-north-1*", "ones"),
        ];
        let owned = |(pattern, view): (&str, &str)| (pattern.to_owned(), view.to_owned());
        let views = Views::new([], nodes.map(owned));
        for (node, view) in [
            ("edge-7", "edge"),
            ("edge-", "edge"),
            ("edge-north-7", "north"),
            ("edge-north-1", "one"),
            ("edge-north-11", "ones"),
            ("edge", DEFAULT),
            ("", DEFAULT),
            ("my-edge-7", DEFAULT),
        ] {
            assert_eq!(views.name(node), view, "{node}");
        }
        assert_eq!(Views::default().name("edge-7"), DEFAULT);
        let everybody = Views::new([], [("*".to_owned(), "all".to_owned())]);
        assert_eq!(everybody.name(""), "all");
    }
}
