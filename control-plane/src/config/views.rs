//! `[views.NAME]`: Envoys that are told something else than the rest. A view is the whole configuration with some of its
//! parts replaced, so whatever is configured for all holds in every view.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use graticule_daemon::config::ADDRESS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, fragments, is_plain_name};
use crate::core::views::DEFAULT;

/// A view: what some Envoys are told in place of what all are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct View {
    /// The Envoys that it is for, by `node.id`; `edge-*` is every one whose id begins so. The longest that matches counts.
    pub nodes: Vec<String>,
    /// The pools that they serve; []: every pool.
    pub pools: Vec<String>,
    /// Where they take clients' requests; left out: `front.listen`.
    #[schemars(extend("x-expected" = ADDRESS, "examples" = ["127.0.0.1:9081"]))]
    pub listen: Option<SocketAddr>,
    /// Where they take HTTPS; left out: `front.tls.listen`.
    #[schemars(extend("x-expected" = ADDRESS, "examples" = ["127.0.0.1:9444"]))]
    pub tls_listen: Option<SocketAddr>,
    /// Where they take requests for the administration as REST; left out: `rest.listen`.
    #[schemars(extend("x-expected" = ADDRESS, "examples" = ["127.0.0.1:9904"]))]
    pub rest_listen: Option<SocketAddr>,
}

/// How many pools all views may have together, each counted once for each view that gets it: so many clusters and routes are made
/// anew with every change of the configuration, and told.
pub const MOST_POOLS: usize = 10_000;

/// What in a view cannot be used, and what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableView {
    /// A name that cannot be printed as it is, or that is taken.
    #[error(
        "`views.{0}`: the view's name cannot be used, take letters, digits, `-`, `_` and `.`; `{DEFAULT}` is what Envoys of no view get"
    )]
    Name(String),
    /// More than Envoys can sensibly be told.
    #[error(
        "`views`: all views together have {found} pools, counted once for each view that gets them, and at most {MOST_POOLS} can be \
         had; name fewer pools in `views.NAME.pools`, or merge views"
    )]
    TooMany {
        /// How many there are.
        found: usize,
    },
    /// A view that no Envoy has.
    #[error(
        "`views.{0}.nodes` is empty or has an empty entry, name the Envoys (node.id) that it is for, or remove the view"
    )]
    NoNode(String),
    /// A `*` that is not at the end.
    #[error(
        "`views.{view}.nodes`: `{pattern}` has a `*` that is not its last character, write the beginning of the ids and one `*`"
    )]
    Pattern {
        /// The view.
        view: String,
        /// The entry.
        pattern: String,
    },
    /// An entry that would lead to two views.
    #[error("the node `{pattern}` is listed twice, the second time for view `{view}`; an Envoy has one view")]
    NodeTwice {
        /// The second view.
        view: String,
        /// The entry.
        pattern: String,
    },
    /// A pool that is not configured.
    #[error("`views.{view}.pools`: there is no pool `{pool}`, take one of: {known}")]
    NoPool {
        /// The view.
        view: String,
        /// The pool.
        pool: String,
        /// The pools there are.
        known: String,
    },
}

impl Config {
    /// Checks the views.
    ///
    /// # Errors
    /// The first thing in them that cannot be used.
    pub(super) fn check_views(&self) -> Result<(), UnusableView> {
        let pools = self.effective_pools();
        if !self.views.is_empty() {
            let of = |view: &View| match view.pools.len() {
                0 => pools.len(),
                named => named.min(pools.len()),
            };
            let found = pools.len() + self.views.values().map(of).sum::<usize>();
            if found > MOST_POOLS {
                return Err(UnusableView::TooMany { found });
            }
        }
        let mut seen = BTreeSet::new();
        for (name, view) in &self.views {
            if !is_plain_name(name) || name == DEFAULT {
                return Err(UnusableView::Name(name.clone()));
            }
            if view.nodes.is_empty() || view.nodes.iter().any(String::is_empty) {
                return Err(UnusableView::NoNode(name.clone()));
            }
            for pattern in &view.nodes {
                let (view, pattern) = (name.clone(), pattern.clone());
                if pattern.strip_suffix('*').unwrap_or(&pattern).contains('*') {
                    return Err(UnusableView::Pattern { view, pattern });
                }
                if !seen.insert(pattern.clone()) {
                    return Err(UnusableView::NodeTwice { view, pattern });
                }
            }
            if let Some(pool) = view.pools.iter().find(|pool| !pools.contains_key(*pool)) {
                let known: Vec<&str> = pools.keys().map(String::as_str).collect();
                return Err(UnusableView::NoPool {
                    view: name.clone(),
                    pool: pool.clone(),
                    known: known.join(", "),
                });
            }
        }
        Ok(())
    }

