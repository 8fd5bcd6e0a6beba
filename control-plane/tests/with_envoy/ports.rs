//! The control plane's own ports, without Envoy: what agents, tools, foreign xDS clients and people get there.

use std::time::Duration;

use control_plane::{Bound, Config, build};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use graticule_proto::v1::fleet_admin_client::FleetAdminClient;
use graticule_proto::v1::fleet_link_client::FleetLinkClient;
use graticule_proto::v1::{
    AgentHello, AgentPhase, AgentState, AgentUpdate, ListAgentsRequest, agent_intent, agent_update,
};
use hyper::Method;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::stack::{Agent, exchange, request, store_dir, until};

const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

pub async fn control_plane(change: impl FnOnce(&mut Config)) -> Bound {
    let mut config = Config::default();
    config.fleet.sync_window = 0.1;
    config.store.dir = store_dir();
    for listen in [
        &mut config.xds.listen,
        &mut config.fleet.listen,
        &mut config.status.listen,
    ] {
        listen.set_port(0);
    }
    change(&mut config);
    build(config).await.unwrap()
}

pub fn hello(agent_id: &str, data_address: &str) -> AgentUpdate {
    let (agent_id, data_address) = (agent_id.to_owned(), data_address.to_owned());
    let hello = AgentHello {
        agent_id,
        data_address,
        pool: "default".to_owned(),
        ..Default::default()
    };
    AgentUpdate {
        update: Some(agent_update::Update::Hello(hello)),
    }
}

pub fn state(phase: AgentPhase) -> AgentUpdate {
    let state = AgentState {
        phase: phase as i32,
        ..Default::default()
    };
    AgentUpdate {
        update: Some(agent_update::Update::State(state)),
    }
}

/// The error with which a stream of these updates ends.
async fn refusal(bound: &Bound, updates: Vec<AgentUpdate>) -> tonic::Status {
    let mut client = FleetLinkClient::connect(format!("http://{}", bound.addresses.fleet))
        .await
        .unwrap();
    let mut intents = client.attach(tokio_stream::iter(updates)).await.unwrap().into_inner();
    loop {
        match intents.message().await {
            Err(status) => return status,
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without an error"),
        }
    }
}

