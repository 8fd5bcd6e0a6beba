//! The catalog from listings to documents, with names that mean no good.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::*;
use crate::core::locate::Suffix;

const HOSTILE: &str = "\"><script>alert(1)</script>";

fn listed(location: &str, relative: &str) -> Entry {
    entry(
        (location, "directory"),
        (relative, Some(Suffix::Qgs)),
        Some(moment()),
        Some(7),
    )
    .expect("a good name")
    .1
}

fn moment() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_763_769_600)
}

fn snapshot(entries: Vec<Entry>) -> Snapshot {
    Snapshot {
        entries: sorted(entries),
        problems: vec![Problem {
            location: "/far".into(),
            problem: "no answer within 20 s".into(),
        }],
        taken: moment(),
    }
}

fn many(count: usize) -> Snapshot {
    snapshot((0..count).map(|n| listed("/", &format!("town{n:04}"))).collect())
}

fn query(text: &str) -> ListQuery {
    ListQuery::parse(Some(text), None).expect("a good query")
}

fn ids(snapshot: &Snapshot, text: &str) -> Vec<String> {
    let selection = select(snapshot, &Hidden::default(), &query(text));
    selection.entries.iter().map(|entry| entry.id.clone()).collect()
}

fn links() -> Links {
    Links::new("https://maps.example.org/gis")
}

#[test]
fn pages_are_known_by_their_paths() {
    assert_eq!(page_of("/catalog"), Some(Page::List));
    assert_eq!(page_of("/catalog/preview"), Some(Page::Preview));
    for other in ["/", "/catalogs", "/catalog/x", "/ows/catalog", "/Catalog"] {
        assert_eq!(page_of(other), None, "{other}");
    }
}

#[test]
fn a_listed_file_has_the_name_that_requests_use() {
    assert_eq!(listed("/public", "town/roads").id, "/public/town/roads");
    assert_eq!(listed("/", "roads").id, "/roads");
    assert_eq!(listed("/public/", "town/roads").title, "roads");
    // `a.qgs.qgs`: the name `/a.qgs` would be the file `a.qgs`.
    assert_eq!(listed("/", "a.qgs").id, "/a.qgs.qgs");
    let named = |relative| entry(("/", "s3"), (relative, None), None, None);
    for impossible in ["..", "a/../b", ".hidden/a", "a\\b", "a\nb", " a", "100%25", "a.qgs"] {
        assert!(named(impossible).is_none(), "{impossible}");
    }
    assert_eq!(listed("/", HOSTILE).id, "/\"><script>alert(1)</script>");
}

#[test]
fn both_files_of_a_name_are_one_project() {
    let twin = |suffix, bytes| {
        entry(("/", "directory"), ("a", Some(suffix)), None, Some(bytes))
            .unwrap()
            .1
    };
    let both = sorted(vec![twin(Suffix::Qgz, 2), listed("/", "b"), twin(Suffix::Qgs, 1)]);
    assert_eq!(both.len(), 2);
    assert_eq!(
        (both[0].id.as_str(), both[0].bytes),
        ("/a", Some(1)),
        "the one that requests get"
    );
}

#[test]
fn pages_follow_each_other_through_a_thousand() {
    let all = many(1000);
    let (mut seen, mut offset) = (Vec::new(), Some(0));
    while let Some(from) = offset {
        let query = query(&format!("limit=77&offset={from}"));
        let page = select(&all, &Hidden::default(), &query);
        assert_eq!(page.matched, 1000);
        seen.extend(page.entries.iter().map(|entry| entry.id.clone()));
        offset = page.next;
    }
    assert_eq!(seen.len(), 1000);
    assert!(seen.is_sorted() && seen[999] == "/town0999");
    let page = |text: &str| {
        let page = select(&all, &Hidden::default(), &query(text)).clone();
        (page.entries.len(), page.next, page.previous)
    };
    assert_eq!(page(""), (50, Some(50), None));
    assert_eq!(page("limit=1000"), (1000, None, None));
    assert_eq!(page("offset=30"), (50, Some(80), Some(0)));
    assert_eq!(page("offset=950"), (50, None, Some(900)));
    assert_eq!(
        page("offset=1000"),
        (0, None, Some(950)),
        "beyond the end: back to the last page"
    );
    assert_eq!(page("offset=4000000000"), (0, None, Some(950)));
    assert_eq!(
        select(&many(0), &Hidden::default(), &query("offset=5")).previous,
        Some(0)
    );
}

