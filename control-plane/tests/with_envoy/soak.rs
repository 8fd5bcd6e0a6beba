//! Clients that speak xDS at random, legally and not, in both variants, while the fleet changes: the control plane neither
//! ends, nor grows, nor sends the same again and again, and a decent client is served all the while.

use std::path::Path;
use std::time::{Duration, Instant};

use ::stack::memory::Memory;
use control_plane::adapters::envoy::type_url;
use control_plane::core::resources::Kind;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc::Status;
use graticule_daemon::dice::Dice;
use graticule_proto::v1::AgentPhase;
use hyper::Method;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::stack::{exchange, request, until};
use crate::world::{Agents, Envoy, Program, asks, stuck};

/// Clients at once, how long they speak, and words of each stream at most.
const CLIENTS: u64 = 16;
const SPEAK: Duration = Duration::from_secs(12);
const WORDS: u64 = 60;

const NAMES: [&str; 6] = ["pool/default", "front", "pool/none", "*", "", "pool/default/…"];

struct Speaker {
    dice: Dice,
    nonces: Vec<String>,
}

impl Speaker {
    fn upto(&mut self, most: u64) -> u64 {
        self.dice.roll(most + 1)
    }

    fn often(&mut self, one_in: u64) -> bool {
        self.upto(one_in - 1) == 0
    }

    fn kind(&mut self) -> String {
        let kinds = Kind::ALL.map(type_url);
        match usize::try_from(self.upto(6)).unwrap() {
            at if at < kinds.len() => kinds[at].clone(),
            5 => String::new(),
            _ => "type.googleapis.com/envoy.config.no.such.v9.Thing".to_owned(),
        }
    }

    fn names(&mut self) -> Vec<String> {
        let count = if self.often(20) { 2000 } else { self.upto(3) };
        (0..count)
            .map(|number| match usize::try_from(self.upto(NAMES.len() as u64)).unwrap() {
                at if at < NAMES.len() => NAMES[at].to_owned(),
                _ => format!("name-{number}-{}", "x".repeat(200)),
            })
            .collect()
    }

    fn nonce(&mut self) -> String {
        if self.nonces.is_empty() || self.often(4) {
            return if self.often(2) {
                String::new()
            } else {
                "made-up".to_owned()
            };
        }
        let at = self.upto(self.nonces.len() as u64 - 1);
        self.nonces[usize::try_from(at).unwrap()].clone()
    }

    fn node(&mut self) -> Option<Node> {
        let id = format!("soak-{}", self.upto(50));
        (!self.often(3)).then(|| Node {
            id,
            cluster: if self.often(8) { "else" } else { "graticule" }.to_owned(),
            ..Default::default()
        })
    }

    fn refusal(&mut self) -> Option<Status> {
        self.often(3).then(|| Status {
            code: 3,
            message: "no ".repeat(usize::try_from(self.upto(3000)).unwrap()),
            ..Default::default()
        })
    }

    fn delta(&mut self) -> DeltaDiscoveryRequest {
        let known = self.names().into_iter().map(|name| (name, "some".to_owned()));
        let initial_resource_versions = if self.often(3) {
            known.collect()
        } else {
            Default::default()
        };
        DeltaDiscoveryRequest {
            node: self.node(),
            type_url: self.kind(),
            resource_names_subscribe: self.names(),
            resource_names_unsubscribe: self.names(),
            initial_resource_versions,
            response_nonce: self.nonce(),
            error_detail: self.refusal(),
            ..Default::default()
        }
    }

    fn whole(&mut self) -> DiscoveryRequest {
        DiscoveryRequest {
            version_info: self.nonce(),
            node: self.node(),
            resource_names: self.names(),
            type_url: self.kind(),
            response_nonce: self.nonce(),
            error_detail: self.refusal(),
            ..Default::default()
        }
    }
}

