//! Which files count, and what becomes of those that change.

use super::*;
use crate::config::Pool;

fn with_auto() -> Config {
    let mut config = Config::default();
    config.front.tls.auto = true;
    config
}

#[test]
fn nothing_is_wanted_by_default() {
    assert_eq!(
        Secrets::read(&Config::default(), &Secrets::default())
            .unwrap()
            .iter()
            .count(),
        0
    );
}

#[test]
fn a_certificate_of_our_own_stays_until_its_names_change() {
    let first = Secrets::read(&with_auto(), &Secrets::default()).unwrap();
    let again = Secrets::read(&with_auto(), &first).unwrap();
    assert_eq!(first, again);
    let mut config = with_auto();
    let pool = Pool {
        hosts: vec![
            "maps.example.org".to_owned(),
            "*".to_owned(),
            "*.example.org".to_owned(),
        ],
        ..Pool::default()
    };
    config.pools.insert("a".to_owned(), pool);
    let other = Secrets::read(&config, &first).unwrap();
    assert_ne!(first.get(FRONT_CERTIFICATE), other.get(FRONT_CERTIFICATE));
    assert!(own_names(&config).contains(&"maps.example.org".to_owned()));
    assert!(!own_names(&config).contains(&"*".to_owned()));
}

#[test]
fn changed_files_count_and_broken_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let authority = stack::certificates::Authority::new("a");
    let (cert_file, key_file) = authority.issue(&["a.org"]).write(dir.path(), "front");
    let mut config = Config::default();
    (config.front.tls.cert_file, config.front.tls.key_file) = (cert_file.clone(), key_file);
    config.front.tls.client_ca_file = authority.write(dir.path(), "ca.pem");
    let first = Secrets::read(&config, &Secrets::default()).unwrap();
    assert_eq!(
        first.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        [FRONT_CERTIFICATE, FRONT_CLIENTS]
    );
    assert!(first.look().is_none());
    assert!(first.warnings(SystemTime::now()).is_empty());
    let renewed = authority.issue(&["a.org"]);
    renewed.write(dir.path(), "front");
    let second = first.look().unwrap();
    assert!(second.problems.is_empty());
    assert_ne!(second.secrets.get(FRONT_CERTIFICATE), first.get(FRONT_CERTIFICATE));
    assert_eq!(second.secrets.get(FRONT_CLIENTS), first.get(FRONT_CLIENTS));
    assert!(second.secrets.look().is_none());
    let late = UNIX_EPOCH + std::time::Duration::from_secs(100_000_000_000);
    assert_eq!(
        first.warnings(late),
        ["the certificate of `front.tls` has expired; renew it"]
    );
    std::fs::write(&cert_file, "no certificate").unwrap();
    let third = second.secrets.look().unwrap();
    assert_eq!(third.problems.len(), 1);
    assert_eq!(
        third.secrets.get(FRONT_CERTIFICATE),
        second.secrets.get(FRONT_CERTIFICATE)
    );
    assert!(third.secrets.look().is_none(), "it is said once");
    assert_eq!(third.problems[0].key(), "front.tls.cert_file");
    let kept = Secrets::read(&config, &third.secrets).unwrap();
    assert_eq!(
        kept, third.secrets,
        "another change of the configuration does not stumble over it"
    );
    assert!(Secrets::read(&config, &Secrets::default()).is_err());
    let shown = format!("{third:?}");
    assert!(!shown.contains("PRIVATE"), "{shown}");
}

#[test]
fn what_envoy_shows_to_the_fleet_port_has_no_role_there() {
    let dir = tempfile::tempdir().unwrap();
    let authority = stack::certificates::Authority::new("a");
    let (cert_file, key_file) = authority.issue(&["envoy"]).write(dir.path(), "envoy");
    let mut config = Config::default();
    config.rest.enabled = true;
    let tls = &mut config.fleet.tls;
    (tls.cert_file, tls.key_file) = (cert_file.clone(), key_file.clone());
    tls.client_ca_file = authority.write(dir.path(), "ca.pem");
    let tls = &mut config.rest.fleet_tls;
    (tls.ca_file, tls.cert_file, tls.key_file) = (dir.path().join("ca.pem"), cert_file, key_file);
    let role = |name: &str| [(name.to_owned(), graticule_daemon::access::Role::Read)];
    config.fleet.access.certificates = role("ops").into();
    let first = Secrets::read(&config, &Secrets::default()).unwrap();
    let names: Vec<&str> = first.iter().map(|(name, _)| name).collect();
    assert_eq!(names, [FLEET_AUTHORITY, FLEET_CERTIFICATE]);
    // Neither when it is renewed.
    authority.issue(&["ops"]).write(dir.path(), "envoy");
    let renewed = first.look().unwrap();
    assert_eq!(renewed.problems[0].key(), "rest.fleet_tls.cert_file");
    assert_eq!(renewed.secrets.get(FLEET_CERTIFICATE), first.get(FLEET_CERTIFICATE));
    let said = Secrets::read(&config, &Secrets::default()).unwrap_err().to_string();
    assert!(said.contains("it is for `ops`, which has a role"), "{said}");
    authority.issue(&["envoy"]).write(dir.path(), "envoy");
    config.fleet.access.certificates = role("envoy").into();
    assert!(Secrets::read(&config, &first).is_err());
}

#[test]
fn what_was_not_read_has_its_name_all_the_same() {
    let mut config = Config::default();
    (config.front.tls.cert_file, config.front.tls.key_file) = ("/none.crt".into(), "/none.key".into());
    let unread = Secrets::unread(&config, &Secrets::default());
    assert_eq!(unread.get(FRONT_CERTIFICATE), Some(&Material::Unread));
    assert!(Secrets::read(&config, &unread).is_err());
}