#[test]
fn filters_take_whole_segments_and_any_letter_case() {
    let all = snapshot(vec![
        listed("/public", "Roads"),
        listed("/public", "town/roads"),
        listed("/publicity", "x"),
        listed("/private", "y"),
    ]);
    assert_eq!(ids(&all, "location=/public"), ["/public/Roads", "/public/town/roads"]);
    assert_eq!(ids(&all, "location=/public/&q=TOWN"), ["/public/town/roads"]);
    assert_eq!(ids(&all, "q=ROADS").len(), 2);
    assert_eq!(ids(&all, "location=/").len(), 4);
    assert!(ids(&all, "location=/pub").is_empty());
    let hidden = Hidden::new(["/private/", "/public/town"]);
    let all_query = query("");
    let shown = select(&all, &hidden, &all_query);
    assert_eq!(shown.matched, 2);
    assert!(hidden.hides("/private/y") && hidden.hides("/private") && !hidden.hides("/privates"));
    // A location that does not answer is told to whom it may concern.
    assert_eq!(shown.problems.len(), 1);
    for (location, told) in [("/far", 1), ("/far/away", 1), ("/public", 0)] {
        let query = query(&format!("location={location}"));
        assert_eq!(
            select(&all, &Hidden::default(), &query).problems.len(),
            told,
            "{location}"
        );
    }
    assert!(select(&all, &Hidden::new(["/far"]), &all_query).problems.is_empty());
}

