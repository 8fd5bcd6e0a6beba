//! The services that an agent offers without HTTP.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeSet, HashMap};

use futures::{StreamExt as _, stream};
use graticule_proto::v1::qgis_server_client::QgisServerClient;
use graticule_proto::v1::response_chunk::Part;
use graticule_proto::v1::{ApiRequest, OwsRequest, PingRequest, ResponseChunk};
use stack::shots::get_map;
use stack::xml::Element;
use stack::{Agent, Plan};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

async fn channel(agent: &Agent) -> Channel {
    Endpoint::from_shared(format!("http://{}", agent.grpc()))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

/// An answer put together: status, headers, body, and in how many pieces the body came.
struct Whole {
    status: u32,
    headers: HashMap<String, String>,
    body: Vec<u8>,
    pieces: usize,
}

async fn whole(mut chunks: Streaming<ResponseChunk>) -> Whole {
    let Some(Part::Head(head)) = chunks.message().await.unwrap().unwrap().part else {
        panic!("the head comes first")
    };
    let headers = head
        .headers
        .into_iter()
        .map(|header| (header.name.to_lowercase(), header.value))
        .collect();
    let mut answer = Whole {
        status: head.status,
        headers,
        body: Vec::new(),
        pieces: 0,
    };
    while let Some(chunk) = chunks.message().await.unwrap() {
        let Some(Part::Body(piece)) = chunk.part else {
            panic!("one head only")
        };
        assert!(!piece.is_empty());
        answer.body.extend(piece);
        answer.pieces += 1;
    }
    answer
}

fn ows(project: &str, query: &str) -> OwsRequest {
    OwsRequest {
        project: project.into(),
        query: query.into(),
        ..OwsRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_over_grpc() {
    let stack = Plan::agents(1).start().await;
    let channel = channel(&stack.agents[0]).await;
    let mut client = QgisServerClient::new(channel.clone());

    let pong = client
        .ping(PingRequest { echo: "hello".into() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(pong.echo, "hello");

    // The same map as over HTTP.
    let target = get_map("40,0,60,20", 200);
    let query = target.strip_prefix("/?MAP=/world&").unwrap();
    let request = OwsRequest {
        request_id: "my-own.1".into(),
        ..ows("/world", query)
    };
    let answer = whole(client.execute_ows_request(request).await.unwrap().into_inner()).await;
    assert_eq!(
        (answer.status, answer.headers["content-type"].as_str()),
        (200, "image/png")
    );
    assert_eq!(answer.headers["x-request-id"], "my-own.1");
    assert_eq!(answer.headers["x-graticule-agent"], stack.agents[0].name);
    let pixels = |body: &[u8]| image::load_from_memory(body).unwrap().to_rgba8().into_raw();
    assert!(pixels(&answer.body) == pixels(&stack.get(&target).await.body));

    // Links start with the URL that the caller names.
    let request = OwsRequest {
        public_url: "https://maps.example.org/gis/ows/world".into(),
        ..ows("world", "SERVICE=WMS&REQUEST=GetCapabilities")
    };
    let answer = whole(client.execute_ows_request(request).await.unwrap().into_inner()).await;
    let document = Element::parse(&String::from_utf8(answer.body).unwrap()).unwrap();
    let links: Vec<&str> = document
        .find_all("OnlineResource")
        .iter()
        .map(|link| link.attribute("href").unwrap())
        .collect();
    assert!(
        links.len() > 5
            && links
                .iter()
                .all(|link| link.starts_with("https://maps.example.org/gis/ows/world")),
        "{links:?}"
    );

    let post = OwsRequest {
        method: "POST".into(),
        content_type: "text/xml".into(),
        body: br#"<GetFeature service="WFS" version="1.1.0" maxFeatures="3" outputFormat="application/json"
            xmlns="http://www.opengis.net/wfs"><Query typeName="countries"/></GetFeature>"#
            .to_vec(),
        ..ows("/world", "")
    };
    let answer = whole(client.execute_ows_request(post).await.unwrap().into_inner()).await;
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(json["features"].as_array().unwrap().len(), 3);

    let request = ApiRequest {
        project: "/world".into(),
        path: "/wfs3/collections/countries/items.json?limit=4".into(),
        ..ApiRequest::default()
    };
    let answer = whole(client.execute_api_request(request).await.unwrap().into_inner()).await;
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status, json["features"].as_array().unwrap().len()), (200, 4));

    // A large answer comes in many pieces.
    let query =
        "SERVICE=WFS&VERSION=1.1.0&REQUEST=GetFeature&TYPENAME=points&MAXFEATURES=20000&OUTPUTFORMAT=application/json";
    let answer = whole(
        client
            .execute_ows_request(ows("/points", query))
            .await
            .unwrap()
            .into_inner(),
    )
    .await;
    println!("{} bytes in {} pieces", answer.body.len(), answer.pieces);
    assert!(answer.pieces > 5 && answer.body.len() > 4_000_000);

    refusals(&mut client).await;
    health_and_reflection(channel).await;
}

async fn refusals(client: &mut QgisServerClient<Channel>) {
    // What HTTP clients are told by an exception document, these are told by the same.
    let answer = client
        .execute_ows_request(ows("/nowhere", "SERVICE=WMS&REQUEST=GetCapabilities"))
        .await
        .unwrap();
    let answer = whole(answer.into_inner()).await;
    assert_eq!(answer.status, 404);
    assert_eq!(
        Element::parse(&String::from_utf8(answer.body).unwrap()).unwrap().name,
        "ServiceExceptionReport"
    );
    // What is no request at all is refused as a call.
    let refused = client.execute_ows_request(ows("", "SERVICE=WMS")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let request = ApiRequest {
        project: "/world".into(),
        path: "wfs3".into(),
        ..ApiRequest::default()
    };
    let refused = client.execute_api_request(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}

async fn health_and_reflection(channel: Channel) {
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "graticule.v1.QgisServer", "graticule.v1.QgisAdmin"] {
        let answer = health
            .check(HealthCheckRequest {
                service: service.into(),
            })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.status().as_str_name(), "SERVING", "{service}");
    }
    let unknown = health
        .check(HealthCheckRequest {
            service: "no.such".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);

    let mut reflection = ServerReflectionClient::new(channel);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection
        .server_reflection_info(stream::iter([ask]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}")
    };
    let names: BTreeSet<String> = list.service.into_iter().map(|service| service.name).collect();
    for service in [
        "graticule.v1.QgisServer",
        "graticule.v1.QgisAdmin",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(service), "{names:?}");
    }
}