#[tokio::test]
async fn an_agent_is_welcomed_and_listed_until_its_grace_is_over() {
    let bound = control_plane(|_| {}).await;
    let address = format!("http://{}", bound.addresses.fleet);
    let mut link = FleetLinkClient::connect(address.clone()).await.unwrap();
    let mut admin = FleetAdminClient::connect(address).await.unwrap();
    let (updates, outgoing) = mpsc::channel(4);
    updates.send(hello("a", "127.0.0.1:5000")).await.unwrap();
    let mut intents = link.attach(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    let welcome = intents.message().await.unwrap().unwrap();
    assert!(matches!(welcome.intent, Some(agent_intent::Intent::Welcome(w)) if !w.control_plane_id.is_empty()));

    let mut told = async |expected: Option<(&str, bool)>| {
        for _ in 0..500 {
            let agents = admin
                .list_agents(ListAgentsRequest {})
                .await
                .unwrap()
                .into_inner()
                .agents;
            if agents.first().map(|a| (a.told.as_str(), a.attached)) == expected {
                return agents;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never told {expected:?}");
    };
    told(Some(("none", true))).await;
    updates.send(state(AgentPhase::Ready)).await.unwrap();
    let agents = told(Some(("healthy", true))).await;
    assert_eq!(agents[0].hello.as_ref().unwrap().data_address, "127.0.0.1:5000");
    updates.send(state(AgentPhase::Draining)).await.unwrap();
    told(Some(("draining", true))).await;
    drop((updates, intents));
    told(Some(("draining", false))).await;
    told(None).await;
    bound.stop().await;
}

#[tokio::test]
async fn a_stream_that_breaks_the_contract_is_told_why() {
    let bound = control_plane(|_| {}).await;
    for (updates, words) in [
        (
            vec![state(AgentPhase::Ready)],
            "the first message of a stream is the hello",
        ),
        (vec![hello("a", "localhost:80")], "set fleet.advertise_http"),
        (vec![hello("", "127.0.0.1:80")], "agent_id `` cannot be used"),
        (
            vec![hello("a", "127.0.0.1:80"), hello("a", "127.0.0.1:80")],
            "hello is said once",
        ),
        (
            vec![hello("a", "127.0.0.1:80"), state(AgentPhase::Unspecified)],
            "state.phase 0 is not known",
        ),
    ] {
        let status = refusal(&bound, updates).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(words), "{}", status.message());
    }
    bound.stop().await;
}

#[tokio::test]
async fn the_stream_of_a_replaced_agent_is_closed() {
    let bound = control_plane(|_| {}).await;
    let mut link = FleetLinkClient::connect(format!("http://{}", bound.addresses.fleet))
        .await
        .unwrap();
    let (updates, outgoing) = mpsc::channel(4);
    updates.send(hello("a", "127.0.0.1:5000")).await.unwrap();
    let mut intents = link.attach(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    intents.message().await.unwrap().unwrap();
    let _again = Agent::start("a", "default", bound.addresses.fleet);
    until("the agent to be healthy", async || {
        let page = exchange(bound.addresses.status, request(Method::GET, "/", &[], ""))
            .await
            .body;
        page.contains("<td>healthy</td>")
    })
    .await;
    updates.send(state(AgentPhase::Draining)).await.unwrap();
    // What it was told while it still spoke for the agent comes first.
    let status = loop {
        match intents.message().await {
            Ok(intent) => assert!(intent.is_some(), "the stream ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::Aborted,
            "this stream no longer speaks for the agent, attach again"
        )
    );
    bound.stop().await;
}

#[tokio::test]
async fn an_unknown_node_waits_and_is_counted() {
    let bound = control_plane(|_| {}).await;
    let mut client = AggregatedDiscoveryServiceClient::connect(format!("http://{}", bound.addresses.xds))
        .await
        .unwrap();
    for (cluster, answered) in [("else", false), ("graticule", true)] {
        let node = Some(Node {
            id: "x".to_owned(),
            cluster: cluster.to_owned(),
            ..Default::default()
        });
        let asks = DeltaDiscoveryRequest {
            node,
            type_url: CLUSTERS.to_owned(),
            ..Default::default()
        };
        // The stream of requests stays open.
        let requests = futures::StreamExt::chain(tokio_stream::iter([asks]), tokio_stream::pending());
        let mut answers = client.delta_aggregated_resources(requests).await.unwrap().into_inner();
        let answer = tokio::time::timeout(Duration::from_millis(600), answers.message()).await;
        assert_eq!(answer.is_ok(), answered, "{answer:?}");
    }
    let metrics = exchange(bound.addresses.status, request(Method::GET, "/metrics", &[], ""))
        .await
        .body;
    assert!(metrics.contains("graticule_xds_unknown_nodes_total 1"), "{metrics}");
    bound.stop().await;
}

#[tokio::test]
async fn nothing_is_told_before_the_sync_window_is_over() {
    let bound = control_plane(|config| config.fleet.sync_window = 0.8).await;
    let ready = async || exchange(bound.addresses.status, request(Method::GET, "/readyz", &[], "")).await;
    let early = ready().await;
    assert_eq!(
        (early.status.as_u16(), early.body.trim()),
        (503, "waiting for: the fleet to be known (sync window)")
    );
    until("readiness", async || ready().await.status == 200).await;
    bound.stop().await;
}

#[tokio::test]
async fn health_and_reflection_are_there() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request, server_reflection_response};

    let bound = control_plane(|_| {}).await;
    let address = format!("http://{}", bound.addresses.fleet);
    let channel = tonic::transport::Endpoint::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "graticule.v1.FleetLink", "graticule.v1.FleetAdmin"] {
        let status = health
            .check(HealthCheckRequest {
                service: service.to_owned(),
            })
            .await
            .unwrap()
            .into_inner()
            .status;
        assert_eq!(status, 1, "{service} serves");
    }
    let list = server_reflection_request::MessageRequest::ListServices(String::new());
    let ask = ServerReflectionRequest {
        message_request: Some(list),
        ..Default::default()
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let mut answers = reflection
        .server_reflection_info(tokio_stream::iter([ask]))
        .await
        .unwrap()
        .into_inner();
    let Some(server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services");
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(names.iter().any(|name| name == "graticule.v1.FleetLink"), "{names:?}");
    bound.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_said_with_its_key() {
    let bound = control_plane(|_| {}).await;
    let mut config = Config::default();
    config.xds.listen = bound.addresses.xds;
    let error = build(config).await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("cannot listen on {} (xds.listen)", bound.addresses.xds)),
        "{error}"
    );
    bound.stop().await;
}
