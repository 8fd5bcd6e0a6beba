//! What was made before is told again as long as what it was made from is the same. So the work of a change goes with its size:
//! an agent that drains costs the endpoints of its pool, whatever else the fleet has.
//!
//! What comes out never depends on what went in before: it is what a fresh one makes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::routes::Needs;
use super::{Member, Unfit, by_pool, endpoints_of, fixed, routes_of};
use crate::adapters::secrets::Secrets;
use crate::config::{Config, Pool};
use crate::core::resources::{Inconsistency, Kind, Resource, Snapshot};
use crate::core::views::Views;

/// What was made last.
#[derive(Debug, Default)]
pub struct Made {
    from: Option<(Arc<Config>, Secrets)>,
    views: BTreeMap<String, View>,
    /// By pool, and the same in every view.
    endpoints: BTreeMap<String, (Vec<Member>, Resource)>,
}

/// A view, of the present configuration.
#[derive(Debug)]
struct View {
    config: Config,
    pools: BTreeMap<String, Pool>,
    fixed: Vec<(Kind, Resource)>,
    routes: Option<(Needs, Resource)>,
}

impl View {
    fn new(config: Config, secrets: &Secrets) -> Result<Self, Vec<Inconsistency>> {
        let pools = config.effective_pools().into_owned();
        let fixed = fixed(&config, &pools, secrets)?;
        Ok(Self {
            config,
            pools,
            fixed,
            routes: None,
        })
    }

    fn routes(&mut self, needs: &Needs) -> Resource {
        if let Some((before, routes)) = &self.routes
            && before == needs
        {
            return routes.clone();
        }
        let routes = routes_of(&self.config, &self.pools, needs);
        self.routes = Some((needs.clone(), routes.clone()));
        routes
    }
}

impl Made {
    /// Everything that Envoys are to be told, view by view.
    ///
    /// # Errors
    /// What would make any view inconsistent; then nothing may be published, for views are changed together.
    pub fn views(&mut self, config: &Arc<Config>, members: &[Member], secrets: &Secrets) -> Result<Views, Vec<Unfit>> {
        let known = self.from.as_ref();
        if !known.is_some_and(|(before, seen)| Arc::ptr_eq(before, config) && seen == secrets) {
            self.from = None;
            self.views = each(config.by_view(), |config| View::new(config, secrets))?;
            self.from = Some((Arc::clone(config), secrets.clone()));
        }
        let members_of = by_pool(members);
        self.endpoints.retain(|pool, _| members_of.contains_key(pool.as_str()));
        let needs = Needs::of(members);
        let endpoints = &mut self.endpoints;
        let snapshots: Vec<(String, Snapshot)> = each(self.views.iter_mut(), |view| {
            let route = (Kind::Route, view.routes(&needs));
            let endpoints = view.pools.keys().map(|pool| {
                let members = members_of.get(pool.as_str()).map_or(&[][..], Vec::as_slice);
                (Kind::Endpoints, remembered(endpoints, pool, members))
            });
            let fixed = view.fixed.iter().cloned();
            Snapshot::new(fixed.chain(endpoints).chain([route]))
        })?;
        let nodes = config
            .views
            .iter()
            .flat_map(|(name, view)| view.nodes.iter().map(|pattern| (pattern.clone(), name.clone())));
        Ok(Views::new(snapshots, nodes))
    }
}

/// The endpoints of a pool, made anew when its agents are not those of before.
fn remembered(endpoints: &mut BTreeMap<String, (Vec<Member>, Resource)>, pool: &str, members: &[&Member]) -> Resource {
    if let Some((before, made)) = endpoints.get(pool)
        && before.iter().eq(members.iter().copied())
    {
        return made.clone();
    }
    let made = endpoints_of(pool, members);
    let members = members.iter().copied().cloned().collect();
    endpoints.insert(pool.to_owned(), (members, made.clone()));
    made
}

