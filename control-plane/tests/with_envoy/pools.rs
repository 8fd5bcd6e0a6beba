//! Several pools behind one Envoy: which request goes where, and what agents see of the path.

use control_plane::config::{Pool, PoolRoute};
use hyper::Method;

use crate::stack::{Agent, Stack, request};

fn route(prefix: &str, headers: &[(&str, &str)], strip_prefix: bool) -> PoolRoute {
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    PoolRoute {
        prefix: prefix.to_owned(),
        headers,
        strip_prefix,
    }
}

#[tokio::test]
async fn a_request_goes_to_the_pool_that_says_most_about_it() {
    let city = Pool {
        routes: vec![
            route("/ma.ps", &[], true),
            route("/ows/city", &[], false),
            route("/", &[("x-tenant", "blue")], true),
        ],
        ..Pool::default()
    };
    let own = Pool {
        hosts: vec!["own.example.org".to_owned()],
        routes: vec![route("/deep", &[], true)],
        ..Pool::default()
    };
    let pools = [
        ("city".to_owned(), city),
        ("default".to_owned(), Pool::default()),
        ("own".to_owned(), own),
    ];
    let stack = Stack::start(|config| config.pools = pools.into()).await;
    let _agents = ["city", "default", "own"].map(|pool| Agent::start(pool, pool, stack.config.fleet.listen));
    for pool in ["city", "default", "own"] {
        stack.until_healthy(&format!("pool/{pool}"), 1).await;
    }
    stack.until_listening().await;

    let tenant = [("x-tenant", "blue"), ("x-forwarded-prefix", "/evil")];
    for (host, target, headers, pool, path, prefix, project) in [
        ("a.org", "/?MAP=/w", &[][..], "default", "/?MAP=/w", None, Some("w")),
        ("a.org", "/ma.ps", &[], "city", "/", Some("/ma.ps"), None),
        (
            "a.org",
            "/ma.ps?MAP=/w",
            &[],
            "city",
            "/?MAP=/w",
            Some("/ma.ps"),
            Some("w"),
        ),
        (
            "a.org",
            "/ma.ps/ows/w/wfs3?f=1",
            &tenant,
            "city",
            "/ows/w/wfs3?f=1",
            Some("/ma.ps"),
            Some("w"),
        ),
        (
            "a.org",
            "/ma.psheet?MAP=/w",
            &[],
            "default",
            "/ma.psheet?MAP=/w",
            None,
            Some("w"),
        ),
        ("a.org", "/maxps", &[], "default", "/maxps", None, None),
        ("a.org", "/ows/city/w", &[], "city", "/ows/city/w", None, Some("city/w")),
        (
            "a.org",
            "/ows/cityhall",
            &[],
            "default",
            "/ows/cityhall",
            None,
            Some("cityhall"),
        ),
        ("a.org", "/?MAP=/w", &tenant, "city", "/?MAP=/w", None, Some("w")),
        (
            "own.example.org",
            "/deep/ows/w",
            &[],
            "own",
            "/ows/w",
            Some("/deep"),
            Some("w"),
        ),
        (
            "own.example.org",
            "/ma.ps/ows/w",
            &[],
            "city",
            "/ows/w",
            Some("/ma.ps"),
            Some("w"),
        ),
        ("own.example.org:9080", "/deep", &[], "own", "/", Some("/deep"), None),
    ] {
        for method in [Method::GET, Method::POST] {
            let mut request = request(method, target, headers, "");
            request.headers_mut().insert("host", host.parse().unwrap());
            let answer = stack.send(request).await;
            assert_eq!(answer.agent(), pool, "{host}{target}");
            let seen: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(seen["path"], path, "{host}{target}");
            assert_eq!(answer.seen("x-forwarded-prefix").as_deref(), prefix, "{host}{target}");
            assert_eq!(answer.project().as_deref(), project, "{host}{target}");
        }
    }
}

#[tokio::test]
async fn the_prefix_of_a_pool_stands_behind_that_of_a_trusted_proxy() {
    let pool = Pool {
        routes: vec![route("/maps", &[], true)],
        ..Pool::default()
    };
    let (stack, _agents) = Stack::with_agents_and(["a"], |config| {
        config.pools = [("default".to_owned(), pool)].into();
        config.front.trusted_hops = 1;
    })
    .await;
    for (headers, prefix) in [(&[][..], "/maps"), (&[("x-forwarded-prefix", "/outer")], "/outer/maps")] {
        let answer = stack.send(request(Method::GET, "/maps/ows/w", headers, "")).await;
        assert_eq!(answer.seen("x-forwarded-prefix").as_deref(), Some(prefix));
    }
    assert_eq!(stack.get("/elsewhere").await.status, 404);
}
