//! Pins of the fleet over the wire: agents are told what concerns their pool, and only words that take a pin into account
//! count for it.

use control_plane::Bound;
use graticule_proto::v1::fleet_admin_client::FleetAdminClient;
use graticule_proto::v1::fleet_link_client::FleetLinkClient;
use graticule_proto::v1::{
    AgentIntent, AgentPhase, AgentState, AgentUpdate, FleetPinProgress, FleetPinRequest, FleetPins, agent_intent,
    agent_update,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::ports::{control_plane, hello};
use crate::stack::PATIENCE;

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

    /// What it is told of pins next.
    async fn told(&mut self) -> FleetPins {
        loop {
            let intent = tokio::time::timeout(PATIENCE, self.intents.message()).await;
            let intent = intent.expect("told in time").unwrap().expect("the stream goes on");
            if let Some(agent_intent::Intent::Pins(told)) = intent.intent {
                return told;
            }
        }
    }

    async fn says(&self, revision: u64, loaded: &[&str], failed: &[&str]) {
        let problem = |project: &&str| ((*project).to_owned(), "damaged".to_owned());
        let state = AgentState {
            phase: AgentPhase::Ready.into(),
            pins: loaded.iter().map(|project| (*project).to_owned()).collect(),
            pin_problems: failed.iter().map(problem).collect(),
            pins_revision: revision,
            ..AgentState::default()
        };
        let update = Some(agent_update::Update::State(state));
        self.updates.send(AgentUpdate { update }).await.unwrap();
    }
}

async fn admin(bound: &Bound) -> FleetAdminClient<Channel> {
    FleetAdminClient::connect(format!("http://{}", bound.addresses.fleet))
        .await
        .unwrap()
}

fn wish(project: &str, pool: &str) -> FleetPinRequest {
    FleetPinRequest {
        project: project.to_owned(),
        pool: pool.to_owned(),
        replicas: 0,
    }
}

async fn next(progress: &mut Streaming<FleetPinProgress>) -> (Vec<(String, String)>, bool) {
    let message = tokio::time::timeout(PATIENCE, progress.message()).await;
    let message = message.expect("told in time").unwrap().expect("the stream goes on");
    let agents = message.agents.into_iter().map(|agent| (agent.agent_id, agent.state));
    (agents.collect(), message.done)
}

fn said(agents: &[(&str, &str)]) -> Vec<(String, String)> {
    let agents = agents.iter();
    agents
        .map(|(agent, state)| ((*agent).to_owned(), (*state).to_owned()))
        .collect()
}

#[tokio::test]
async fn progress_follows_words_that_take_the_pin_into_account() {
    let bound = control_plane(|config| config.fleet.sync_window = 0.0).await;
    let mut a = Link::attach(&bound, "a", 5100).await;
    let mut b = Link::attach(&bound, "b", 5101).await;
    for link in [&mut a, &mut b] {
        assert_eq!(link.told().await, FleetPins::default(), "also when there is nothing");
        link.says(0, &["/world"], &[]).await;
    }
    let mut admin = admin(&bound).await;
    let mut progress = admin.pin_project(wish("world.qgs", "")).await.unwrap().into_inner();
    // Both have said that they have it, of their own accord and before they took the pin.
    assert_eq!(
        next(&mut progress).await,
        (said(&[("a", "loading"), ("b", "loading")]), false)
    );
    let told = a.told().await;
    assert_eq!((told.projects, told.revision), (vec!["/world".to_owned()], 1));
    a.says(1, &["/world"], &[]).await;
    assert_eq!(next(&mut progress).await, (said(&[("a", "loaded")]), false));
    b.says(1, &[], &["/world"]).await;
    assert_eq!(next(&mut progress).await, (said(&[("b", "failed")]), true));

    // One that goes away is waited for no longer than the grace; one that comes is told, and starts without a word.
    let mut progress = admin.pin_project(wish("/other", "default")).await.unwrap().into_inner();
    assert_eq!(
        next(&mut progress).await,
        (said(&[("a", "loading"), ("b", "loading")]), false)
    );
    drop(b);
    assert_eq!(next(&mut progress).await, (said(&[("b", "gone")]), false));
    let mut c = Link::attach(&bound, "c", 5102).await;
    assert_eq!(next(&mut progress).await, (said(&[("c", "loading")]), false));
    let told = c.told().await;
    assert_eq!((told.projects.len(), told.revision), (2, 2));
    // Ended meanwhile: there is nothing to wait for.
    let ended = admin
        .unpin_project(wish("/other", "default"))
        .await
        .unwrap()
        .into_inner();
    assert!(ended.was_pinned);
    assert_eq!(next(&mut progress).await, (said(&[]), true));
    assert_eq!(c.told().await.projects, ["/world"]);

    let refused = admin.pin_project(wish("/world", "nowhere")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    bound.stop().await;
}
