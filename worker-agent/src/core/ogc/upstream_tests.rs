use proptest::prelude::*;

use super::super::parse::{Incoming, parse};
use super::*;

fn origin(prefix: &str) -> Origin {
    Origin {
        scheme: "http",
        authority: "h:9080".to_owned(),
        prefix: prefix.to_owned(),
    }
}

fn handed(method: &Method, target: &str, body: &str, prefix: &str) -> Upstream {
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    let content_type = Some("application/x-www-form-urlencoded");
    let incoming = Incoming {
        method,
        path,
        query,
        content_type,
        body: body.as_bytes(),
    };
    upstream(
        &parse(&incoming).unwrap_or_else(|error| panic!("{target}: {error}")),
        body.as_bytes(),
        &origin(prefix),
    )
}

fn url(target: &str) -> String {
    let upstream = handed(&Method::GET, target, "", "");
    assert_eq!((upstream.method, upstream.body), (Method::GET, None), "{target}");
    upstream.url.strip_prefix("http://h:9080").expect("the base").to_owned()
}

const CAPS: &str = "SERVICE=WMS&REQUEST=GetCapabilities";

#[test]
fn the_client_s_own_url_is_kept() {
    for target in [
        format!("/?MAP=/world&{CAPS}"),
        format!("/?{CAPS}&MAP=%2Fworld&LAYERS=a%26b,c+d"),
        format!("/ows?MAP=world&{CAPS}&_own=1&LAYERS"),
        format!("/ows/world?{CAPS}"),
        format!("/ows/world.qgs/?{CAPS}"),
        format!("/ows/St%C3%A4dte/x?{CAPS}"),
        "/wfs3/collections/a%20b/items?limit=10&MAP=/world".to_owned(),
        "/ows/world/wfs3/collections".to_owned(),
        "/ows/world/wfs3/".to_owned(),
        "/wfs3/static/style.css".to_owned(),
    ] {
        assert_eq!(url(&target), target);
    }
    let upstream = handed(&Method::GET, "/ows/world/wfs3/collections?limit=1", "", "/gis");
    assert_eq!(upstream.url, "http://h:9080/gis/ows/world/wfs3/collections?limit=1");
}

#[test]
fn what_a_url_may_not_hold_is_escaped() {
    assert_eq!(
        url(&format!("/?MAP=/w&{CAPS}&X=é<\"`\\> ")),
        format!("/?MAP=/w&{CAPS}&X=%C3%A9%3C%22%60%5C%3E%20")
    );
    assert_eq!(url(&format!("//ows///é?{CAPS}")), format!("/ows/%C3%A9?{CAPS}"));
}

#[test]
fn map_stands_once_and_without_spaces() {
    assert_eq!(url(&format!("/?map=/w&{CAPS}&MAP=w")), format!("/?MAP=/w&{CAPS}"));
    assert_eq!(url(&format!("/?MAP=&{CAPS}&MAP=w")), format!("/?{CAPS}&MAP=w"));
    assert_eq!(
        url(&format!("/?MAP=/a%20b%26c&{CAPS}")),
        format!("/?MAP=/a+b%26c&{CAPS}")
    );
    assert_eq!(url("/wfs3?MAP=/a+b"), "/wfs3?MAP=/a+b");
    // In the path form it is not wanted at all.
    assert_eq!(url(&format!("/ows/w?MAP=/w&{CAPS}")), format!("/ows/w?{CAPS}"));
}

#[test]
fn a_space_in_the_path_form_goes_into_map() {
    let upstream = handed(&Method::GET, &format!("/ows/public%20x/caf%C3%A9?{CAPS}"), "", "/gis");
    assert_eq!(
        upstream.url,
        format!("http://h:9080/gis/?{CAPS}&MAP=/public+x/caf%C3%A9")
    );
    assert_eq!(
        url("/ows/public%20x/wfs3/collections"),
        "/wfs3/collections?MAP=/public+x"
    );
}

#[test]
fn a_name_that_hides_the_root_of_an_api_goes_into_map() {
    assert_eq!(
        url("/ows/wfs3demo/wfs3/collections?limit=1"),
        "/wfs3/collections?limit=1&MAP=/wfs3demo"
    );
    assert_eq!(url("/ows/a/wfs3b/wfs3.html"), "/wfs3.html?MAP=/a/wfs3b");
    assert_eq!(url(&format!("/ows/wfs3demo?{CAPS}")), format!("/ows/wfs3demo?{CAPS}"));
}

#[test]
fn the_service_is_written_as_qgis_wants_it() {
    assert_eq!(
        url("/?MAP=/w&service=wms&request=GetMap"),
        "/?MAP=/w&service=wms&request=GetMap&SERVICE=WMS"
    );
    assert_eq!(url("/ows/w?REQUEST=getmap"), "/ows/w?REQUEST=getmap&SERVICE=WMS");
    assert_eq!(
        url("/?MAP=/w&SERVICE=wms&service=WMS&REQUEST=GetMap"),
        "/?MAP=/w&SERVICE=wms&service=WMS&REQUEST=GetMap"
    );
}

