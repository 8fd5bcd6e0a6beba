//! What operators do to an agent as a whole, over gRPC: sleep, health by hand, drain and resume, reload, environment.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use graticule_proto::v1::qgis_admin_client::QgisAdminClient;
use graticule_proto::v1::{DrainRequest, GetEnvRequest, ReloadRequest, ResumeRequest, SetServingRequest, SleepRequest};
use http::Method;
use stack::shots::get_map;
use stack::{Agent, PATIENCE, Plan, Stack, until, until_within};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// A map that no one asked for before, by its number.
fn map(number: u32) -> String {
    let south = 40.0 + f64::from(number % 1000) / 100.0;
    get_map(&format!("{south},0,{},10", south + 10.0), 64)
}

async fn channel(agent: &Agent) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", agent.grpc())).unwrap();
    endpoint.connect().await.unwrap()
}

fn sleeps(seconds: f64) -> SleepRequest {
    let lane = String::new();
    SleepRequest { seconds, lane }
}

async fn pids(agent: &Agent) -> BTreeSet<u32> {
    agent.workers().await.iter().map(|worker| worker.pid).collect()
}

async fn until_busy(agent: &Agent, workers: u32) {
    until(&format!("{workers} busy workers"), async || {
        agent.stats().await.state.unwrap().busy == workers
    })
    .await;
}

