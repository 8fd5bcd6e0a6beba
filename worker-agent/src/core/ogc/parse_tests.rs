use proptest::prelude::*;

use super::super::path::MAX_PATH;
use super::*;

const FORM: &str = "application/x-www-form-urlencoded";

fn read(method: &Method, target: &str, content_type: Option<&str>, body: &[u8]) -> Result<OgcRequest, Refused> {
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    parse(&Incoming {
        method,
        path,
        query,
        content_type,
        body,
    })
}

fn get(target: &str) -> Result<OgcRequest, Refused> {
    read(&Method::GET, target, None, b"")
}

fn post(target: &str, content_type: &str, body: &str) -> Result<OgcRequest, Refused> {
    read(&Method::POST, target, Some(content_type), body.as_bytes())
}

fn ows(service: Service, request: &str, version: &str) -> Kind {
    Kind::Ows {
        service,
        request: request.to_owned(),
        version: version.to_owned(),
    }
}

fn api(rest: &str) -> Kind {
    Kind::Api {
        root: "/wfs3",
        rest: rest.to_owned(),
    }
}

/// Kind and project of a request that is understood.
fn seen(target: &str) -> (Kind, String) {
    let request = get(target).unwrap_or_else(|error| panic!("{target}: {error}"));
    (
        request.kind,
        request.project.map(|name| name.to_string()).unwrap_or_default(),
    )
}

fn refusal(answer: Result<OgcRequest, Refused>) -> Refusal {
    answer.expect_err("a refusal").reason
}

#[test]
fn a_project_is_named_in_the_query_or_in_the_path() {
    let map = ows(Service::Wms, "GetMap", "");
    for target in [
        "/?MAP=/world&SERVICE=WMS&REQUEST=GetMap",
        "/?map=%2Fworld&service=wms&Request=GetMap",
        "/ows?Map=world&SERVICE=WMS&REQUEST=GetMap",
        "/ows/?MAP=/world/&SERVICE=WMS&REQUEST=GetMap",
        "/cgi-bin/qgis_mapserv.fcgi?MAP=/world&SERVICE=WMS&REQUEST=GetMap",
        "/ows/world?SERVICE=WMS&REQUEST=GetMap",
        "/ows/world/?SERVICE=WMS&REQUEST=GetMap",
        "//ows//world?SERVICE=WMS&REQUEST=GetMap",
        "/ows/w%6Frld?SERVICE=WMS&REQUEST=GetMap",
        "/ows/world?MAP=/world&SERVICE=WMS&REQUEST=GetMap",
        "/?MAP=/world&MAP=world&SERVICE=WMS&REQUEST=GetMap",
        "/?MAP=&MAP=world&SERVICE=WMS&REQUEST=GetMap",
    ] {
        assert_eq!(seen(target), (map.clone(), "/world".to_owned()), "{target}");
    }
    assert_eq!(
        seen("/ows/public/roads.qgz?SERVICE=WMS&REQUEST=GetMap"),
        (map.clone(), "/public/roads.qgz".to_owned())
    );
    assert_eq!(
        seen("/ows/St%C3%A4dte/a%20b?SERVICE=WMS&REQUEST=GetMap"),
        (map, "/Städte/a b".to_owned())
    );
}

