use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::Registry;
use stack::certificates::{Authority as Signs, Issued};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::watch::Looked;
use super::*;

struct Place {
    dir: TempDir,
    signs: Signs,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            signs: Signs::new("The authority"),
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn server(&self, issued: &Issued) -> TlsServer {
        let (cert_file, key_file) = issued.write(self.path(), "server");
        TlsServer {
            cert_file,
            key_file,
            ..TlsServer::default()
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

#[test]
fn a_certificate_says_whose_it_is_and_until_when() {
    let issued = Signs::new("a").issue(&["maps.example.org", "www.example.org"]);
    let (dir, facts) = (tempfile::tempdir().unwrap(), |issued: &Issued, dir: &Path| {
        let (cert, key) = issued.write(dir, "x");
        Identity::read("t", &cert, &key).unwrap().facts
    });
    let facts_now = facts(&issued, dir.path());
    assert_eq!(facts_now.names, ["maps.example.org", "www.example.org"]);
    assert_eq!(facts_now.out_of_time(SystemTime::now()), None);
    let expired = facts(&Signs::new("a").issue_expired(&["old.example.org"]), dir.path());
    assert_eq!(expired.until_unix(), 1_577_836_800, "2020-01-01");
    let at = UNIX_EPOCH + Duration::from_secs(1_577_836_800 + 3 * 86_400);
    assert_eq!(expired.out_of_time(at).unwrap(), "it expired 3 days ago");
    assert_eq!(
        expired.out_of_time(UNIX_EPOCH).unwrap(),
        "it is not valid for another 1826 days"
    );
}

#[test]
fn what_is_wrong_is_named_with_key_file_and_remedy() {
    let place = Place::new();
    let (mine, others) = (place.signs.issue(&["a.org"]), place.signs.issue(&["b.org"]));
    let (cert, key) = mine.write(place.path(), "mine");
    let (_, other_key) = others.write(place.path(), "other");
    let (missing, empty) = (place.path().join("missing.pem"), place.write("empty.pem", "nothing\n"));
    let broken = place.write(
        "broken.pem",
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
    );
    let no_der = place.write(
        "no_der.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let locked = place.write(
        "locked.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    for (cert, key, says) in [
        (
            &missing,
            &key,
            "`p.tls.cert_file`: DIR/missing.pem: it cannot be read: No such file",
        ),
        (
            &cert,
            &missing,
            "`p.tls.key_file`: DIR/missing.pem: it cannot be read: No such file",
        ),
        (
            &empty,
            &key,
            "`p.tls.cert_file`: DIR/empty.pem: it holds no certificate in PEM",
        ),
        (&broken, &key, "`p.tls.cert_file`: DIR/broken.pem: it is not sound PEM"),
        (
            &no_der,
            &key,
            "`p.tls.cert_file`: DIR/no_der.pem: it is no X.509 certificate",
        ),
        (
            &cert,
            &cert,
            "`p.tls.key_file`: DIR/mine.crt: it holds no private key in PEM",
        ),
        (
            &cert,
            &locked,
            "`p.tls.key_file`: DIR/locked.pem: the key in it is encrypted with a password",
        ),
        (
            &cert,
            &other_key,
            "`p.tls.key_file`: DIR/other.key: it does not belong to the certificate in DIR/mine.crt (`p.tls.cert_file`)",
        ),
    ] {
        let said = Identity::read("p.tls", cert, key).unwrap_err().to_string();
        let said = said.replace(&place.path().display().to_string(), "DIR");
        assert!(said.starts_with(says), "{said}");
    }
    let said = Authority::read("p.tls.client_ca_file", &key).unwrap_err().to_string();
    assert!(
        said.contains("`p.tls.client_ca_file`") && said.contains("holds no certificate"),
        "{said}"
    );
    assert!(
        !format!(
            "{:?}",
            Identity::read("p.tls", &cert, &place.path().join("mine.key")).unwrap()
        )
        .contains("PRIVATE")
    );
}

#[test]
fn files_without_a_certificate_do_not_leave_a_port_open_unnoticed() {
    let some = PathBuf::from("/some.pem");
    let of = |change: fn(&mut TlsServer, PathBuf)| {
        let mut settings = TlsServer::default();
        change(&mut settings, some.clone());
        settings
            .check("p.tls")
            .map(|()| settings.is_on())
            .map_err(|error| error.to_string())
    };
    assert_eq!(of(|_, _| {}), Ok(false));
    assert_eq!(
        of(|tls, some| (tls.cert_file, tls.key_file) = (some.clone(), some)),
        Ok(true)
    );
    assert_eq!(
        of(|tls, some| (tls.enabled, tls.key_file) = (Some(false), some)),
        Ok(false)
    );
    for (change, says) in [
        (
            (|tls, _| tls.enabled = Some(true)) as fn(&mut TlsServer, PathBuf),
            "`p.tls.cert_file`: it is not set",
        ),
        (|tls, some| tls.cert_file = some, "`p.tls.key_file`: it is not set"),
        (
            |tls, some| tls.key_file = some,
            "`p.tls.key_file`: /some.pem: it counts only with `p.tls.cert_file`",
        ),
        (
            |tls, some| tls.client_ca_file = some,
            "`p.tls.client_ca_file`: /some.pem: it counts only with",
        ),
    ] {
        let said = of(change).unwrap_err();
        assert!(said.starts_with(says), "{said}");
    }
    let half = TlsClient {
        key_file: some,
        ..TlsClient::default()
    };
    let said = half.check("p.tls").unwrap_err().to_string();
    assert!(said.contains("`p.tls.cert_file` must be set with it"), "{said}");
}

#[test]
fn a_change_is_seen_however_the_files_are_swapped() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second, link) = (dir.path().join("1"), dir.path().join("2"), dir.path().join("now"));
    std::fs::write(&first, "one").unwrap();
    std::fs::write(&second, "two").unwrap();
    std::os::unix::fs::symlink(&first, &link).unwrap();
    let mut looked = Looked::at(vec![link.clone(), PathBuf::new()]);
    assert!(!looked.changed());
    std::fs::remove_file(&link).unwrap();
    assert!(looked.changed(), "it is gone");
    std::os::unix::fs::symlink(&second, &link).unwrap();
    assert!(
        looked.changed() && !looked.changed(),
        "the link leads elsewhere, and that is seen once"
    );
    std::fs::write(&second, "2nd").unwrap();
    assert!(looked.changed(), "same length, other content");
}

/// The names in the certificate that a server shows.
async fn shown(tls: &ServerTls, client: &Arc<rustls::ClientConfig>) -> std::io::Result<Vec<String>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let stop = tokio_util::sync::CancellationToken::new();
    let _stops = stop.clone().drop_guard();
    let mut taken = accept(listener, Some(tls.clone()), stop);
    tokio::spawn(async move {
        while let Some(mut stream) = taken.recv().await {
            let names = stream.names().join(",");
            stream.write_all(format!("{names}\n").as_bytes()).await.unwrap();
            // The client may be the first to go.
            let _ = stream.shutdown().await;
        }
    });
    let stream = TcpStream::connect(address).await?;
    let name = "maps.example.org".try_into().unwrap();
    let mut stream = TlsConnector::from(Arc::clone(client)).connect(name, stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let mut told = String::new();
    stream.read_to_string(&mut told).await?;
    let names = Facts::of(&certificate).unwrap().names.into_iter();
    Ok(names.chain([told.trim().to_owned()]).collect())
}

fn client(signs: &Signs, identity: Option<&Issued>) -> Arc<rustls::ClientConfig> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate(&signs.pem())).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.unwrap().with_root_certificates(roots);
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
            builder
                .with_client_auth_cert(vec![certificate(&identity.cert)], key)
                .unwrap()
        }
    })
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_the_next_client_and_a_broken_one_to_nobody() {
    let place = Place::new();
    let settings = place.server(&place.signs.issue(&["maps.example.org", "first.org"]));
    let tls = ServerTls::open("p.tls", &settings, &[]).unwrap().unwrap();
    let (registry, asks) = (Registry::new(), client(&place.signs, None));
    let gauges = Gauges::register(&registry).unwrap();
    let unusable = || {
        let families = registry.gather();
        let found = families.iter().find(|family| family.name() == FILES_UNUSABLE);
        found.map(|family| family.get_metric()[0].get_gauge().get_value() > 0.0)
    };
    assert_eq!(shown(&tls, &asks).await.unwrap(), ["maps.example.org", "first.org", ""]);
    place.server(&place.signs.issue(&["maps.example.org", "second.org"]));
    assert!(tls.again(&gauges));
    assert_eq!(unusable(), Some(false));
    assert_eq!(shown(&tls, &asks).await.unwrap()[1], "second.org");
    place.write("server.key", "no key");
    assert!(!tls.again(&gauges));
    assert_eq!(unusable(), Some(true));
    assert_eq!(shown(&tls, &asks).await.unwrap()[1], "second.org");
}

