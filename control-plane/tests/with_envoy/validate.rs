//! A few hundred configurations, drawn by a seed, and the plain ones: what is published for them is accepted by the real
//! Envoy. Many of them are put into one bootstrap, so that Envoy is started a few times only.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use control_plane::Config;
use control_plane::adapters::envoy::{Member, views};
use control_plane::adapters::secrets::Secrets;
use control_plane::config::{Cors, Ejection, HealthCheck, MinVersion, Origins, Pool, PoolRoute, Rate};
use control_plane::core::fleet::Told;
use control_plane::core::resources::{Kind, Snapshot};
use control_plane::core::views::DEFAULT;
use envoy_types::pb::envoy::config::bootstrap::v3::{Bootstrap, bootstrap::StaticResources};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter::ConfigType};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use envoy_types::pb::envoy::extensions::transport_sockets::quic::v3::QuicDownstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, Secret, UpstreamTlsContext, common_tls_context::ValidationContextType,
};
use envoy_types::pb::google::protobuf::{Any, BoolValue};
use graticule_daemon::tls::{Identity, TlsClient};
use prost::{Message, Name};

use crate::stack::envoy;

/// Configurations in one bootstrap, and bootstraps.
const TOGETHER: u64 = 50;
const ROUNDS: u64 = 6;

/// The longest that can be configured, of letters that take the most of Envoy's patterns.
const LONG_PREFIX: &str = "/a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t.u.v.w.x.y.z.a.b.c.d.e.f";
const LONG_ORIGIN: &str = "https://*.a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t.u.v.examp:*";

/// Numbers that are the same for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn upto(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % (most + 1)
    }

    fn often(&mut self) -> bool {
        self.upto(1) == 0
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.upto(of.len() as u64 - 1)).unwrap()]
    }
}

fn rate(dice: &mut Dice) -> Rate {
    Rate {
        requests: u32::try_from(dice.upto(3)).unwrap() * 7,
        per: [0.05, 1.0, 86_400.0][usize::try_from(dice.upto(2)).unwrap()],
        ..Rate::default()
    }
}

fn timeouts(dice: &mut Dice) -> BTreeMap<String, f64> {
    let kinds = ["WMS/GetPrint", "WFS", "wfs3/POST", "WMS"];
    let picked = kinds.into_iter().filter(|_| dice.upto(3) == 0).collect::<Vec<_>>();
    picked
        .into_iter()
        .map(|kind| (kind.to_owned(), 0.1 + dice.upto(1000) as f64))
        .collect()
}

fn pool(dice: &mut Dice) -> Pool {
    let hosts = [
        "*",
        "*.example.org",
        "a.example.org",
        "www.*",
        "xn--bcher-kva.example",
        "10.0.0.1",
        "*-maps.example.org",
    ];
    let prefixes = [
        "/",
        "/maps",
        "/maps/",
        "/maps/deep",
        "/ows/city",
        "/a.b(c)$*+~%20x",
        "/wfs3x",
        LONG_PREFIX,
    ];
    let origins = [
        "https://*.example.org",
        "http://localhost:*",
        "https://a.b",
        "null://x",
        "app+x://y.z:1",
        LONG_ORIGIN,
    ];
    let routes = (0..=dice.upto(2)).map(|_| {
        let prefix = dice.one(&prefixes);
        let headers: &[(&str, &str)] = match dice.upto(2) {
            0 => &[("X-Tenant", "blue")],
            1 => &[("x-tenant", "*"), ("cookie", "a=b; c=%d")],
            _ => &[],
        };
        PoolRoute {
            prefix: prefix.to_owned(),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            strip_prefix: prefix != "/ows/city",
        }
    });
    let routes = routes.collect();
    let credentials = dice.often();
    Pool {
        routes,
        hosts: (0..=dice.upto(2)).map(|_| dice.one(&hosts).to_owned()).collect(),
        cors: Cors {
            origins: match dice.upto(2) {
                0 if !credentials => Origins::Word("all".to_owned()),
                1 => Origins::List((0..=dice.upto(2)).map(|_| dice.one(&origins).to_owned()).collect()),
                _ => Origins::default(),
            },
            credentials,
            ..Cors::default()
        },
        request_timeout: dice.upto(2) as f64 * 43_200.0,
        timeouts: timeouts(dice),
        rate_limit: rate(dice),
        client_rate_limit: rate(dice),
        health_check: HealthCheck {
            interval: dice.upto(2) as f64,
            panic_threshold: dice.upto(100) as f64,
            ..HealthCheck::default()
        },
        ejection: Ejection {
            failures: u32::try_from(dice.upto(2)).unwrap(),
            duration: 0.1 + dice.upto(3599) as f64,
            max_percent: u32::try_from(dice.upto(100)).unwrap(),
        },
        ..Pool::default()
    }
}