#[test]
fn apis_have_their_root_and_rest() {
    let world = "/world".to_owned();
    assert_eq!(seen("/wfs3?MAP=/world"), (api(""), world.clone()));
    assert_eq!(seen("/wfs3/?MAP=/world"), (api("/"), world.clone()));
    assert_eq!(seen("/wfs3.html?MAP=/world"), (api(".html"), world.clone()));
    assert_eq!(
        seen("/wfs3/collections/a%20b/items?map=/world&limit=1"),
        (api("/collections/a%20b/items"), world.clone())
    );
    assert_eq!(seen("/ows/world/wfs3"), (api(""), world.clone()));
    assert_eq!(
        seen("/ows/world.qgs/wfs3.json"),
        (api(".json"), "/world.qgs".to_owned())
    );
    assert_eq!(
        seen("/ows/a/b/wfs3/collections"),
        (api("/collections"), "/a/b".to_owned())
    );
    assert_eq!(
        seen("/cgi-bin/qgis_mapserv.fcgi/wfs3/api?MAP=/world"),
        (api("/api"), world)
    );
    // The first such segment after a name; a name may begin like it, or be it.
    assert_eq!(
        seen("/ows/wfs3demo/wfs3/collections"),
        (api("/collections"), "/wfs3demo".to_owned())
    );
    assert_eq!(seen("/ows/wfs3/wfs3"), (api(""), "/wfs3".to_owned()));
    assert_eq!(seen("/ows/wfs3?SERVICE=WFS&REQUEST=X").0, ows(Service::Wfs, "X", ""));
    assert_eq!(seen("/ows/wfs3demo?SERVICE=WFS&REQUEST=X").1, "/wfs3demo");
}

#[test]
fn static_files_may_lack_a_project() {
    let request = get("/wfs3/static/style.css").unwrap();
    assert!(request.is_static() && request.project.is_none());
    assert_eq!(
        seen("/ows/world/wfs3/static/style.css"),
        (api("/static/style.css"), "/world".to_owned())
    );
    assert_eq!(refusal(get("/wfs3/statics")), Refusal::MissingProject);
    for target in [
        "/wfs3/static/../templates/x",
        "/wfs3/static/%2e%2e/x",
        "/wfs3/static/..%2fx",
        "/wfs3/static/a%5Cb",
    ] {
        assert!(matches!(refusal(get(target)), Refusal::Malformed(_)), "{target}");
    }
}

#[test]
fn home_is_the_root_without_a_word() {
    for target in ["/", "/?", "/?utm=1", ""] {
        assert_eq!(seen(target).0, Kind::Home, "{target}");
    }
    assert_eq!(refusal(post("/", FORM, "")), Refusal::MissingProject);
    assert_eq!(refusal(get("/ows")), Refusal::MissingProject);
    assert_eq!(refusal(get("/?MAP=")), Refusal::MissingProject);
    assert!(matches!(
        refusal(get("/?MAP=/world")),
        Refusal::MissingParameter { name: "SERVICE", .. }
    ));
}

#[test]
fn what_is_wrong_is_named() {
    let bad = |target: &str| refusal(get(target));
    assert_eq!(bad("/?SERVICE=WMS&REQUEST=GetMap"), Refusal::MissingProject);
    assert_eq!(bad("/wfs3/collections"), Refusal::MissingProject);
    assert_eq!(
        bad("/?MAP=/w&SERVICE=FOO&REQUEST=GetMap"),
        Refusal::UnknownService {
            service: "FOO".to_owned()
        }
    );
    assert_eq!(
        bad("/?SERVICE=FOO"),
        Refusal::UnknownService {
            service: "FOO".to_owned()
        }
    );
    assert!(matches!(
        bad("/?MAP=/w&SERVICE=WMS"),
        Refusal::MissingParameter { name: "REQUEST", .. }
    ));
    assert!(matches!(
        bad("/?MAP=/w&REQUEST=GetCapabilities"),
        Refusal::MissingParameter { name: "SERVICE", .. }
    ));
    for path in [
        "/foo",
        "/foo/ows/world",
        "/wfs3x?MAP=/w",
        "/wfs3.xml?MAP=/w",
        "/favicon.ico",
        "/OWS/world",
    ] {
        assert!(matches!(bad(path), Refusal::NotFound { .. }), "{path}");
    }
    assert_eq!(
        bad("/?MAP=/a&map=/b&SERVICE=WMS&REQUEST=GetMap"),
        Refusal::AmbiguousProject {
            first: "/a".to_owned(),
            second: "/b".to_owned()
        }
    );
    assert!(matches!(
        bad("/ows/a?MAP=/b&SERVICE=WMS&REQUEST=GetMap"),
        Refusal::AmbiguousProject { .. }
    ));
    assert!(matches!(bad("/ows/a/wfs3?MAP=/b"), Refusal::AmbiguousProject { .. }));
    assert!(matches!(
        bad("/ows/a/wfs3/collections?SERVICE=WMS&REQUEST=GetMap"),
        Refusal::Malformed(_)
    ));
    assert!(matches!(
        bad("/?MAP=/../etc/passwd&SERVICE=WMS&REQUEST=GetMap"),
        Refusal::BadProjectName(_)
    ));
    assert!(matches!(
        bad("/?MAP=/w%252e&SERVICE=WMS&REQUEST=GetMap"),
        Refusal::BadProjectName(_)
    ));
    for path in [
        "/ows/../x",
        "/ows/%2e%2e/x",
        "/ows/a%2Fb",
        "/ows/a%5cb",
        "/ows/a%00",
        "/ows/%FF",
        "/ows/a/./b",
    ] {
        assert!(matches!(bad(path), Refusal::Malformed(_)), "{path}");
    }
    assert!(matches!(
        bad(&format!("/ows/{}", "a/".repeat(MAX_PATH))),
        Refusal::Malformed(_)
    ));
    assert!(matches!(
        bad(&format!("/?{}", "a=1&".repeat(MAX_PAIRS + 1))),
        Refusal::Malformed(_)
    ));
}

