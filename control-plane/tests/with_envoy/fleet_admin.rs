//! Orders to the fleet and questions about it, over the wire: agents of the test's own answer them.

use std::net::SocketAddr;

use graticule_proto::v1::fleet_admin_client::FleetAdminClient;
use graticule_proto::v1::{
    AgentPhase, CachedProject, CatalogItem, FleetOrder, FleetProgress, GetAgentRequest, ListCacheReply,
    ListCatalogRequest, ListFleetCacheRequest, ProjectUpdate, ResizeAgentsRequest, ResizeRequest, StatsReply,
    UpdateCacheReply, UpdateCacheRequest, UpdateFleetCacheRequest, WatchAgentsRequest, call_result,
};
use prost::Message;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::calls::{Agent, end};
use crate::ports::{control_plane, state};
use crate::stack::PATIENCE;

const METHODS: &str = "/graticule.v1.QgisAdmin/";

async fn admin(fleet: SocketAddr) -> FleetAdminClient<Channel> {
    FleetAdminClient::connect(format!("http://{fleet}")).await.unwrap()
}

async fn agent(fleet: SocketAddr, name: &str, port: u16) -> Agent {
    let agent = Agent::attach(fleet, name, port).await;
    agent.updates.send(state(AgentPhase::Ready)).await.unwrap();
    agent
}

/// Answers the next call, which has to be of this method, with a message or a refusal.
pub async fn answers(agent: &mut Agent, method: &str, answer: Result<&impl Message, &str>) -> Vec<u8> {
    let call = agent.called().await;
    assert_eq!(call.method, format!("{METHODS}{method}"));
    match answer {
        Ok(message) => {
            let message = call_result::Part::Message(message.encode_to_vec());
            agent.says(call.id, message).await;
            agent.says(call.id, end(Code::Ok, "")).await;
        }
        Err(problem) => agent.says(call.id, end(Code::FailedPrecondition, problem)).await,
    }
    call.request
}

async fn next<T>(stream: &mut Streaming<T>) -> Option<T> {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await;
    message.expect("told in time").unwrap()
}

/// What is told until an agent has got to a state.
async fn until(progress: &mut Streaming<FleetProgress>, agent: &str, state: &str) -> bool {
    loop {
        let told = next(progress).await.expect("the stream goes on");
        if told
            .agents
            .iter()
            .any(|one| one.agent_id == agent && one.state == state)
        {
            return told.done;
        }
        assert!(!told.done, "{agent} never got to {state}");
    }
}

fn all(rolling: bool) -> FleetOrder {
    FleetOrder {
        all: true,
        rolling,
        ..FleetOrder::default()
    }
}

#[tokio::test]
async fn orders_reach_the_agents_that_are_meant_one_after_the_other_where_that_is_asked_for() {
    let bound = control_plane(|config| config.fleet.sync_window = 0.0).await;
    let fleet = bound.addresses.fleet;
    let mut admin = admin(fleet).await;
    let nobody = admin.drain_agents(all(false)).await.unwrap_err();
    assert_eq!(nobody.code(), Code::NotFound);
    let mut watched = admin.watch_agents(WatchAgentsRequest {}).await.unwrap().into_inner();
    assert!(next(&mut watched).await.unwrap().agents.is_empty());
    let (mut a, mut b) = (agent(fleet, "a", 5300).await, agent(fleet, "b", 5301).await);
    let mut seen = 0;
    while seen < 2 {
        let told = next(&mut watched).await.unwrap();
        seen += told.agents.iter().filter(|agent| agent.told == "healthy").count();
    }
    let vague = admin.drain_agents(FleetOrder::default()).await.unwrap_err();
    assert_eq!(vague.code(), Code::InvalidArgument);

    // All at once; one refuses, and the other does it all the same.
    let order = ResizeAgentsRequest {
        agents: Some(all(false)),
        workers: 5,
    };
    let mut progress = admin.resize_agents(order).await.unwrap().into_inner();
    answers(&mut b, "Resize", Err::<&ResizeRequest, _>("not now")).await;
    assert!(!until(&mut progress, "b", "failed").await);
    let request = answers(&mut a, "Resize", Ok(&ResizeRequest::default())).await;
    assert_eq!(ResizeRequest::decode(&*request).unwrap().workers, 5);
    assert!(until(&mut progress, "a", "done").await);
    assert!(next(&mut progress).await.is_none());

    // One after the other: b hears of it when a is ready again.
    let mut progress = admin.reload_agents(all(true)).await.unwrap().into_inner();
    a.updates.send(state(AgentPhase::Starting)).await.unwrap();
    loop {
        let told = next(&mut watched).await.unwrap();
        if told.agents.iter().any(|agent| agent.told == "none") {
            break;
        }
    }
    answers(&mut a, "Reload", Ok(&ResizeRequest::default())).await;
    assert!(!until(&mut progress, "a", "settling").await);
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), b.called()).await;
    assert!(early.is_err(), "b was asked before a was ready");
    a.updates.send(state(AgentPhase::Ready)).await.unwrap();
    answers(&mut b, "Reload", Ok(&ResizeRequest::default())).await;
    assert!(until(&mut progress, "b", "done").await);

    // After a failure nobody else is asked.
    let mut progress = admin.reload_agents(all(true)).await.unwrap().into_inner();
    answers(&mut a, "Reload", Err::<&ResizeRequest, _>("QGIS says no")).await;
    let last = loop {
        let told = next(&mut progress).await.unwrap();
        if told.done {
            break told;
        }
    };
    let states: Vec<_> = last
        .agents
        .iter()
        .map(|agent| (agent.state.as_str(), agent.problem.as_str()))
        .collect();
    assert_eq!(states, [("failed", "QGIS says no"), ("skipped", "")]);
    bound.stop().await;
}

