//! A stack whose parts speak TLS with each other and ask who is there: a map comes through it all, and the command line has to show a
//! token.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Output;

use stack::certificates::Authority;
use stack::shots::get_map;
use stack::{Plan, until};

fn said(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr[..]].concat()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secured_fleet_serves_maps_and_asks_who_gives_orders() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new("Graticule"));
    let text = |path: &Path| path.display().to_string();
    let of = |name: &str| {
        let (cert, key) = authority.issue(&[name]).write(dir.path(), name);
        (text(&cert), text(&key))
    };
    let token = |role: &str| {
        let file = dir.path().join(role);
        std::fs::write(&file, format!("{role}-{role}-{role}-{role}\n")).unwrap();
        text(&file)
    };
    let ca = text(&authority.write(dir.path(), "ca.pem"));
    let (control_plane, agent, envoy) = (of("control-plane"), of("agent"), of("envoy"));
    let (full, read, agents) = (token("full"), token("read"), token("agents"));
    let pools = serde_json::json!({"default": {"tls":
        {"ca_file": ca, "cert_file": envoy.0, "key_file": envoy.1, "server_name": "agent"}}});
    let stack = Plan::agents(1)
        .workers(1)
        .control_plane("CONF_POOLS", pools)
        .control_plane("CONF_FLEET__TLS__CERT_FILE", &control_plane.0)
        .control_plane("CONF_FLEET__TLS__KEY_FILE", &control_plane.1)
        .control_plane("CONF_FLEET__ACCESS__FULL_TOKEN_FILE", &full)
        .control_plane("CONF_FLEET__ACCESS__PEER_TOKEN_FILE", &agents)
        .agent("CONF_FLEET__TLS__CA_FILE", &ca)
        .agent("CONF_FLEET__TLS__SERVER_NAME", "control-plane")
        .agent("CONF_FLEET__TOKEN_FILE", &agents)
        .agent("CONF_SERVER__HTTP_TLS__CERT_FILE", &agent.0)
        .agent("CONF_SERVER__HTTP_TLS__KEY_FILE", &agent.1)
        .agent("CONF_SERVER__HTTP_TLS__CLIENT_CA_FILE", &ca)
        .agent("CONF_GRPC_TLS_CERTFILE", &agent.0)
        .agent("CONF_GRPC_TLS_KEYFILE", &agent.1)
        .agent("CONF_SERVER__ACCESS__FULL_TOKEN_FILE", &full)
        .agent("CONF_SERVER__ACCESS__READ_TOKEN_FILE", &read)
        .start()
        .await;
    let answer = stack.get(&get_map("40,0,50,10", 64)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let agent = stack.agent("agent-1");
    let direct = agent.direct().ask(http::Method::GET, "/", &[], "").await;
    assert!(direct.is_err(), "the data port speaks TLS alone: {direct:?}");

    // The agent's own port.
    let asks = |arguments: &[&str]| {
        let output = agent.cli(&[arguments, &["--tls-ca", &ca, "--tls-server-name", "agent"]].concat());
        (output.status.success(), said(&output))
    };
    let (done, text) = asks(&["healthcheck"]);
    assert!(done, "everybody may ask for health: {text}");
    let (done, text) = asks(&["stats"]);
    assert!(!done && text.contains("show a token: --token-file"), "{text}");
    let (done, text) = asks(&["stats", "--token-file", &read]);
    assert!(done, "{text}");
    let (done, text) = asks(&["cache", "pin", "/world", "--token-file", &read]);
    assert!(!done && text.contains("needs the role `full`"), "{text}");
    let (done, text) = asks(&["stats", "--token-file", &agents]);
    assert!(!done && text.contains("nobody has this token"), "{text}");
    let (done, text) = asks(&["cache", "pin", "/world", "--token-file", &full]);
    assert!(done, "{text}");
    let plain = said(&agent.cli(&["stats"]));
    assert!(plain.contains("a port with TLS needs --tls or --tls-ca"), "{plain}");
    let other = said(&agent.cli(&["stats", "--tls-ca", &ca]));
    assert!(other.contains("--tls-server-name"), "{other}");

    // The control plane's, and through it the agent's.
    let fleet = |token: &str| {
        let way = [
            "--tls-ca",
            &ca,
            "--tls-server-name",
            "control-plane",
            "--token-file",
            token,
        ];
        said(&stack.cli(&[&["fleet"], &way[..]].concat()))
    };
    assert!(fleet(&full).contains("agent-1"), "{}", fleet(&full));
    assert!(
        fleet(&agents).contains("this needs the role `read` or `full`, and you have `peer`"),
        "{}",
        fleet(&agents)
    );

    // A new token of the same role is taken while the old one still counts, and no restart is needed.
    std::fs::write(&read, "read-read-read-read\nnext-next-next-next\n").unwrap();
    let next = token("next");
    until("the new token", async || asks(&["stats", "--token-file", &next]).0).await;
    assert!(asks(&["stats", "--token-file", &read]).0);
}

#[test]
fn a_configuration_that_cannot_be_used_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("Graticule");
    let (cert, _) = authority.issue(&["a"]).write(dir.path(), "a");
    let (_, key) = authority.issue(&["b"]).write(dir.path(), "b");
    for (binary, cert_key, key_key, extra) in [
        ("control-plane", "front.tls.cert_file", "front.tls.key_file", ""),
        ("control-plane", "fleet.tls.cert_file", "fleet.tls.key_file", ""),
        (
            "worker-agent",
            "server.grpc_tls.cert_file",
            "server.grpc_tls.key_file",
            "worker.qgis.projects.search_paths={\"/\": \"/tmp\"}",
        ),
    ] {
        for command in ["check-config", "serve"] {
            let mut process = std::process::Command::new(stack::parts::binary(binary));
            process.args([command, "--set", &format!("{cert_key}={}", cert.display())]);
            process.args(["--set", &format!("{key_key}={}", key.display())]);
            if !extra.is_empty() {
                process.args(["--set", extra]);
            }
            process
                .env("CONF_STORE__DIR", dir.path())
                .env("CONF_FLEET__LISTEN", "127.0.0.1:0");
            if binary == "worker-agent" {
                process.env_remove("CONF_STORE__DIR").env_remove("CONF_FLEET__LISTEN");
            }
            let output = process.output().unwrap();
            let text = said(&output);
            assert_eq!(output.status.code(), Some(64), "{binary} {command}: {text}");
            assert!(
                text.contains(&format!("`{key_key}`")) && text.contains("does not belong"),
                "{text}"
            );
        }
    }
}
