//! How long it takes from an agent's word until a real Envoy acts on it.
//!
//!     cargo bench --workspace --profile dev --bench word
//!
//! Control plane and stand-in agents are in this process, Envoy is its own. A client asks for one project without a pause, over one
//! connection; the time runs from the agent's word to the end of the first answer that shows it, so one request is in it.
//! "Dead" is different: the agent's connections break, so that Envoy itself tries elsewhere at once, and what takes its time is that the
//! control plane waits for it to come back (`fleet.disconnect_grace`, 0.5 s).
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use graticule_proto::v1::AgentPhase;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use stack::bench::{Table, Times, announce};

#[path = "../tests/with_envoy/stack/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use the rest")]
mod stand_ins;

use stand_ins::{Agent, PATIENCE, Stack};

/// How often each word is said.
const WORDS: usize = 300;

/// A client on one connection.
struct Client(SendRequest<Full<Bytes>>);

impl Client {
    async fn connect(stack: &Stack) -> Self {
        let stream = tokio::net::TcpStream::connect(stack.front).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// The agent that answers.
    async fn asks(&mut self, project: &str) -> String {
        let request = Request::get(format!("/?MAP={project}&SERVICE=WMS"))
            .header("host", "maps.example.org")
            .body(Full::default())
            .unwrap();
        self.0.ready().await.unwrap();
        let answer = self.0.send_request(request).await.unwrap();
        let agent = answer.headers().get("x-graticule-agent");
        let agent = agent.map_or("", |value| value.to_str().unwrap()).to_owned();
        answer.into_body().collect().await.unwrap();
        agent
    }

    /// A project that this agent serves.
    async fn home_of(&mut self, agent: &str) -> String {
        let asked = Instant::now();
        for number in 0.. {
            let project = format!("/project{number}");
            if self.asks(&project).await == agent {
                return project;
            }
            assert!(asked.elapsed() < PATIENCE, "{agent} serves nothing");
        }
        unreachable!("there are more numbers than time")
    }

    /// The time until another agent, or this one, answers.
    async fn until_answered(&mut self, project: &str, since: Instant, by: impl Fn(&str) -> bool) -> Duration {
        while !by(&self.asks(project).await) {
            assert!(since.elapsed() < PATIENCE, "nothing changes");
        }
        since.elapsed()
    }
}

fn line(word: &str, shows: &str, times: &Times) -> [String; 5] {
    [
        word.to_owned(),
        shows.to_owned(),
        times.count().to_string(),
        format!("{:.1}", times.median()),
        format!("{:.1}", times.p99()),
    ]
}

#[tokio::main]
async fn main() {
    announce("word: from an agent's word to Envoy's behaviour");
    let mut table = Table::new(&["word", "seen by", "times", "p50 ms", "p99 ms"]);
    let (stack, [a, _b]) = Stack::with_agents(["a", "b"]).await;
    let mut client = Client::connect(&stack).await;
    let mut home = client.home_of("a").await;
    let (mut draining, mut ready) = (Vec::new(), Vec::new());
    for _ in 0..WORDS {
        let said = Instant::now();
        a.say(AgentPhase::Draining);
        draining.push(client.until_answered(&home, said, |agent| agent == "b").await);
        let said = Instant::now();
        a.say(AgentPhase::Ready);
        ready.push(client.until_answered(&home, said, |agent| agent == "a").await);
    }
    table.line(line("draining", "the other answers", &Times::new(draining)));
    table.line(line("ready", "it answers again", &Times::new(ready)));

    let (mut elsewhere, mut forgotten) = (Vec::new(), Vec::new());
    let mut agent = a;
    for _ in 0..WORDS / 20 {
        let died = Instant::now();
        drop(agent);
        elsewhere.push(client.until_answered(&home, died, |agent| agent == "b").await);
        stack.until_healthy("pool/default", 1).await;
        forgotten.push(died.elapsed());
        agent = Agent::start("a", "default", stack.config.fleet.listen);
        stack.until_healthy("pool/default", 2).await;
        // It has another address, so that the hash gives it other projects.
        home = client.home_of("a").await;
    }
    table.line(line("dead", "the other answers", &Times::new(elsewhere)));
    table.line(line("dead", "Envoy forgets it", &Times::new(forgotten)));
    table.print();
}