#[test]
fn refusals_come_in_the_form_that_was_asked_for() {
    let form = |target: &str| get(target).expect_err(target).dialect;
    assert_eq!(form("/?SERVICE=WMS&VERSION=1.1.1&REQUEST=GetMap"), Dialect::Wms11);
    assert_eq!(form("/?service=wfs&version=1.1.0"), Dialect::Ows10);
    assert_eq!(form("/?REQUEST=GetMap"), Dialect::Wms13);
    assert_eq!(form("/?SERVICE=FOO"), Dialect::Wms13);
    assert_eq!(form("/wfs3/collections"), Dialect::Json);
    assert_eq!(form("/foo"), Dialect::Json);
    assert_eq!(
        post("/", FORM, "SERVICE=WCS&VERSION=1.0.0").unwrap_err().dialect,
        Dialect::Report12
    );
    assert_eq!(dialect_of("/", Some("SERVICE=WFS&VERSION=2.0.0")), Dialect::Wfs20);
    assert_eq!(dialect_of("/ows/w/wfs3/x", None), Dialect::Json);
    assert_eq!(dialect_of("/..", None), Dialect::Json);
    assert_eq!(
        get("/?MAP=/w&SERVICE=WMS&REQUEST=GetMap&VERSION=1.1.1")
            .unwrap()
            .dialect(),
        Dialect::Wms11
    );
}

#[test]
fn the_service_is_guessed_only_where_qgis_or_the_schema_has_a_default() {
    for request in ["GetMap", "getmap", "GetFeatureInfo"] {
        assert_eq!(
            seen(&format!("/?MAP=/w&REQUEST={request}")).0,
            ows(Service::Wms, request, "")
        );
        assert_eq!(
            seen(&format!("/?MAP=/w&SERVICE=&REQUEST={request}")).0,
            ows(Service::Wms, request, "")
        );
    }
    let body = r#"<GetFeature version="1.1.0" xmlns="http://www.opengis.net/wfs"/>"#;
    assert_eq!(
        post("/ows/w", "text/xml", body).unwrap().kind,
        ows(Service::Wfs, "GetFeature", "1.1.0")
    );
    let body = r#"<GetMap version="1.1.0" xmlns="http://www.opengis.net/ows"/>"#;
    assert!(matches!(
        refusal(post("/ows/w", "text/xml", body)),
        Refusal::MissingParameter { name: "SERVICE", .. }
    ));
}