#[test]
fn a_form_s_project_goes_into_the_query_and_the_rest_stays() {
    let body = "MAP=%2Fworld&SERVICE=WMS&REQUEST=GetMap&WIDTH=1";
    let upstream = handed(&Method::POST, "/", body, "");
    assert_eq!(
        (upstream.url.as_str(), upstream.body),
        ("http://h:9080/?MAP=/world", None)
    );
    assert_eq!(upstream.method, Method::POST);
    let upstream = handed(&Method::POST, "/ows/w", "service=wms&REQUEST=GetMap", "");
    assert_eq!(upstream.url, "http://h:9080/ows/w");
    assert_eq!(
        upstream.body.as_deref(),
        Some(&b"service=wms&REQUEST=GetMap&SERVICE=WMS"[..])
    );
    let upstream = handed(&Method::POST, "/ows/w?service=wms", "REQUEST=GetMap", "");
    assert_eq!(
        (upstream.url.as_str(), upstream.body),
        ("http://h:9080/ows/w?service=wms&SERVICE=WMS", None)
    );
}

#[test]
fn xml_without_a_service_gets_it_in_the_query() {
    let body = r#"<GetFeature xmlns="http://www.opengis.net/wfs"/>"#;
    let upstream = handed(&Method::POST, "/ows/w", body, "");
    assert_eq!(
        (upstream.url.as_str(), upstream.body),
        ("http://h:9080/ows/w?SERVICE=WFS", None)
    );
}

#[test]
fn what_gets_past_caches_is_not_repeated_in_links() {
    assert_eq!(
        url(&format!("/?_=7&MAP=/w&_ts=1&{CAPS}&NoCache")),
        format!("/?MAP=/w&{CAPS}")
    );
    // A collection may have a property of that name.
    let items = "/ows/w/wfs3/collections/a/items?_ts=1";
    assert_eq!(url(items), items);
}

#[test]
fn head_is_asked_as_get() {
    assert_eq!(handed(&Method::HEAD, "/ows/w/wfs3", "", "").method, Method::GET);
    assert_eq!(
        handed(&Method::DELETE, "/ows/w/wfs3/collections/a/items/1", "", "").method,
        Method::DELETE
    );
}

#[test]
fn qgis_own_broken_link_is_repaired() {
    assert_eq!(
        url("/?MAP=/world?request=DescribeFeatureType&typenames=a&service=WFS&version=2.0"),
        "/?MAP=/world&request=DescribeFeatureType&typenames=a&service=WFS&version=2.0"
    );
}

#[test]
fn a_schema_link_that_a_space_cut_is_mended() {
    let asked = "/ows/world?SERVICE=WFS&VERSION=1.1.0&REQUEST=DescribeFeatureType&OUTPUTFORMAT=";
    let mended = format!("{asked}text/xml;%20subtype=gml/3.1.1");
    for cut in ["text/xml;", "text/xml;%20", "text%2Fxml%3B"] {
        assert_eq!(url(&format!("{asked}{cut}")), mended);
    }
    for whole in [mended, format!("{asked}text/xml"), format!("{asked}XMLSCHEMA")] {
        assert_eq!(url(&whole), whole);
    }
}

proptest! {
    #[test]
    fn what_qgis_is_handed_reads_as_the_client_s_request(
        name in "[a-zA-Z0-9 é&?_-]{1,6}(/wfs3[a-z])?(\\.qgs)?",
        more in "[a-zA-Z0-9é<>\"{}|^ %+=,;]{0,20}",
        form in any::<bool>(),
        service in "WMS|wms|Wms",
    ) {
        let map: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
        let pairs = format!("map={map}&service={service}&request=GetMap&X={more}");
        let pairs = pairs.as_str();
        let (method, query, body) = if form { (Method::POST, None, pairs) } else { (Method::GET, Some(pairs), "") };
        let incoming = Incoming { method: &method, path: "/", query, content_type: None, body: body.as_bytes() };
        let Ok(request) = parse(&incoming) else { return Ok(()) };
        let handed = upstream(&request, body.as_bytes(), &origin("/gis"));
        let uri: http::Uri = handed.url.parse().unwrap();
        prop_assert!(handed.url.is_ascii());
        let path = uri.path().strip_prefix("/gis").unwrap().to_owned();
        let body = handed.body.unwrap_or_else(|| body.as_bytes().to_vec());
        let (method, query) = (&handed.method, uri.query());
        let again = parse(&Incoming { method, path: &path, query, content_type: None, body: &body }).unwrap();
        prop_assert_eq!(&again.project, &request.project);
        prop_assert_eq!(&again.kind, &request.kind);
        prop_assert_eq!(again.params.get("X"), request.params.get("X"));
        prop_assert_eq!(again.params.get("SERVICE"), Some("WMS"));
        // A second time nothing more is to be done.
        prop_assert_eq!(upstream(&again, &body, &origin("/gis")).url, handed.url);
    }
}
