//! Listeners for clients over TLS and QUIC, and TLS from Envoy to agents. Certificates are named here and come as secrets, so that
//! a renewed one changes no listener and no cluster.

use envoy_types::pb::envoy::config::core::v3::{Address, Http3ProtocolOptions, address as core_address};
use envoy_types::pb::envoy::config::core::v3::{TransportSocket, socket_address::Protocol, transport_socket};
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener, QuicProtocolOptions, UdpListenerConfig};
use envoy_types::pb::envoy::config::route::v3::{
    RedirectAction, Route, RouteConfiguration, RouteMatch, VirtualHost, redirect_action, route, route_match,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager as hcm,
};
use envoy_types::pb::envoy::extensions::transport_sockets::quic::v3::QuicDownstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, TlsParameters, UpstreamTlsContext, common_tls_context,
    tls_parameters::TlsProtocol,
};
use graticule_daemon::tls::TlsClient;
use prost::{Message, Name};

use super::listener::{self, network_filter};
use super::{address, any, over_ads, refers, truth};
use crate::adapters::secrets::{FRONT_CERTIFICATE, FRONT_CLIENTS, pool_authority, pool_certificate};
use crate::config::{Config, FrontTls, MinVersion};
use crate::core::resources::{Kind, Reference};

/// The listener for HTTPS.
pub const HTTPS: &str = "front-tls";

/// The listener for HTTP/3.
pub const HTTP3: &str = "front-http3";

/// What speaks TLS over TCP.
pub const TLS: &str = "envoy.transport_sockets.tls";

/// How long, in seconds, a client may remember that there is HTTP/3.
const ALT_SVC_AGE: u32 = 86_400;

/// The secrets that the front's listeners need.
pub fn front_secrets(config: &Config) -> Vec<Reference> {
    let tls = &config.front.tls;
    let clients = tls
        .asks_clients()
        .then(|| refers(Kind::Secret, FRONT_CLIENTS.to_owned()));
    [refers(Kind::Secret, FRONT_CERTIFICATE.to_owned())]
        .into_iter()
        .chain(clients)
        .collect()
}

/// The secrets that a pool's cluster needs.
pub fn pool_secrets(pool: &str, tls: &TlsClient) -> Vec<Reference> {
    if !tls.is_set() {
        return Vec::new();
    }
    let shows = tls
        .shows_certificate()
        .then(|| refers(Kind::Secret, pool_certificate(pool)));
    [refers(Kind::Secret, pool_authority(pool))]
        .into_iter()
        .chain(shows)
        .collect()
}

/// The listeners for HTTPS and HTTP/3, with the user's own filters; none where there is no HTTPS.
pub fn listeners(config: &Config, own: &[HttpFilter]) -> Vec<Listener> {
    let tls = &config.front.tls;
    if !tls.is_on() {
        return Vec::new();
    }
    let config = with_headers(config);
    let mut all = vec![https(&config, own)];
    all.extend(tls.http3.then(|| http3(&config, own)));
    all
}

/// The configuration with the headers that answers over TLS have.
fn with_headers(config: &Config) -> Config {
    let mut config = config.clone();
    let tls = &config.front.tls;
    let mut add = Vec::new();
    if tls.hsts_max_age > 0 {
        add.push(("strict-transport-security", format!("max-age={}", tls.hsts_max_age)));
    }
    if tls.http3 {
        add.push(("alt-svc", format!("h3=\":{}\"; ma={ALT_SVC_AGE}", tls.seen_port())));
    }
    for (name, value) in add {
        // What somebody has configured under this name goes before.
        config.front.response_headers.entry(name.to_owned()).or_insert(value);
    }
    config
}

fn https(config: &Config, own: &[HttpFilter]) -> Listener {
    let tls = &config.front.tls;
    let chain = FilterChain {
        filters: listener::filters(config, &listener::connection_manager(config, own.to_vec())),
        transport_socket: Some(socket(TLS, &of_front(tls, &["h2", "http/1.1"]))),
        ..Default::default()
    };
    Listener {
        name: HTTPS.to_owned(),
        address: Some(address(tls.listen)),
        filter_chains: vec![chain],
        ..Default::default()
    }
}

