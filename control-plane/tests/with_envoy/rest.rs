//! The administration of the fleet as REST: what a real Envoy makes of JSON and of the fleet port's answers, and who may do what.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use control_plane::Config;
use graticule_daemon::tls::TlsServer;
use graticule_proto::v1::fleet_admin_client::FleetAdminClient;
use graticule_proto::v1::{
    AgentPhase, AgentState, AgentUpdate, DrainReply, FleetSetConfigRequest, ProjectUpdate, ResumeReply, StatsReply,
    UpdateCacheReply, agent_update,
};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::calls::Agent;
use crate::fleet_admin::answers;
use crate::ports::state;
use crate::stack::{Answer, PATIENCE, Stack, exchange, exchange_over, free_port, request, store_dir, until};
use crate::tls::Place;

const FULL: &str = "full-full-full-full";
const READ: &str = "read-read-read-read";
const PEER: &str = "peer-peer-peer-peer";

fn tokens(config: &mut Config) {
    let dir = store_dir();
    std::fs::create_dir_all(&dir).unwrap();
    let file = |token: &str| {
        let file = dir.join(&token[..4]);
        std::fs::write(&file, token).unwrap();
        file
    };
    let access = &mut config.fleet.access;
    access.full_token_file = file(FULL);
    access.read_token_file = file(READ);
    access.peer_token_file = file(PEER);
}

/// A front with the listener for REST.
async fn stack(change: impl FnOnce(&mut Config)) -> Stack {
    let stack = Stack::start(|config| {
        tokens(config);
        (config.rest.enabled, config.rest.listen) = (true, free_port());
        change(config);
    })
    .await;
    listens(stack.config.rest.listen).await;
    stack
}

async fn listens(address: SocketAddr) {
    until("the listener for REST", async || {
        TcpStream::connect(address).await.is_ok()
    })
    .await;
}

fn asking(method: Method, target: &str, token: &str, body: &str) -> hyper::Request<http_body_util::Full<bytes::Bytes>> {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("content-type", "application/json")];
    if !token.is_empty() {
        headers.push(("authorization", bearer.as_str()));
    }
    request(method, target, &headers, body)
}

async fn ask(stack: &Stack, method: Method, target: &str, token: &str, body: &str) -> Answer {
    exchange(stack.config.rest.listen, asking(method, target, token, body)).await
}

fn parsed(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {} {}", answer.status, answer.body))
}

/// The status, and what is said, of an answer that has to be an error as JSON.
fn refused(answer: &Answer) -> (u16, u64, String) {
    assert_eq!(answer.header("content-type"), "application/json", "{}", answer.body);
    let said = parsed(answer);
    // What is no error has neither.
    let message = said["message"].as_str().unwrap_or(&answer.body).to_owned();
    (
        answer.status.as_u16(),
        said["code"].as_u64().unwrap_or_default(),
        message,
    )
}

/// An answer that comes line by line.
struct Lines {
    body: Incoming,
    read: Vec<u8>,
}

impl Lines {
    async fn open(stack: &Stack, method: Method, target: &str, body: &str) -> Self {
        let stream = TcpStream::connect(stack.config.rest.listen).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let sent = sender.send_request(asking(method, target, FULL, body));
        let answer = tokio::time::timeout(PATIENCE, sent).await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{target}");
        Self {
            body: answer.into_body(),
            read: Vec::new(),
        }
    }

    /// The next object; none at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await;
            let Some(frame) = frame.expect("told in time") else {
                assert!(self.read.is_empty(), "the last line has no end: {:?}", self.read);
                return None;
            };
            self.read.extend(frame.unwrap().into_data().unwrap_or_default());
        }
    }

    /// What is said until something holds of it.
    async fn until(&mut self, holds: impl Fn(&Value) -> bool) -> Value {
        loop {
            let said = self.next().await.expect("the stream goes on");
            if holds(&said) {
                return said;
            }
        }
    }
}

async fn agent(stack: &Stack, name: &str) -> Agent {
    let port = free_port().port();
    let agent = Agent::attach_with(stack.config.fleet.listen, name, port, Some(PEER)).await;
    agent.updates.send(state(AgentPhase::Ready)).await.unwrap();
    agent
}