/// Asks for maps through Envoy until `done`; every one has to come.
async fn maps_meanwhile<T>(stack: &Stack, done: impl Future<Output = T>) -> T {
    tokio::pin!(done);
    let mut asked = 1;
    loop {
        let target = map(asked);
        tokio::select! {
            biased;
            answer = stack.get(&target) => {
                assert_eq!(answer.status, 200, "map {asked}: {}", answer.text());
                asked += 1;
            }
            done = &mut done => return done,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_drained_resumed_reloaded_and_put_in_error_by_hand() {
    let plan = Plan::agents(2)
        .agent("CONF_SERVER__TIMEOUT", 5)
        .agent("CONF_WORKER__ISOLATION__PASS_ENVIRONMENT", r#"["TEST_*"]"#)
        .agent("TEST_TOKEN", "s3cret")
        .agent("TEST_URL", "https://me:s3cret@host/");
    let stack = plan.start().await;
    let agent = &stack.agents[0];
    let mut admin = QgisAdminClient::new(channel(agent).await);

    let env = admin.get_env(GetEnvRequest {}).await.unwrap().into_inner();
    assert_eq!(env.agent, "agent-1");
    for (what, begins) in [
        ("qgis", "3."),
        ("qt", ""),
        ("gdal", "3."),
        ("python", "3."),
        ("agent", "0."),
    ] {
        let version = env.versions.get(what).unwrap_or_else(|| panic!("{what}: {env:?}"));
        assert!(version.starts_with(begins) && version.contains('.'), "{what} {version}");
    }
    assert_eq!(env.environment["TEST_TOKEN"], "***");
    assert_eq!(env.environment["TEST_URL"], "https://***@host/");
    assert!(!env.environment["PATH"].is_empty());

    sleep(agent, &mut admin).await;
    health(&stack, agent, &mut admin).await;
    drain(&stack, agent, &mut admin).await;
    reload(&stack, agent, &mut admin).await;
    commands(agent).await;
}

/// The same by the command line.
async fn commands(agent: &Agent) {
    for (words, code, part) in [
        ("env", 0, "qgis"),
        ("sleep 0.1 --lane heavy", 0, "was busy for "),
        ("sleep 601", 1, "expected 0 to 600 seconds"),
        ("state disable --reason slow", 0, "its health is in error"),
        ("healthcheck", 2, "not ready"),
        ("stats", 0, "waits for an operator"),
        ("state enable", 0, "its health is ok"),
        ("drain --wait 20", 0, "drained: nothing runs"),
        ("resume", 0, "takes requests again"),
        ("resume --json", 0, "\"was_drained\": false"),
        ("reload", 0, "generation "),
    ] {
        let mut text = String::new();
        let mut fits = || {
            let said = agent.cli(&words.split(' ').collect::<Vec<_>>());
            text = String::from_utf8([said.stdout, said.stderr].concat()).unwrap();
            said.status.code() == Some(code) && text.contains(part)
        };
        // Health is told to the health service a moment after it was set.
        let fitted = if words == "healthcheck" {
            until_within(PATIENCE, async || fits()).await
        } else {
            fits()
        };
        assert!(fitted, "{words}: {text}");
    }
}

async fn sleep(agent: &Agent, admin: &mut QgisAdminClient<Channel>) {
    let before = pids(agent).await;
    let slept = admin.sleep(sleeps(0.3)).await.unwrap().into_inner();
    assert!(slept.worker > 0 && slept.busy_seconds >= 0.3, "{slept:?}");
    for (seconds, lane) in [(-1.0, ""), (601.0, ""), (f64::NAN, ""), (1.0, "inner")] {
        let lane = lane.to_owned();
        let refused = admin.sleep(SleepRequest { seconds, lane }).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    // Both workers sleep and end at the deadline; a third waits until it could not be answered in time any more. No worker is lost
    // for it.
    let third = async |mut admin: QgisAdminClient<Channel>| admin.sleep(sleeps(30.0)).await.unwrap_err().code();
    let (a, b, c) = tokio::join!(third(admin.clone()), third(admin.clone()), third(admin.clone()));
    let mut ends = [a, b, c];
    ends.sort_by_key(|code| *code as i32);
    assert_eq!(
        ends,
        [Code::DeadlineExceeded, Code::DeadlineExceeded, Code::Unavailable]
    );
    // A client that goes frees its worker.
    let mut gone = admin.clone();
    let gone = tokio::spawn(async move { gone.sleep(sleeps(4.0)).await });
    until_busy(agent, 1).await;
    gone.abort();
    until_busy(agent, 0).await;
    assert_eq!(pids(agent).await, before);
}

async fn health(stack: &Stack, agent: &Agent, admin: &mut QgisAdminClient<Channel>) {
    let mut health = HealthClient::new(channel(agent).await);
    let mut set = async |serving, reason: &str| {
        let reason = reason.to_owned();
        let set = admin.set_serving(SetServingRequest { serving, reason }).await;
        set.unwrap().into_inner().was_serving
    };
    assert!(set(false, "the disk is slow").await);
    stack.until_in_service(1).await;
    let ready = agent.metrics().ask(Method::GET, "/readyz", &[], "").await.unwrap();
    assert_eq!(ready.status, 503);
    assert!(
        ready
            .text()
            .contains("an operator, who has set its health to error: the disk is slow")
    );
    assert!(
        agent
            .metrics()
            .get("/metrics")
            .await
            .text()
            .contains("\ngraticule_ready 0\n")
    );
    let status = health
        .check(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner()
        .status;
    assert_eq!(status, 2, "not serving");
    assert_eq!(agent.direct().get(&map(0)).await.status, 200);
    assert!(!set(true, "").await);
    stack.until_in_service(2).await;
}

async fn drain(stack: &Stack, agent: &Agent, admin: &mut QgisAdminClient<Channel>) {
    let mut sleeper = admin.clone();
    let running = tokio::spawn(async move { sleeper.sleep(sleeps(2.0)).await });
    until_busy(agent, 1).await;
    let wait = |wait_seconds| DrainRequest { wait_seconds };
    let at_once = admin.drain(wait(0.0)).await.unwrap().into_inner();
    assert!(!at_once.already && at_once.running == 1, "{at_once:?}");
    let drained = maps_meanwhile(stack, admin.drain(wait(20.0)))
        .await
        .unwrap()
        .into_inner();
    assert!(
        drained.already && drained.running == 0 && drained.waiting == 0,
        "{drained:?}"
    );
    running.await.unwrap().expect("what runs is finished");
    stack.until_in_service(1).await;
    let refused = agent.direct().ask(Method::GET, &map(0), &[], "").await.unwrap();
    assert_eq!(
        (refused.status, refused.headers["x-agent-retry"].to_str().unwrap()),
        (503, "1")
    );
    assert_eq!(admin.sleep(sleeps(0.1)).await.unwrap_err().code(), Code::Unavailable);
    assert!(admin.resume(ResumeRequest {}).await.unwrap().into_inner().was_drained);
    assert!(!admin.resume(ResumeRequest {}).await.unwrap().into_inner().was_drained);
    stack.until_in_service(2).await;
    assert_eq!(agent.direct().get(&map(0)).await.status, 200);
    let wrong = admin.drain(wait(-1.0)).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
}

async fn reload(stack: &Stack, agent: &Agent, admin: &mut QgisAdminClient<Channel>) {
    let before = pids(agent).await;
    let reloaded = maps_meanwhile(stack, admin.reload(ReloadRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reloaded.after, reloaded.before + 1, "{reloaded:?}");
    until("two workers", async || pids(agent).await.len() == 2).await;
    let after = pids(agent).await;
    assert!(after.is_disjoint(&before), "{before:?} {after:?}");

    // A zygote that does not start: the reload says what it printed, and what was there serves on.
    let module = agent.runtime_dir().join("graticule_worker/zygote.py");
    let sound = std::fs::read(&module).unwrap();
    std::fs::write(&module, "raise SystemExit('spoilt on purpose')").unwrap();
    let failed = admin.reload(ReloadRequest {}).await.unwrap_err();
    assert_eq!(failed.code(), Code::FailedPrecondition);
    assert!(failed.message().contains("spoilt on purpose"), "{failed}");
    assert_eq!(pids(agent).await, after);
    assert_eq!(agent.direct().get(&map(0)).await.status, 200);
    std::fs::write(&module, sound).unwrap();
    admin.reload(ReloadRequest {}).await.unwrap();
    assert!(pids(agent).await.is_disjoint(&after));
}
