//! What clients get when something is wrong, and what they may and may not say.

use crate::stack::{Agent, Mode, Stack, request};
use hyper::{Method, StatusCode};

#[tokio::test]
async fn envoys_own_errors_are_ogc_exceptions_with_the_request_id() {
    let stack = Stack::start(|_| {}).await;
    stack.until_listening().await;
    for (target, kind, element) in [
        (
            "/?MAP=/w&SERVICE=WMS&REQUEST=GetMap",
            "text/xml",
            "<ServiceExceptionReport version=\"1.3.0\"",
        ),
        ("/?service=wms&MAP=/w", "text/xml", "<ServiceException>"),
        (
            "/ows/w?x=1&Service=Wfs",
            "text/xml",
            "xmlns:ows=\"http://www.opengis.net/ows\">",
        ),
        ("/?SERVICE=WCS&MAP=/w", "text/xml", "<ows:ExceptionReport "),
        (
            "/?SERVICE=WMTS&MAP=/w",
            "text/xml",
            "xmlns:ows=\"http://www.opengis.net/ows/1.1\"",
        ),
        ("/ows/w/wfs3/collections", "application/json", "{\"code\": \"503\""),
        ("/?NOSERVICE=WMS", "application/json", "no_healthy_upstream"),
    ] {
        let answer = stack.get(target).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{target}");
        assert!(
            answer.header("content-type").starts_with(kind),
            "{target}: {}",
            answer.header("content-type")
        );
        assert!(answer.body.contains(element), "{target}: {}", answer.body);
        let id = answer.header("x-request-id");
        assert!(
            id.len() > 10 && answer.body.contains(id),
            "{target}: {id} in {}",
            answer.body
        );
        assert_eq!(answer.header("server"), "graticule");
    }
    let bad = stack.get("/ows/a%2Fb?SERVICE=WMS").await;
    assert_eq!(bad.status, StatusCode::BAD_REQUEST);
    assert!(bad.body.contains("<ServiceExceptionReport"), "{}", bad.body);
}

#[tokio::test]
async fn an_answer_that_asks_for_another_agent_is_replaced() {
    let (stack, agents) = Stack::with_agents(["a", "b", "c"]).await;
    agents[0].be(Mode::Elsewhere);
    agents[1].be(Mode::Elsewhere);
    let mut good = 0;
    for project in 0..40 {
        for method in [Method::GET, Method::POST] {
            let answer = stack
                .send(request(method, &format!("/?MAP=/p{project}"), &[], ""))
                .await;
            assert_eq!(answer.header("x-agent-retry"), "", "that is between agents and Envoy");
            good += usize::from(answer.status == StatusCode::OK);
            assert!(answer.status == StatusCode::OK || answer.status == StatusCode::SERVICE_UNAVAILABLE);
        }
    }
    // One retry: of three agents, two of which refuse, it finds the third half the time. Which agents a project has is left
    // to hashes of their addresses.
    assert!((24..80).contains(&good), "{good} of 80");
    agents[1].be(Mode::Prompt);
    for project in 0..12 {
        let answer = stack
            .send(request(Method::POST, &format!("/?MAP=/p{project}"), &[], "x"))
            .await;
        assert_eq!(answer.status, StatusCode::OK, "with one of three refusing, always");
    }
}

#[tokio::test]
async fn only_safe_requests_are_repeated_after_an_agent_broke_down_over_them() {
    let (stack, agents) = Stack::with_agents(["a", "b"]).await;
    let served = || agents.iter().map(Agent::served).sum::<usize>();
    for (index, agent) in agents.iter().enumerate() {
        agent.be(Mode::Crash);
        agents[1 - index].be(Mode::Prompt);
        for project in 0..6 {
            let answer = stack.get(&format!("/?MAP=/p{project}")).await;
            assert_eq!(
                (answer.status, answer.agent()),
                (StatusCode::OK, agents[1 - index].id.as_str())
            );
        }
    }
    agents[0].be(Mode::Crash);
    let before = served();
    assert_eq!(stack.get("/?MAP=/w").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(served() - before, 2, "a request that kills workers kills two at most");
    let before = served();
    assert_eq!(
        stack.post("/?MAP=/w", "text/xml", "<Transaction/>").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(served() - before, 1, "what may change data is sent once");
}

const FORWARDED: [(&str, &str); 7] = [
    ("x-forwarded-host", "evil.example.org"),
    ("x-forwarded-prefix", "/evil"),
    ("x-forwarded-port", "666"),
    ("forwarded", "host=evil.example.org"),
    ("x-forwarded-proto", "https"),
    ("x-envoy-retry-on", "5xx"),
    ("x-request-id", "chosen-by-the-client"),
];

#[tokio::test]
async fn without_a_trusted_proxy_nobody_says_where_a_request_came_from() {
    let (stack, _agents) = Stack::with_agents(["a"]).await;
    let answer = stack.send(request(Method::GET, "/?MAP=/w", &FORWARDED, "")).await;
    for name in [
        "x-forwarded-host",
        "x-forwarded-prefix",
        "x-forwarded-port",
        "forwarded",
        "x-envoy-retry-on",
        "x-envoy-internal",
    ] {
        assert_eq!(answer.seen(name), None, "{name}");
    }
    assert_eq!(answer.seen("x-forwarded-proto").as_deref(), Some("http"));
    assert_ne!(answer.seen("x-request-id").as_deref(), Some("chosen-by-the-client"));
    assert_eq!(
        answer.seen("x-request-id").as_deref(),
        Some(answer.header("x-request-id"))
    );
    assert_eq!(answer.seen("host").as_deref(), Some("maps.example.org"));
}

#[tokio::test]
async fn a_trusted_proxy_says_where_a_request_came_from() {
    let (stack, _agents) = Stack::with_agents_and(["a"], |config| config.front.trusted_hops = 1).await;
    let answer = stack.send(request(Method::GET, "/?MAP=/w", &FORWARDED, "")).await;
    for (name, value) in &FORWARDED[..5] {
        assert_eq!(answer.seen(name).as_deref(), Some(*value), "{name}");
    }
    assert_eq!(answer.seen("x-envoy-retry-on"), None);
}

#[tokio::test]
async fn every_request_is_logged_as_one_line_of_json() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let path = log.display().to_string();
    let (stack, _agents) = Stack::with_agents_and(["a"], |config| config.front.access_log = path).await;
    let answer = stack
        .send(request(
            Method::GET,
            "/?MAP=/w",
            &[("user-agent", "a \"quoted\" one")],
            "",
        ))
        .await;
    let has_line = async || std::fs::read_to_string(&log).unwrap_or_default().contains('\n');
    crate::stack::until("the log line", has_line).await;
    let text = std::fs::read_to_string(&log).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(line["path"], "/");
    assert_eq!(line["project"], "w");
    assert_eq!(line["agent"], "a");
    assert_eq!(line["status"], 200);
    assert_eq!(line["request_id"], answer.header("x-request-id"));
    assert_eq!(line.as_object().unwrap().len(), 28);
}