#[tokio::test]
async fn what_agents_know_is_gathered_and_who_cannot_be_asked_is_named() {
    let bound = control_plane(|config| config.fleet.sync_window = 0.0).await;
    let fleet = bound.addresses.fleet;
    let mut admin = admin(fleet).await;
    let (mut a, mut b) = (agent(fleet, "a", 5310).await, agent(fleet, "b", 5311).await);

    let asked = |agent_id: &str| GetAgentRequest {
        agent_id: agent_id.to_owned(),
    };
    let unknown = admin.get_agent(asked("c")).await.unwrap_err();
    assert_eq!(unknown.message(), "no agent `c` is attached; there are a, b");
    let stats = StatsReply {
        uptime_seconds: 3.0,
        ..StatsReply::default()
    };
    let (got, _) = tokio::join!(admin.get_agent(asked("a")), answers(&mut a, "Stats", Ok(&stats)));
    let got = got.unwrap().into_inner();
    assert_eq!((got.stats, got.problem.as_str()), (Some(stats), ""));
    assert_eq!(got.agent.unwrap().hello.unwrap().agent_id, "a");

    let mut cache = admin
        .list_fleet_cache(ListFleetCacheRequest::default())
        .await
        .unwrap()
        .into_inner();
    let project = CachedProject {
        project: "/world".to_owned(),
        ..CachedProject::default()
    };
    let projects = vec![project];
    answers(&mut b, "ListCache", Ok(&ListCacheReply { projects })).await;
    let told = next(&mut cache).await.unwrap();
    assert_eq!((told.agent_id.as_str(), told.projects.len()), ("b", 1));
    answers(&mut a, "ListCache", Err::<&ListCacheReply, _>("busy")).await;
    let told = next(&mut cache).await.unwrap();
    assert_eq!((told.agent_id.as_str(), told.problem.as_str()), ("a", "busy"));
    assert!(next(&mut cache).await.is_none());

    // Whoever has published something has all look at once.
    let asked = UpdateFleetCacheRequest {
        project: "world".to_owned(),
        ..UpdateFleetCacheRequest::default()
    };
    let mut updates = admin.update_fleet_cache(asked).await.unwrap().into_inner();
    let found = ProjectUpdate {
        project: "/world".to_owned(),
        state: "changed".to_owned(),
        ..ProjectUpdate::default()
    };
    let projects = vec![found];
    let question = answers(&mut b, "UpdateCache", Ok(&UpdateCacheReply { projects })).await;
    let question = UpdateCacheRequest::decode(&question[..]).unwrap();
    assert_eq!(question.projects, ["/world"]);
    let told = next(&mut updates).await.unwrap();
    assert_eq!(
        (told.agent_id.as_str(), told.projects[0].state.as_str()),
        ("b", "changed")
    );
    answers(&mut a, "UpdateCache", Err::<&UpdateCacheReply, _>("busy")).await;
    let told = next(&mut updates).await.unwrap();
    assert_eq!((told.agent_id.as_str(), told.problem.as_str()), ("a", "busy"));
    assert!(next(&mut updates).await.is_none());
    let hostile = UpdateFleetCacheRequest {
        project: "../etc".to_owned(),
        ..UpdateFleetCacheRequest::default()
    };
    let refused = admin.update_fleet_cache(hostile).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);

    // One of the pool is asked; when it cannot tell, another one is.
    let mut catalog = admin
        .list_catalog(ListCatalogRequest::default())
        .await
        .unwrap()
        .into_inner();
    answers(&mut a, "Catalog", Err::<&CatalogItem, _>("the disk is away")).await;
    let item = CatalogItem {
        project: "/world".to_owned(),
        ..CatalogItem::default()
    };
    answers(&mut b, "Catalog", Ok(&item)).await;
    let told = next(&mut catalog).await.unwrap();
    assert_eq!(
        (told.agent_id.as_str(), told.item.unwrap().project.as_str()),
        ("b", "/world")
    );
    assert!(next(&mut catalog).await.is_none());
    bound.stop().await;
}
