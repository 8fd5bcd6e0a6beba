//! The machine against clients that say whatever comes to mind: right and wrong nonces, names that exist and names that do
//! not, refusals of nothing, the same thing twice, in either variant. Whatever they say: no panic; an answer only to what was
//! said or changed, one of each kind at most; nothing kept beyond what was asked for; and one that comes to its senses is
//! served to the end.

use std::collections::BTreeMap;

use graticule_daemon::dice::Dice;

use super::tests::{Piece, snapshot};
use super::*;

/// Runs, each with a seed of its own.
const SEEDS: u64 = 3000;
/// Events of a run.
const STEPS: usize = 120;
/// Names that are ever said, existing or not.
const NAMES: [&str; 6] = ["a", "b", "c", "gone", "never", "*"];

struct Run {
    dice: Dice,
    variant: Variant,
    client: Client,
    current: Arc<Snapshot>,
    /// The nonces of all answers, in their order.
    nonces: BTreeMap<Kind, Vec<String>>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::seeded(seed);
        let variant = if dice.roll(2) == 0 {
            Variant::Delta
        } else {
            Variant::World
        };
        Self {
            client: Client::new(variant, ""),
            current: Arc::new(Snapshot::default()),
            nonces: BTreeMap::new(),
            variant,
            dice,
        }
    }

    fn kind(&mut self) -> Kind {
        Kind::ALL[self.dice.pick(Kind::ALL.len())]
    }

    fn names(&mut self) -> Vec<String> {
        let count = self.dice.pick(4);
        (0..count)
            .map(|_| NAMES[self.dice.pick(NAMES.len())].to_owned())
            .collect()
    }

    /// The last nonce most often; else none, an old one or one from elsewhere.
    fn nonce(&mut self, kind: Kind) -> String {
        let known = self.nonces.get(&kind).cloned().unwrap_or_default();
        match self.dice.roll(8) {
            0 => String::new(),
            1 => "elsewhere".to_owned(),
            2 if !known.is_empty() => known[self.dice.pick(known.len())].clone(),
            _ => known.last().cloned().unwrap_or_default(),
        }
    }

    fn request(&mut self) {
        let kind = self.kind();
        let first = self.client.node().is_none();
        let node = (first || self.dice.roll(4) > 0).then(|| Node {
            id: "hostile".to_owned(),
            cluster: String::new(),
        });
        let (nonce, names) = (self.nonce(kind), self.names());
        let error = (self.dice.roll(3) == 0).then(|| "no".to_owned());
        let version = ["", "1", "2", "nonsense"][self.dice.pick(4)].to_owned();
        if self.variant == Variant::World {
            let request = WorldRequest {
                node,
                names,
                version,
                nonce,
                error,
            };
            self.client.request_world(kind, request);
            return;
        }
        let unsubscribe = self.names();
        let brought = if self.dice.roll(3) == 0 {
            self.names()
        } else {
            Vec::new()
        };
        let request = Request {
            node,
            subscribe: names,
            unsubscribe,
            initial_versions: brought.into_iter().map(|name| (name, version.clone())).collect(),
            nonce,
            error,
        };
        self.client.request(kind, request);
    }

    /// Other content; `fresh` is everything in a version that was never there before.
    fn offer(&mut self, fresh: bool) {
        let mut content = Vec::new();
        let versions = if fresh { ["4"; 3] } else { ["1", "2", "3"] };
        for name in ["a", "b", "c", "gone"] {
            if fresh || self.dice.roll(3) > 0 {
                let version = versions[self.dice.pick(3)];
                content.push((name, version));
            }
        }
        let refs: Vec<[(Kind, &str); 1]> = content.iter().map(|(name, _)| [(Kind::Endpoints, *name)]).collect();
        let leads_to: Vec<(Kind, &str)> = content.iter().map(|(name, _)| (Kind::Cluster, *name)).collect();
        let route = versions[self.dice.pick(3)];
        let mut all: Vec<Piece<'_>> = Vec::new();
        for ((name, version), refs) in content.iter().zip(&refs) {
            all.push((Kind::Cluster, name, version, refs));
            all.push((Kind::Endpoints, name, versions[self.dice.pick(3)], &[]));
        }
        all.push((Kind::Listener, "a", route, &[(Kind::Route, "a")]));
        all.push((Kind::Route, "a", route, &leads_to));
        let next = Arc::unwrap_or_clone(snapshot(&all)).after(&self.current);
        self.current = Arc::new(next);
        self.client.offer(Arc::clone(&self.current));
    }

    /// Takes the answers, and sees that there are no more than one event gives cause for.
    fn answers(&mut self) -> Vec<Response> {
        let answers = self.client.answers();
        let mut kinds: Vec<Kind> = answers.iter().map(|answer| answer.kind).collect();
        kinds.dedup();
        assert_eq!(kinds.len(), answers.len(), "one of each kind");
        assert_eq!(self.client.answers(), [], "nothing more without a cause");
        for answer in &answers {
            let nonces = self.nonces.entry(answer.kind).or_default();
            assert!(!nonces.contains(&answer.nonce), "a nonce is used once");
            nonces.push(answer.nonce.clone());
            assert!(answer.resources.is_sorted_by(|a, b| a.name < b.name), "each name once");
        }
        answers
    }

    fn step(&mut self) {
        match self.dice.roll(10) {
            0 | 1 => self.offer(false),
            2 => self.client.settle(),
            _ => self.request(),
        }
        self.answers();
        // Every name is one of a few.
        assert!(self.client.resources().len() <= Kind::ALL.len() * NAMES.len());
    }

    /// It takes whatever comes from now on.
    fn come_to_its_senses(&mut self) {
        self.client.settle();
        let node = Some(Node {
            id: "hostile".to_owned(),
            cluster: String::new(),
        });
        for kind in Kind::ALL {
            let nonce = self
                .nonces
                .get(&kind)
                .and_then(|known| known.last())
                .cloned()
                .unwrap_or_default();
            let mut names: Vec<String> = ["a", "b", "c", "gone"].map(str::to_owned).to_vec();
            if self.variant == Variant::World {
                let node = node.clone();
                let request = WorldRequest {
                    node,
                    names,
                    nonce,
                    ..WorldRequest::default()
                };
                self.client.request_world(kind, request);
            } else {
                names.push("*".to_owned());
                let node = node.clone();
                let request = Request {
                    node,
                    subscribe: names,
                    nonce,
                    ..Request::default()
                };
                self.client.request(kind, request);
            }
        }
        for _ in 0..200 {
            let answers = self.answers();
            if answers.is_empty() {
                break;
            }
            for answer in answers {
                self.acknowledge(&answer);
            }
        }
        assert_eq!(self.client.answers(), [], "it comes to an end");
    }

    fn acknowledge(&mut self, answer: &Response) {
        let (nonce, version) = (answer.nonce.clone(), answer.version.clone());
        if self.variant == Variant::World {
            let names = ["a", "b", "c", "gone"].map(str::to_owned).to_vec();
            let request = WorldRequest {
                names,
                version,
                nonce,
                ..WorldRequest::default()
            };
            self.client.request_world(answer.kind, request);
        } else {
            self.client.request(
                answer.kind,
                Request {
                    nonce,
                    ..Request::default()
                },
            );
        }
    }
}

#[test]
fn whatever_a_client_says_it_is_answered_in_measure_and_served_to_the_end() {
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            for _ in 0..STEPS {
                run.step();
            }
            run.offer(true);
            run.come_to_its_senses();
            for status in run.client.resources() {
                let fine = matches!(status.sync, Sync::Synced | Sync::Absent);
                assert!(fine, "{status:?}");
            }
        });
        assert!(run.is_ok(), "with seed {seed}");
    }
}