#[test]
fn the_last_of_two_parameters_counts_and_the_body_comes_after_the_query() {
    assert_eq!(
        seen("/?MAP=/w&SERVICE=WFS&service=WMS&REQUEST=A&request=B").0,
        ows(Service::Wms, "B", "")
    );
    let request = post(
        "/?MAP=/w&SERVICE=WFS&LAYERS=a",
        FORM,
        "service=WMS&REQUEST=GetMap&layers=b+c,d",
    )
    .unwrap();
    assert_eq!(request.kind, ows(Service::Wms, "GetMap", ""));
    assert_eq!(request.layers().collect::<Vec<_>>(), ["b c", "d"]);
}

#[test]
fn forms_name_the_project_whatever_they_call_themselves() {
    for content_type in [FORM, "text/plain", "multipart/form-data; boundary=x", ""] {
        let request = post("/", content_type, "MAP=/world&SERVICE=WMS&REQUEST=GetMap").unwrap();
        assert_eq!(
            (request.spelling, request.safe),
            (Spelling::Form, true),
            "{content_type}"
        );
        assert_eq!(request.project.unwrap().key(), "/world");
    }
    // QGIS does not look into a body that says json, nor does this.
    assert_eq!(
        refusal(post("/", "application/json", "MAP=/world&SERVICE=WMS&REQUEST=GetMap")),
        Refusal::MissingProject
    );
    let both = post("/?MAP=/a", FORM, "MAP=/b&SERVICE=WMS&REQUEST=GetMap");
    assert!(matches!(refusal(both), Refusal::AmbiguousProject { .. }));
    assert_eq!(
        post("/?MAP=/a", FORM, "MAP=a&SERVICE=WMS&REQUEST=GetMap")
            .unwrap()
            .spelling,
        Spelling::Query
    );
}

const TRANSACTION: &str = r#"<wfs:Transaction service="WFS" version="1.0.0" xmlns:wfs="http://www.opengis.net/wfs">
    <wfs:Delete typeName="a"/></wfs:Transaction>"#;

#[test]
fn xml_bodies_say_what_is_requested() {
    let body = r#"<?xml version="1.0"?><wfs:GetFeature service="WFS" version="1.1.0" maxFeatures="2"
        MAP="/elsewhere" xmlns:wfs="http://www.opengis.net/wfs"><wfs:Query typeName="a"/></wfs:GetFeature>"#;
    for content_type in ["text/xml", "application/xml; charset=utf-8", FORM] {
        let request = post("/?MAP=/w&SERVICE=WMS&REQUEST=GetMap&VERSION=1.3.0", content_type, body).unwrap();
        assert_eq!(request.kind, ows(Service::Wfs, "GetFeature", "1.1.0"));
        assert_eq!((request.params.get("MAXFEATURES"), request.safe), (Some("2"), true));
        assert_eq!(request.project.unwrap().key(), "/w");
    }
    let refused = post(
        "/ows/w?SERVICE=WFS",
        "text/xml",
        "<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;</a>",
    );
    assert_eq!(
        refusal(refused),
        Refusal::Malformed("the XML body has a DOCTYPE; send it without one".to_owned())
    );
    assert!(matches!(
        refusal(post("/ows/w?SERVICE=WFS", "text/xml", "<a>")),
        Refusal::Malformed(_)
    ));
    let small = TRANSACTION.replace("\"WFS\"", "\"wfs\"");
    assert_eq!(
        refusal(post("/ows/w", "text/xml", &small)),
        Refusal::UnknownService {
            service: "wfs".to_owned()
        }
    );
}