/// One stream after the other until the time is over; gives how many answers there were.
async fn speaks(channel: Channel, mut speaker: Speaker, until: Instant) -> u64 {
    let mut answers = 0;
    while Instant::now() < until {
        let mut client = AggregatedDiscoveryServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
        let words = speaker.upto(WORDS);
        let silent = speaker.often(8);
        speaker.nonces.clear();
        // A stream may be refused at any time, and then the next one is opened.
        if speaker.often(2) {
            let (requests, outgoing) = mpsc::channel(1);
            let Ok(stream) = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await else {
                continue;
            };
            let mut stream = stream.into_inner();
            for _ in 0..words {
                if requests.send(speaker.delta()).await.is_err() || silent {
                    break;
                }
                while let Ok(Ok(Some(answer))) = tokio::time::timeout(Duration::from_millis(2), stream.message()).await
                {
                    answers += 1;
                    speaker.nonces.push(answer.nonce);
                }
            }
        } else {
            let (requests, outgoing) = mpsc::channel(1);
            let Ok(stream) = client.stream_aggregated_resources(ReceiverStream::new(outgoing)).await else {
                continue;
            };
            let mut stream = stream.into_inner();
            for _ in 0..words {
                if requests.send(speaker.whole()).await.is_err() || silent {
                    break;
                }
                while let Ok(Ok(Some(answer))) = tokio::time::timeout(Duration::from_millis(2), stream.message()).await
                {
                    answers += 1;
                    speaker.nonces.push(answer.nonce);
                }
            }
        }
    }
    answers
}

async fn round(program: &Program, fleet: &Agents, decent: &mut Envoy, seed: u64) -> u64 {
    let until = Instant::now() + SPEAK;
    let mut speakers = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let endpoint = Channel::from_shared(format!("http://{}", program.xds)).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let speaker = Speaker {
            dice: Dice::seeded(seed * 1000 + client),
            nonces: Vec::new(),
        };
        speakers.spawn(speaks(channel, speaker, until));
    }
    let mut agent = 0;
    while Instant::now() < until {
        for phase in [AgentPhase::Draining, AgentPhase::Ready] {
            let before = decent.times_told("pool/default");
            fleet.say(agent % 20, phase);
            decent.until_told("pool/default", before).await;
        }
        agent += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    speakers.join_all().await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_speak_at_random_harm_nobody() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(7);
    println!("SEED={seed}");
    let variables = [
        ("CONF_FLEET__SYNC_WINDOW", "0".to_owned()),
        ("CONF_LOGGING__LEVEL", "error".to_owned()),
    ];
    let mut program = Program::start(Path::new(env!("CARGO_BIN_EXE_control-plane")), &variables).await;
    let fleet = Agents::attach(program.fleet, 20, |_| "default".to_owned()).await;
    let _stuck = stuck(program.xds).await;
    let mut decent = Envoy::start(program.xds, "decent").await;
    // Else an agent that has only come would say nothing new.
    decent.until_told_of("pool/default", 20).await;

    // What the first round needs may stay: buffers, threads, counters.
    let mut answers = round(&program, &fleet, &mut decent, seed).await;
    let before = Memory::of(program.pid()).resident;
    for more in 1..3 {
        answers += round(&program, &fleet, &mut decent, seed + more).await;
    }
    let after = Memory::of(program.pid()).resident;
    let cpu = program.cpu();
    println!("{answers} answers in {cpu:?} of processor time; resident {before} before, {after} after bytes");
    assert!(answers > 1000, "they were heard");
    assert!(!program.has_ended(), "no panic ends it");
    assert!(
        after < before + before / 4 + (8 << 20),
        "it does not grow: {before} {after}"
    );
    until(
        "only the decent and the stuck one are left of all clients",
        async || {
            let metrics = exchange(program.status, request(Method::GET, "/metrics", &[], "")).await;
            metrics.body.lines().any(|line| line == "graticule_xds_clients 2")
        },
    )
    .await;

    // Nothing changes any more: nobody is told anything, one that refuses everything neither.
    let told = decent.told.borrow().answers;
    let endpoint = Channel::from_shared(format!("http://{}", program.xds)).unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(endpoint.connect().await.unwrap());
    let (requests, outgoing) = mpsc::channel(8);
    requests.send(asks("refuses", Kind::Cluster, &[])).await.unwrap();
    let stream = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await;
    let mut stream = stream.unwrap().into_inner();
    let mut refused = 0;
    while let Ok(answer) = tokio::time::timeout(Duration::from_secs(2), stream.message()).await {
        let answer = answer.unwrap().unwrap();
        refused += 1;
        let no = DeltaDiscoveryRequest {
            type_url: answer.type_url,
            response_nonce: answer.nonce,
            error_detail: Some(Status {
                code: 3,
                message: "no".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        requests.send(no).await.unwrap();
        assert!(refused < 5, "the same is sent again and again");
    }
    assert!(refused > 0);
    assert_eq!(decent.told.borrow().answers, told, "a quiet fleet is quiet");
    let mut late = Envoy::start(program.xds, "late").await;
    late.until_told("pool/default", 0).await;
}
