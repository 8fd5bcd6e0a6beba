//! HTTP/3 as a client of its own speaks it: QUIC to Envoy's UDP port, found by what HTTPS said of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use control_plane::config::Config;
use futures::future::join_all;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, TransportConfig};
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;

use crate::stack::{Agent, Answer, Stack, request, until};
use crate::tls::{Client, HOST, Place, names, until_https};

/// One connection over QUIC; requests on it run beside each other.
struct Http3 {
    connection: Connection,
    sender: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
    // What is sent and received stops with it.
    _endpoint: Endpoint,
}

impl Http3 {
    async fn connect(client: &Client, address: SocketAddr) -> anyhow::Result<Self> {
        let mut tls = (*client.0).clone();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        // Who takes a session up again is shown no certificate, and goes by the one of before.
        tls.resumption = Resumption::disabled();
        let mut endpoint = Endpoint::client("127.0.0.1:0".parse()?)?;
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        let mut transport = TransportConfig::default();
        // Over loopback nothing takes a batch apart: the kernel drops what comes in one piece for a socket without GRO.
        transport.enable_segmentation_offload(false);
        config.transport_config(Arc::new(transport));
        endpoint.set_default_client_config(config);
        let connection = endpoint.connect(address, HOST)?.await?;
        let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(connection.clone())).await?;
        tokio::spawn(async move { driver.wait_idle().await });
        Ok(Self {
            connection,
            sender,
            _endpoint: endpoint,
        })
    }

    /// Envoy opens the port a moment after that for HTTPS: asks until it is there.
    async fn found(client: &Client, address: SocketAddr) -> Self {
        let end = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            match tokio::time::timeout(Duration::from_secs(2), Self::connect(client, address)).await {
                Ok(Ok(found)) => return found,
                other => assert!(tokio::time::Instant::now() < end, "{:?}", other.map(|made| made.err())),
            }
        }
    }

    async fn exchange(&self, asked: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let (mut head, body) = asked.into_parts();
        // HTTP/3 names scheme and host in the target (RFC 9114, section 4.3.1).
        head.uri = format!("https://{HOST}{}", head.uri).parse()?;
        head.headers.remove("host");
        let mut stream = self.sender.clone().send_request(Request::from_parts(head, ())).await?;
        let body = body.collect().await?.to_bytes();
        if !body.is_empty() {
            stream.send_data(body).await?;
        }
        stream.finish().await?;
        let (head, ()) = stream.recv_response().await?.into_parts();
        let mut body = Vec::new();
        while let Some(mut part) = stream.recv_data().await? {
            body.extend_from_slice(&part.copy_to_bytes(part.remaining()));
        }
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: String::from_utf8(body)?,
        })
    }

    async fn get(&self, target: &str) -> Answer {
        self.exchange(request(Method::GET, target, &[], "")).await.unwrap()
    }

    fn shown(&self) -> Vec<String> {
        let identity = self.connection.peer_identity().unwrap();
        names(&identity.downcast::<Vec<CertificateDer>>().unwrap()[0])
    }
}

/// A stack that speaks HTTP/3 beside HTTPS, with whatever `change` does to its configuration, and a client of it. The place has
/// its certificates.
async fn opened(change: impl FnOnce(&mut Config)) -> (Place, Stack, [Agent; 1], Client) {
    let place = Place::new();
    let (stack, agents) = Stack::with_agents_and(["a"], |config| {
        place.https(config);
        config.front.tls.http3 = true;
        change(config);
    })
    .await;
    until_https(&stack).await;
    let client = place.client(None);
    (place, stack, agents, client)
}

#[tokio::test]
async fn who_follows_alt_svc_is_served_by_http3_as_by_https() {
    let (_place, stack, _agents, client) = opened(|_| {}).await;
    let mut address = stack.config.front.tls.listen;
    let told = client.get(&stack, "/?MAP=/w").await;
    let port = told.header("alt-svc").strip_prefix("h3=\":").unwrap();
    address.set_port(port.split('"').next().unwrap().parse().unwrap());
    let http3 = Http3::found(&client, address).await;

    let answer = http3.get("/?MAP=/w&SERVICE=WMS").await;
    assert_eq!(
        (answer.status, answer.agent()),
        (StatusCode::OK, "a"),
        "{}",
        answer.body
    );
    assert_eq!(answer.project().as_deref(), Some("w"));
    assert_eq!(answer.seen("x-forwarded-proto").unwrap(), "https");
    assert_eq!(answer.seen("host").unwrap(), HOST);
    // A body of many packets, and many requests at once on one connection.
    let body = "x".repeat(300_000);
    let post = request(Method::POST, "/?MAP=/w", &[("content-type", "text/xml")], &body);
    let large = http3.exchange(post).await.unwrap();
    let seen: serde_json::Value = serde_json::from_str(&large.body).unwrap();
    assert_eq!(seen["body_bytes"], 300_000);
    let targets: Vec<String> = (0..50).map(|n| format!("/?MAP=/w{n}")).collect();
    for (n, answer) in join_all(targets.iter().map(|target| http3.get(target)))
        .await
        .iter()
        .enumerate()
    {
        assert_eq!(answer.project().unwrap(), format!("w{n}"));
    }
    assert_eq!(stack.stat("http.front.downstream_cx_http3_total").await, 1);
}

#[tokio::test]
async fn the_limits_of_the_front_hold_over_http3_and_a_certificate_is_renewed() {
    let (place, stack, _agents, client) = opened(|config| config.front.limits.max_body_size = 10_000).await;
    let address = stack.config.front.tls.listen;
    let http3 = Http3::found(&client, address).await;
    let large = "x".repeat(20_000);
    let post = request(Method::POST, "/?MAP=/w", &[("content-type", "text/xml")], &large);
    // Envoy may answer before it has all of it, and stop the rest.
    if let Ok(refused) = http3.exchange(post).await {
        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", refused.body);
    }
    assert_eq!(
        http3.get("/?MAP=/w").await.status,
        StatusCode::OK,
        "the connection goes on"
    );

    assert_eq!(http3.shown()[1], "first.org");
    place.front("second.org");
    until("the second", async || {
        Http3::found(&client, address).await.shown()[1] == "second.org"
    })
    .await;
    assert_eq!(http3.get("/?MAP=/w").await.status, StatusCode::OK, "it still goes on");
}
