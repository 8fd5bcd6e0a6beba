//! The machine against a model of Envoy, under random content, refusals, delays and broken streams. After every step:
//! no route of the model leads to a cluster that is not warm or lacks its endpoints. In the end, once the
//! content is good: the model has exactly that, and nobody has anything more to say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::core::resources::Reference;

/// What Envoy has of one kind: versions, and what each resource mentions.
type Has = BTreeMap<String, Resource>;

/// Envoy as far as it matters here.
#[derive(Debug, Default)]
struct Model {
    has: BTreeMap<Kind, Has>,
    subscribed: BTreeMap<Kind, BTreeSet<String>>,
    /// New or changed clusters whose endpoints have not come since.
    warming: BTreeSet<String>,
    /// Clusters that can be used; a changed one can while its successor warms.
    usable: BTreeSet<String>,
    /// Clusters with endpoints. Envoy keeps them when the resource is reported removed.
    populated: BTreeSet<String>,
    /// Envoy acknowledges clusters when all are warm.
    held_back: Option<String>,
    outbox: VecDeque<(Kind, Request)>,
}

impl Model {
    fn connect(&mut self, order: &[Kind]) {
        (self.held_back, self.outbox) = (None, VecDeque::new());
        // What has endpoints becomes warm by Envoy's own timeout.
        let endpoints = self.has.entry(Kind::Endpoints).or_default();
        let (warm, waits): (Vec<_>, Vec<_>) = self
            .warming
            .iter()
            .cloned()
            .partition(|name| endpoints.contains_key(name));
        self.usable.extend(warm);
        self.warming = waits.into_iter().collect();
        for kind in order {
            let subscribe = self.subscribed.entry(*kind).or_default().iter().cloned().collect();
            let versions = self.has.entry(*kind).or_default().iter();
            let initial_versions = versions.map(|(name, r)| (name.clone(), r.version.clone())).collect();
            self.outbox.push_back((
                *kind,
                Request {
                    subscribe,
                    initial_versions,
                    ..Request::default()
                },
            ));
        }
        let node = Node {
            id: "model".to_owned(),
            cluster: String::new(),
        };
        if let Some((_, first)) = self.outbox.front_mut() {
            first.node = Some(node);
        }
    }

    fn take(&mut self, answer: Response, partly: bool) {
        let bad = |r: &Resource| r.version.contains("bad");
        let error = answer
            .resources
            .iter()
            .find(|r| bad(r))
            .map(|r| format!("{} is bad", r.name));
        let refused = error.is_some();
        if refused && answer.kind == Kind::Endpoints {
            // Envoy waits no longer for any endpoints when it refuses some.
            self.usable.extend(std::mem::take(&mut self.warming));
        }
        if !refused || partly {
            for resource in answer.resources.into_iter().filter(|r| !bad(r)) {
                self.apply(answer.kind, resource);
            }
            for name in &answer.removed {
                self.remove(answer.kind, name);
            }
        }
        self.follow(Kind::Cluster, Kind::Endpoints);
        self.follow(Kind::Listener, Kind::Route);
        if answer.kind == Kind::Cluster && !refused && !self.warming.is_empty() {
            self.held_back = Some(answer.nonce);
        } else {
            self.outbox.push_back((
                answer.kind,
                Request {
                    nonce: answer.nonce,
                    error,
                    ..Request::default()
                },
            ));
        }
        if self.warming.is_empty()
            && let Some(nonce) = self.held_back.take()
        {
            self.outbox.push_back((
                Kind::Cluster,
                Request {
                    nonce,
                    ..Request::default()
                },
            ));
        }
    }

    fn apply(&mut self, kind: Kind, resource: Resource) {
        let name = resource.name.clone();
        match kind {
            Kind::Cluster => {
                let same = self
                    .has
                    .get(&kind)
                    .and_then(|has| has.get(&name))
                    .is_some_and(|h| h.version == resource.version);
                if !same {
                    self.warming.insert(name.clone());
                }
            }
            Kind::Endpoints => {
                self.warm(&name);
                self.populated.insert(name.clone());
            }
            Kind::Listener | Kind::Route => {}
        }
        self.has.entry(kind).or_default().insert(name, resource);
    }