#[test]
fn a_bad_parameter_is_named_with_the_remedy() {
    for (text, said) in [
        (
            "limit=0",
            "limit has the value '0'; expected a whole number from 1 to 1000",
        ),
        ("limit=1001", "from 1 to 1000"),
        ("LIMIT=-1", "from 1 to 1000"),
        ("offset=x", "offset has the value 'x'"),
        ("offset=99999999999", "offset"),
        ("location=public", "such as /public"),
        ("f=xml", "json or html"),
        (
            "limt=3",
            "'limt' is unknown here; known are location, q, limit, offset and f",
        ),
        ("MAP=/world", "unknown"),
    ] {
        let error = ListQuery::parse(Some(text), None).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    for (text, said) in [
        ("", "add MAP=/name"),
        ("MAP=/a&map=/b", "two projects"),
        ("MAP=/../a", "steps through"),
        ("MAP=/a&q=1", "known are MAP and f"),
    ] {
        let error = ProjectQuery::parse(Some(text), None).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    // What forms send empty, and what browsers append, says nothing.
    let plain = ListQuery::parse(Some("q=&location=&f=&limit=&_=17"), None).unwrap();
    assert_eq!(plain, ListQuery::parse(None, None).unwrap());
    assert_eq!(
        ProjectQuery::parse(Some("map=a&MAP=/a"), None).unwrap().name.key(),
        "/a"
    );
}

#[test]
fn the_form_is_what_the_client_prefers() {
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for (query, accept, form) in [
        (None, None, Form::Json),
        (None, Some("*/*"), Form::Json),
        (None, Some(browser), Form::Html),
        (None, Some("application/json, text/html"), Form::Json),
        (None, Some("application/json;q=0.4, text/html;q=0.5"), Form::Html),
        (Some("f=json"), Some(browser), Form::Json),
        (Some("f=HTML"), None, Form::Html),
    ] {
        assert_eq!(
            ListQuery::parse(query, accept).unwrap().form,
            form,
            "{query:?} {accept:?}"
        );
    }
}

#[test]
fn the_json_page_says_where_everything_is() {
    let all = snapshot(vec![
        listed("/public", "roads"),
        listed("/public", "wfs3/x"),
        listed("/", "a b"),
    ]);
    let query = query("limit=2&q=/");
    let page = select(&all, &Hidden::default(), &query);
    let document: Value = serde_json::from_str(&list_json(&all, &page, &query, &links())).unwrap();
    assert_eq!(
        (&document["numberMatched"], &document["numberReturned"]),
        (&3.into(), &2.into())
    );
    assert_eq!(document["timeStamp"], "2025-11-22T00:00:00Z");
    assert_eq!(document["problems"][0]["location"], "/far");
    let href = |links: &Value, rel: &str| -> Vec<String> {
        let links = links.as_array().unwrap().iter();
        let of = links.filter(|link| link["rel"] == rel);
        of.map(|link| link["href"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        href(&document["links"], "next"),
        ["https://maps.example.org/gis/catalog?q=/&limit=2&offset=2&f=json"]
    );
    assert!(href(&document["links"], "prev").is_empty());
    assert!(href(&document["links"], "alternate")[0].ends_with("f=html"));
    let spaced = &document["projects"][0];
    assert_eq!(
        (&spaced["id"], &spaced["bytes"], &spaced["storage"]),
        (&"/a b".into(), &7.into(), &"directory".into())
    );
    assert_eq!(
        href(&spaced["links"], "service-desc"),
        [
            "https://maps.example.org/gis/?MAP=/a%20b&SERVICE=WMS&REQUEST=GetCapabilities",
            "https://maps.example.org/gis/?MAP=/a%20b&SERVICE=WFS&REQUEST=GetCapabilities"
        ]
    );
    let roads = &document["projects"][1];
    assert_eq!(
        href(&roads["links"], "service"),
        ["https://maps.example.org/gis/ows/public/roads/wfs3/"]
    );
    assert_eq!(
        href(&roads["links"], "preview"),
        ["https://maps.example.org/gis/catalog/preview?MAP=/public/roads"]
    );
    assert_eq!(
        links().features("/public/wfs3/x"),
        "https://maps.example.org/gis/wfs3/?MAP=/public/wfs3/x",
        "the path form would end at the folder"
    );
}

#[test]
fn names_do_no_harm_in_a_page() {
    let all = snapshot(vec![
        listed("/", HOSTILE),
        listed("/", "a&amp;'b"),
        listed("/", "javascript:alert(1)"),
    ]);
    let text = form_urlencoded::byte_serialize(HOSTILE.as_bytes()).collect::<String>();
    for asked in ["limit=3", &format!("q={text}"), &format!("location=/{text}")] {
        let query = query(asked);
        let page = list_html(
            &all,
            &select(&all, &Hidden::default(), &query),
            &query,
            &Links::new("/gis"),
            true,
        );
        assert!(!page.contains("<script"), "{page}");
        assert!(
            !page.contains("\"><script") && !page.contains("href=\"javascript"),
            "{page}"
        );
    }
    let query = query("");
    let page = list_html(
        &all,
        &select(&all, &Hidden::default(), &query),
        &query,
        &Links::new("/gis"),
        true,
    );
    assert!(
        page.contains("&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"),
        "{page}"
    );
    assert!(page.contains("a&amp;amp;&#39;b"), "{page}");
    assert!(
        page.contains("src=\"/gis/catalog/preview?MAP=/%22%3E%3Cscript%3Ealert%281%29%3C/script%3E\""),
        "{page}"
    );
    assert!(page.contains("<img loading=\"lazy\""));
    assert!(!list_html(&all, &select(&all, &Hidden::default(), &query), &query, &links(), false).contains("<img"));

    let details = Details {
        title: HOSTILE.into(),
        summary: HOSTILE.into(),
        crs: HOSTILE.into(),
        extent: Some([0.0, 0.0, 1.0, 1.0]),
        bad_layers: vec![HOSTILE.into()],
        layouts: vec![HOSTILE.into()],
        draw_order: vec![HOSTILE.into()],
        layers: vec![Layer {
            name: HOSTILE.into(),
            kind: "group".into(),
            layers: vec![Layer {
                name: HOSTILE.into(),
                kind: "vector".into(),
                visible: true,
                ..Layer::default()
            }],
            ..Layer::default()
        }],
        version: HOSTILE.into(),
        qgis_version: HOSTILE.into(),
        ..Details::default()
    };
    let page = project_html("/\"><script>", &details, &Links::new(""));
    assert_eq!(page.matches("<script").count(), 1, "{page}");
    assert!(page.contains("<script src=\"/catalog/map.js\" defer></script>"));
    assert!(
        !page.contains("style=") && !page.contains(" on"),
        "the policy forbids both: {page}"
    );
    assert!(!placeholder(HOSTILE, HOSTILE).contains("<script"));
}

#[test]
fn the_page_of_a_project_has_its_map() {
    let details: Details = serde_json::from_str(
        r#"{"title": "World", "abstract": "A map", "crs": "EPSG:3857", "extent": [0, 0, 10, 20],
            "extent_epsg4326": [0, 0, 1, 2], "draw_order": ["low", "top"], "max_width": 3000, "version": "1-2",
            "layers": [{"name": "top", "title": "Top", "type": "vector", "geometry_type": "Point", "visible": true,
                        "queryable": true},
                       {"name": "g", "type": "group", "layers": [{"name": "low", "type": "raster"}]}]}"#,
    )
    .unwrap();
    let page = project_html("/public/roads", &details, &Links::new("/gis"));
    for part in [
        "<h1>World</h1>",
        "data-wms=\"/gis/?MAP=/public/roads\" data-crs=\"EPSG:3857\" data-extent=\"[0.0,0.0,10.0,20.0]\"",
        "data-order=\"[&quot;low&quot;,&quot;top&quot;]\" data-max-width=\"3000\"",
        "<input type=\"checkbox\" value=\"top\" data-queryable=\"true\" checked>Top",
        "<input type=\"checkbox\" value=\"low\" data-queryable=\"false\">low",
        "src=\"/gis/catalog/preview?MAP=/public/roads\"",
        "<td>EPSG:3857</td>",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    let document: Value = serde_json::from_str(&project_json("/public/roads", &details, &links())).unwrap();
    assert_eq!(
        (&document["id"], &document["abstract"]),
        (&"/public/roads".into(), &"A map".into())
    );
    assert_eq!(document["layers"][1]["layers"][0]["name"], "low");
    assert_eq!(document["layers"][0]["geometry_type"], "Point");
    assert!(document["links"].as_array().unwrap().len() >= 6);

    let nothing = project_html("/empty", &Details::default(), &Links::new(""));
    assert!(
        nothing.contains("no layer that can be drawn") && nothing.contains("<h1>/empty</h1>"),
        "{nothing}"
    );
}

#[test]
fn the_pages_load_nothing_from_elsewhere() {
    for source in [SCRIPT, STYLE] {
        assert!(!source.contains("://") && !source.contains("@import"));
    }
    assert!(!STYLE.contains("url(") && SCRIPT.lines().count() < 250);
    assert!(!CONTENT_SECURITY_POLICY.contains("unsafe"));
}
