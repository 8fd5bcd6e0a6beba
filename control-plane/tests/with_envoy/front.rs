//! What Envoy does for clients besides finding an agent: other origins, limits, headers, the log, timeouts.

use std::time::{Duration, Instant};

use control_plane::config::{Cors, Origins, Pool, Rate};
use hyper::{Method, StatusCode};

use crate::stack::{Agent, Answer, Mode, Stack, request};

fn origins(list: &[&str]) -> Cors {
    Cors {
        origins: Origins::List(list.iter().map(|origin| (*origin).to_owned()).collect()),
        credentials: true,
        ..Cors::default()
    }
}

fn pool(host: &str, change: impl FnOnce(&mut Pool)) -> (String, Pool) {
    let mut pool = Pool {
        hosts: vec![host.to_owned()],
        ..Pool::default()
    };
    change(&mut pool);
    (host.trim_end_matches(".org").replace('*', "default"), pool)
}

async fn send(stack: &Stack, method: Method, host: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = request(method, target, headers, body);
    request.headers_mut().insert("host", host.parse().unwrap());
    stack.send(request).await
}

/// A stack with these pools, each with an agent of its own.
async fn with_pools<const N: usize>(pools: [(String, Pool); N], log: &str) -> (Stack, Vec<Agent>) {
    let names: Vec<String> = pools.iter().map(|(name, _)| name.clone()).collect();
    let stack = Stack::start(|config| {
        config.pools = pools.into();
        config.front.access_log = log.to_owned();
        config.front.limits.max_body_size = 4096;
        config.front.limits.max_url_length = 2000;
        config.front.limits.max_headers = 20;
        config.front.limits.max_header_size = 8192;
        config.front.timeouts = [("WMS/GetPrint".to_owned(), 30.0), ("wfs".to_owned(), 0.4)].into();
        config
            .front
            .response_headers
            .insert("x-own".to_owned(), "100%".to_owned());
        config.front.request_timeout = 0.4;
    })
    .await;
    let start = |name: &String| Agent::start(name, name, stack.config.fleet.listen);
    let agents = names.iter().map(start).collect();
    for name in &names {
        stack.until_healthy(&format!("pool/{name}"), 1).await;
    }
    stack.until_listening().await;
    (stack, agents)
}

#[tokio::test]
async fn envoy_answers_for_other_origins() {
    let (stack, agents) = with_pools(
        [
            pool("list.org", |pool| {
                pool.cors = origins(&["https://*.example.org", "http://localhost:*"]);
            }),
            pool("all.org", |pool| pool.cors.origins = Origins::Word("all".to_owned())),
            pool("*", |_| {}),
        ],
        "",
    )
    .await;
    let mut allowed = 0;
    for (host, origin, may) in [
        ("list.org", "https://a.example.org", true),
        ("list.org", "https://a.b.example.org", true),
        ("list.org", "http://localhost:3000", true),
        ("list.org", "https://example.org", false),
        ("list.org", "https://a.exampleXorg", false),
        ("list.org", "https://evil.org/.example.org", false),
        ("list.org", "http://a.example.org", false),
        ("list.org", "https://a.example.org:444", false),
        ("all.org", "https://whoever.net", true),
        ("all.org", "null", true),
        ("same.org", "https://whoever.net", false),
    ] {
        let asks = [("origin", origin), ("access-control-request-method", "GET")];
        let preflight = send(&stack, Method::OPTIONS, host, "/?MAP=/w", &asks, "").await;
        let expected = if may { origin } else { "" };
        assert_eq!(preflight.status, StatusCode::OK, "{host} {origin}");
        assert_eq!(
            preflight.header("access-control-allow-origin"),
            expected,
            "{host} {origin}"
        );
        assert_eq!(preflight.agent(), "", "no agent is bothered with a preflight");
        let answer = send(&stack, Method::GET, host, "/?MAP=/w", &[("origin", origin)], "").await;
        assert_eq!(
            answer.header("access-control-allow-origin"),
            expected,
            "{host} {origin}"
        );
        assert_ne!(answer.agent(), "");
        let credentials = if may && host == "list.org" { "true" } else { "" };
        assert_eq!(answer.header("access-control-allow-credentials"), credentials);
        let varies = answer.header("vary").split(", ").any(|value| value == "Origin")
            || answer.headers.get_all("vary").iter().any(|value| value == "Origin");
        assert_eq!(varies, host != "same.org", "{host}");
        allowed += 1;
    }
    assert_eq!(agents.iter().map(Agent::served).sum::<usize>(), allowed);
    // Envoy's own errors can be read by pages, too.
    drop(agents);
    stack.until_healthy("pool/all", 0).await;
    let error = send(&stack, Method::GET, "all.org", "/", &[("origin", "https://a.net")], "").await;
    assert_eq!(error.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(error.header("access-control-allow-origin"), "https://a.net");
}

#[tokio::test]
async fn text_is_compressed_as_the_client_likes_it_and_images_never() {
    let (stack, _agents) = Stack::with_agents_and(["a"], |config| config.front.compression.min_size = 30).await;
    let get = async |media_type: &str, accept: &str| {
        let wished = serde_json::json!({"content-type": media_type, "etag": "\"x\""}).to_string();
        let headers = [("x-test-answer", wished.as_str()), ("accept-encoding", accept)];
        stack.send(request(Method::GET, "/?MAP=/w", &headers, "")).await
    };
    for (media_type, accept, encoding) in [
        ("text/xml; charset=utf-8", "gzip, deflate, br, zstd", "br"),
        ("application/json", "zstd, gzip", "zstd"),
        ("application/geo+json", "gzip", "gzip"),
        ("application/json", "br;q=0.1, gzip;q=0.9", "gzip"),
        ("application/json", "identity", ""),
        ("application/json", "deflate", ""),
        ("image/png", "gzip, br", ""),
        ("image/svg+xml", "gzip, br", ""),
        ("application/octet-stream", "gzip, br", ""),
    ] {
        let answer = get(media_type, accept).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("content-encoding"), encoding, "{media_type} {accept}");
        let (etag, is_text) = if encoding.is_empty() {
            ("\"x\"", true)
        } else {
            ("W/\"x\"", false)
        };
        assert_eq!(answer.header("etag"), etag, "{media_type} {accept}");
        assert_eq!(answer.body.starts_with('{'), is_text, "{media_type} {accept}");
        let varies = answer.header("vary").to_lowercase().contains("accept-encoding");
        let text = !media_type.starts_with("image") && !media_type.ends_with("octet-stream");
        assert_eq!(varies, text, "{media_type} {accept}");
    }
}