#[test]
fn only_what_changes_nothing_is_safe() {
    let safe = |answer: Result<OgcRequest, Refused>| answer.unwrap().safe;
    for request in [
        "GetMap",
        "GetFeature",
        "GetCapabilities",
        "GetPrint",
        "getfeatureinfo",
        "DescribeFeatureType",
    ] {
        assert!(
            safe(post("/ows/w", FORM, &format!("SERVICE=WFS&REQUEST={request}"))),
            "{request}"
        );
    }
    for request in [
        "Transaction",
        "transaction",
        "LockFeature",
        "GetFeatureWithLock",
        "Unheard",
    ] {
        assert!(
            !safe(post("/ows/w", FORM, &format!("SERVICE=WFS&REQUEST={request}"))),
            "{request}"
        );
    }
    assert!(!safe(post("/ows/w", "text/xml", TRANSACTION)));
    let overridden = r#"<GetFeature service="WFS" Request="Transaction"/>"#;
    assert!(!safe(post("/ows/w", "text/xml", overridden)));
    // When QGIS cannot read the body it goes by the query.
    let get_feature = r#"<GetFeature service="WFS"/>"#;
    assert!(!safe(post("/ows/w?REQUEST=Transaction", "text/xml", get_feature)));
    for (method, expected) in [
        ("GET", true),
        ("HEAD", true),
        ("POST", false),
        ("PUT", false),
        ("PATCH", false),
        ("DELETE", false),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        assert_eq!(
            safe(read(
                &method,
                "/ows/w/wfs3/collections/a/items",
                Some("application/json"),
                b"{}"
            )),
            expected
        );
    }
}

#[test]
fn methods_that_a_resource_lacks_are_refused() {
    let allow = |method: &str, target: &str| {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        refusal(read(&method, target, None, b"")).allow()
    };
    assert_eq!(
        allow("PUT", "/ows/w?SERVICE=WMS&REQUEST=GetMap"),
        Some("GET, HEAD, POST")
    );
    assert_eq!(
        allow("TRACE", "/ows/w/wfs3"),
        Some("GET, HEAD, POST, PUT, PATCH, DELETE")
    );
    // A GET that changes data would be repeated by every proxy; QGIS 3.40 itself never ends on some of them.
    for request in ["Transaction", "LOCKFEATURE", "GetFeatureWithLock"] {
        assert_eq!(
            allow("GET", &format!("/ows/w?SERVICE=WFS&REQUEST={request}")),
            Some("POST")
        );
    }
}

#[test]
fn what_qgis_never_ends_with_is_refused() {
    let fields = "SERVICE=WFS&OPERATION=Delete&TYPENAME=a&FEATUREID=a.7";
    let refused = [
        post("/ows/w", FORM, &format!("{fields}&REQUEST=Transaction")),
        post(&format!("/ows/w?{fields}&REQUEST=transaction"), FORM, ""),
        post(
            &format!("/ows/w?{fields}&REQUEST=Transaction"),
            "text/xml",
            r#"<GetFeature service="WFS"/>"#,
        ),
    ];
    for answer in refused {
        assert!(matches!(refusal(answer), Refusal::Malformed(_)));
    }
    assert!(post("/ows/w", FORM, &format!("{fields}&REQUEST=GetFeature")).is_ok());
    assert!(post("/ows/w", "text/xml", TRANSACTION).is_ok());
}

#[test]
fn qgis_own_broken_link_is_understood() {
    let (kind, project) = seen("/?MAP=/world?request=DescribeFeatureType&typenames=a&service=WFS&version=2.0");
    assert_eq!(
        (kind, project.as_str()),
        (ows(Service::Wfs, "DescribeFeatureType", "2.0"), "/world")
    );
}

