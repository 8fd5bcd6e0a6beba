//! A snapshot for each view: what the configuration as the view has it makes of the fleet.

use std::sync::Arc;

use super::{Made, Member};
use crate::adapters::secrets::Secrets;
use crate::config::Config;
use crate::core::resources::Inconsistency;
use crate::core::views::Views;

/// What would make the snapshot of a view inconsistent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("view `{view}`: {problem}")]
pub struct Unfit {
    /// The view.
    pub view: String,
    /// What is wrong with its snapshot.
    pub problem: Inconsistency,
}

/// Everything that Envoys are to be told, view by view.
///
/// # Errors
/// What would make any view inconsistent; then nothing may be published, for views are changed together.
pub fn views(config: &Config, members: &[Member], secrets: &Secrets) -> Result<Views, Vec<Unfit>> {
    Made::default().views(&Arc::new(config.clone()), members, secrets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Pool, View};
    use crate::core::resources::Kind;
    use crate::core::views::DEFAULT;

    #[test]
    fn each_view_has_its_pools_and_its_port_and_is_told_of_no_other() {
        let pool = |host: &str| Pool {
            hosts: vec![host.to_owned()],
            ..Pool::default()
        };
        let edge = View {
            nodes: vec!["edge-*".to_owned()],
            pools: vec!["maps".to_owned()],
            listen: Some("127.0.0.1:9081".parse().unwrap()),
            ..View::default()
        };
        let config = Config {
            pools: [("maps".to_owned(), pool("*")), ("inner".to_owned(), pool("inner.org"))].into(),
            views: [("edge".to_owned(), edge)].into(),
            ..Config::default()
        };
        config.check().unwrap();
        let views = views(&config, &[], &Secrets::default()).unwrap();
        let snapshot_of = |node: &str| views.get(views.name(node)).unwrap();
        assert_eq!(snapshot_of("edge-1").names(Kind::Cluster), ["pool/maps"].into());
        assert_eq!(snapshot_of("edge-1").names(Kind::Endpoints), ["pool/maps"].into());
        assert_eq!(
            snapshot_of("else").names(Kind::Cluster),
            ["pool/inner", "pool/maps"].into()
        );
        let listener = |node| snapshot_of(node).get(Kind::Listener, super::super::FRONT).unwrap();
        assert_ne!(listener("edge-1").version, listener("else").version);
        let alone = Config {
            views: [].into(),
            ..config
        };
        let alone = super::views(&alone, &[], &Secrets::default()).unwrap();
        assert_eq!(snapshot_of("else"), alone.get(DEFAULT).unwrap());
    }
}
