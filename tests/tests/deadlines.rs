//! How long requests may take: the operator's times by service and request, and shorter ones that clients name. And how
//! deep requests of this very server may lead to others.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use graticule_proto::v1::qgis_server_client::QgisServerClient;
use graticule_proto::v1::response_chunk::Part;
use graticule_proto::v1::{OwsRequest, ResponseChunk};
use nix::sys::signal::Signal;
use stack::shots::get_map;
use stack::{Agent, Answer, Client, Plan, until};
use tonic::transport::Endpoint;
use tonic::{Code, Request};

/// What is asked of the project `slow`: a map that takes far longer than any deadline of these tests.
const SLOW: &str = "SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=labels,glow,land&STYLES=&CRS=EPSG:4326\
                    &BBOX=-90,-180,90,180&WIDTH=8000&HEIGHT=4000&FORMAT=image/png";
const PRINT: &str = "/ows/world?SERVICE=WMS&VERSION=1.3.0&REQUEST=GetPrint&FORMAT=pdf&TEMPLATE=A4&CRS=EPSG:4326\
                     &map0:EXTENT=30,-20,70,54&DPI=60";

/// Asks for the slow map and expects to be refused at a deadline of so many seconds, as the text says it.
async fn late(client: &Client, headers: &[(&str, &str)], least: Duration, said: &str) {
    let sent = Instant::now();
    let answer = client.get_with(&format!("/ows/slow?{SLOW}"), headers).await;
    let took = sent.elapsed();
    println!("{headers:?}: answered after {:.2} s", took.as_secs_f64());
    let (code, text) = answer.expect(504).exception();
    assert_eq!(code, "DeadlineExceeded");
    assert!(text.contains(&format!("within {said} s")), "{text}");
    assert!(
        took >= least,
        "{headers:?}: given up after {took:?}, before the deadline"
    );
}

