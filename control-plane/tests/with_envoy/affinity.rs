//! Which agent Envoy chooses: the same one for every spelling of a project, whatever hostile clients send.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::stack::{Mode, Stack, request};
use hyper::Method;

const FORM: &str = "application/x-www-form-urlencoded";

#[tokio::test]
async fn every_spelling_of_a_project_reaches_one_agent() {
    let (stack, _agents) = Stack::with_agents(["a", "b", "c"]).await;
    let mut answers = Vec::new();
    for target in [
        "/?MAP=/world&SERVICE=WMS",
        "/?SERVICE=WMS&map=world",
        "/?Map=%2Fworld.qgs",
        "/?m%41p=%2fworld.qgz&SERVICE=WFS",
        "/?MAP=//world/",
        "/ows/world?SERVICE=WMS",
        "/ows/world.qgs?SERVICE=WMS&MAP=/else",
        "/ows/world/wfs3/collections?limit=1",
        "/ows/world/wfs3",
        "/ows/world/wfs3.json",
        "/ows/%77orld",
        "/wfs3/collections?MAP=/world",
    ] {
        answers.push((target, stack.get(target).await));
    }
    answers.push((
        "POST form",
        stack.post("/", FORM, "SERVICE=WMS&MAP=%2Fworld&WIDTH=10").await,
    ));
    answers.push(("POST xml", stack.post("/?MAP=world", "text/xml", "<GetFeature/>").await));
    let first = answers[0].1.agent().to_owned();
    for (what, answer) in &answers {
        assert_eq!(answer.status, 200, "{what}: {}", answer.body);
        assert_eq!(answer.project().as_deref(), Some("world"), "{what}");
        assert_eq!(answer.agent(), first, "{what}");
    }
    assert_eq!(stack.stat("http.front.lua.errors").await, 0);
}

#[tokio::test]
async fn projects_spread_over_agents_and_stay_where_they_are() {
    let (stack, _agents) = Stack::with_agents(["a", "b", "c"]).await;
    let target = |project: usize| format!("/?MAP=/project{project}");
    let mut homes = Vec::new();
    for project in 0..24 {
        homes.push(stack.get(&target(project)).await.agent().to_owned());
    }
    assert_eq!(homes.iter().collect::<BTreeSet<_>>().len(), 3, "{homes:?}");
    for (project, home) in homes.iter().enumerate() {
        assert_eq!(stack.get(&target(project)).await.agent(), home);
    }
}

#[tokio::test]
async fn nested_and_odd_names_make_plain_keys() {
    let (stack, _agents) = Stack::with_agents(["a"]).await;
    for (target, key) in [
        ("/ows/public/roads?SERVICE=WMS", Some("public/roads")),
        ("/?MAP=public%2Froads.qgs", Some("public/roads")),
        ("/?MAP=World", Some("World")),
        ("/?MAP=Z%C3%BCrich", Some("Z%C3%BCrich")),
        ("/ows/Z%C3%BCrich/wfs3/", Some("Z%C3%BCrich")),
        ("/?MAP=my+map&MAP=other", Some("my%20map")),
        ("/?MAP=a%2", Some("a%252")),
        ("/?MAPS=world&XMAP=world", None),
        ("/?MAP=", None),
        ("/ows/", None),
        ("/", None),
    ] {
        let answer = stack.get(target).await;
        assert_eq!(answer.status, 200, "{target}");
        assert_eq!(answer.project().as_deref(), key, "{target}");
    }
}

#[tokio::test]
async fn hostile_input_neither_breaks_the_script_nor_forges_headers() {
    let (stack, _agents) = Stack::with_agents(["a"]).await;
    let forged = [("x-graticule-project", "forged"), ("X-Graticule-Project", "forged")];
    for target in ["/", "/?SERVICE=WMS", "/ows/?x"] {
        let answer = stack.send(request(Method::GET, target, &forged, "")).await;
        assert_eq!(answer.project(), None, "{target}: the client's own word does not stay");
    }
    let long = "a".repeat(30_000);
    for (target, key) in [
        ("/?MAP=a%0d%0ax-evil:%201", "a%0D%0Ax-evil%3A%201".to_owned()),
        ("/?MAP=%00%00world%00", "%00%00world%00".to_owned()),
        ("/?MAP=%%%zz%", "%25%25%25zz%25".to_owned()),
        (&format!("/?MAP={long}"), "a".repeat(1024)),
        (&format!("/?{}MAP=w", "&".repeat(30_000)), "w".to_owned()),
        (&format!("/?{}&MAP=w", "=".repeat(30_000)), "w".to_owned()),
        (&format!("/?MAP={}x", "/".repeat(1000)), "x".to_owned()),
    ] {
        let answer = stack.get(target).await;
        let shown: String = target.chars().take(40).collect();
        assert_eq!(answer.status, 200, "{shown}");
        assert_eq!(answer.seen("x-evil"), None);
        assert_eq!(answer.project().as_deref(), Some(key.as_str()), "{shown}");
    }
    // A form that is too long is passed on unread.
    let body = format!("MAP=world&PAD={}", "x".repeat(70_000));
    let answer = stack.post("/", FORM, &body).await;
    assert_eq!((answer.status.as_u16(), answer.project()), (200, None));
    assert!(
        answer.body.contains(&format!("\"body_bytes\":{}", body.len())),
        "{}",
        answer.body
    );
    // One that says it is a form, and is not.
    assert_eq!(stack.post("/", FORM, "\0\0=&&%%%&=map").await.status, 200);
    assert_eq!(stack.stat("http.front.lua.errors").await, 0);
    // The script's counter exists, so that a zero above means something.
    assert!(stack.stat("http.front.lua.executions").await > 10);
}

#[tokio::test]
async fn a_slash_may_be_escaped_in_the_query_but_not_in_the_path() {
    let (stack, _agents) = Stack::with_agents(["a"]).await;
    assert_eq!(stack.get("/?MAP=%2Fworld").await.status, 200);
    assert_eq!(stack.get("/ows/a%2F..%2Fb").await.status, 400);
    assert_eq!(
        stack.get("/ows/a/../b//c?SERVICE=WMS").await.project().as_deref(),
        Some("b/c")
    );
}

#[tokio::test]
async fn a_hot_project_spills_over_to_other_agents() {
    let (stack, agents) = Stack::with_agents(["a", "b", "c", "d"]).await;
    for agent in &agents {
        agent.be(Mode::Slow(Duration::from_millis(400)));
    }
    // One after the other: Envoy counts a request once it has its connection.
    let staggered = |n: u64| {
        let stack = &stack;
        async move {
            tokio::time::sleep(Duration::from_millis(8) * u32::try_from(n).unwrap()).await;
            stack.get("/?MAP=/hot").await
        }
    };
    let answers = futures::future::join_all((0..40).map(staggered)).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let counts: Vec<usize> = agents.iter().map(crate::stack::Agent::served).collect();
    println!("40 requests for one project at once, by agent: {counts:?}");
    assert!(
        counts.iter().filter(|count| **count > 0).count() >= 2,
        "bounded load takes effect: {counts:?}"
    );
    for agent in &agents {
        agent.be(Mode::Prompt);
    }
    let mut calm = BTreeSet::new();
    for _ in 0..10 {
        calm.insert(stack.get("/?MAP=/hot").await.agent().to_owned());
    }
    assert_eq!(calm.len(), 1, "when it is calm, it is at home again");
}