    fn remove(&mut self, kind: Kind, name: &str) {
        self.has.entry(kind).or_default().remove(name);
        if kind == Kind::Cluster {
            self.warming.remove(name);
            self.usable.remove(name);
            self.populated.remove(name);
        }
        // Envoy takes a cluster whose endpoints do not exist for warm, and empty.
        if kind == Kind::Endpoints {
            self.warm(name);
        }
    }

    fn warm(&mut self, name: &str) {
        if self.warming.remove(name) {
            self.usable.insert(name.to_owned());
        }
    }

    /// Subscribes to what the resources of a kind mention of another, and to nothing else of it.
    fn follow(&mut self, kind: Kind, mentioned: Kind) {
        let resources = self.has.entry(kind).or_default().values();
        let refs = resources.flat_map(|r| r.refs.iter()).filter(|r| r.kind == mentioned);
        let wanted: BTreeSet<String> = refs.map(|r| r.name.clone()).collect();
        let before = self.subscribed.insert(mentioned, wanted.clone()).unwrap_or_default();
        let subscribe: Vec<String> = wanted.difference(&before).cloned().collect();
        let unsubscribe: Vec<String> = before.difference(&wanted).cloned().collect();
        self.has
            .entry(mentioned)
            .or_default()
            .retain(|name, _| wanted.contains(name));
        if !subscribe.is_empty() || !unsubscribe.is_empty() {
            self.outbox.push_back((
                mentioned,
                Request {
                    subscribe,
                    unsubscribe,
                    ..Request::default()
                },
            ));
        }
    }

    fn check(&self) {
        let of = |kind| self.has.get(&kind).into_iter().flat_map(BTreeMap::values);
        for route in of(Kind::Route) {
            for cluster in route.refs.iter().map(|r| r.name.as_str()) {
                assert!(
                    self.usable.contains(cluster),
                    "{} leads to cluster {cluster}, which is not usable",
                    route.name
                );
                assert!(
                    self.populated.contains(cluster),
                    "{} leads to cluster {cluster}, which has no endpoints",
                    route.name
                );
            }
        }
    }
}

/// Content in short: for each of four clusters its version and that of its endpoints; for each of two listeners with
/// their routes a version and the clusters that the routes lead to.
#[derive(Clone, Debug)]
struct Content {
    clusters: Vec<Option<(u8, u8)>>,
    fronts: Vec<Option<(u8, Vec<usize>)>>,
}

impl Content {
    /// Version 0 is bad, unless all must be good.
    fn snapshot(&self, good: bool) -> Arc<Snapshot> {
        let version = |version: u8| {
            if version == 0 && !good {
                "bad".to_owned()
            } else {
                version.to_string()
            }
        };
        let mut resources = Vec::new();
        let mut add = |kind: Kind, name: &str, version: String, refs: Vec<(Kind, String)>| {
            // As with hashes, what mentions something else is of another version.
            let version = refs.iter().fold(version, |version, (_, name)| version + "+" + name);
            let refs = refs.into_iter().map(|(kind, name)| Reference { kind, name }).collect();
            resources.push((
                kind,
                Resource {
                    name: name.to_owned(),
                    version,
                    body: bytes::Bytes::new(),
                    refs,
                },
            ));
        };
        for (index, versions) in self.clusters.iter().enumerate() {
            let Some((cluster, endpoints)) = *versions else {
                continue;
            };
            let name = format!("c{index}");
            add(
                Kind::Cluster,
                &name,
                version(cluster),
                vec![(Kind::Endpoints, name.clone())],
            );
            add(Kind::Endpoints, &name, version(endpoints), Vec::new());
        }
        for (index, front) in self.fronts.iter().enumerate() {
            let Some((number, leads_to)) = front else { continue };
            let name = format!("f{index}");
            let there = leads_to.iter().filter(|cluster| self.clusters[**cluster].is_some());
            let refs = there.map(|cluster| (Kind::Cluster, format!("c{cluster}"))).collect();
            add(
                Kind::Listener,
                &name,
                version(number / 2),
                vec![(Kind::Route, name.clone())],
            );
            add(Kind::Route, &name, version(*number), refs);
        }
        Arc::new(Snapshot::new(resources).unwrap())
    }
}