/// QUIC: connections are not limited in number there, for Envoy runs no filters before HTTP on them.
fn http3(config: &Config, own: &[HttpFilter]) -> Listener {
    let tls = &config.front.tls;
    let manager = HttpConnectionManager {
        codec_type: hcm::CodecType::Http3 as i32,
        http3_protocol_options: Some(Http3ProtocolOptions::default()),
        ..listener::connection_manager(config, own.to_vec())
    };
    let transport = QuicDownstreamTransport {
        downstream_tls_context: Some(of_front(tls, &["h3"])),
        ..Default::default()
    };
    let chain = FilterChain {
        filters: vec![network_filter(
            "envoy.filters.network.http_connection_manager",
            &manager,
        )],
        transport_socket: Some(socket("envoy.transport_sockets.quic", &transport)),
        ..Default::default()
    };
    Listener {
        name: HTTP3.to_owned(),
        address: Some(over_udp(address(tls.listen))),
        filter_chains: vec![chain],
        udp_listener_config: Some(UdpListenerConfig {
            quic_options: Some(QuicProtocolOptions::default()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn over_udp(mut address: Address) -> Address {
    if let Some(core_address::Address::SocketAddress(socket)) = &mut address.address {
        socket.protocol = Protocol::Udp as i32;
    }
    address
}

fn of_front(tls: &FrontTls, protocols: &[&str]) -> DownstreamTlsContext {
    let clients = tls.asks_clients().then_some(FRONT_CLIENTS);
    downstream(tls.min_version, (FRONT_CERTIFICATE, clients), protocols)
}

/// How a listener speaks TLS: with this certificate, and for clients that these authorities vouch for, or for all.
pub fn downstream(
    least: MinVersion,
    (certificate, clients): (&str, Option<&str>),
    protocols: &[&str],
) -> DownstreamTlsContext {
    let least = match least {
        MinVersion::Tls12 => TlsProtocol::TlSv12,
        MinVersion::Tls13 => TlsProtocol::TlSv13,
    };
    let asks = clients.is_some();
    let clients = clients.map(|name| {
        common_tls_context::ValidationContextType::ValidationContextSdsSecretConfig(by_name(name.to_owned()))
    });
    DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: least as i32,
                tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
                ..Default::default()
            }),
            alpn_protocols: protocols.iter().map(|protocol| (*protocol).to_owned()).collect(),
            tls_certificate_sds_secret_configs: vec![by_name(certificate.to_owned())],
            validation_context_type: clients,
            ..Default::default()
        }),
        require_client_certificate: truth(asks),
        ..Default::default()
    }
}

/// How Envoy speaks with the agents of a pool; `None` for plaintext.
pub fn upstream(pool: &str, tls: &TlsClient) -> Option<TransportSocket> {
    if !tls.is_set() {
        return None;
    }
    let shows = tls.shows_certificate().then(|| pool_certificate(pool));
    Some(calling((pool_authority(pool), shows), &tls.server_name, "http/1.1"))
}

/// How Envoy speaks TLS with somebody whom these authorities vouch for, showing this certificate, or none.
pub fn calling((authority, shows): (String, Option<String>), sni: &str, protocol: &str) -> TransportSocket {
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: vec![protocol.to_owned()],
            tls_certificate_sds_secret_configs: shows.map(by_name).into_iter().collect(),
            validation_context_type: Some(
                common_tls_context::ValidationContextType::ValidationContextSdsSecretConfig(by_name(authority)),
            ),
            ..Default::default()
        }),
        sni: sni.to_owned(),
        ..Default::default()
    };
    socket(TLS, &context)
}

/// In the front's place, for requests without TLS: each is led to HTTPS, with its method and body.
pub fn redirect(config: &Config) -> hcm::RouteSpecifier {
    let redirect = RedirectAction {
        port_redirect: u32::from(config.front.tls.seen_port()),
        response_code: redirect_action::RedirectResponseCode::PermanentRedirect as i32,
        scheme_rewrite_specifier: Some(redirect_action::SchemeRewriteSpecifier::HttpsRedirect(true)),
        ..Default::default()
    };
    let everything = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(route::Action::Redirect(redirect)),
        ..Default::default()
    };
    hcm::RouteSpecifier::RouteConfig(RouteConfiguration {
        name: "to-https".to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: "to-https".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![everything],
            ..Default::default()
        }],
        ..Default::default()
    })
}

fn by_name(name: String) -> SdsSecretConfig {
    SdsSecretConfig {
        name,
        sds_config: Some(over_ads()),
    }
}

