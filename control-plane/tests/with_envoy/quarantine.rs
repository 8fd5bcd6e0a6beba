//! What agents report of requests that kill workers, over the wire: every agent hears of it, an agent that does not read
//! holds nobody up, operators can clear it, and a control plane that was started anew waits for its agents' words.

use std::time::Duration;

use control_plane::Bound;
use graticule_proto::v1::fleet_admin_client::FleetAdminClient;
use graticule_proto::v1::fleet_link_client::FleetLinkClient;
use graticule_proto::v1::{
    AgentIntent, AgentUpdate, ClearQuarantineRequest, FleetQuarantine, ListQuarantineRequest, QuarantineCleared,
    QuarantineEntry, WorkerKilled, agent_intent, agent_update,
};
use hyper::Method;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::ports::{control_plane, hello};
use crate::stack::{PATIENCE, exchange, request, store_dir};

const POISON: &str = "0123456789abcdef";

fn killed(fingerprint: &str, ages_seconds: &[f64], request: &str) -> AgentUpdate {
    let killed = WorkerKilled {
        fingerprint: fingerprint.to_owned(),
        project: "/slow".to_owned(),
        request: request.to_owned(),
        reason: "crash".to_owned(),
        ages_seconds: ages_seconds.to_vec(),
        window_seconds: 600.0,
        refuse_seconds: 300.0,
        limit: 2,
    };
    AgentUpdate {
        update: Some(agent_update::Update::Killed(killed)),
    }
}

/// An agent's end of its stream.
struct Link {
    updates: mpsc::Sender<AgentUpdate>,
    intents: Streaming<AgentIntent>,
}

