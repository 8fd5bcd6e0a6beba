//! The machine against a model of Envoy, in both variants, under random content, refusals, delays and broken streams. After every step:
//! no route of the model leads to a cluster that is not warm, lacks its endpoints or a secret, and no secret is taken
//! from what needs it. In the end, once the content is good: the model has exactly that, and nobody has anything more to say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use crate::core::resources::Reference;

/// What Envoy has of one kind: versions, and what each resource mentions.
type Has = BTreeMap<String, Resource>;

/// A request of either variant.
#[derive(Clone, Debug)]
enum Says {
    Delta(Request),
    World(WorldRequest),
}

/// Envoy as far as it matters here.
#[derive(Debug, Default)]
struct Model {
    variant: Variant,
    /// In the state of the world: the version it took last and the answer it saw last, of each kind.
    said: BTreeMap<Kind, (String, String)>,
    has: BTreeMap<Kind, Has>,
    subscribed: BTreeMap<Kind, BTreeSet<String>>,
    /// New or changed clusters whose endpoints have not come since.
    warming: BTreeSet<String>,
    /// Clusters that can be used; a changed one can while its successor warms.
    usable: BTreeSet<String>,
    /// Clusters with endpoints. Envoy keeps them when the resource is reported removed.
    populated: BTreeSet<String>,
    /// Secrets that were refused or did not exist, and were never taken since: what needs them waits for them no longer.
    spoilt: BTreeSet<String>,
    /// Envoy acknowledges clusters when all are warm.
    held_back: Option<String>,
    outbox: VecDeque<(Kind, Says)>,
    /// In the state of the world, back on a new stream: routes that it has not taken anew since. Nobody knows which clusters
    /// it has, so these may lead to one that goes.
    brought: BTreeSet<String>,
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
        if self.variant == Variant::World {
            self.brought = self.has.entry(Kind::Route).or_default().keys().cloned().collect();
        }
        for (at, kind) in order.iter().enumerate() {
            let node = (at == 0).then(|| Node {
                id: "model".to_owned(),
                cluster: String::new(),
            });
            if self.variant == Variant::World {
                self.said.entry(*kind).or_default().1.clear();
                self.say_world(*kind, node, None);
                continue;
            }
            let subscribe = self.subscribed.entry(*kind).or_default().iter().cloned().collect();
            let versions = self.has.entry(*kind).or_default().iter();
            let initial_versions = versions.map(|(name, r)| (name.clone(), r.version.clone())).collect();
            self.outbox.push_back((
                *kind,
                Says::Delta(Request {
                    node,
                    subscribe,
                    initial_versions,
                    ..Request::default()
                }),
            ));
        }
    }

    /// All the names, the version it took last and the answer it saw last.
    fn say_world(&mut self, kind: Kind, node: Option<Node>, error: Option<String>) {
        let names = self.subscribed.entry(kind).or_default().iter().cloned().collect();
        let (version, nonce) = self.said.entry(kind).or_default().clone();
        let request = WorldRequest {
            node,
            names,
            version,
            nonce,
            error,
        };
        self.outbox.push_back((kind, Says::World(request)));
    }

    /// Its word on an answer.
    fn reply(&mut self, kind: Kind, nonce: String, error: Option<String>) {
        if self.variant == Variant::World {
            self.said.entry(kind).or_default().1 = nonce;
            return self.say_world(kind, None, error);
        }
        let request = Request {
            nonce,
            error,
            ..Request::default()
        };
        self.outbox.push_back((kind, Says::Delta(request)));
    }

    fn take(&mut self, answer: Response, partly: bool) {
        let bad = |r: &Resource| r.version.contains("bad");
        let error = answer
            .resources
            .iter()
            .find(|r| bad(r))
            .map(|r| format!("{} is bad", r.name));
        let refused = error.is_some();
        if !refused {
            // It counts as taken before it is acknowledged.
            self.said.entry(answer.kind).or_default().0.clone_from(&answer.version);
        }
        if refused && answer.kind == Kind::Endpoints {
            // Envoy waits no longer for any endpoints when it refuses some.
            self.usable.extend(std::mem::take(&mut self.warming));
        }
        if refused && answer.kind == Kind::Secret {
            let names = answer.resources.iter().map(|r| r.name.clone());
            self.spoilt.extend(names);
        }
        if !refused || partly {
            if self.variant == Variant::World && answer.kind.silence_is_wildcard() {
                // What the answer lacks goes.
                let all: BTreeSet<&String> = answer.resources.iter().map(|r| &r.name).collect();
                let has = self.has.entry(answer.kind).or_default().keys();
                let gone: Vec<String> = has.filter(|name| !all.contains(name)).cloned().collect();
                for name in gone {
                    self.remove(answer.kind, &name);
                }
            }
            for resource in answer.resources.into_iter().filter(|r| !bad(r)) {
                self.apply(answer.kind, resource);
            }
            for name in &answer.removed {
                self.remove(answer.kind, name);
            }
        }
        for mentioned in [Kind::Secret, Kind::Endpoints, Kind::Route] {
            self.follow(mentioned);
        }
        self.warm();
        if answer.kind == Kind::Cluster && !refused && self.waits() {
            self.held_back = Some(answer.nonce);
        } else {
            self.reply(answer.kind, answer.nonce, error);
        }
        if !self.waits()
            && let Some(nonce) = self.held_back.take()
        {
            self.reply(Kind::Cluster, nonce, None);
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
                self.warming.remove(&name);
                self.populated.insert(name.clone());
            }
            Kind::Secret => {
                self.spoilt.remove(&name);
            }
            Kind::Route => drop(self.brought.take(&name)),
            // The first answers of the state of the world have everything there is, whatever became of clusters.
            Kind::Listener if self.variant == Variant::World => {}
            Kind::Listener => {
                let mut named = resource.refs.iter().filter(|r| r.kind == Kind::Cluster);
                let lacks = named.find(|r| self.of(Kind::Cluster).all(|cluster| cluster.name != r.name));
                assert!(lacks.is_none(), "listener {name} names {lacks:?}, which is not there");
            }
        }
        self.has.entry(kind).or_default().insert(name, resource);
    }

    fn remove(&mut self, kind: Kind, name: &str) {
        let had = self.has.entry(kind).or_default().remove(name).is_some();
        if kind == Kind::Secret {
            let needs = |r: &&Resource| r.refs.iter().any(|r| r.kind == kind && r.name == name);
            let user = kind.referrers().iter().flat_map(|kind| self.of(*kind)).find(needs);
            assert!(!had || user.is_none(), "secret {name} is taken from {user:?}");
            // One that does not exist is waited for no longer.
            self.spoilt.insert(name.to_owned());
        }
        if kind == Kind::Cluster {
            let names = |r: &&Resource| r.refs.iter().any(|r| r.kind == kind && r.name == name);
            let user = self.of(Kind::Listener).find(names);
            let in_use = had && user.is_some() && self.variant == Variant::Delta;
            assert!(!in_use, "cluster {name} is taken from {user:?}");
            self.warming.remove(name);
            self.usable.remove(name);
            self.populated.remove(name);
        }
        // Envoy takes a cluster whose endpoints do not exist for warm, and empty.
        if kind == Kind::Endpoints {
            self.warming.remove(name);
        }
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Resource> {
        self.has.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    /// Whether a cluster waits for a secret.
    fn lacks_a_secret(&self, cluster: &Resource) -> bool {
        let mut secrets = cluster.refs.iter().filter(|r| r.kind == Kind::Secret);
        let there = |name: &str| self.of(Kind::Secret).any(|secret| secret.name == name);
        secrets.any(|r| !there(&r.name) && !self.spoilt.contains(&r.name))
    }

    /// Whether some cluster is not warm.
    fn waits(&self) -> bool {
        !self.warming.is_empty() || self.of(Kind::Cluster).any(|cluster| self.lacks_a_secret(cluster))
    }

    /// What has all that it needs can be used.
    fn warm(&mut self) {
        let warm = |r: &&Resource| !self.warming.contains(&r.name) && !self.lacks_a_secret(r);
        let warm: Vec<String> = self.of(Kind::Cluster).filter(warm).map(|r| r.name.clone()).collect();
        self.usable.extend(warm);
    }

    /// Subscribes to what resources mention of a kind, and to nothing else of it.
    fn follow(&mut self, mentioned: Kind) {
        let resources = mentioned.referrers().iter().flat_map(|kind| self.of(*kind));
        let refs = resources.flat_map(|r| r.refs.iter()).filter(|r| r.kind == mentioned);
        let wanted: BTreeSet<String> = refs.map(|r| r.name.clone()).collect();
        let before = self.subscribed.insert(mentioned, wanted.clone()).unwrap_or_default();
        let subscribe: Vec<String> = wanted.difference(&before).cloned().collect();
        let unsubscribe: Vec<String> = before.difference(&wanted).cloned().collect();
        self.has
            .entry(mentioned)
            .or_default()
            .retain(|name, _| wanted.contains(name));
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return;
        }
        if self.variant == Variant::World {
            return self.say_world(mentioned, None, None);
        }
        let request = Request {
            subscribe,
            unsubscribe,
            ..Request::default()
        };
        self.outbox.push_back((mentioned, Says::Delta(request)));
    }

    /// Whether it waits for endpoints that do not exist. The state of the world cannot tell it that there are none.
    fn waits_in_vain(&self, snapshot: &Snapshot) -> bool {
        let there = |name: &String| snapshot.get(Kind::Endpoints, name).is_some();
        self.variant == Variant::World && self.held_back.is_some() && !self.warming.iter().any(there)
    }

    /// Envoy waits for endpoints for so long and no longer.
    fn give_up(&mut self) {
        self.warming.clear();
        self.warm();
        if let Some(nonce) = self.held_back.take() {
            self.reply(Kind::Cluster, nonce, None);
        }
    }

    fn check(&self) {
        let all = self.of(Kind::Route);
        for route in all.filter(|route| !self.brought.contains(&route.name)) {
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

/// Its version, the clusters that its routes lead to, and the secrets and clusters that its listener needs.
type Front = (u8, Vec<usize>, Vec<usize>, Vec<usize>);

/// Endpoints of this version are provisional, unless all must be good.
const AWAITED: u8 = 3;

/// Content in short: the versions of two secrets; for each of four clusters its version, that of its endpoints and the
/// secrets it needs; for each of two listeners with their routes a version, the clusters that the routes lead to, and the
/// secrets and clusters that the listener needs.
#[derive(Clone, Debug)]
struct Content {
    secrets: Vec<Option<u8>>,
    clusters: Vec<Option<(u8, u8, Vec<usize>)>>,
    fronts: Vec<Option<Front>>,
}

impl Content {
    /// The state of the world is tried without secrets: nothing tells a client that one does not exist.
    fn of(mut self, variant: Variant) -> Self {
        if variant == Variant::World {
            self.secrets.fill(None);
        }
        self
    }

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
                    confidential: false,
                    provisional: false,
                },
            ));
        };
        for (index, number) in self.secrets.iter().enumerate() {
            if let Some(number) = number {
                add(Kind::Secret, &format!("s{index}"), version(*number), Vec::new());
            }
        }
        let needs = |secrets: &[usize]| -> Vec<(Kind, String)> {
            let there = secrets.iter().filter(|secret| self.secrets[**secret].is_some());
            there.map(|secret| (Kind::Secret, format!("s{secret}"))).collect()
        };
        for (index, cluster) in self.clusters.iter().enumerate() {
            let Some((cluster, endpoints, secrets)) = cluster else {
                continue;
            };
            let name = format!("c{index}");
            let mut refs = needs(secrets);
            refs.push((Kind::Endpoints, name.clone()));
            add(Kind::Cluster, &name, version(*cluster), refs);
            add(Kind::Endpoints, &name, version(*endpoints), Vec::new());
        }
        for (index, front) in self.fronts.iter().enumerate() {
            let Some((number, leads_to, secrets, named)) = front else {
                continue;
            };
            let name = format!("f{index}");
            let of = |clusters: &[usize]| -> Vec<(Kind, String)> {
                let there = clusters.iter().filter(|cluster| self.clusters[**cluster].is_some());
                there.map(|cluster| (Kind::Cluster, format!("c{cluster}"))).collect()
            };
            let refs = of(leads_to);
            let mut needed = needs(secrets);
            needed.extend(of(named));
            needed.push((Kind::Route, name.clone()));
            add(Kind::Listener, &name, version(number / 2), needed);
            add(Kind::Route, &name, version(*number), refs);
        }
        let mut snapshot = Snapshot::new(resources).unwrap();
        if !good {
            let awaited = |cluster: &Option<(u8, u8, Vec<usize>)>| matches!(cluster, Some((_, AWAITED, _)));
            let numbers = (0..self.clusters.len()).filter(|index| awaited(&self.clusters[*index]));
            let names = numbers.map(|index| format!("c{index}")).collect();
            snapshot.mark_provisional(Kind::Endpoints, &names);
        }
        Arc::new(snapshot)
    }
}

