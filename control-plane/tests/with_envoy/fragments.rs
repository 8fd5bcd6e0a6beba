//! What users write in Envoy's own words reaches the real Envoy; what Envoy refuses of it changes nothing for clients.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fleet_changes::{all_good, steady_load};
use crate::stack::{Stack, exchange, free_port, request, until};
use crate::state::{admin_of, set};
use hyper::Method;

pub fn lua(code: &str) -> Value {
    json!([{
        "name": "own.lua",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": code},
        },
    }])
}

/// Tells every client for which project it asked.
const TELLS: &str = r#"
function envoy_on_request(handle)
  handle:streamInfo():dynamicMetadata():set("own", "project", handle:headers():get("x-graticule-project"))
end
function envoy_on_response(handle)
  handle:headers():add("x-own", handle:streamInfo():dynamicMetadata():get("own")["project"])
end
"#;

#[tokio::test]
async fn own_listeners_clusters_and_filters_come_and_go_and_a_bad_one_disturbs_nobody() {
    let (stack, _agents) = Stack::with_agents(["a", "b"]).await;
    let mut admin = admin_of(stack.control_plane.as_ref().unwrap()).await;
    let (stop, load) = steady_load(&stack);

    // A port of one's own that leads to Envoy's own pages.
    let side = free_port();
    let here = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let pages = json!({
        "listeners": [{
            "name": "side",
            "address": here(side.port()),
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    "stat_prefix": "side",
                    "cluster": "envoys-pages",
                },
            }]}],
        }],
        "clusters": [{
            "name": "envoys-pages",
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": "envoys-pages",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": here(stack.admin.port())}}]}],
            },
        }],
        "http_filters": lua(TELLS),
    });
    set(&mut admin, &json!({"fragments": {"pages": pages}})).await.unwrap();
    until("the filter to work", async || {
        stack.get("/?MAP=/world").await.header("x-own") == "world"
    })
    .await;
    until("the listener to work", async || {
        let answer = exchange(side, request(Method::GET, "/ready", &[], "")).await;
        answer.body.contains("LIVE")
    })
    .await;

    // What we can see ourselves is refused before anybody hears of it.
    let wrong = json!({"fragments": {"more": {"clusters": [{"name": "x", "typo": 1}]}}});
    let refused = set(&mut admin, &wrong).await.unwrap_err();
    assert!(
        refused.message().contains("`fragments.more.clusters[0].typo`"),
        "{refused:?}"
    );

    // What only Envoy can see, it refuses: what was there serves on, and it is said.
    assert_eq!(stack.stat("listener_manager.lds.update_rejected").await, 0);
    let refused_by_envoy = json!({"fragments": {"pages": {"http_filters": lua("function envoy_on_request(")}}});
    set(&mut admin, &refused_by_envoy).await.unwrap();
    until("Envoy to refuse it", async || {
        stack.stat("listener_manager.lds.update_rejected").await > 0
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(stack.get("/?MAP=/world").await.header("x-own"), "world", "as before");
    assert!(
        stack.page("/").await.contains("script load error"),
        "the status page says why"
    );

    // And nothing is left of it.
    set(&mut admin, &json!({"fragments": null})).await.unwrap();
    until("the filter to be gone", async || {
        stack.get("/?MAP=/world").await.header("x-own").is_empty()
    })
    .await;
    until("the listener to be gone", async || {
        tokio::net::TcpStream::connect(side).await.is_err()
    })
    .await;
    all_good(stop, load).await;
}