/// A certificate with its key, as files; the certificate stands for an authority as well.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::self_signed("test", &["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join("cert.pem"), &identity.chain_pem).unwrap();
        std::fs::write(folder.path().join("key.pem"), &identity.key_pem).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// HTTPS in every way that can be configured.
    fn front(&self, dice: &mut Dice, front: &mut control_plane::config::Front) {
        let tls = &mut front.tls;
        tls.auto = dice.often();
        if !tls.auto {
            (tls.cert_file, tls.key_file) = (self.path("cert.pem"), self.path("key.pem"));
        }
        match dice.upto(2) {
            0 => tls.http3 = true,
            1 => tls.client_ca_file = self.path("cert.pem"),
            _ => {}
        }
        if dice.often() {
            tls.min_version = MinVersion::Tls13;
        }
        tls.redirect_http = dice.often();
        tls.hsts_max_age = u32::try_from(dice.upto(1) * 31_536_000).unwrap();
        tls.listen = front.listen;
        // HTTPS alone, or beside HTTP.
        if dice.often() {
            tls.listen.set_port(front.listen.port() + 20_000);
        } else {
            tls.redirect_http = false;
        }
    }

    fn pool(&self, dice: &mut Dice) -> TlsClient {
        let mut tls = TlsClient {
            ca_file: self.path("cert.pem"),
            server_name: dice.one(&["", "agents.example.org"]).to_owned(),
            ..TlsClient::default()
        };
        if dice.often() {
            (tls.cert_file, tls.key_file) = (self.path("cert.pem"), self.path("key.pem"));
        }
        tls
    }
}

/// A configuration whose pools have names that no other has.
fn config(seed: u64, files: &Files) -> Config {
    let mut dice = Dice(seed);
    let mut config = Config::default();
    let front = &mut config.front;
    // No two listeners of one Envoy have the same address.
    front.listen.set_port(10_000 + u16::try_from(seed).unwrap());
    front.trusted_hops = u32::try_from(dice.upto(2)).unwrap();
    front.affinity = dice.often();
    front.access_log = dice.one(&["", "stdout", "/dev/null"]).to_owned();
    front.timeouts = timeouts(&mut dice);
    front.limits.max_connections = u32::try_from(dice.upto(1) * 1000).unwrap();
    front.limits.max_header_size = [1024, 196_608, 61_440][usize::try_from(dice.upto(2)).unwrap()];
    front.limits.max_url_length = 1024;
    if dice.often() {
        front.response_headers.insert(
            "Content-Security-Policy".to_owned(),
            "default-src 'self' 100%".to_owned(),
        );
    }
    let rest = &mut config.rest;
    (rest.enabled, rest.fleet) = (dice.often(), dice.one(&["", "control-plane:18001"]).to_owned());
    rest.listen.set_port(20_000 + u16::try_from(seed).unwrap());
    config.fleet.access.read_token_file = "/token".into();
    config.pools = (0..=dice.upto(2))
        .map(|n| (format!("p{seed}-{n}"), pool(&mut dice)))
        .collect();
    for pool in config.pools.values_mut().filter(|_| seed.is_multiple_of(3)) {
        pool.tls = files.pool(&mut dice);
    }
    if dice.often() {
        files.front(&mut dice, &mut config.front);
    }
    config
}

fn members(config: &Config) -> Vec<Member> {
    let pools = config.effective_pools();
    let member = |(index, pool): (usize, &String)| Member {
        id: format!("agent-{pool}").into(),
        pool: pool.as_str().into(),
        address: ([10, 0, 0, 1], 1000 + u16::try_from(index).unwrap()).into(),
        told: if index % 2 == 0 { Told::Healthy } else { Told::Draining },
        longest_timeout: Duration::from_secs(53),
        weight: 70,
        placed: Arc::new([("a/b%20c".to_owned(), 0)].into()),
    };
    pools.keys().enumerate().map(member).collect()
}

/// Changes a packed message, if it is one of that type.
fn within<M: Message + Name + Default>(any: &mut Any, change: impl FnOnce(&mut M)) {
    if any.type_url == M::type_url() {
        let mut message = M::decode(any.value.as_slice()).unwrap();
        change(&mut message);
        any.value = message.encode_to_vec();
    }
}

/// Secrets are taken from the same file, under a name that no other configuration has.
fn static_secrets(socket: &mut Option<TransportSocket>, name: &str) {
    let Some(transport_socket::ConfigType::TypedConfig(any)) = socket.as_mut().and_then(|s| s.config_type.as_mut())
    else {
        return;
    };
    let here = |context: &mut Option<CommonTlsContext>| {
        let Some(context) = context else { return };
        let validation = match &mut context.validation_context_type {
            Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => Some(config),
            _ => None,
        };
        for config in context.tls_certificate_sds_secret_configs.iter_mut().chain(validation) {
            config.sds_config = None;
            config.name = format!("{name}/{}", config.name);
        }
    };
    within(any, |tls: &mut DownstreamTlsContext| here(&mut tls.common_tls_context));
    within(any, |tls: &mut UpstreamTlsContext| here(&mut tls.common_tls_context));
    within(any, |quic: &mut QuicDownstreamTransport| {
        let tls = quic.downstream_tls_context.as_mut();
        here(&mut tls.unwrap().common_tls_context);
    });
}