#[test]
fn cheap_facts_are_read_when_they_are_there() {
    let request =
        get("/ows/w?SERVICE=WMS&REQUEST=GetMap&LAYERS=a,,b&FORMAT=image/png&WIDTH=64&height=32&BBOX=-90,-180,90,180.5");
    let request = request.unwrap();
    assert_eq!(request.layers().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((request.format(), request.size()), (Some("image/png"), Some((64, 32))));
    assert_eq!(request.bbox(), Some([-90.0, -180.0, 90.0, 180.5]));
    assert_eq!(
        (request.service_name(), request.operation().as_str()),
        ("WMS", "getmap")
    );
    let request = get("/ows/w?SERVICE=WMS&REQUEST=GetMap&WIDTH=x&HEIGHT=1&BBOX=1,2,3,inf").unwrap();
    assert_eq!(
        (
            request.size(),
            request.bbox(),
            request.format(),
            request.layers().count()
        ),
        (None, None, None, 0)
    );
}

/// Text that comes near to what clients send.
fn near_query() -> impl Strategy<Value = String> {
    let key = prop_oneof!["MAP|map|SERVICE|Service|REQUEST|VERSION|LAYERS|bbox", "\\PC{0,4}"];
    let value = prop_oneof![
        "WMS|wfs|WCS|GetMap|Transaction|GetFeature|/world|1\\.1\\.0|a%2Fb",
        "\\PC{0,8}",
        "[%0-9a-f+./?&=]{0,8}"
    ];
    prop::collection::vec((key, value).prop_map(|(key, value)| format!("{key}={value}")), 0..8)
        .prop_map(|pairs| pairs.join("&"))
}

fn near_path() -> impl Strategy<Value = String> {
    prop::collection::vec(
        "ows|wfs3|wfs3\\.html|world|collections|static|\\.\\.|%2e%2e|[a-z%0-9.]{0,4}|\\PC{0,3}",
        0..6,
    )
    .prop_map(|segments| format!("/{}", segments.join("/")))
}

fn near_body() -> impl Strategy<Value = Vec<u8>> {
    let xml = "<[a-z:]{1,4}( [a-z]{1,3}='[a-z&;]{0,3}')?/?>";
    prop_oneof![
        near_query().prop_map(String::into_bytes),
        any::<Vec<u8>>(),
        xml.prop_map(String::into_bytes)
    ]
}

proptest! {
    #[test]
    fn parsing_never_panics(
        path in near_path(),
        query in proptest::option::of(near_query()),
        content_type in "text/xml|application/json|\\PC{0,6}",
        body in near_body(),
        method in "GET|POST|PUT|DELETE|HEAD|X",
    ) {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let content_type = Some(content_type.as_str());
        match parse(&Incoming { method: &method, path: &path, query: query.as_deref(), content_type, body: &body }) {
            Ok(request) => {
                prop_assert!(request.project.is_some() || request.kind == Kind::Home || request.is_static());
                prop_assert!(request.safe || ![Method::GET, Method::HEAD].contains(&request.method));
                let layers = request.layers().count();
                prop_assert!(layers <= query.map_or(0, |q| q.len()) + body.len());
            }
            Err(refused) => prop_assert!(refused.reason.status().is_client_error()),
        }
    }

    #[test]
    fn letter_case_of_keys_does_not_matter(
        flips in any::<u64>(), layers in "[a-z,]{0,8}", request in "GetMap|GetFeature",
    ) {
        let plain = format!("MAP=/world&SERVICE=WMS&REQUEST={request}&LAYERS={layers}&VERSION=1.3.0");
        let mut bits = flips;
        let flipped: String = plain.split('&').map(|pair| {
            let (key, value) = pair.split_once('=').unwrap();
            let key: String = key.chars().map(|c| {
                bits = bits.rotate_left(1);
                if bits & 1 == 1 { c.to_ascii_lowercase() } else { c }
            }).collect();
            format!("{key}={value}&")
        }).collect();
        let one = get(&format!("/?{plain}")).unwrap();
        let other = get(&format!("/?{flipped}")).unwrap();
        prop_assert_eq!((one.kind, one.project, one.params), (other.kind, other.project, other.params));
    }

    #[test]
    fn path_and_query_name_the_same_project(name in "[a-zA-Z0-9 _äé-]{1,8}(/[a-z]{1,4}){0,3}(\\.qgs|\\.qgz)?") {
        let encoded: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
        let in_path = encoded.replace("%2F", "/").replace('+', "%20");
        let rest = "SERVICE=WMS&REQUEST=GetMap";
        let by_query = get(&format!("/?MAP={encoded}&{rest}")).map(|request| request.project);
        let by_path = get(&format!("/ows/{in_path}?{rest}")).map(|request| request.project);
        prop_assert_eq!(by_query, by_path);
    }
}