fn content() -> impl Strategy<Value = Content> {
    let some_of = |all: usize, most| {
        prop::collection::btree_set(0..all, 0..most).prop_map(|set| set.into_iter().collect::<Vec<usize>>())
    };
    let secrets = prop::collection::vec(prop::option::of(0..4_u8), 2);
    let clusters = prop::collection::vec(prop::option::of((0..4_u8, 0..4_u8, some_of(2, 2))), 4);
    let fronts = prop::collection::vec(
        prop::option::of((0..6_u8, some_of(4, 4), some_of(2, 3), some_of(4, 3))),
        2,
    );
    (secrets, clusters, fronts).prop_map(|(secrets, clusters, fronts)| Content {
        secrets,
        clusters,
        fronts,
    })
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
    fn new(variant: Variant, snapshot: Arc<Snapshot>) -> Self {
        let mut world = Self {
            client: Client::new(variant, ""),
            model: Model {
                variant,
                ..Model::default()
            },
            snapshot,
            down: VecDeque::new(),
        };
        world.connect(&Kind::ALL);
        world
    }

    fn connect(&mut self, order: &[Kind]) {
        self.down.clear();
        self.client = Client::new(self.model.variant, "");
        self.client.offer(Arc::clone(&self.snapshot));
        self.model.connect(order);
    }

    fn offer(&mut self, snapshot: Arc<Snapshot>) {
        // As the hub does it: with what is different from the one before.
        self.snapshot = Arc::new(Arc::unwrap_or_clone(snapshot).after(&self.snapshot));
        self.client.offer(Arc::clone(&self.snapshot));
        self.down.extend(self.client.answers());
    }

    fn up(&mut self) {
        if let Some((kind, request)) = self.model.outbox.pop_front() {
            match request {
                Says::Delta(request) => self.client.request(kind, request),
                Says::World(request) => self.client.request_world(kind, request),
            };
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
                if !self.model.waits_in_vain(&self.snapshot) {
                    return;
                }
                self.model.give_up();
            }
            self.up();
            self.down(false);
        }
        panic!("they never come to an end: {:?}", self.down);
    }
}