fn refusal(answer: &Answer, status: u16) -> (String, String) {
    let (code, text) = answer.expect(status).exception();
    let id = answer.header("x-request-id");
    assert!(!id.is_empty() && text.contains(id), "no {id} in: {text}");
    (code, text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_ask_for_less_time_and_never_for_more() {
    let stack = Plan::agents(1)
        .agent("CONF_SERVER__TIMEOUT", 4)
        .agent("CONF_WORKER__CANCEL_TIMEOUT", 0.5)
        .start()
        .await;
    let client = stack.client();
    let asked = [("x-request-timeout", "1.5")];
    late(client, &asked, Duration::from_millis(1500), "2").await;
    late(client, &[("grpc-timeout", "1S")], Duration::from_secs(1), "1").await;
    let asked = [("X-Request-Timeout", "600")];
    late(client, &asked, Duration::from_secs(4), "4").await;

    // Whoever is impatient by his own wish makes no worker fail: else he could make the agent give up.
    let agent = &stack.agents[0];
    until("the last late worker to be gone", async || {
        agent.stats().await.exits.get("deadline") == Some(&1)
    })
    .await;
    assert_eq!(agent.stats().await.exits.get("abandoned"), Some(&2));

    for bad in ["0", "-1", "soon", "1e3", "inf", "1,5"] {
        let target = "/ows/world?SERVICE=WFS&VERSION=1.1.0&REQUEST=GetCapabilities";
        let answer = client.get_with(target, &[("x-request-timeout", bad)]).await;
        let (code, text) = refusal(&answer, 400);
        assert_eq!(code, "InvalidRequest", "{bad}");
        assert!(text.contains(bad) && text.contains("such as 2.5"), "{bad}: {text}");
        assert_eq!(answer.xml().name, "ExceptionReport");
    }
    // Enough time is no hindrance.
    client
        .get_with(&get_map("40,0,60,20", 64), &[("x-request-timeout", "3.9")])
        .await
        .expect(200);
}

/// Waits until both workers are idle, and stops them.
async fn stop_workers(agent: &Agent) -> Vec<graticule_proto::v1::WorkerInfo> {
    let mut idle = Vec::new();
    until("two idle workers", async || {
        idle = agent.workers().await;
        idle.len() == 2 && idle.iter().all(|worker| worker.state == "idle")
    })
    .await;
    for worker in &idle {
        agent.signal_worker(worker, Signal::SIGSTOP);
    }
    idle
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_service_and_request_has_its_own_time() {
    let stack = Plan::agents(1)
        .agent("CONF_SERVER__TIMEOUT", 30)
        .agent(
            "CONF_SERVER__TIMEOUTS",
            r#"{"wms/getmap": 2, "WMS/GetPrint": 40, "wfs3": 3}"#,
        )
        .agent("CONF_WORKER__CANCEL_TIMEOUT", 0.5)
        .start()
        .await;
    let agent = &stack.agents[0];
    let client = stack.client();
    client.get(PRINT).await.expect(200);
    late(client, &[], Duration::from_secs(2), "2").await;

    // Nobody works, so that every request goes on until its own deadline; a print does so past that of maps.
    let stopped = stop_workers(agent).await;
    let print = tokio::spawn({
        let client = client.clone();
        async move { client.get(PRINT).await }
    });
    let api = tokio::spawn({
        let client = client.clone();
        async move { client.get("/ows/world/wfs3/collections.json").await }
    });
    let answer = api.await.unwrap();
    let (code, text) = refusal(&answer, 504);
    assert_eq!(code, "DeadlineExceeded");
    assert!(text.contains("within 3 s"), "{text}");
    assert!(
        !print.is_finished(),
        "the print was given up at another request's deadline"
    );
    for worker in &stopped {
        agent.signal_worker(worker, Signal::SIGCONT);
    }
    assert_eq!(print.await.unwrap().expect(200).media_type(), "application/pdf");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_of_a_grpc_call_ends_its_work() {
    // Far longer than this test waits for anything: only the call's own deadline can end the work.
    let stack = Plan::agents(1)
        .agent("CONF_SERVER__TIMEOUT", 300)
        .agent("CONF_WORKER__CANCEL_TIMEOUT", 0.5)
        .start()
        .await;
    let agent = &stack.agents[0];
    let channel = Endpoint::from_shared(format!("http://{}", agent.grpc())).unwrap();
    let mut client = QgisServerClient::new(channel.connect().await.unwrap());
    let ask = |project: &str, query: &str| {
        Request::new(OwsRequest {
            project: project.into(),
            query: query.into(),
            ..OwsRequest::default()
        })
    };

    let mut request = ask("/slow", SLOW);
    request.set_timeout(Duration::from_millis(1500));
    match client.execute_ows_request(request).await {
        // The agent's word and the client's own clock come at the same moment.
        Ok(answer) => assert_eq!(status(answer.into_inner().message().await.unwrap()), 504),
        Err(error) => assert!(
            matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled),
            "{error}"
        ),
    }
    until("the worker to be free or replaced", async || {
        let workers = agent.workers().await;
        workers.len() == 2 && workers.iter().all(|worker| worker.state == "idle")
    })
    .await;

    for (timeout, expected) in [("soon", 400), ("5x", 400), ("20S", 200)] {
        let mut request = ask("/world", "SERVICE=WMS&REQUEST=GetCapabilities");
        request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
        let answer = client.execute_ows_request(request).await.unwrap();
        let head = answer.into_inner().message().await.unwrap();
        assert_eq!(status(head), expected, "{timeout}");
    }
}

/// The HTTP status of an answer's first message.
fn status(chunk: Option<ResponseChunk>) -> u32 {
    let Some(Part::Head(head)) = chunk.unwrap().part else {
        panic!("the head comes first")
    };
    head.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_the_servers_own_requests_ends_at_its_depth() {
    let stack = Plan::agents(2).agent("CONF_SERVER__MAX_LOOP_DEPTH", 3).start().await;
    let client = stack.client();
    for (depth, status) in [("0", 200), ("3", 200), ("deep", 200), ("4", 508), ("99999999999", 508)] {
        for (target, document) in [
            (get_map("40,0,60,20", 64), "ServiceExceptionReport"),
            (
                "/ows/world?SERVICE=WFS&VERSION=1.1.0&REQUEST=GetCapabilities".into(),
                "ExceptionReport",
            ),
        ] {
            let answer = client.get_with(&target, &[("X-Graticule-Depth", depth)]).await;
            answer.expect(status);
            if status == 508 {
                let (code, text) = refusal(&answer, 508);
                assert_eq!((code.as_str(), answer.xml().name.as_str()), ("LoopDetected", document));
                assert!(
                    text.contains("'/world'") && text.contains("server.max_loop_depth"),
                    "{text}"
                );
            }
        }
    }
    assert_eq!(
        stack.retries().await,
        Some(0),
        "a loop is the same on every agent, so none was tried twice"
    );
}