    /// The configuration as the Envoys of each view have it, by the names of views. That of the default view is the
    /// configuration itself.
    #[must_use]
    pub fn by_view(&self) -> BTreeMap<String, Self> {
        // What each view has of its own is put in, and nothing copied for all that few have.
        let bare = Self {
            views: BTreeMap::new(),
            fragments: BTreeMap::new(),
            pools: BTreeMap::new(),
            ..self.clone()
        };
        let pools = self.effective_pools();
        let of = |name: &str, view: &View| {
            let mut config = bare.clone();
            config.fragments = fragments::of_view(&self.fragments, name);
            if let Some(listen) = view.listen {
                config.front.listen = listen;
            }
            if let Some(listen) = view.tls_listen {
                config.front.tls.listen = listen;
            }
            if let Some(listen) = view.rest_listen {
                config.rest.listen = listen;
            }
            config.rest.enabled &= self.rest.is_for(name);
            config.pools = if view.pools.is_empty() {
                self.pools.clone()
            } else {
                let named = view.pools.iter().filter_map(|pool| pools.get_key_value(pool));
                named.map(|(pool, settings)| (pool.clone(), settings.clone())).collect()
            };
            config
        };
        let mut all: BTreeMap<String, Self> = self
            .views
            .iter()
            .map(|(name, view)| (name.clone(), of(name, view)))
            .collect();
        let mut default = self.clone();
        default.fragments = fragments::of_view(&self.fragments, DEFAULT);
        default.rest.enabled &= self.rest.is_for(DEFAULT);
        all.insert(DEFAULT.to_owned(), default);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Pool;

    fn with(views: &[(&str, &[&str], &[&str])]) -> Config {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let view = |(name, nodes, pools): &(&str, &[&str], &[&str])| {
            let view = View {
                nodes: owned(nodes),
                pools: owned(pools),
                ..View::default()
            };
            ((*name).to_owned(), view)
        };
        let pool = |host: &str| Pool {
            hosts: vec![host.to_owned()],
            ..Pool::default()
        };
        Config {
            pools: [("a".to_owned(), pool("a.org")), ("b".to_owned(), pool("b.org"))].into(),
            views: views.iter().map(view).collect(),
            ..Config::default()
        }
    }

    #[test]
    fn what_cannot_be_used_is_named_with_the_remedy() {
        assert_eq!(with(&[("edge", &["edge-*", "x"], &["a"])]).check(), Ok(()));
        for (views, says) in [
            (
                [("default", &["e"][..], &[][..])],
                "`views.default`: the view's name cannot be used",
            ),
            ([("a/b", &["e"], &[])], "`views.a/b`: the view's name cannot be used"),
            ([("edge", &[], &[])], "`views.edge.nodes` is empty"),
            ([("edge", &[""], &[])], "`views.edge.nodes` is empty"),
            ([("edge", &["e*x"], &[])], "`e*x` has a `*` that is not its last"),
            ([("edge", &["e**"], &[])], "`e**` has a `*` that is not its last"),
            ([("edge", &["e", "e"], &[])], "the node `e` is listed twice"),
            ([("edge", &["e"], &["c"])], "there is no pool `c`, take one of: a, b"),
        ] {
            let said = with(&views).check().unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn more_pools_in_views_than_can_be_told_are_refused_with_the_bound() {
        let mut config = with(&[]);
        let view = |node: usize, pools: &[&str]| {
            let view = View {
                nodes: vec![node.to_string()],
                pools: pools.iter().map(|pool| (*pool).to_owned()).collect(),
                ..View::default()
            };
            (format!("view-{node}"), view)
        };
        // Two for those of no view.
        config.views = (1..MOST_POOLS / 2).map(|node| view(node, &[])).collect();
        assert_eq!(config.check(), Ok(()));
        config.views.extend([view(0, &["a"])]);
        let said = config.check().unwrap_err().to_string();
        assert!(said.contains("10001 pools") && said.contains("at most 10000"), "{said}");
    }

    #[test]
    fn a_view_is_the_configuration_with_its_own_pools_and_port() {
        let mut config = with(&[("edge", &["edge-*"], &["b"]), ("inner", &["inner"], &[])]);
        config.front.trusted_hops = 2;
        let own = "127.0.0.1:9999".parse().unwrap();
        config.views.get_mut("edge").unwrap().listen = Some(own);
        let views = config.by_view();
        assert_eq!(views.keys().collect::<Vec<_>>(), ["default", "edge", "inner"]);
        assert_eq!(views["default"], config);
        assert_eq!(views["edge"].pools.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!((views["edge"].front.listen, views["edge"].front.trusted_hops), (own, 2));
        assert_eq!(views["inner"].pools, config.pools);
        assert_eq!(views["inner"].front, config.front);
    }
}