fn content() -> impl Strategy<Value = Content> {
    let clusters = prop::collection::vec(prop::option::of((0..4_u8, 0..4_u8)), 4);
    let leads_to = prop::collection::btree_set(0..4_usize, 0..4).prop_map(|set| set.into_iter().collect());
    let fronts = prop::collection::vec(prop::option::of((0..6_u8, leads_to)), 2);
    (clusters, fronts).prop_map(|(clusters, fronts)| Content { clusters, fronts })
}

#[derive(Clone, Debug)]
enum Step {
    Offer(Content),
    /// A request reaches the machine.
    Up,
    /// An answer reaches the model, which takes what is good of a bad one, or nothing.
    Down {
        partly: bool,
    },
    /// The stream breaks; the kinds are asked for anew in this order.
    Reconnect(Vec<Kind>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => content().prop_map(Step::Offer),
        8 => Just(Step::Up),
        8 => any::<bool>().prop_map(|partly| Step::Down { partly }),
        1 => Just(Kind::ALL.to_vec()).prop_shuffle().prop_map(Step::Reconnect),
    ];
    prop::collection::vec(step, 1..120)
}

struct World {
    client: Client,
    model: Model,
    snapshot: Arc<Snapshot>,
    down: VecDeque<Response>,
}

impl World {
    fn new(snapshot: Arc<Snapshot>) -> Self {
        let mut world = Self {
            client: Client::new(""),
            model: Model::default(),
            snapshot,
            down: VecDeque::new(),
        };
        world.connect(&Kind::ALL);
        world
    }

    fn connect(&mut self, order: &[Kind]) {
        self.down.clear();
        self.client = Client::new("");
        self.client.offer(Arc::clone(&self.snapshot));
        self.model.connect(order);
    }

    fn offer(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = snapshot;
        self.client.offer(Arc::clone(&self.snapshot));
        self.down.extend(self.client.answers());
    }

    fn up(&mut self) {
        if let Some((kind, request)) = self.model.outbox.pop_front() {
            self.client.request(kind, request);
            self.down.extend(self.client.answers());
        }
    }

    fn down(&mut self, partly: bool) {
        if let Some(answer) = self.down.pop_front() {
            self.model.take(answer, partly);
        }
        self.model.check();
    }

    fn run_until_quiet(&mut self) {
        for _ in 0..400 {
            if self.down.is_empty() && self.model.outbox.is_empty() {
                return;
            }
            self.up();
            self.down(false);
        }
        panic!("they never come to an end: {:?}", self.down);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn envoy_is_whole_at_every_moment_and_right_in_the_end(first in content(), steps in steps(), last in content()) {
        let mut world = World::new(first.snapshot(false));
        for step in steps {
            match step {
                Step::Offer(content) => world.offer(content.snapshot(false)),
                Step::Up => world.up(),
                Step::Down { partly } => world.down(partly),
                Step::Reconnect(order) => world.connect(&order),
            }
        }
        world.offer(last.snapshot(true));
        world.run_until_quiet();
        world.client.settle();
        world.down.extend(world.client.answers());
        world.run_until_quiet();
        for kind in Kind::ALL {
            let has: Vec<_> = world.model.has[&kind].values().map(|r| (&r.name, &r.version)).collect();
            // Endpoints and routes that nothing mentions are not asked for.
            let asked = |r: &&Resource| kind.silence_is_wildcard() || world.model.subscribed[&kind].contains(&r.name);
            let should: Vec<_> = world.snapshot.of(kind).filter(asked).map(|r| (&r.name, &r.version)).collect();
            prop_assert_eq!(has, should, "{}", kind);
        }
        prop_assert!(world.model.warming.is_empty());
    }
}
