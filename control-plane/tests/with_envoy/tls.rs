//! HTTPS for clients, with certificates over SDS; TLS from Envoy to agents; and the control plane's own ports secured, with roles.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use control_plane::Config;
use control_plane::config::{MinVersion, Pool};
use envoy_types::pb::envoy::service::status::v3::ClientStatusRequest;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use graticule_daemon::access::Role;
use graticule_daemon::config::Secret;
use graticule_daemon::tls::{Dial, Facts, TlsClient, TlsServer, provider};
use graticule_proto::v1::fleet_admin_client::FleetAdminClient;
use graticule_proto::v1::{FleetPinRequest, FleetSetConfigRequest, ListAgentsRequest, SnapshotRequest};
use hyper::{Method, StatusCode};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use stack::certificates::{Authority, Issued};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::stack::{Agent, Answer, Stack, exchange_over, free_port, request, until};

/// The name by which clients call.
pub const HOST: &str = "maps.example.org";

/// An authority with a directory for what it signs.
pub struct Place {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Place {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            authority: Authority::new("The authority"),
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A certificate for the front that has a further name, to know it by; over the one that was there before.
    pub fn front(&self, further: &str) -> (PathBuf, PathBuf) {
        self.authority.issue(&[HOST, further]).write(self.path(), "front")
    }

    /// A certificate for somebody else.
    pub fn identity(&self, name: &str) -> Issued {
        self.authority.issue(&[name])
    }

    /// The same, in files.
    pub fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        self.identity(name).write(self.path(), name)
    }

    pub fn ca(&self) -> PathBuf {
        self.authority.write(self.path(), "ca.pem")
    }

    /// HTTPS with the first certificate.
    pub fn https(&self, config: &mut Config) {
        let tls = &mut config.front.tls;
        tls.listen = free_port();
        (tls.cert_file, tls.key_file) = self.front("first.org");
    }

    /// A client that believes the authority, and shows a certificate if it has one.
    pub fn client(&self, identity: Option<&Issued>) -> Client {
        let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.authority.pem())).unwrap();
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
                builder
                    .with_client_auth_cert(vec![certificate(&identity.cert)], key)
                    .unwrap()
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Client(Arc::new(config))
    }
}

/// The names in a certificate.
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    Facts::of(certificate).unwrap().names
}

#[derive(Clone)]
pub struct Client(pub Arc<ClientConfig>);

impl Client {
    pub async fn connect(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(HOST).unwrap();
        TlsConnector::from(Arc::clone(&self.0)).connect(name, stream).await
    }

    /// Asks on a connection of its own. What does not come about is status 599.
    pub async fn get(&self, stack: &Stack, target: &str) -> Answer {
        let connection = self.connect(stack.config.front.tls.listen);
        exchange_over(connection, request(Method::GET, target, &[], "")).await
    }

    /// The names in the certificate that is shown.
    async fn shown(&self, stack: &Stack) -> Vec<String> {
        let stream = self.connect(stack.config.front.tls.listen).await.unwrap();
        names(&stream.get_ref().1.peer_certificates().unwrap()[0])
    }
}

pub async fn until_https(stack: &Stack) {
    until("HTTPS", async || {
        TcpStream::connect(stack.config.front.tls.listen).await.is_ok()
    })
    .await;
}

