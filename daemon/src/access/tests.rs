use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::tls::{Dial, Gauges, TlsClient};
use stack::certificates::Authority;

const FULL: &str = "full-full-full-full";
const READ: &str = "read-read-read-read";
const PEER: &str = "peer-peer-peer-peer";

fn secret(text: &str) -> Secret {
    Secret::from(text.to_owned())
}

fn access() -> Access {
    Access {
        full_token: secret(FULL),
        read_token: secret(READ),
        peer_token: secret(PEER),
        certificates: [("ops".to_owned(), Role::Full), ("*".to_owned(), Role::Read)].into(),
        ..Access::default()
    }
}

#[test]
fn every_role_may_what_it_is_for_and_nothing_else() {
    let holders = access().read("a").unwrap();
    let may = |need, token: &str, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let bearer = (!token.is_empty()).then(|| format!("Bearer {token}"));
        holders.admit(need, bearer.as_deref(), &names)
    };
    for (token, names, read, peer, full) in [
        (FULL, &[][..], true, true, true),
        (READ, &[], true, false, false),
        (PEER, &[], false, true, false),
        ("", &[], false, false, false),
        ("", &["host-7", "ops"], true, true, true),
        ("", &["host-7"], true, false, false),
        (PEER, &["host-7"], true, true, false),
        ("wrong-wrong-wrong-wrong", &["ops"], false, false, false),
    ] {
        for (need, allowed) in [
            (Need::Read, read),
            (Need::Peer, peer),
            (Need::Full, full),
            (Need::Nothing, true),
        ] {
            assert_eq!(may(need, token, names).is_ok(), allowed, "{token} {names:?} {need:?}");
        }
    }
    let refused = |need, token| match may(need, token, &[]).unwrap_err() {
        Refused::Unknown(says) => format!("unknown: {says}"),
        Refused::NotAllowed(says) => format!("not allowed: {says}"),
    };
    assert!(refused(Need::Read, "").starts_with("unknown: show a token: --token-file"));
    assert!(
        refused(Need::Full, READ).starts_with("not allowed: this needs the role `full` or `full`, and you have `read`")
    );
    assert!(refused(Need::Full, "nobody").starts_with("unknown: nobody has this token"));
    assert!(
        !format!("{holders:?} {:?}", access()).contains("full-full"),
        "no token is shown"
    );
    assert!(matches!(
        holders.admit(Need::Read, Some("Basic eDp5"), &[]),
        Err(Refused::Unknown(_))
    ));
}

#[test]
fn without_any_token_or_certificate_everybody_may_everything() {
    let holders = Access::default().read("a").unwrap();
    assert_eq!(holders.admit(Need::Full, None, &[]), Ok(()));
    assert_eq!(holders.admit(Need::Full, Some("Bearer x"), &[]), Ok(()));
}

#[test]
fn a_method_that_no_table_names_needs_everything() {
    let table = Table {
        open: &["/a/Open"],
        read: &["/a/Read"],
        peer: &["/a/Peer"],
    };
    let needs = ["/a/Open", "/a/Read", "/a/Peer", "/a/New"].map(|method| table.need(method));
    assert_eq!(needs, [Need::Nothing, Need::Read, Need::Peer, Need::Full]);
}

#[test]
fn files_hold_several_tokens_and_bad_ones_are_refused_without_being_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    let of = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let access = Access {
            full_token_file: file.clone(),
            ..Access::default()
        };
        access.read("fleet.access")
    };
    let holders = of("# the old one\nold-old-old-old-old\n\n new-new-new-new-new \n").unwrap();
    for token in ["old-old-old-old-old", "new-new-new-new-new"] {
        assert_eq!(holders.role_of(token), Some(Role::Full));
    }
    assert_eq!(holders.role_of("# the old one"), None);
    let short = Access {
        read_token: secret("short"),
        ..Access::default()
    };
    let said = short.read("fleet.access").unwrap_err().to_string();
    assert!(
        said.starts_with("`fleet.access.read_token`: a token has at least 16"),
        "{said}"
    );
    for (text, says) in [
        ("", "it has no token"),
        ("short\n", "a token has at least 16 characters"),
    ] {
        let said = of(text).unwrap_err().to_string();
        assert!(
            said.starts_with("`fleet.access.full_token_file`: ") && said.contains(says),
            "{said}"
        );
        assert!(text.is_empty() || !said.contains(text.trim()));
    }
}