/// Does something for each view; when it fails for any, says for which and why.
fn each<N: Into<String>, V, T, C: FromIterator<(String, T)>>(
    views: impl IntoIterator<Item = (N, V)>,
    mut make: impl FnMut(V) -> Result<T, Vec<Inconsistency>>,
) -> Result<C, Vec<Unfit>> {
    let (mut made, mut problems) = (Vec::new(), Vec::new());
    for (view, with) in views {
        let view: String = view.into();
        match make(with) {
            Ok(one) => made.push((view, one)),
            Err(found) => problems.extend(found.into_iter().map(|problem| Unfit {
                view: view.clone(),
                problem,
            })),
        }
    }
    if problems.is_empty() {
        Ok(made.into_iter().collect())
    } else {
        Err(problems)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::adapters::envoy::views;
    use crate::core::fleet::Told;

    fn member() -> impl Strategy<Value = Member> {
        let told = prop_oneof![Just(Told::Healthy), Just(Told::Draining)];
        let placed = prop::option::of(0..3_u32);
        (0..3_u8, 0..3_usize, told, 1..3_u16, 0..2_u64, placed).prop_map(|(id, pool, told, port, seconds, placed)| {
            Member {
                id: id.to_string().into(),
                pool: ["maps", "other", "nowhere"][pool].into(),
                address: ([127, 0, 0, 1], port).into(),
                told,
                longest_timeout: Duration::from_secs(seconds * 100),
                weight: 100,
                placed: Arc::new(placed.map(|rank| ("world".to_owned(), rank)).into_iter().collect()),
            }
        })
    }

    fn config() -> impl Strategy<Value = Arc<Config>> {
        let pools = prop::collection::btree_set(0..2_usize, 0..3);
        (pools, any::<bool>()).prop_map(|(pools, viewed)| {
            let names = pools.into_iter().map(|pool| ["maps", "other"][pool].to_owned());
            let host = |name: &String| Pool {
                hosts: vec![format!("{name}.example.org")],
                ..Pool::default()
            };
            let pools: BTreeMap<String, Pool> = names.map(|name| (name.clone(), host(&name))).collect();
            let edge = crate::config::View {
                nodes: vec!["edge".to_owned()],
                pools: pools.keys().take(1).cloned().collect(),
                listen: Some("127.0.0.1:9081".parse().unwrap()),
                tls_listen: None,
                rest_listen: None,
            };
            let views = viewed.then(|| ("edge".to_owned(), edge)).into_iter().collect();
            Arc::new(Config {
                pools,
                views,
                ..Config::default()
            })
        })
    }

    proptest! {
        #[test]
        fn what_comes_out_is_what_a_fresh_one_makes(
            configs in prop::collection::vec(config(), 1..3),
            steps in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(member(), 0..5)), 1..8),
        ) {
            let (mut made, secrets) = (Made::default(), Secrets::default());
            for (config, members) in steps {
                let config = config.get(&configs);
                let fresh = views(config, &members, &secrets).unwrap();
                prop_assert_eq!(made.views(config, &members, &secrets).unwrap(), fresh);
            }
        }
    }

    #[test]
    fn what_is_the_same_is_not_made_anew() {
        let pools = ["maps", "other"].map(|name| {
            let hosts = vec![format!("{name}.example.org")];
            (
                name.to_owned(),
                Pool {
                    hosts,
                    ..Pool::default()
                },
            )
        });
        let config = Arc::new(Config {
            pools: pools.into(),
            ..Config::default()
        });
        let mut members = ["maps", "other"].map(|pool| Member::found(pool, ([127, 0, 0, 1], 1).into()));
        let mut made = Made::default();
        let mut snapshot = |members: &[Member]| {
            let views = made.views(&config, members, &Secrets::default()).unwrap();
            Arc::clone(views.get("default").unwrap())
        };
        let before = snapshot(&members);
        members[0].weight = 70;
        let after = snapshot(&members);
        let anew: Vec<(Kind, &str)> = Kind::ALL
            .into_iter()
            .flat_map(|kind| after.of(kind).map(move |resource| (kind, resource)))
            .filter(|(kind, r)| before.get(*kind, &r.name).unwrap().body.as_ptr() != r.body.as_ptr())
            .map(|(kind, r)| (kind, r.name.as_str()))
            .collect();
        assert_eq!(anew, [(Kind::Endpoints, "pool/maps")]);
    }
}