fn metric(page: &str, name: &str, label: &str) -> Option<f64> {
    let line = page
        .lines()
        .find(|line| line.starts_with(name) && line.contains(label))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn clients_are_answered_over_https_and_told_of_http3_and_hsts() {
    let place = Place::new();
    let (stack, [_agent]) = Stack::with_agents_and(["a"], |config| {
        place.https(config);
        let tls = &mut config.front.tls;
        (tls.http3, tls.redirect_http, tls.hsts_max_age) = (true, true, 3600);
        tls.min_version = MinVersion::Tls13;
    })
    .await;
    until_https(&stack).await;
    let (client, tls) = (place.client(None), &stack.config.front.tls);
    let answer = client.get(&stack, "/?MAP=/w").await;
    assert_eq!(
        (answer.status, answer.agent()),
        (StatusCode::OK, "a"),
        "{}",
        answer.body
    );
    assert_eq!(answer.seen("x-forwarded-proto").unwrap(), "https");
    assert_eq!(answer.header("strict-transport-security"), "max-age=3600");
    let port = tls.listen.port();
    assert_eq!(answer.header("alt-svc"), format!("h3=\":{port}\"; ma=86400"));

    let page = stack.page("/metrics").await;
    assert_eq!(metric(&page, "graticule_xds_nacks_total", "lds").unwrap_or(0.0), 0.0);

    // Without TLS, clients are led there, with method and query.
    let led = stack.post("/ows?MAP=/w", "text/plain", "body").await;
    assert_eq!(led.status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(led.header("location"), format!("https://{HOST}:{port}/ows?MAP=/w"));
    assert_eq!(led.header("strict-transport-security"), "", "it would not be believed");

    // The key is shown to nobody but Envoy.
    let key = std::fs::read_to_string(place.path().join("front.key")).unwrap();
    let secret: &[u8] = key.lines().nth(1).unwrap().as_bytes();
    let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
    assert!(holds(key.as_bytes()));
    let fleet = format!("http://{}", stack.config.fleet.listen);
    let mut admin = FleetAdminClient::connect(fleet.clone()).await.unwrap();
    let told = admin
        .get_snapshot(SnapshotRequest::default())
        .await
        .unwrap()
        .into_inner();
    let resources = told.views.iter().flat_map(|view| &view.resources);
    let secrets: Vec<_> = resources.clone().filter(|resource| resource.kind == "sds").collect();
    assert_eq!(secrets.len(), 1);
    assert!(secrets[0].name == "front/certificate" && secrets[0].body.is_empty());
    assert!(!resources.clone().any(|resource| holds(&resource.body)));
    let mut status = ClientStatusDiscoveryServiceClient::connect(fleet).await.unwrap();
    let envoys = status
        .fetch_client_status(ClientStatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    let of_envoy = &envoys.config[0].generic_xds_configs;
    assert!(of_envoy.iter().any(|resource| resource.name == "front/certificate"));
    assert!(
        !of_envoy
            .iter()
            .any(|resource| resource.xds_config.as_ref().is_some_and(|any| holds(&any.value)))
    );
}

#[tokio::test]
async fn a_certificate_is_renewed_under_load_and_a_broken_one_is_not_taken() {
    let place = Place::new();
    let (stack, [_agent]) = Stack::with_agents_and(["a"], |config| place.https(config)).await;
    until_https(&stack).await;
    let (client, address) = (place.client(None), stack.config.front.tls.listen);
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..3)
        .map(|_| {
            let (client, stop, asked) = (client.clone(), Arc::clone(&stop), Arc::clone(&asked));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let get = request(Method::GET, "/?MAP=/w", &[], "");
                    let answer = exchange_over(client.connect(address), get).await;
                    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    assert_eq!(client.shown(&stack).await[1], "first.org");
    for further in ["second.org", "third.org"] {
        place.front(further);
        until(further, async || client.shown(&stack).await[1] == further).await;
    }
    // A key that does not belong to it: said in the log and in a metric, and the third stays.
    let other = place.authority.issue(&[HOST]);
    std::fs::write(place.path().join("front.key"), &other.key).unwrap();
    let unusable = async || {
        metric(
            &stack.page("/metrics").await,
            "graticule_tls_files_unusable",
            "front.tls",
        )
    };
    until("the complaint", async || unusable().await == Some(1.0)).await;
    assert_eq!(client.shown(&stack).await[1], "third.org");
    place.front("fourth.org");
    until("the fourth", async || client.shown(&stack).await[1] == "fourth.org").await;
    until("the end of the complaint", async || unusable().await == Some(0.0)).await;
    stop.store(true, Ordering::SeqCst);
    for one in load {
        one.await.unwrap();
    }
    assert!(asked.load(Ordering::SeqCst) > 0);
    assert_eq!(
        stack.stat("listener_manager.listener_modified").await,
        0,
        "no listener was changed"
    );
    assert_eq!(stack.stat("listener_manager.total_listeners_draining").await, 0);
    let until_unix = metric(
        &stack.page("/metrics").await,
        "graticule_tls_certificate_expires",
        "front.tls",
    );
    assert!(until_unix.unwrap() > 1.8e9);
}

#[tokio::test]
async fn clients_without_a_certificate_of_the_authority_are_refused_where_it_is_asked_for() {
    let place = Place::new();
    let (stack, [_agent]) = Stack::with_agents_and(["a"], |config| {
        place.https(config);
        config.front.tls.client_ca_file = place.ca();
    })
    .await;
    until_https(&stack).await;
    let friend = place.authority.issue(&["viewer.example.org"]);
    let answer = place.client(Some(&friend)).get(&stack, "/?MAP=/w").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let stranger = Authority::new("else").issue(&["viewer.example.org"]);
    for client in [place.client(None), place.client(Some(&stranger))] {
        assert_eq!(client.get(&stack, "/?MAP=/w").await.status.as_u16(), 599);
    }
}

#[tokio::test]
async fn a_certificate_of_its_own_and_https_alone() {
    let (stack, [_agent]) = Stack::with_agents_and(["a"], |config| {
        config.front.tls.auto = true;
        config.front.tls.listen = config.front.listen;
    })
    .await;
    let plain = stack.get("/?MAP=/w").await;
    assert_ne!(plain.status, StatusCode::OK, "{}", plain.body);
    // Here is also where the agent answers.
    let url = format!("https://{}/?MAP=/w", stack.front);
    let asked = tokio::task::spawn_blocking(|| {
        let mut curl = std::process::Command::new("curl");
        curl.args([
            "--silent",
            "--insecure",
            "--noproxy",
            "*",
            "--max-time",
            "20",
            "--http2",
        ]);
        curl.args(["--write-out", "\n%{http_code} %{http_version}"])
            .arg(url)
            .output()
            .unwrap()
    });
    let curl = asked.await.unwrap();
    let said = String::from_utf8_lossy(&curl.stdout).into_owned();
    assert!(
        said.ends_with("\n200 2"),
        "{said} {}",
        String::from_utf8_lossy(&curl.stderr)
    );
}

#[tokio::test]
async fn https_comes_and_goes_while_everything_runs_and_files_that_cannot_be_used_change_nothing() {
    let place = Place::new();
    let (stack, [_agent]) = Stack::with_agents_and(["a"], |_| {}).await;
    let listen = free_port();
    let mut admin = FleetAdminClient::connect(format!("http://{}", stack.config.fleet.listen))
        .await
        .unwrap();
    let mut set = async |tls: serde_json::Value| {
        let patch_json = serde_json::json!({"front": {"tls": tls}}).to_string();
        let request = FleetSetConfigRequest {
            patch_json,
            ..FleetSetConfigRequest::default()
        };
        admin.set_config(request).await.map(drop)
    };
    let (cert, key) = place.front("first.org");
    let no_key = place.path().join("none.key");
    let refused = set(serde_json::json!({"listen": listen, "cert_file": cert, "key_file": no_key}))
        .await
        .unwrap_err();
    assert!(refused.message().contains("`front.tls.key_file`"), "{refused}");
    assert!(refused.message().contains("it cannot be read"), "{refused}");
    set(serde_json::json!({"listen": listen, "cert_file": cert, "key_file": key}))
        .await
        .unwrap();
    let connect = async || place.client(None).connect(listen).await.is_ok();
    until("HTTPS", connect).await;
    let get = request(Method::GET, "/?MAP=/w", &[], "");
    let answer = exchange_over(place.client(None).connect(listen), get).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    set(serde_json::Value::Null).await.unwrap();
    until("the end of HTTPS", async || TcpStream::connect(listen).await.is_err()).await;
    assert_eq!(stack.get("/?MAP=/w").await.agent(), "a");
}

#[tokio::test]
async fn envoy_speaks_tls_with_agents_and_both_show_who_they_are() {
    let place = Place::new();
    let of = |name: &str| place.authority.issue(&[name]).write(place.path(), name);
    let ((agent_cert, agent_key), (cert_file, key_file)) = (of("agent.internal"), of("envoy.internal"));
    let server = TlsServer {
        cert_file: agent_cert,
        key_file: agent_key,
        client_ca_file: place.ca(),
        ..TlsServer::default()
    };
    let stack = Stack::start(|config| {
        let tls = TlsClient {
            ca_file: place.ca(),
            cert_file,
            key_file,
            server_name: "agent.internal".to_owned(),
        };
        let pool = Pool { tls, ..Pool::default() };
        config.pools.insert("default".to_owned(), pool);
    })
    .await;
    let agent = Agent::secured("a", "default", stack.config.fleet.listen, &server);
    stack.until_healthy("pool/default", 1).await;
    stack.until_listening().await;
    until("an answer", async || {
        stack.get("/?MAP=/w").await.status == StatusCode::OK
    })
    .await;
    // Envoy's certificate is renewed: connections that are made from then on show the new one.
    let renewed = of("envoy.internal");
    assert!(renewed.0.exists());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(stack.get("/?MAP=/w").await.agent(), "a");
    drop(agent);
    // Another one, whose certificate is for another name, is not believed.
    let (cert_file, key_file) = of("else.internal");
    let liar = TlsServer {
        cert_file,
        key_file,
        ..server
    };
    let _agent = Agent::secured("b", "default", stack.config.fleet.listen, &liar);
    until("the other agent", async || {
        stack.stat("cluster.pool/default.ssl.fail_verify_san").await > 0 || {
            stack.get("/?MAP=/w").await;
            false
        }
    })
    .await;
    assert_eq!(stack.get("/?MAP=/w").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_control_planes_ports_are_secured_and_everybody_may_what_they_are_for() {
    let place = Place::new();
    let of = |name: &str| place.authority.issue(&[name]).write(place.path(), name);
    let (cert_file, key_file) = of("control-plane");
    of("envoy");
    let port = TlsServer {
        cert_file,
        key_file,
        client_ca_file: place.ca(),
        ..TlsServer::default()
    };
    let token = |name: &str, text: &str| {
        let file = place.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let (full, read) = (
        token("full", "full-full-full-full\n"),
        token("read", "read-read-read-read\n"),
    );
    let envoys = token("envoys", "envoy-envoy-envoy\n");
    let stack = Stack::start_with(
        |config| {
            config.xds.tls = port.clone();
            config.xds.access.peer_token_file = envoys;
            config.fleet.tls = TlsServer {
                client_ca_file: PathBuf::new(),
                ..port.clone()
            };
            config.fleet.access.full_token_file = full.clone();
            config.fleet.access.read_token_file = read.clone();
        },
        "bootstrap-tls.yaml",
        |text| {
            let dir = place.path().display().to_string();
            text.replace("/etc/envoy/tls", &dir)
                .replace("Bearer TOKEN", "Bearer envoy-envoy-envoy")
        },
    )
    .await;
    // Envoy is told its configuration.
    stack.until_listening().await;
    assert_eq!(
        stack.get("/?MAP=/w").await.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "no agent is there"
    );

    let endpoint = Endpoint::from_shared(format!("https://{}", stack.config.fleet.listen)).unwrap();
    let tls = TlsClient {
        ca_file: place.ca(),
        server_name: "control-plane".to_owned(),
        ..TlsClient::default()
    };
    let admin = async |token_file: PathBuf| {
        let dial = Dial::new("test", tls.clone(), Secret::default(), token_file);
        FleetAdminClient::new(dial.connect(&endpoint).await.unwrap())
    };
    let pin = || FleetPinRequest {
        project: "/w".to_owned(),
        pool: String::new(),
        replicas: 0,
    };
    let mut nobody = admin(PathBuf::new()).await;
    let refused = nobody.list_agents(ListAgentsRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("--token-file"), "{refused}");
    let mut reader = admin(read).await;
    reader.list_agents(ListAgentsRequest {}).await.unwrap();
    let refused = reader.pin_project(pin()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("the role `full`"), "{refused}");
    admin(full).await.pin_project(pin()).await.unwrap();
    assert_eq!(Role::Full.to_string(), "full");
}