#[test]
fn a_port_for_others_is_refused_until_it_is_secured_or_said_to_be_open() {
    let (near, far) = ("127.0.0.1:1".parse().unwrap(), "0.0.0.0:1".parse().unwrap());
    let (plain, tls, mutual) = (
        TlsServer::default(),
        TlsServer {
            cert_file: "/c".into(),
            ..TlsServer::default()
        },
        TlsServer {
            cert_file: "/c".into(),
            client_ca_file: "/a".into(),
            ..TlsServer::default()
        },
    );
    let tokens = Access {
        full_token: secret(FULL),
        ..Access::default()
    };
    let insecure = Access {
        insecure: true,
        ..Access::default()
    };
    let check = |access: &Access, tls: &TlsServer, listen| access.check("fleet.access", tls, ("fleet.listen", listen));
    for (access, tls, listen) in [
        (&Access::default(), &plain, near),
        (&tokens, &plain, near),
        (&insecure, &plain, far),
        (&tokens, &tls, far),
        (&Access::default(), &mutual, far),
    ] {
        assert_eq!(check(access, tls, listen), Ok(()));
    }
    for (access, tls, says) in [
        (&Access::default(), &plain, "has neither TLS nor tokens"),
        (&tokens, &plain, "would have tokens sent in the clear"),
        (&Access::default(), &tls, "asks nobody who they are"),
    ] {
        let said = check(access, tls, far).unwrap_err().to_string();
        assert!(
            said.starts_with("`fleet.listen`: the port 0.0.0.0:1") && said.contains(says),
            "{said}"
        );
    }
    let named = Access {
        certificates: [("a".to_owned(), Role::Read)].into(),
        ..Access::default()
    };
    assert!(
        check(&named, &tls, near)
            .unwrap_err()
            .to_string()
            .contains("`fleet.access.certificates`")
    );
}

#[tokio::test]
async fn a_door_lets_in_who_may_and_follows_its_files() {
    let (dir, signs) = (tempfile::tempdir().unwrap(), Authority::new("The authority"));
    let (cert_file, key_file) = signs.issue(&["control-plane"]).write(dir.path(), "server");
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, FULL).unwrap();
    let tls = TlsServer {
        cert_file,
        key_file,
        ..TlsServer::default()
    };
    let access = Access {
        full_token_file: tokens.clone(),
        read_token: secret(READ),
        ..Access::default()
    };
    // No method of the health service is open or for readers here, but `Check` is for readers.
    let table = Table {
        open: &[],
        read: &["/grpc.health.v1.Health/Check"],
        peer: &[],
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let door = Door::open(("p.tls", &tls), ("p.access", &access), ("p.listen", address), table).unwrap();
    let (_reporter, health) = tonic_health::server::health_reporter();
    let stop = CancellationToken::new();
    let gauges = Gauges::register(&prometheus::Registry::new()).unwrap();
    let routes = tonic::service::Routes::new(health);
    let serving = tokio::spawn(
        door.clone()
            .serve(Server::builder(), routes, listener, gauges.clone(), stop.clone()),
    );

    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    let believes = TlsClient {
        ca_file: signs.write(dir.path(), "ca.pem"),
        server_name: "control-plane".to_owned(),
        ..TlsClient::default()
    };
    let call = async |tls: &TlsClient, token: &str| {
        let channel = Dial::new("t", tls.clone(), secret(token), PathBuf::new())
            .connect(&endpoint)
            .await;
        let mut client = HealthClient::new(channel.map_err(|error| error.to_string())?);
        let checked = client.check(HealthCheckRequest::default()).await.map(drop);
        let watched = client.watch(HealthCheckRequest::default()).await.map(drop);
        Ok::<_, String>([checked, watched].map(|result| result.err().map(|status| status.code())))
    };
    use tonic::Code::{PermissionDenied, Unauthenticated};
    assert_eq!(call(&believes, FULL).await, Ok([None, None]));
    assert_eq!(call(&believes, READ).await, Ok([None, Some(PermissionDenied)]));
    assert_eq!(call(&believes, "").await, Ok([Some(Unauthenticated); 2]));
    let other_name = TlsClient {
        server_name: "else".to_owned(),
        ..believes.clone()
    };
    assert!(call(&other_name, FULL).await.unwrap_err().contains("certificate"));

    std::fs::write(&tokens, "next-next-next-next").unwrap();
    door.again(&gauges);
    assert_eq!(call(&believes, "next-next-next-next").await, Ok([None, None]));
    assert_eq!(call(&believes, FULL).await, Ok([Some(Unauthenticated); 2]));
    std::fs::remove_file(&tokens).unwrap();
    door.again(&gauges);
    assert_eq!(
        call(&believes, "next-next-next-next").await,
        Ok([None, None]),
        "what was read before counts"
    );
    stop.cancel();
    serving.await.unwrap().unwrap();
}
