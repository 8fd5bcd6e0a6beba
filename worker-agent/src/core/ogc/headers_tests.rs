use http::HeaderValue;
use proptest::prelude::*;

use super::*;

fn sent() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "inner:1"),
        ("forwarded", "host=x"),
        ("x-forwarded-host", "x"),
        ("x-forwarded-for", "198.51.100.7"),
        ("x-graticule-project", "/w"),
        ("x-graticule-depth", "1"),
        ("x-envoy-attempt-count", "1"),
        ("x-qgis-service-url", "http://evil/"),
        ("x-qgis-wms-service-url", "http://evil/"),
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("content-length", "3"),
        ("content-type", "text/xml"),
        ("accept", "text/html"),
        ("accept", "application/json"),
        ("x-qgis-project", "/w"),
        ("x-request-id", "r-1"),
        ("authorization", "Bearer s3cret"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("user-agent", "QGIS"),
        ("x-lizmap-user", "ann"),
        ("x-lizmap-user-groups", "a,b"),
        ("x-lizmaps", "x"),
    ] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}

fn passed(patterns: &[&str]) -> Vec<String> {
    let forwarded = Forwarded::new(patterns.iter().copied()).unwrap();
    let mut passed: Vec<String> = forwarded
        .pass(&sent())
        .into_iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    passed.sort();
    passed
}

const ANYWAY: [&str; 3] = [
    "Accept: text/html, application/json",
    "Content-Type: text/xml",
    "X-Qgis-Project: /w",
];

#[test]
fn qgis_gets_what_it_reads_and_no_credentials() {
    assert_eq!(passed(&[]), ANYWAY);
}

#[test]
fn what_is_named_passes_in_any_letter_case() {
    let more = |patterns: &[&str]| {
        let mut more = passed(patterns);
        more.retain(|line| !ANYWAY.contains(&line.as_str()));
        more
    };
    assert_eq!(more(&["Authorization"]), ["Authorization: Bearer s3cret"]);
    assert_eq!(more(&["COOKIE"]), ["Cookie: a=1; b=2"]);
    let lizmap = ["X-Lizmap-User-Groups: a,b", "X-Lizmap-User: ann"];
    assert_eq!(more(&["X-Lizmap-*"]), lizmap);
    assert_eq!(more(&["x-lizmap-user"]), lizmap[1..]);
    assert_eq!(more(&["x-forwarded-for"]), ["X-Forwarded-For: 198.51.100.7"]);
}

#[test]
fn a_star_alone_is_all_but_what_ends_here() {
    let all = passed(&["*"]);
    let names: Vec<&str> = all.iter().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(
        names,
        [
            "Accept",
            "Authorization",
            "Content-Type",
            "Cookie",
            "User-Agent",
            "X-Forwarded-For",
            "X-Lizmap-User-Groups",
            "X-Lizmap-User",
            "X-Lizmaps",
            "X-Qgis-Project",
            "X-Request-Id",
        ]
    );
}

#[test]
fn what_cannot_be_named_is_an_error() {
    let said = |pattern: &str| Forwarded::new([pattern]).unwrap_err();
    for pattern in ["", "two words", "a*b", "x-*-y*", "é"] {
        assert!(said(pattern).contains("is no header's name"), "{pattern}");
    }
    for pattern in [
        "Host",
        "x-forwarded-host",
        "X-Qgis-WMS-Service-Url",
        "x-graticule-depth",
    ] {
        assert!(said(pattern).contains("never reaches QGIS"), "{pattern}");
    }
}

#[test]
fn only_what_does_not_pass_anyway_counts_as_named() {
    let all = Forwarded::new(["*"]).unwrap();
    let names = |name: &'static str| all.names(&HeaderName::from_static(name));
    assert!(names("authorization") && names("x-any"));
    assert!(!names("accept") && !names("x-qgis-project") && !names("host"));
}

proptest! {
    #[test]
    fn a_header_passes_when_its_beginning_is_named(name in "[a-z][a-z-]{0,12}", cut in 0_usize..13) {
        let header = HeaderName::try_from(name.as_str()).unwrap();
        let beginning = &name[..cut.min(name.len())];
        let forwarded = Forwarded::new([format!("{}*", beginning.to_uppercase()).as_str()]).unwrap();
        prop_assert_eq!(forwarded.passes(&header), read_anyway(&name) || !ends_here(&name));
    }
}