/// What would come over ADS, as Envoy takes it from a file.
fn add(resources: &mut StaticResources, snapshot: &Snapshot, name: &str) {
    for resource in snapshot.of(Kind::Secret) {
        let mut secret = Secret::decode(resource.body.as_ref()).unwrap();
        secret.name = format!("{name}/{}", secret.name);
        resources.secrets.push(secret);
    }
    for resource in snapshot.of(Kind::Cluster) {
        let mut cluster = Cluster::decode(resource.body.as_ref()).unwrap();
        // The fleet port is the same for all, or named and given with its cluster.
        let Some(endpoints) = snapshot.get(Kind::Endpoints, &resource.name) else {
            if !resources.clusters.iter().any(|known| known.name == cluster.name) {
                resources.clusters.push(cluster);
            }
            continue;
        };
        cluster.load_assignment = Some(ClusterLoadAssignment::decode(endpoints.body.as_ref()).unwrap());
        cluster.eds_cluster_config = None;
        cluster.cluster_discovery_type = Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Static as i32,
        ));
        static_secrets(&mut cluster.transport_socket, name);
        resources.clusters.push(cluster);
    }
    for resource in snapshot.of(Kind::Listener) {
        let mut listener = Listener::decode(resource.body.as_ref()).unwrap();
        listener.name = format!("{name}/{}", listener.name);
        for chain in &mut listener.filter_chains {
            static_secrets(&mut chain.transport_socket, name);
            for filter in &mut chain.filters {
                let Some(ConfigType::TypedConfig(any)) = &mut filter.config_type else {
                    continue;
                };
                within(any, |manager: &mut HttpConnectionManager| {
                    let Some(RouteSpecifier::Rds(rds)) = &manager.route_specifier else {
                        return;
                    };
                    let routes = snapshot.get(Kind::Route, &rds.route_config_name).unwrap();
                    let mut routes = RouteConfiguration::decode(routes.body.as_ref()).unwrap();
                    routes.validate_clusters = Some(BoolValue { value: true });
                    manager.route_specifier = Some(RouteSpecifier::RouteConfig(routes));
                });
            }
        }
        resources.listeners.push(listener);
    }
}

/// What Envoys are told that no view is for.
fn snapshot(config: &Config) -> Arc<Snapshot> {
    let secrets = Secrets::read(config, &Secrets::default()).unwrap();
    let views = views(config, &members(config), &secrets).unwrap();
    Arc::clone(views.get(DEFAULT).unwrap())
}

fn validated(bootstrap: &Bootstrap) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bootstrap.pb");
    std::fs::write(&path, bootstrap.encode_to_vec()).unwrap();
    let output = Command::new(envoy())
        .args([
            "--mode",
            "validate",
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "--log-level",
            "warn",
            "--config-path",
        ])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    if output.status.success() { Ok(()) } else { Err(said) }
}

#[test]
fn what_is_published_is_accepted_by_the_real_envoy() {
    let (mut published, mut secured, mut refused) = (0, 0, 0);
    let files = Files::new();
    for round in 0..ROUNDS {
        let mut resources = StaticResources::default();
        for seed in round * TOGETHER..(round + 1) * TOGETHER {
            let config = if seed == 0 {
                Config::default()
            } else {
                config(seed, &files)
            };
            match config.check() {
                // Pools that claim the same are drawn often enough.
                Err(problem) => {
                    let said = problem.to_string();
                    assert!(
                        ["both claim", "twice", "fits prefix"].iter().any(|w| said.contains(w)),
                        "seed {seed}: {said}"
                    );
                    refused += 1;
                }
                Ok(()) => {
                    let snapshot = snapshot(&config);
                    add(&mut resources, &snapshot, &format!("seed {seed}"));
                    published += 1;
                    secured += usize::from(config.front.tls.is_on());
                }
            }
        }
        let bootstrap = Bootstrap {
            static_resources: Some(resources),
            ..Default::default()
        };
        validated(&bootstrap).unwrap_or_else(|said| panic!("round {round}: {said}"));
    }
    println!("{published} accepted, {secured} of them with HTTPS, {refused} refused before");
    assert!(
        published > 150 && secured > 50 && refused > 10,
        "{published} {secured} {refused}"
    );
}

#[test]
fn a_snapshot_that_envoy_would_refuse_is_seen() {
    let config = Config::default();
    let mut resources = StaticResources::default();
    add(&mut resources, &snapshot(&config), "bad");
    resources.clusters.clear();
    let bootstrap = Bootstrap {
        static_resources: Some(resources),
        ..Default::default()
    };
    let said = validated(&bootstrap).unwrap_err();
    assert!(said.contains("pool/default"), "{said}");
}
