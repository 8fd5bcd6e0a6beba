use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        map.append(name, HeaderValue::from_str(value).unwrap());
    }
    map
}

fn base(pairs: &[(&str, &str)]) -> String {
    match Origin::from_headers(&headers(pairs), None, "http") {
        Ok(origin) => origin.base(),
        Err(error) => panic!("{pairs:?}: {error}"),
    }
}

#[test]
fn the_host_header_counts() {
    assert_eq!(
        base(&[("host", "Maps.Example.org:9080")]),
        "http://maps.example.org:9080"
    );
    assert_eq!(base(&[("host", "127.0.0.1:9080")]), "http://127.0.0.1:9080");
    assert_eq!(base(&[("host", "[::1]:9080")]), "http://[::1]:9080");
    assert_eq!(base(&[("host", "[2001:DB8:0:0::1]")]), "http://[2001:db8::1]");
    assert_eq!(base(&[("host", "worker_1:8080")]), "http://worker_1:8080");
}

#[test]
fn default_ports_are_dropped() {
    assert_eq!(base(&[("host", "h:80")]), "http://h");
    assert_eq!(base(&[("host", "h:443")]), "http://h:443");
    assert_eq!(base(&[("host", "h:443"), ("x-forwarded-proto", "https")]), "https://h");
    assert_eq!(base(&[("host", "h:")]), "http://h");
}

#[test]
fn the_authority_of_http2_goes_before_host() {
    let origin = Origin::from_headers(&headers(&[("host", "other")]), Some("maps.example.org"), "https").unwrap();
    assert_eq!(origin.base(), "https://maps.example.org");
}

#[test]
fn forwarded_facts_count() {
    let host = ("host", "inner:9080");
    assert_eq!(
        base(&[
            host,
            ("x-forwarded-host", "maps.example.org"),
            ("x-forwarded-proto", "https")
        ]),
        "https://maps.example.org"
    );
    assert_eq!(
        base(&[
            host,
            ("x-forwarded-host", "maps.example.org"),
            ("x-forwarded-port", "8443"),
            ("x-forwarded-proto", "HTTPS")
        ]),
        "https://maps.example.org:8443"
    );
    // The host's own port goes first; of several proxies the one nearest to the client.
    assert_eq!(base(&[host, ("x-forwarded-port", "8443")]), "http://inner:9080");
    assert_eq!(base(&[("host", "h"), ("x-forwarded-port", "8080")]), "http://h:8080");
    assert_eq!(
        base(&[
            host,
            ("x-forwarded-host", "a.org:1, b.org:2"),
            ("x-forwarded-proto", "https,http")
        ]),
        "https://a.org:1"
    );
    assert_eq!(base(&[host, ("x-forwarded-host", " , b.org")]), "http://inner:9080");
}

#[test]
fn a_prefix_is_kept() {
    let host = ("host", "h");
    assert_eq!(base(&[host, ("x-forwarded-prefix", "/gis/")]), "http://h/gis");
    assert_eq!(base(&[host, ("x-forwarded-prefix", "/a//b")]), "http://h/a/b");
    assert_eq!(base(&[host, ("x-forwarded-prefix", "/")]), "http://h");
    assert_eq!(
        base(&[host, ("x-forwarded-prefix", "/my%20maps")]),
        "http://h/my%20maps"
    );
}

#[test]
fn forwarded_goes_before_the_pseudo_standard() {
    let more = [
        ("host", "h"),
        ("x-forwarded-host", "b.org"),
        ("x-forwarded-proto", "http"),
    ];
    let with = |value: &'static str| base(&[&more[..], &[("forwarded", value)]].concat());
    assert_eq!(with("for=192.0.2.1;host=a.org;proto=https"), "https://a.org");
    assert_eq!(
        with("For=\"[2001:db8::1]:47011\"; Host=\"a.org:8443\" ;Proto=https, for=10.0.0.1;host=z.org"),
        "https://a.org:8443"
    );
    assert_eq!(with("for=192.0.2.1"), "http://b.org");
    assert_eq!(with("proto=https"), "https://b.org");
    assert_eq!(with("for=1, host=z.org"), "http://b.org");
    assert_eq!(with("nonsense"), "http://b.org");
    assert_eq!(with(";;host=a.org"), "http://a.org");
}

#[test]
fn hostile_values_are_refused() {
    let refused = |name: &str, value: &str| {
        let mut map = headers(&[("host", "h")]);
        map.insert(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
        let error = Origin::from_headers(&map, None, "http").expect_err(value);
        assert!(error.to_string().len() < 200);
    };
    for host in [
        "a b",
        "user@evil.org",
        "a/b",
        "h:99999",
        "h:0",
        "h:-1",
        "h:8a",
        "[::1",
        "[zz]",
        "[::1]x",
        "[fe80::1%25eth0]",
        "h?x",
        "h#x",
        "a..b",
        "h:1:2",
        "<script>",
        "h\"",
        "é.org",
        "h\\x",
        "::1",
    ] {
        refused("host", host);
        refused("x-forwarded-host", host);
    }
    refused("x-forwarded-host", &"a".repeat(254));
    refused("forwarded", "host=\"evil.org/x\"");
    refused("forwarded", "proto=javascript");
    refused("x-forwarded-proto", "ftp");
    for port in ["0", "65536", "x", "80 80", "+80"] {
        refused("x-forwarded-port", port);
    }
    for prefix in [
        "gis",
        "/a/../b",
        "/a b",
        "/a?b",
        "/a#b",
        "//evil.org/%2e%2e",
        "/a%2fb",
        "/a%0d%0ab",
        "/<x>",
        "/%zz",
    ] {
        refused("x-forwarded-prefix", prefix);
    }
    assert_eq!(
        Origin::from_headers(&HeaderMap::new(), None, "http"),
        Err(OriginError::NoHost)
    );
    for authority in ["a\r\nb", "user@h", "h/x", ""] {
        assert!(
            Origin::from_headers(&HeaderMap::new(), Some(authority), "http").is_err(),
            "{authority:?}"
        );
    }
}

proptest! {
    #[test]
    fn whatever_passes_can_stand_in_a_url(
        host in "\\PC{0,20}|[a-z0-9.:\\[\\]]{1,20}",
        proto in "\\PC{0,8}|https?",
        prefix in "\\PC{0,20}|[/a-z%2.]{0,12}",
        forwarded in "[ -~]{0,40}",
    ) {
        let mut map = HeaderMap::new();
        let names = ["host", "x-forwarded-proto", "x-forwarded-prefix", "forwarded"];
        for (name, value) in names.into_iter().zip([&host, &proto, &prefix, &forwarded]) {
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                map.insert(HeaderName::from_static(name), value);
            }
        }
        if let Ok(origin) = Origin::from_headers(&map, None, "http") {
            let base = origin.base();
            prop_assert!(base.is_ascii());
            let uri: http::Uri = format!("{base}/").parse().unwrap();
            prop_assert_eq!(uri.authority().map(|a| a.as_str()), Some(origin.authority.as_str()));
            prop_assert!(!origin.authority.contains('@') && !base.contains(['?', '#', ' ']));
        }
    }
}