#[tokio::test]
async fn what_is_too_large_or_too_often_is_refused_before_any_agent_sees_it() {
    let (stack, agents) = with_pools(
        [
            pool("*", |_| {}),
            pool("busy.org", |pool| {
                pool.rate_limit = Rate {
                    requests: 1,
                    per: 3600.0,
                    burst: 5,
                };
            }),
            pool("client.org", |pool| {
                pool.client_rate_limit = Rate {
                    requests: 3,
                    per: 3600.0,
                    burst: 0,
                };
            }),
        ],
        "",
    )
    .await;
    let target = "/?SERVICE=WMS&MAP=/w";
    let post = async |bytes: usize| send(&stack, Method::POST, "a.org", target, &[], &"x".repeat(bytes)).await;
    assert_eq!(post(4096).await.status, StatusCode::OK);
    let before = agents[0].served();
    let large = post(4097).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(large.body.contains("<ServiceExceptionReport"), "{}", large.body);
    assert!(large.body.contains("body of this request is larger"), "{}", large.body);
    let path = |bytes: usize| format!("{target}&X={}", "x".repeat(bytes - target.len() - 3));
    let long = send(&stack, Method::GET, "a.org", &path(2001), &[], "").await;
    assert_eq!(long.status, StatusCode::URI_TOO_LONG);
    assert!(long.body.contains("<ServiceExceptionReport"), "{}", long.body);
    let many: Vec<String> = (0..25).map(|n| format!("x-{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
    let big = "x".repeat(9000);
    for headers in [&many[..], &[("x-big", big.as_str())]] {
        let refused = send(&stack, Method::GET, "a.org", target, headers, "").await;
        assert_eq!(refused.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    // A client cannot have itself refused, or be taken for something else.
    let own = [("x-graticule-refused", "414"), ("x-graticule-kind", "wfs/x")];
    assert_eq!(agents[0].served(), before, "no agent saw any of it");
    let fine = send(&stack, Method::GET, "a.org", &path(2000), &own, "").await;
    assert_eq!(fine.status, StatusCode::OK);
    assert_eq!(
        (fine.seen("x-graticule-refused"), fine.seen("x-graticule-kind")),
        (None, None)
    );

    for (host, allowed) in [("busy.org", 5), ("client.org", 3)] {
        for n in 0..allowed + 2 {
            // Routes of a pool share its bucket.
            let method = if n % 2 == 0 { Method::GET } else { Method::POST };
            let answer = send(&stack, method, host, target, &[], "").await;
            assert_eq!(
                answer.status == StatusCode::OK,
                n < allowed,
                "{host} {n}: {}",
                answer.status
            );
            if n >= allowed {
                assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
                let after: u32 = answer.header("retry-after").parse().unwrap();
                assert!((1..=3600).contains(&after), "{host}: {after}");
                assert!(answer.body.contains("<ServiceExceptionReport"), "{}", answer.body);
                assert_eq!(answer.header("x-content-type-options"), "nosniff");
            }
        }
    }
    assert_eq!(
        stack.get(target).await.status,
        StatusCode::OK,
        "other pools are not concerned"
    );
}

#[tokio::test]
async fn the_log_says_what_was_asked_and_keeps_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let (stack, _agents) = with_pools([pool("*", |_| {})], &log.display().to_string()).await;
    let answer = stack
        .send(request(
            Method::GET,
            "/?MAP=postgresql://me:hush1@db/x%3Fpassword=hush2&service=wms&Request=GetMap&LAYERS=a,b&TOKEN=hush3&hush4&api_key=hush5&WIDTH=256",
            &[("user-agent", "a \"quoted\" one"), ("referer", "https://x.org/?k=hush6"), ("x-test-answer", r#"{"x-graticule-cache": "hit"}"#)],
            "",
        ))
        .await;
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("x-own"), "100%");
    let wished = [("x-test-answer", r#"{"x-own": "mine"}"#)];
    let form = "MAP=/world&SERVICE=WFS&REQUEST=GetFeature&password=hush7";
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let posted = stack.send(request(Method::POST, "/", &[wished[0], kind], form)).await;
    assert_eq!(posted.header("x-own"), "mine", "what an agent says goes first");
    let lines = async || std::fs::read_to_string(&log).unwrap_or_default().lines().count() >= 2;
    crate::stack::until("the log lines", lines).await;
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("hush"), "{text}");
    let parsed: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = &parsed[0];
    for (field, value) in [
        ("path", "/"),
        ("query", "service=wms&request=GetMap&layers=a,b&width=256"),
        ("project", "postgresql…"),
        ("service", "wms"),
        ("request", "getmap"),
        ("agent", "default"),
        ("cache", "hit"),
        ("route", "default/safe"),
        ("user_agent", "a \"quoted\" one"),
        ("request_id", answer.header("x-request-id")),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert_eq!((&line["status"], &line["attempts"]), (&200.into(), &1.into()), "{line}");
    assert!(
        line["first_byte_ms"].is_number() && line["sent_bytes"].is_number(),
        "{line}"
    );
    let form = &parsed[1];
    for (field, value) in [
        ("project", "world"),
        ("service", "wfs"),
        ("request", "getfeature"),
        ("method", "POST"),
    ] {
        assert_eq!(form[field], value, "{field} in {form}");
    }
}

#[tokio::test]
async fn envoy_waits_as_long_as_the_kind_of_request_or_the_agent_needs() {
    let (stack, agents) = with_pools([pool("*", |_| {})], "").await;
    agents[0].be(Mode::Slow(Duration::from_millis(1500)));
    for (target, status) in [
        ("/?MAP=/w&SERVICE=WMS&REQUEST=GetMap", 504),
        ("/?MAP=/w&service=wfs&REQUEST=GetFeature", 504),
        ("/?MAP=/w&service=WMS&request=getprint", 200),
    ] {
        let started = Instant::now();
        let answer = stack.get(target).await;
        assert_eq!(answer.status.as_u16(), status, "{target} after {:?}", started.elapsed());
    }
    // What a body asks for is not known: it gets the longest.
    let posted = stack.post("/?MAP=/w", "text/xml", "<GetFeature/>").await;
    assert_eq!(posted.status, 200);
    drop(agents);
    // An agent that may take longer than all that is configured: it says so when it comes, and when its configuration changes.
    let slow = Agent::patient("slow", "default", stack.config.fleet.listen, 0.1);
    stack.until_healthy("pool/default", 1).await;
    assert!(stack.page("/metrics").await.contains("graticule_cp_timeouts_raised 0"));
    slow.be(Mode::Slow(Duration::from_millis(1500)));
    slow.tell(|state| state.longest_timeout = 40.0);
    crate::stack::until("a longer timeout", async || {
        stack.get("/?MAP=/w&SERVICE=WMS&REQUEST=GetMap").await.status == 200
    })
    .await;
    assert!(stack.page("/metrics").await.contains("graticule_cp_timeouts_raised 1"));
}