#[test]
fn an_expired_certificate_is_used_and_said() {
    let place = Place::new();
    let open = |issued: &Issued| ServerTls::open("p.tls", &place.server(issued), &[]).unwrap().unwrap();
    assert_eq!(open(&place.signs.issue(&["a.org"])).warning(), None);
    let expired = open(&place.signs.issue_expired(&["a.org"]));
    let said = expired.warning().unwrap();
    assert!(said.starts_with("the certificate of `p.tls`: it expired "), "{said}");
}

#[tokio::test]
async fn clients_without_a_certificate_of_the_authority_are_refused_where_it_is_asked_for() {
    let place = Place::new();
    let mut settings = place.server(&place.signs.issue(&["maps.example.org"]));
    settings.client_ca_file = place.signs.write(place.path(), "clients.pem");
    let tls = ServerTls::open("p.tls", &settings, &[]).unwrap().unwrap();
    let (friend, stranger) = (
        place.signs.issue(&["ops.example.org"]),
        Signs::new("else").issue(&["ops.example.org"]),
    );
    let told = shown(&tls, &client(&place.signs, Some(&friend))).await.unwrap();
    assert_eq!(told, ["maps.example.org", "ops.example.org"]);
    assert!(shown(&tls, &client(&place.signs, Some(&stranger))).await.is_err());
    assert!(shown(&tls, &client(&place.signs, None)).await.is_err());
}

#[test]
fn a_certificate_of_ones_own_has_the_names_that_are_asked_for() {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let identity = Identity::self_signed("front.tls.auto", &names).unwrap();
    assert!(identity.facts.names.contains(&"localhost".to_owned()));
    assert!(identity.chain_pem.starts_with(b"-----BEGIN CERTIFICATE-----"));
    assert!(identity.key_pem.starts_with(b"-----BEGIN PRIVATE KEY-----"));
    let said = Identity::self_signed("front.tls.auto", &["ä".to_owned()])
        .unwrap_err()
        .to_string();
    assert!(
        said.starts_with("`front.tls.auto`: no certificate can be made"),
        "{said}"
    );
}