impl Link {
    async fn attach(bound: &Bound, name: &str, port: u16) -> Self {
        let mut client = FleetLinkClient::connect(format!("http://{}", bound.addresses.fleet))
            .await
            .unwrap();
        let (updates, outgoing) = mpsc::channel(4);
        updates.send(hello(name, &format!("127.0.0.1:{port}"))).await.unwrap();
        let intents = client.attach(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Self { updates, intents }
    }

    async fn says(&self, update: AgentUpdate) {
        self.updates.send(update).await.unwrap();
    }

    /// What it is told next.
    async fn told(&mut self) -> FleetQuarantine {
        loop {
            let intent = tokio::time::timeout(PATIENCE, self.intents.message()).await;
            let intent = intent.expect("told in time").unwrap().expect("the stream goes on");
            if let Some(agent_intent::Intent::Quarantine(told)) = intent.intent {
                return told;
            }
        }
    }

    /// Waits until it is told what `holds`.
    async fn until_told(&mut self, holds: impl Fn(&FleetQuarantine) -> bool) -> FleetQuarantine {
        loop {
            let told = self.told().await;
            if holds(&told) {
                return told;
            }
        }
    }
}

async fn list(bound: &Bound) -> Vec<QuarantineEntry> {
    let address = format!("http://{}", bound.addresses.fleet);
    let mut admin = FleetAdminClient::connect(address).await.unwrap();
    let reply = admin.list_quarantine(ListQuarantineRequest {}).await.unwrap();
    reply.into_inner().entries
}

async fn clear(bound: &Bound, fingerprint: &str) -> Result<u32, tonic::Status> {
    let address = format!("http://{}", bound.addresses.fleet);
    let mut admin = FleetAdminClient::connect(address).await.unwrap();
    let fingerprint = fingerprint.to_owned();
    let reply = admin.clear_quarantine(ClearQuarantineRequest { fingerprint }).await?;
    Ok(reply.into_inner().cleared)
}

async fn page(bound: &Bound, path: &str) -> String {
    exchange(bound.addresses.status, request(Method::GET, path, &[], ""))
        .await
        .body
}

#[tokio::test]
async fn every_agent_hears_of_kills_and_of_clearings() {
    let bound = control_plane(|_| {}).await;
    let mut a = Link::attach(&bound, "a", 5000).await;
    let mut b = Link::attach(&bound, "b", 5001).await;
    assert_eq!(a.told().await, FleetQuarantine::default(), "also when there is nothing");

    a.says(killed(POISON, &[0.0], "GET /ows/slow?<b>")).await;
    let told = b.until_told(|told| !told.entries.is_empty()).await;
    assert_eq!(told.entries[0].agents.keys().collect::<Vec<_>>(), ["a"]);
    assert!(!told.entries[0].refused);
    a.says(killed(POISON, &[0.1], "GET /ows/slow?<b>")).await;
    b.says(killed(POISON, &[0.0], "GET /ows/slow?<b>")).await;
    for link in [&mut a, &mut b] {
        let told = link.until_told(|told| told.entries.iter().any(|e| e.refused)).await;
        assert_eq!(told.entries[0].kills, 2, "what is said twice is counted once: {told:?}");
    }
    let listed = list(&bound).await;
    assert!(listed[0].refused && listed[0].project == "/slow" && listed[0].reason == "crash");
    assert!((540.0..=600.0).contains(&listed[0].remaining_seconds), "{listed:?}");
    assert!(page(&bound, "/").await.contains("<td>GET /ows/slow?&lt;b&gt;</td>"));
    let metrics = page(&bound, "/metrics").await;
    assert!(
        metrics.contains(r#"graticule_cp_quarantine_entries{state="refused"} 1"#),
        "{metrics}"
    );

    // b takes its part back: successes outweigh it.
    b.says(killed(POISON, &[], "")).await;
    a.until_told(|told| told.entries.iter().all(|e| !e.refused)).await;
    assert_eq!(clear(&bound, POISON).await.unwrap(), 1);
    let told = b.until_told(|told| told.entries.is_empty()).await;
    assert_eq!(told.cleared[0].fingerprint, POISON);
    assert_eq!(
        clear(&bound, POISON).await.unwrap(),
        0,
        "clearing what is not there succeeds"
    );
    assert_eq!(clear(&bound, "").await.unwrap(), 0);
    assert_eq!(clear(&bound, "x").await.unwrap_err().code(), Code::InvalidArgument);

    // An operator clears on an agent.
    a.says(killed(POISON, &[0.0], "GET /")).await;
    b.until_told(|told| !told.entries.is_empty()).await;
    let cleared = QuarantineCleared::default();
    a.says(AgentUpdate {
        update: Some(agent_update::Update::Cleared(cleared)),
    })
    .await;
    b.until_told(|told| told.entries.is_empty()).await;
    // What was before the clearing does not come back.
    b.says(killed(POISON, &[500.0], "GET /")).await;
    b.says(killed("00000000000000ff", &[0.0], "GET /")).await;
    let other = |entry: &QuarantineEntry| entry.fingerprint == "00000000000000ff";
    let told = a.until_told(|told| told.entries.iter().any(other)).await;
    assert_eq!(told.entries.len(), 1, "{told:?}");

    a.says(killed("nonsense", &[0.0], "GET /")).await;
    let refusal = loop {
        match a.intents.message().await {
            Ok(intent) => assert!(intent.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(refusal.code(), Code::InvalidArgument);
    assert!(refusal.message().contains("killed.fingerprint `nonsense`"), "{refusal}");
    bound.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_read_holds_nobody_up() {
    let bound = control_plane(|_| {}).await;
    let mut stuck = Link::attach(&bound, "stuck", 5000).await;
    let a = Link::attach(&bound, "a", 5001).await;
    let mut b = Link::attach(&bound, "b", 5002).await;
    let last = 200;
    // More than all buffers on the way hold: in the end a message has 400 kB.
    let text = "x".repeat(2048);
    let reader = tokio::spawn(async move {
        b.until_told(|told| told.entries.len() == last).await;
        b
    });
    for n in 1..=last {
        a.says(killed(&format!("{n:016x}"), &[0.0], &text)).await;
    }
    let _b = reader.await.unwrap();
    // It is heard all the same, and told what holds when it reads again, not all that was between.
    stuck.says(killed(&format!("{:016x}", 1), &[0.0], "")).await;
    for _ in 0..500 {
        if list(&bound).await[0].refused {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut messages = 1;
    while !stuck.told().await.entries.iter().any(|entry| entry.refused) {
        messages += 1;
    }
    assert!(messages < last / 2, "{messages} messages were kept for it");
    bound.stop().await;
}

#[tokio::test]
async fn nothing_is_told_before_the_sync_window_is_over() {
    let bound = control_plane(|config| config.fleet.sync_window = 1.0).await;
    let mut a = Link::attach(&bound, "a", 5000).await;
    // It remembers a kill elsewhere that this control plane does not know yet; an empty word would take it away.
    a.says(killed(POISON, &[3.0], "GET /")).await;
    let b = Link::attach(&bound, "b", 5001).await;
    b.says(killed(POISON, &[2.0], "GET /")).await;
    let first = a.told().await;
    assert!(first.entries[0].refused && first.entries[0].kills == 2, "{first:?}");
    bound.stop().await;
}

#[tokio::test]
async fn it_is_there_after_a_restart_when_all_agents_have_gone() {
    let dir = store_dir();
    let bound = control_plane(|config| config.store.dir.clone_from(&dir)).await;
    let mut a = Link::attach(&bound, "a", 5200).await;
    a.says(killed(POISON, &[30.0, 1.0], "GET /ows/slow")).await;
    a.until_told(|told| told.entries.iter().any(|entry| entry.refused))
        .await;
    drop(a);
    // At once: what has not been written yet is written at the end.
    bound.stop().await;
    let bound = control_plane(|config| config.store.dir.clone_from(&dir)).await;
    let kept = list(&bound).await;
    assert!(kept.len() == 1 && kept[0].refused && kept[0].kills == 2, "{kept:?}");
    let mut b = Link::attach(&bound, "b", 5201).await;
    let told = b.until_told(|told| !told.entries.is_empty()).await;
    let ages = &told.entries[0].agents["a"].ages_seconds;
    assert!((30.0..60.0).contains(&ages[0]), "{ages:?}");
    // What an operator lets through stays so.
    assert_eq!(clear(&bound, POISON).await.unwrap(), 1);
    bound.stop().await;
    let bound = control_plane(|config| config.store.dir.clone_from(&dir)).await;
    assert_eq!(list(&bound).await.len(), 0);
    bound.stop().await;
}