#[tokio::test]
async fn who_shows_no_token_is_nobody_and_roles_go_as_far_as_they_do_by_grpc() {
    let stack = stack(|_| {}).await;
    let nobody = ask(&stack, Method::GET, "/v1/agents", "", "").await;
    let (status, code, says) = refused(&nobody);
    assert_eq!((status, code), (401, 16));
    assert!(says.starts_with("show a token"), "{says}");
    assert_eq!(nobody.header("www-authenticate"), "Bearer");
    let guessed = ask(&stack, Method::GET, "/v1/agents", "guessed-guessed-guessed", "").await;
    assert_eq!(refused(&guessed).0, 401);

    let read = ask(&stack, Method::GET, "/v1/agents", READ, "").await;
    assert_eq!((read.status, parsed(&read)), (StatusCode::OK, json!({ "agents": [] })));
    assert_eq!(read.header("cache-control"), "no-store");
    let (status, code, says) = refused(&ask(&stack, Method::PUT, "/v1/pins/world", READ, "{}").await);
    assert_eq!((status, code), (403, 7));
    assert!(says.contains("the role `full`"), "{says}");
    let agents_token = ask(&stack, Method::GET, "/v1/agents", PEER, "").await;
    assert_eq!(refused(&agents_token).0, 403, "what agents show lets nobody look");

    let config = ask(&stack, Method::GET, "/v1/config", READ, "").await;
    assert!(!config.body.contains(FULL), "secrets are not told");
    assert_eq!(parsed(&config)["settings_revision"], "0", "64 bits are a text");
}

