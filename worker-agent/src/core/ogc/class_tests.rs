use http::HeaderValue;
use proptest::prelude::*;

use super::super::parse::{Incoming, parse};
use super::*;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn rule(service: &str, request: &str) -> HeavyRule {
    HeavyRule {
        service: service.to_owned(),
        request: request.to_owned(),
        ..HeavyRule::default()
    }
}

/// As configured when nothing is.
fn defaults() -> ClassRules {
    ClassRules {
        timeout: secs(20),
        timeouts: vec![("WMS/GetPrint".to_owned(), secs(50))],
        heavy: vec![
            rule("WMS", "GetPrint"),
            HeavyRule {
                min_pixels: 4_000_000,
                ..rule("WMS", "GetMap")
            },
            HeavyRule {
                unlimited: true,
                ..rule("WFS", "GetFeature")
            },
            rule("WCS", "GetCoverage"),
        ],
        max_loop_depth: 2,
    }
}

fn heavy(rules: Vec<HeavyRule>) -> ClassRules {
    ClassRules {
        heavy: rules,
        ..defaults()
    }
}

fn read(method: &Method, target: &str, body: &str) -> OgcRequest {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let incoming = Incoming {
        method,
        path,
        query: Some(query),
        content_type: None,
        body: body.as_bytes(),
    };
    parse(&incoming).unwrap_or_else(|error| panic!("{target}: {error}"))
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn class(rules: &ClassRules, target: &str) -> Class {
    let request = read(&Method::GET, target, "");
    Classes::new(rules).unwrap().of(&request, &HeaderMap::new()).unwrap()
}

fn lane(rules: &ClassRules, target: &str) -> Lane {
    class(rules, target).lane
}

fn posted(body: &str) -> Lane {
    let request = read(&Method::POST, "/ows/w", body);
    Classes::new(&defaults())
        .unwrap()
        .of(&request, &HeaderMap::new())
        .unwrap()
        .lane
}

const MAP: &str = "/ows/w?SERVICE=WMS&REQUEST=GetMap";
const FEATURES: &str = "/ows/w?SERVICE=WFS&REQUEST=GetFeature&TYPENAME=a";

#[test]
fn what_a_rule_describes_is_heavy_in_any_letter_case() {
    let defaults = defaults();
    for target in [
        "/ows/w?SERVICE=WMS&REQUEST=GetPrint",
        "/?map=w&service=wms&request=getprint",
        "/ows/w?SERVICE=WCS&REQUEST=GetCoverage",
        "/ows/w?SERVICE=WMS&REQUEST=GetMap&WIDTH=2000&HEIGHT=2000",
        "/ows/w?request=getmap&width=4000000&height=%201",
        FEATURES,
    ] {
        assert_eq!(lane(&defaults, target), Lane::Heavy, "{target}");
    }
    for target in [
        "/",
        "/ows/w?SERVICE=WMS&REQUEST=GetMap&WIDTH=2000&HEIGHT=1999",
        "/ows/w?SERVICE=WMS&REQUEST=GetMap&WIDTH=99999",
        "/ows/w?SERVICE=WMS&REQUEST=GetMap&WIDTH=x&HEIGHT=99999",
        "/ows/w?SERVICE=WMS&REQUEST=GetMap&WIDTH=-3000&HEIGHT=-3000",
        "/ows/w?SERVICE=WMS&REQUEST=GetFeatureInfo&WIDTH=4000&HEIGHT=4000",
        "/ows/w?SERVICE=WFS&REQUEST=DescribeFeatureType",
        "/ows/w?SERVICE=WMTS&REQUEST=GetTile",
        "/ows/w/wfs3/collections/a/items",
        MAP,
    ] {
        assert_eq!(lane(&defaults, target), Lane::Interactive, "{target}");
    }
    let huge = format!("{MAP}&WIDTH={}&HEIGHT={}", u64::MAX, u64::MAX);
    assert_eq!(lane(&defaults, &huge), Lane::Heavy);
    assert_eq!(lane(&heavy(vec![]), &huge), Lane::Interactive);
}

#[test]
fn all_that_a_rule_names_must_hold() {
    let rules = heavy(vec![HeavyRule {
        project: "public/roads.qgs".to_owned(),
        min_pixels: 100,
        ..rule("wms", "GETMAP")
    }]);
    let at = |project: &str, query: &str| lane(&rules, &format!("/ows/{project}?SERVICE=WMS&{query}"));
    let map = "REQUEST=GetMap&WIDTH=10&HEIGHT=10";
    assert_eq!(at("public/roads", map), Lane::Heavy);
    assert_eq!(at("public/roads.qgz", map), Lane::Heavy);
    assert_eq!(at("public/Roads", map), Lane::Interactive);
    assert_eq!(at("roads", map), Lane::Interactive);
    assert_eq!(
        at("public/roads", "REQUEST=GetMap&WIDTH=9&HEIGHT=10"),
        Lane::Interactive
    );
    assert_eq!(
        at("public/roads", "REQUEST=GetPrint&WIDTH=10&HEIGHT=10"),
        Lane::Interactive
    );

    // A rule may name one thing alone, and an API's method.
    let project = heavy(vec![HeavyRule {
        project: "/big".to_owned(),
        ..HeavyRule::default()
    }]);
    assert_eq!(lane(&project, "/ows/big/wfs3/collections"), Lane::Heavy);
    assert_eq!(lane(&project, "/wfs3/static/style.css"), Lane::Interactive);
    assert_eq!(lane(&heavy(vec![rule("", "getmap")]), MAP), Lane::Heavy);
    assert_eq!(lane(&heavy(vec![rule("WFS3", "")]), "/ows/w/wfs3"), Lane::Heavy);
    let gets = heavy(vec![rule("wfs3", "GET")]);
    let classes = Classes::new(&gets).unwrap();
    for (method, expected) in [
        (Method::GET, Lane::Heavy),
        (Method::HEAD, Lane::Heavy),
        (Method::POST, Lane::Interactive),
    ] {
        let request = read(&method, "/ows/w/wfs3/collections/a/items", "");
        assert_eq!(
            classes.of(&request, &HeaderMap::new()).unwrap().lane,
            expected,
            "{method}"
        );
    }
}

// What QGIS 3.40.6 bounds its answer by, seen by counting features.
#[test]
fn features_are_unlimited_where_qgis_does_not_bound_them() {
    let defaults = defaults();
    for more in [
        "MAXFEATURES=10",
        "maxfeatures=%2B10",
        "MAXFEATURES=%2010",
        "MAXFEATURES=0",
        "FEATUREID=a.1",
        "BBOX=0,0,1,1",
        "FILTER=%3CFilter/%3E",
        "EXP_FILTER=a%3D1",
    ] {
        assert_eq!(
            lane(&defaults, &format!("{FEATURES}&{more}")),
            Lane::Interactive,
            "{more}"
        );
    }
    for more in [
        "MAXFEATURES=",
        "MAXFEATURES=-1",
        "COUNT=10",
        "RESOURCEID=a.1",
        "CQL_FILTER=a%3D1",
        "BBOX=",
        "STARTINDEX=5",
        "RESULTTYPE=hits",
    ] {
        assert_eq!(lane(&defaults, &format!("{FEATURES}&{more}")), Lane::Heavy, "{more}");
    }
}

#[test]
fn an_xml_body_is_bounded_by_its_limit_and_its_filters() {
    let get = |attributes: &str, inner: &str| {
        posted(&format!(
            r#"<GetFeature service="WFS" xmlns="http://www.opengis.net/wfs" {attributes}><Query typeName="a">{inner}</Query></GetFeature>"#
        ))
    };
    let filter = r#"<Filter><FeatureId fid="a.1"/></Filter>"#;
    assert_eq!(get("", ""), Lane::Heavy);
    assert_eq!(get(r#"count="3""#, ""), Lane::Heavy);
    assert_eq!(get(r#"maxFeatures="3""#, ""), Lane::Interactive);
    assert_eq!(get("", filter), Lane::Interactive);
    assert_eq!(get("", &format!("{filter}</Query><Query typeName=\"b\">")), Lane::Heavy);

    // QGIS takes a limit from the query all the same, and no extent.
    let body = r#"<GetFeature xmlns="http://www.opengis.net/wfs"><Query typeName="a"/></GetFeature>"#;
    let classes = Classes::new(&defaults()).unwrap();
    for (query, expected) in [("MAXFEATURES=3", Lane::Interactive), ("BBOX=0,0,1,1", Lane::Heavy)] {
        let request = read(&Method::POST, &format!("/ows/w?{query}"), body);
        assert_eq!(
            classes.of(&request, &HeaderMap::new()).unwrap().lane,
            expected,
            "{query}"
        );
    }
    assert_eq!(
        posted("SERVICE=WFS&REQUEST=GetFeature&MAXFEATURES=3"),
        Lane::Interactive
    );
    assert_eq!(posted("SERVICE=WFS&REQUEST=GetFeature&COUNT=3"), Lane::Heavy);
}

#[test]
fn the_longest_match_gives_the_time() {
    let timeouts = [("wms", 7), ("WMS/getprint", 50), ("Wfs3", 30), ("wfs3/POST", 40)];
    let rules = ClassRules {
        timeouts: timeouts.map(|(name, time)| (name.to_owned(), secs(time))).to_vec(),
        ..defaults()
    };
    let time = |target: &str| class(&rules, target).timeout;
    assert_eq!(time(MAP), secs(7));
    assert_eq!(time("/?MAP=w&SERVICE=wms&REQUEST=GETPRINT"), secs(50));
    assert_eq!(time(FEATURES), secs(20));
    assert_eq!(time("/ows/w/wfs3/collections"), secs(30));
    assert_eq!(time("/"), secs(20));
    let classes = Classes::new(&rules).unwrap();
    assert_eq!((classes.timeout(), classes.longest()), (secs(20), secs(50)));
    let post = read(&Method::POST, "/ows/w/wfs3/collections/a/items", "{}");
    assert_eq!(classes.of(&post, &HeaderMap::new()).unwrap().timeout, secs(40));
}

#[test]
fn a_client_may_ask_for_less_and_never_for_more() {
    let classes = Classes::new(&defaults()).unwrap();
    let request = read(&Method::GET, MAP, "");
    let time = |pairs: &[_]| classes.of(&request, &headers(pairs)).map(|class| class.timeout);
    assert_eq!(time(&[("x-request-timeout", "1.5")]), Ok(Duration::from_millis(1500)));
    assert_eq!(time(&[("x-request-timeout", "600")]), Ok(secs(20)));
    assert_eq!(time(&[("grpc-timeout", "3S")]), Ok(secs(3)));
    assert_eq!(time(&[("grpc-timeout", "9H"), ("x-request-timeout", "8")]), Ok(secs(8)));
    let print = read(&Method::GET, "/ows/w?SERVICE=WMS&REQUEST=GetPrint", "");
    let asked = headers(&[("x-request-timeout", "40")]);
    let class = classes.of(&print, &asked).unwrap();
    assert_eq!((class.timeout, class.allowed), (secs(40), secs(50)));
    assert!(matches!(
        time(&[("x-request-timeout", "0")]),
        Err(Refusal::Malformed(_))
    ));
    assert!(matches!(time(&[("grpc-timeout", "soon")]), Err(Refusal::Malformed(_))));
}

#[test]
fn what_a_worker_asks_for_is_inner_up_to_a_depth() {
    let classes = Classes::new(&defaults()).unwrap();
    let print = read(&Method::GET, "/ows/w?SERVICE=WMS&REQUEST=GetPrint", "");
    let of = |values: &[&str]| {
        let pairs: Vec<_> = values.iter().map(|value| (DEPTH, *value)).collect();
        classes
            .of(&print, &headers(&pairs))
            .map(|class| (class.lane, class.depth))
    };
    assert_eq!(of(&[]), Ok((Lane::Heavy, 0)));
    assert_eq!(of(&["0"]), Ok((Lane::Heavy, 0)));
    assert_eq!(of(&["1"]), Ok((Lane::Inner, 1)));
    assert_eq!(of(&[" 2 "]), Ok((Lane::Inner, 2)));
    assert_eq!(of(&["1", "2", "0"]), Ok((Lane::Inner, 2)));
    for garbage in ["", "x", "-1", "1.0", "1, 9", "é", "0x9"] {
        assert_eq!(of(&[garbage]), Ok((Lane::Inner, 1)), "{garbage:?}");
    }
    for deep in ["3", "4000000000", "99999999999999999999"] {
        let Err(refusal) = of(&[deep]) else {
            panic!("{deep} was served")
        };
        assert_eq!((refusal.status().as_u16(), refusal.code()), (508, "LoopDetected"));
        assert!(!refusal.retry_elsewhere() && refusal.retry_after().is_none());
        let text = refusal.to_string();
        assert!(
            text.contains("'/w'") && text.contains("server.max_loop_depth"),
            "{text}"
        );
    }
    let none = Classes::new(&ClassRules {
        max_loop_depth: 0,
        ..defaults()
    })
    .unwrap();
    assert!(none.of(&print, &headers(&[(DEPTH, "1")])).is_err());
    assert!(none.of(&print, &HeaderMap::new()).is_ok());
}

#[test]
fn rules_that_cannot_be_meant_are_named() {
    let problem = |rules: &ClassRules| Classes::new(rules).unwrap_err();
    let time = |names: &[&str]| {
        let timeouts = names.iter().map(|name| ((*name).to_owned(), secs(1))).collect();
        match problem(&ClassRules { timeouts, ..defaults() }) {
            RuleError::Timeout { name, problem } => format!("{name}: {problem}"),
            other @ RuleError::Heavy { .. } => panic!("{other:?}"),
        }
    };
    assert_eq!(
        time(&["WMS", "WMZ/GetMap"]),
        "WMZ/GetMap: `WMZ` is no service; expected WMS, WFS, WCS, WMTS or wfs3"
    );
    assert!(time(&[""]).contains("is no service"));
    assert!(time(&["/wfs3"]).contains("is no service"));
    assert!(time(&["WMS/"]).contains("expected a request after"));
    assert!(time(&["WMS/Get/Map"]).contains("`Get/Map` is no request"));
    assert!(time(&["wfs3/GetMap"]).contains("no request of wfs3; expected GET"));
    assert!(time(&["WMS/GetMap", "wms/getmap"]).contains("set twice"));

    let rules = |bad: HeavyRule| match problem(&heavy(vec![rule("WMS", "GetPrint"), bad])) {
        RuleError::Heavy { index, field, problem } => format!("{index} {field}: {problem}"),
        other @ RuleError::Timeout { .. } => panic!("{other:?}"),
    };
    assert!(rules(HeavyRule::default()).starts_with("1 service: it names nothing"));
    assert!(rules(rule("WPS", "")).starts_with("1 service: `WPS` is no service"));
    assert!(rules(rule("WMS", "Get Map")).starts_with("1 request: `Get Map` is no request"));
    let unlimited = |service| {
        rules(HeavyRule {
            unlimited: true,
            ..rule(service, "")
        })
    };
    assert!(unlimited("WMS").starts_with("1 unlimited: only WFS"));
    assert!(unlimited("wfs3").contains("ten features"));
    let sized = HeavyRule {
        min_pixels: 1,
        ..rule("WFS", "")
    };
    assert!(rules(sized).starts_with("1 min_pixels: only requests of WMS and WCS"));
    let project = HeavyRule {
        project: "../secret".to_owned(),
        ..HeavyRule::default()
    };
    assert!(rules(project).starts_with("1 project: the project's name steps through"));
}

proptest! {
    #[test]
    fn no_request_gets_more_time_than_the_longest(
        query in "[a-zA-Z0-9=&%_,.-]{0,60}",
        depth in "[0-9a-z. -]{0,4}",
        timeout in "[0-9.]{1,6}",
    ) {
        let classes = Classes::new(&defaults()).unwrap();
        let target = format!("SERVICE=WMS&REQUEST=GetPrint&MAP=w&{query}");
        let incoming = Incoming {
            method: &Method::GET, path: "/", query: Some(&target), content_type: None, body: b"",
        };
        let Ok(request) = parse(&incoming) else { return Ok(()) };
        let headers = headers(&[(DEPTH, &depth), ("x-request-timeout", &timeout)]);
        if let Ok(class) = classes.of(&request, &headers) {
            prop_assert!(class.timeout <= class.allowed && !class.timeout.is_zero());
            prop_assert_eq!(class.allowed, classes.longest());
            prop_assert_eq!(class.lane == Lane::Inner, class.depth > 0);
            prop_assert!(class.depth <= 2);
        }
    }
}