/// The same runs each time, so that a tree is judged alike everywhere. `PROPTEST_CASES=400000` draws so many new ones.
fn runs() -> ProptestConfig {
    let drawn = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_some() {
        return drawn;
    }
    ProptestConfig {
        cases: 20_000,
        rng_seed: RngSeed::Fixed(5),
        ..drawn
    }
}

proptest! {
    #![proptest_config(runs())]

    #[test]
    fn envoy_is_whole_at_every_moment_and_right_in_the_end(
        variant in prop_oneof![Just(Variant::Delta), Just(Variant::World)],
        first in content(),
        steps in steps(),
        last in content(),
    ) {
        let (first, last) = (first.of(variant), last.of(variant));
        let mut world = World::new(variant, first.snapshot(false));
        for step in steps {
            match step {
                Step::Offer(content) => world.offer(content.of(variant).snapshot(false)),
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
            // Secrets, endpoints and routes that nothing mentions are not asked for.
            let asked = |r: &&Resource| kind.silence_is_wildcard() || world.model.subscribed[&kind].contains(&r.name);
            let should: Vec<_> = world.snapshot.of(kind).filter(asked).map(|r| (&r.name, &r.version)).collect();
            prop_assert_eq!(has, should, "{}", kind);
        }
        prop_assert!(!world.model.waits());
    }
}