#[tokio::test]
async fn what_cannot_be_done_is_said_in_json_with_a_status_of_its_own() {
    let stack = stack(|_| {}).await;
    let (get, put, post) = (Method::GET, Method::PUT, Method::POST);
    let mut wrong = Vec::new();
    for (method, target, body, status, code, says) in [
        (&get, "/v1/agents/nobody", "", 404, 5, "no agent `nobody` is attached"),
        (
            &post,
            "/v1/agents/nobody:drain",
            "{}",
            404,
            5,
            "no agent `nobody` is attached",
        ),
        (&post, "/v1/agents:drain", "{}", 400, 3, "say which agents are meant"),
        (&get, "/v1/nothing", "", 404, 5, "/v1/nothing"),
        (&post, "/v1/pins", "{}", 404, 5, "/v1/pins"),
        (&post, "/graticule.v1.FleetAdmin/ListAgents", "{}", 404, 5, ""),
        (&get, "/v1/agents?nonsense=1", "", 400, 3, "nonsense"),
        (&put, "/v1/pins/world", "{\"replicas\": ", 400, 3, ""),
        (&put, "/v1/pins/world", "{\"replicas\": \"many\"}", 400, 3, "many"),
        (&put, "/v1/pins/world", "[]", 400, 3, ""),
        (&put, "/v1/pins/world", "{\"project\": \"/other\"}", 400, 3, ""),
        (
            &put,
            "/v1/pins/world",
            "{\"pool\": \"nowhere\"}",
            400,
            3,
            "there is no pool `nowhere`",
        ),
        (&put, "/v1/pins/..%2F..%2Fetc", "{}", 400, 3, "steps through"),
    ] {
        let answer = ask(&stack, method.clone(), target, FULL, body).await;
        let said = refused(&answer);
        if (said.0, said.1) != (status, code) || !said.2.contains(says) || said.2.is_empty() {
            wrong.push(format!("{method} {target} {body}: {said:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let large = format!("{{\"pool\": \"{}\"}}", "x".repeat(2_000_000));
    assert_eq!(refused(&ask(&stack, put, "/v1/pins/world", FULL, &large).await).0, 413);
}

#[tokio::test]
async fn a_project_is_pinned_told_of_and_unpinned() {
    let stack = stack(|_| {}).await;
    let agent = agent(&stack, "a").await;
    until("the agent", async || {
        ask(&stack, Method::GET, "/v1/agents", READ, "")
            .await
            .body
            .contains("\"healthy\"")
    })
    .await;
    let mut progress = Lines::open(&stack, Method::PUT, "/v1/pins/public/roads", "{\"replicas\": 0}").await;
    let first = progress.next().await.unwrap();
    assert_eq!(first["project"], "/public/roads");
    assert_eq!(
        (&first["agents"][0]["state"], &first["done"]),
        (&json!("loading"), &json!(false))
    );
    let loaded = AgentState {
        phase: AgentPhase::Ready as i32,
        pins: vec!["/public/roads".to_owned()],
        pins_revision: 1,
        ..AgentState::default()
    };
    let update = Some(agent_update::Update::State(loaded));
    agent.updates.send(AgentUpdate { update }).await.unwrap();
    let last = progress.until(|said| said["done"] == true).await;
    assert_eq!(last["agents"][0]["state"], "loaded");
    assert!(progress.next().await.is_none());

    let pins = parsed(&ask(&stack, Method::GET, "/v1/pins", READ, "").await);
    assert_eq!(pins["pins"][0]["project"], "/public/roads");
    // As curl sends it with -d. A field that nobody knows is ignored.
    let (bearer, form) = (format!("Bearer {FULL}"), "application/x-www-form-urlencoded");
    let headers = [("authorization", bearer.as_str()), ("content-type", form)];
    let put = request(
        Method::PUT,
        "/v1/pins/public/roads",
        &headers,
        "{\"replicas\": 3, \"other\": 1}",
    );
    let answer = exchange(stack.config.rest.listen, put).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let pins = parsed(&ask(&stack, Method::GET, "/v1/pins", READ, "").await);
    assert_eq!(pins["pins"][0]["replicas"], 3);
    // As clients write it that are made from the OpenAPI document.
    let unpinned = ask(&stack, Method::DELETE, "/v1/pins/public%2Froads", FULL, "").await;
    let was = json!({ "project": "/public/roads", "was_pinned": true });
    assert_eq!((unpinned.status, parsed(&unpinned)), (StatusCode::OK, was));
    let again = ask(&stack, Method::DELETE, "/v1/pins/public/roads?pool=", FULL, "").await;
    assert_eq!(parsed(&again)["was_pinned"], false);
    let pins = parsed(&ask(&stack, Method::GET, "/v1/pins", READ, "").await);
    assert_eq!(pins, json!({ "pins": [] }));
}

#[tokio::test]
async fn agents_are_watched_asked_and_ordered() {
    let stack = stack(|_| {}).await;
    let mut watched = Lines::open(&stack, Method::GET, "/v1/agents:watch", "").await;
    assert_eq!(watched.next().await.unwrap()["agents"], json!([]));
    let mut a = agent(&stack, "a").await;
    let told = watched.until(|said| said["agents"][0]["told"] == "healthy").await;
    assert_eq!(told["agents"][0]["hello"]["agent_id"], "a");
    assert_eq!(told["agents"][0]["state"]["phase"], "AGENT_PHASE_READY");

    let stats = StatsReply {
        uptime_seconds: 3.5,
        answers: [(200, 1 << 40)].into(),
        ..StatsReply::default()
    };
    let asked = ask(&stack, Method::GET, "/v1/agents/a", READ, "");
    let (got, _) = tokio::join!(asked, answers(&mut a, "Stats", Ok(&stats)));
    let got = parsed(&got);
    assert_eq!(
        (&got["stats"]["uptime_seconds"], &got["problem"]),
        (&json!(3.5), &json!(""))
    );
    assert_eq!(got["stats"]["answers"], json!({ "200": "1099511627776" }));

    // As from a store that tells of what was written, in words of its own.
    let projects = vec![ProjectUpdate {
        project: "/public/roads".to_owned(),
        state: "changed".to_owned(),
        ..ProjectUpdate::default()
    }];
    let seen = UpdateCacheReply { projects };
    for (target, body) in [
        (
            "/v1/cache/public/roads:update",
            r#"{"EventName": "s3:ObjectCreated:Put", "Records": [{"a": 1}]}"#,
        ),
        ("/v1/cache/public%2Froads:update", ""),
        ("/v1/cache:update", r#"{"project": "/public/roads"}"#),
    ] {
        let (mut told, _) = tokio::join!(
            Lines::open(&stack, Method::POST, target, body),
            answers(&mut a, "UpdateCache", Ok(&seen))
        );
        let told = told.next().await.unwrap();
        assert_eq!(
            (&told["agent_id"], &told["projects"][0]["state"]),
            (&json!("a"), &json!("changed")),
            "{target}"
        );
    }

    let (drain, resume) = (DrainReply::default(), ResumeReply::default());
    let (mut drained, _) = tokio::join!(
        Lines::open(&stack, Method::POST, "/v1/agents/a:drain", ""),
        answers(&mut a, "Drain", Ok(&drain))
    );
    let last = drained.until(|said| said["done"] == true).await;
    assert_eq!(
        last["agents"],
        json!([{ "agent_id": "a", "state": "done", "problem": "" }])
    );
    a.updates.send(state(AgentPhase::Draining)).await.unwrap();
    watched.until(|said| said["agents"][0]["told"] == "draining").await;

    let (mut resumed, _) = tokio::join!(
        Lines::open(&stack, Method::POST, "/v1/pools/default:resume", "{\"rolling\": true}"),
        answers(&mut a, "Resume", Ok(&resume))
    );
    a.updates.send(state(AgentPhase::Ready)).await.unwrap();
    resumed.until(|said| said["done"] == true).await;

    drop(a);
    watched.until(|said| said["gone"] == json!(["a"])).await;
}

#[tokio::test]
async fn it_comes_and_goes_while_the_front_serves_and_is_503_while_the_control_plane_is_away() {
    let mut stack = Stack::start(tokens).await;
    stack.until_listening().await;
    let (front, stop) = (stack.front, Arc::new(AtomicBool::new(false)));
    let load = {
        let stop = Arc::clone(&stop);
        tokio::spawn(async move {
            let mut asked = 0;
            while !stop.load(Ordering::SeqCst) {
                let answer = exchange(front, request(Method::GET, "/?MAP=/w", &[], "")).await;
                // No agent is there; that it is Envoy who says so is enough.
                assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.body);
                asked += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            asked
        })
    };
    let (fleet, listen) = (stack.config.fleet.listen, free_port());
    let set = async |rest: Value| {
        let mut admin = FleetAdminClient::connect(format!("http://{fleet}")).await.unwrap();
        let patch_json = json!({ "rest": rest }).to_string();
        let mut asked = tonic::Request::new(FleetSetConfigRequest {
            patch_json,
            ..FleetSetConfigRequest::default()
        });
        let bearer = format!("Bearer {FULL}").parse().unwrap();
        asked.metadata_mut().insert("authorization", bearer);
        admin.set_config(asked).await
    };
    let wrong = set(json!({ "enabled": true, "listen": front })).await.unwrap_err();
    assert!(wrong.message().contains("front.listen is the same"), "{wrong}");
    set(json!({ "enabled": true, "listen": listen })).await.unwrap();
    listens(listen).await;
    stack.config.rest.listen = listen;
    let answer = ask(&stack, Method::GET, "/v1/placements", READ, "").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let page = stack.page("/openapi.json").await;
    assert!(page.contains("\"/v1/placements\""), "{page}");

    let counted = stack.stat("listener_manager.listener_modified").await;
    stack.control_plane.take().unwrap().stop().await;
    until("the fleet port to be away", async || {
        TcpStream::connect(fleet).await.is_err()
    })
    .await;
    let (status, code, says) = refused(&ask(&stack, Method::GET, "/v1/agents", READ, "").await);
    assert_eq!((status, code), (503, 14), "{says}");
    stack.control_plane = Some(control_plane::build(stack.config.clone()).await.unwrap());
    until("the fleet port again", async || {
        ask(&stack, Method::GET, "/v1/agents", READ, "").await.status == StatusCode::OK
    })
    .await;

    until("a change that is taken", async || {
        set(json!({ "enabled": false })).await.is_ok()
    })
    .await;
    until("the end of the listener", async || {
        TcpStream::connect(listen).await.is_err()
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    assert!(load.await.unwrap() > 0, "the front served all the time");
    assert_eq!(
        (counted, stack.stat("listener_manager.listener_modified").await),
        (0, 0)
    );
    assert_eq!(stack.stat("listener_manager.lds.update_rejected").await, 0);
}

#[tokio::test]
async fn with_tls_everybody_shows_who_they_are_and_clients_need_a_token_all_the_same() {
    let place = Place::new();
    let fleet = place.issue("control-plane");
    let envoy = place.issue("envoy");
    let listen = free_port();
    let stack = Stack::start(|config| {
        tokens(config);
        let secured = |(cert_file, key_file), client_ca_file| TlsServer {
            cert_file,
            key_file,
            client_ca_file,
            ..TlsServer::default()
        };
        config.fleet.tls = secured(fleet, place.ca());
        (config.rest.enabled, config.rest.listen) = (true, listen);
        config.rest.tls = secured(place.front("rest.org"), place.ca());
        let tls = &mut config.rest.fleet_tls;
        (tls.ca_file, tls.server_name) = (place.ca(), "control-plane".to_owned());
        (tls.cert_file, tls.key_file) = envoy;
    })
    .await;
    listens(listen).await;
    let friend = place.client(Some(&place.identity("ops.example.org")));
    let get = async |token: &str| {
        let asked = asking(Method::GET, "/v1/agents", token, "");
        exchange_over(friend.connect(listen), asked).await
    };
    let answer = get(READ).await;
    assert_eq!(answer.status, StatusCode::OK, "{} {}", answer.body, stack.envoy_log());
    assert_eq!(refused(&get("").await).0, 401, "a certificate is no role here");
    let asked = asking(Method::GET, "/v1/agents", FULL, "");
    let stranger = exchange_over(place.client(None).connect(listen), asked).await;
    assert_eq!(stranger.status.as_u16(), 599, "a token is not enough either");
}