pub fn socket<M: Message + Name>(name: &str, config: &M) -> TransportSocket {
    TransportSocket {
        name: name.to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(config))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::tests::snapshot;
    use super::super::views;
    use super::*;
    use crate::adapters::secrets::Secrets;
    use crate::config::{Pool, View};
    use crate::core::resources::Snapshot;

    fn told(change: impl FnOnce(&mut Config)) -> Snapshot {
        let mut config = Config::default();
        change(&mut config);
        config.check().unwrap();
        snapshot(&config, &[], &Secrets::unread(&config, &Secrets::default())).unwrap()
    }

    fn of_pool(server_name: &str, cert_file: &str) -> Pool {
        let tls = TlsClient {
            ca_file: "/ca.pem".into(),
            cert_file: cert_file.into(),
            key_file: cert_file.into(),
            server_name: server_name.to_owned(),
        };
        Pool { tls, ..Pool::default() }
    }

    #[test]
    fn there_are_the_listeners_that_are_configured_with_what_they_need() {
        let nothing = told(|_| {});
        assert_eq!(nothing.names(Kind::Listener), BTreeSet::from(["front"]));
        assert!(nothing.names(Kind::Secret).is_empty());
        let auto = told(|config| config.front.tls.auto = true);
        assert_eq!(auto.names(Kind::Listener), BTreeSet::from(["front", HTTPS]));
        assert_eq!(auto.names(Kind::Secret), BTreeSet::from([FRONT_CERTIFICATE]));
        let all = told(|config| {
            let tls = &mut config.front.tls;
            (tls.auto, tls.http3, tls.listen) = (true, true, config.front.listen);
        });
        assert_eq!(all.names(Kind::Listener), BTreeSet::from([HTTP3, HTTPS]), "HTTPS alone");
        let mutual = told(|config| {
            (config.front.tls.auto, config.front.tls.client_ca_file) = (true, "/ca.pem".into());
        });
        assert_eq!(
            mutual.names(Kind::Secret),
            BTreeSet::from([FRONT_CERTIFICATE, FRONT_CLIENTS])
        );
        let leads = told(|config| (config.front.tls.auto, config.front.tls.redirect_http) = (true, true));
        let plain = leads.get(Kind::Listener, "front").unwrap();
        assert!(plain.refs.is_empty(), "its one route is in it");
    }

    #[test]
    fn a_renewed_certificate_changes_the_secret_and_nothing_else() {
        let mut config = Config::default();
        (config.front.tls.auto, config.front.tls.http3) = (true, true);
        let fresh = || {
            let secrets = Secrets::read(&config, &Secrets::default()).unwrap();
            snapshot(&config, &[], &secrets).unwrap()
        };
        let before = std::sync::Arc::new(fresh());
        let after = fresh().after(&before);
        let changed = after.changed_since(&before).unwrap();
        assert_eq!(changed[&Kind::Secret], [FRONT_CERTIFICATE]);
        let others = changed.iter().filter(|(kind, _)| **kind != Kind::Secret);
        assert!(others.clone().all(|(_, names)| names.is_empty()), "{changed:?}");
        let shown = format!("{before:?}");
        assert!(!shown.contains("PRIVATE") && !shown.contains("body"), "{shown}");
    }

    #[test]
    fn pools_have_secrets_of_their_own_and_a_view_is_told_of_its_pools_alone() {
        let mut config = Config::default();
        for (pool, cert_file) in [("one", ""), ("two", "/envoy.pem")] {
            let settings = Pool {
                hosts: vec![format!("{pool}.org")],
                ..of_pool("agent", cert_file)
            };
            config.pools.insert(pool.to_owned(), settings);
        }
        let edge = View {
            nodes: vec!["edge".to_owned()],
            pools: vec!["one".to_owned()],
            ..View::default()
        };
        config.views.insert("edge".to_owned(), edge);
        let views = views(&config, &[], &Secrets::unread(&config, &Secrets::default())).unwrap();
        let of = |view: &str| {
            views
                .get(view)
                .unwrap()
                .names(Kind::Secret)
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(of("edge"), ["pool/one/authority"]);
        let all = ["pool/one/authority", "pool/two/authority", "pool/two/certificate"];
        assert_eq!(of("default"), all);
        let cluster = views.get("default").unwrap().get(Kind::Cluster, "pool/two").unwrap();
        assert_eq!(cluster.refs.iter().filter(|r| r.kind == Kind::Secret).count(), 2);
    }

    #[test]
    fn what_is_said_of_https_stands_in_headers_and_gives_way_to_what_is_configured() {
        let mut config = Config::default();
        let tls = &mut config.front.tls;
        (tls.auto, tls.http3, tls.hsts_max_age, tls.public_port) = (true, true, 60, 443);
        let headers = with_headers(&config).front.response_headers;
        assert_eq!(headers["alt-svc"], "h3=\":443\"; ma=86400");
        assert_eq!(headers["strict-transport-security"], "max-age=60");
        let own = "max-age=1; includeSubDomains";
        config
            .front
            .response_headers
            .insert("strict-transport-security".to_owned(), own.to_owned());
        assert_eq!(
            with_headers(&config).front.response_headers["strict-transport-security"],
            own
        );
    }
}
