use http::{HeaderValue, Method};
use proptest::prelude::*;

use super::super::parse::{Incoming, parse};
use super::*;

fn rules() -> SharingRules {
    SharingRules {
        max_age: Duration::from_secs(300),
        map_max_age: Duration::from_secs(20),
        map_max_pixels: 1 << 20,
        join: true,
        vary_headers: Vec::new(),
        forwarded: Forwarded::default(),
    }
}

fn origin(authority: &str) -> Origin {
    Origin {
        scheme: "http",
        authority: authority.to_owned(),
        prefix: String::new(),
    }
}

fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}

/// A request, easy to change.
#[derive(Clone)]
struct Asked {
    method: Method,
    path: String,
    query: String,
    body: Vec<u8>,
    headers: HeaderMap,
    origin: Origin,
    rules: SharingRules,
}

impl Asked {
    fn get(path: &str, query: &str) -> Self {
        Self {
            method: Method::GET,
            path: path.to_owned(),
            query: query.to_owned(),
            body: Vec::new(),
            headers: HeaderMap::new(),
            origin: origin("h"),
            rules: rules(),
        }
    }

    fn post(query: &str, body: &str) -> Self {
        Self {
            method: Method::POST,
            body: body.into(),
            ..Self::get("/ows/w", query)
        }
    }

    fn with(self, headers: &[(&'static str, &'static str)]) -> Self {
        Self {
            headers: map(headers),
            ..self
        }
    }

    fn at(self, authority: &str) -> Self {
        Self {
            origin: origin(authority),
            ..self
        }
    }

    fn vary(mut self, name: &'static str) -> Self {
        self.rules.vary_headers.push(HeaderName::from_static(name));
        self
    }

    fn sharing(&self) -> Sharing {
        let incoming = Incoming {
            method: &self.method,
            path: &self.path,
            query: Some(&self.query),
            content_type: self.headers.get("content-type").and_then(|value| value.to_str().ok()),
            body: &self.body,
        };
        let request = parse(&incoming).unwrap();
        sharing(&request, &self.body, &self.headers, &self.origin, &self.rules)
    }

    fn key(&self) -> String {
        self.sharing()
            .key
            .unwrap_or_else(|| panic!("not shared: {} {}", self.path, self.query))
    }
}

fn get(query: &str) -> Asked {
    Asked::get("/", &format!("MAP=/w&{query}"))
}

const MAP: &str = "SERVICE=WMS&REQUEST=GetMap&LAYERS=a,b&WIDTH=256&HEIGHT=256";
const CAPS: &str = "SERVICE=WMS&REQUEST=GetCapabilities";

#[test]
fn a_picture_s_key_does_not_depend_on_how_it_was_asked_for() {
    let one = get(MAP).key();
    for same in [
        get("height=256&width=256&layers=a%2Cb&request=getmap&service=wms"),
        get(&format!("{MAP}&_=17&_ts=3&NoCache=x")),
        get(&format!("LAYERS=z&{MAP}")),
        get("REQUEST=GetMap&LAYERS=a,b&WIDTH=256&HEIGHT=256"),
        Asked::get("/ows/w", MAP),
        Asked::get("/", &format!("map=w.qgs&{MAP}")),
        get(MAP).at("tiles-2.example.org"),
        get(MAP).with(&[("user-agent", "x"), ("accept", "image/*"), ("x-request-id", "7")]),
        Asked {
            method: Method::HEAD,
            ..get(MAP)
        },
    ] {
        assert_eq!(same.key(), one, "{} {}", same.path, same.query);
    }
}

#[test]
fn whatever_changes_a_picture_changes_its_key() {
    let all = [
        get(MAP),
        Asked::get("/", &format!("MAP=/x&{MAP}")),
        get(&format!("{MAP}&STYLES=")),
        get(&format!("{MAP}&STYLES")).with(&[("x-qgis-project", "y")]),
        get(&MAP.replace("a,b", "b,a")),
        get(&MAP.replace("a,b", "A,b")),
        get(&MAP.replace("WIDTH=256", "WIDTH=0256")),
        get(&format!("{MAP}&VERSION=1.1.1")),
        get(&format!("{MAP}&FILTER=a:%22x%22 = 'y'")),
        get(&format!("{MAP}&FILTER=a:%22x%22 = 'Y'")),
        get(&format!("{MAP}&PLUGINSOWN=1")),
        get(&MAP.replace("GetMap", "GetLegendGraphic")),
        Asked::post(MAP, "SLD_BODY=x").with(&[("content-type", "application/x-www-form-urlencoded")]),
        Asked::post("", MAP).with(&[("content-type", "application/x-www-form-urlencoded")]),
    ];
    for (at, one) in all.iter().enumerate() {
        for other in &all[at + 1..] {
            assert_ne!(one.key(), other.key(), "{} {}", one.query, other.query);
        }
    }
}

#[test]
fn a_value_cannot_pass_for_a_parameter() {
    let forged = get("SERVICE=WMS&REQUEST=GetMap&LAYERS=a,6:STYLES,1:b,&WIDTH=1&HEIGHT=1");
    let honest = get("SERVICE=WMS&REQUEST=GetMap&LAYERS=a&STYLES=b&WIDTH=1&HEIGHT=1");
    assert_ne!(forged.key(), honest.key());
    assert_ne!(
        get(&format!("{MAP}&A=1%00&B=2")).key(),
        get(&format!("{MAP}&A=1&B=%002")).key()
    );
}

#[test]
fn a_document_has_the_client_s_own_links() {
    let one = get(CAPS).key();
    for same in [
        Asked::get("/", "SERVICE=wms&MAP=/w&request=getcapabilities"),
        Asked::get("/", &format!("{CAPS}&map=/w&_dc=12")),
        get(&format!("{CAPS}&REQUEST=GETCAPABILITIES")),
    ] {
        assert_eq!(same.key(), one, "{}", same.query);
    }
    let mut behind = get(CAPS);
    "/gis".clone_into(&mut behind.origin.prefix);
    let mut secure = get(CAPS);
    secure.origin.scheme = "https";
    let others = [
        get(CAPS).at("other"),
        behind,
        secure,
        Asked::get("/ows/w", CAPS),
        Asked::get("/ows", &format!("MAP=/w&{CAPS}")),
        Asked::get("/", &format!("MAP=w&{CAPS}")),
        Asked::get("/", &format!("MAP=/w.qgs&{CAPS}")),
        get(&format!("{CAPS}&VERSION=1.1.1")),
        get(&format!("{CAPS}&foo=1&bar=1")),
        get(&format!("{CAPS}&bar=1&foo=1")),
        get(&format!("{CAPS}&Foo=1&bar=1")),
        get(&format!("{CAPS}&foo=%31&bar=1")),
        get(&CAPS.replace("Capabilities", "ProjectSettings")),
        get(&CAPS.replace("WMS", "WFS")),
    ];
    for (at, other) in others.iter().enumerate() {
        assert_ne!(other.key(), one, "{} {}", other.path, other.query);
        for next in &others[at + 1..] {
            assert_ne!(other.key(), next.key(), "{} {}", other.query, next.query);
        }
    }
}

#[test]
fn an_api_is_taken_at_its_word() {
    let page = |query: &str| Asked::get("/ows/w/wfs3/collections", query);
    let one = page("").with(&[("accept", "text/html")]);
    assert_eq!(one.key(), page("").with(&[("accept", "text/html"), ("x-a", "b")]).key());
    assert_eq!(one.sharing().varies_by, ["accept"]);
    let all = [
        one,
        page(""),
        page("").with(&[("accept", "application/json")]),
        page("").with(&[("accept", "")]),
        page("limit=1"),
        page("LIMIT=1"),
        page("_=1"),
        page("").at("other"),
        Asked::get("/ows/w/wfs3/collections/", ""),
        Asked::get("/wfs3/collections", "MAP=/w"),
    ];
    for (at, one) in all.iter().enumerate() {
        for other in &all[at + 1..] {
            assert_ne!(one.key(), other.key(), "{} {}", one.query, other.query);
        }
    }
}

#[test]
fn what_was_posted_is_part_of_the_question() {
    let xml = |name: &str| format!("<GetFeature service=\"WFS\"><Query typeName=\"{name}\"/></GetFeature>");
    let typed = [("content-type", "text/xml")];
    let one = Asked::post("", &xml("a")).with(&typed);
    assert_eq!(one.key(), Asked::post("", &xml("a")).with(&typed).key());
    assert_ne!(one.key(), Asked::post("", &xml("b")).with(&typed).key());
    assert_ne!(one.key(), Asked::post("", &xml("a")).key());
    assert_ne!(one.key(), Asked::post("VERSION=1.0.0", &xml("a")).with(&typed).key());
    let long = Asked::post("", &xml(&"a".repeat(MOST_BODY))).with(&typed);
    assert_eq!(long.sharing().key, None);
}

#[test]
fn what_changes_something_is_never_shared() {
    let transaction = Asked::post("", "<Transaction service=\"WFS\"/>").sharing();
    assert_eq!(
        (transaction.key, transaction.keep, transaction.join),
        (None, None, false)
    );
    let posted = Asked {
        path: "/ows/w/wfs3/collections/a/items".to_owned(),
        ..Asked::post("", "{}")
    };
    assert_eq!(posted.sharing().key, None);
    assert_eq!(get("SERVICE=WMS&REQUEST=GetNothing").sharing().key, None);
}

#[test]
fn kinds_are_kept_as_long_as_the_rules_say() {
    let kept = |asked: &Asked| {
        let sharing = asked.sharing();
        let seconds = |age: Option<Duration>| age.map(|age| age.as_secs());
        (
            seconds(sharing.keep),
            seconds(sharing.fresh),
            sharing.hold == HOLD_WHOLE,
        )
    };
    for query in [
        "SERVICE=WMS&REQUEST=GetCapabilities",
        "SERVICE=WMS&REQUEST=GetProjectSettings",
        "SERVICE=WMS&REQUEST=GetContext",
        "SERVICE=WMS&REQUEST=GetSchemaExtension",
        "SERVICE=WMS&REQUEST=DescribeLayer",
        "SERVICE=WMS&REQUEST=GetLegendGraphic",
        "SERVICE=WMS&REQUEST=getlegendgraphics",
        "SERVICE=WMS&REQUEST=GetStyles",
        "SERVICE=WFS&REQUEST=GetCapabilities",
        "SERVICE=WFS&REQUEST=DescribeFeatureType",
        "SERVICE=WCS&REQUEST=DescribeCoverage",
        "SERVICE=WMTS&REQUEST=GetCapabilities",
    ] {
        assert_eq!(kept(&get(query)), (Some(300), None, true), "{query}");
    }
    for path in [
        "",
        ".html",
        "/",
        "/conformance.json",
        "/api",
        "/api.openapi3",
        "/collections",
        "/collections/a.html",
    ] {
        let asked = Asked::get(&format!("/ows/w/wfs3{path}"), "");
        assert_eq!(kept(&asked), (Some(300), None, true), "{path}");
    }
    let file = Asked::get("/wfs3/static/style.css", "");
    assert_eq!(kept(&file), (Some(300), Some(300), true));
    for path in [
        "/collections/a/items",
        "/collections/a/items/1.json",
        "/collections/a/items.html",
        "/other",
    ] {
        let asked = Asked::get(&format!("/ows/w/wfs3{path}"), "");
        assert_eq!(kept(&asked), (None, None, false), "{path}");
        assert!(asked.sharing().join);
    }
    for (query, whole) in [
        ("SERVICE=WFS&REQUEST=GetFeature&TYPENAME=a", false),
        ("SERVICE=WCS&REQUEST=GetCoverage", false),
        ("SERVICE=WMS&REQUEST=GetPrint", true),
        ("SERVICE=WMS&REQUEST=GetFeatureInfo", true),
        ("SERVICE=WMS&REQUEST=GetMap", true),
        ("SERVICE=WMS&REQUEST=GetMap&WIDTH=1025&HEIGHT=1024", true),
        ("SERVICE=WMS&REQUEST=GetMap&WIDTH=4294967295&HEIGHT=4294967295", true),
    ] {
        assert_eq!(kept(&get(query)), (None, None, whole), "{query}");
        assert!(get(query).sharing().join, "{query}");
    }
    for query in [
        MAP,
        "SERVICE=WMS&REQUEST=GetMap&WIDTH=1024&HEIGHT=1024",
        "SERVICE=WMTS&REQUEST=GetTile",
    ] {
        assert_eq!(kept(&get(query)), (Some(20), Some(20), true), "{query}");
        let mut without = get(query);
        without.rules.map_max_age = Duration::ZERO;
        assert_eq!(kept(&without), (None, None, true), "{query}");
    }
}

#[test]
fn without_joining_only_what_is_kept_has_a_key() {
    let mut rules = rules();
    rules.join = false;
    rules.map_max_age = Duration::ZERO;
    let ask = |query| Asked {
        rules: rules.clone(),
        ..get(query)
    };
    assert_eq!(ask(MAP).sharing().key, None);
    let caps = ask(CAPS).sharing();
    assert!(caps.key.is_some() && !caps.join);
}

#[test]
fn credentials_are_nobody_else_s_unless_they_are_named() {
    for name in CREDENTIALS.iter().copied() {
        let asked = |value| get(CAPS).with(&[(name, value)]);
        let alone = asked("a").sharing();
        assert_eq!((alone.key, alone.keep, alone.join), (None, None, false), "{name}");
        let named = |value| asked(value).vary(name);
        assert!(named("a").sharing().private);
        assert_eq!(named("a").sharing().varies_by, [name]);
        assert_eq!(named("a").key(), named("a").key());
        assert_ne!(named("a").key(), named("b").key());
        let nobody = get(CAPS).vary(name);
        assert_ne!(named("").key(), nobody.key(), "an empty value is not none");
        assert!(!nobody.sharing().private);
    }
    let two = get(CAPS)
        .with(&[("cookie", "a"), ("authorization", "b")])
        .vary("cookie");
    assert_eq!(two.sharing().key, None, "one of two is named");
}

#[test]
fn what_reaches_plugins_by_name_is_shared_only_when_answers_vary_by_it() {
    let asked = |value| {
        let mut asked = get(CAPS).with(&[("x-lizmap-user", value)]);
        asked.rules.forwarded = Forwarded::new(["x-lizmap-*", "x-qgis-*"]).unwrap();
        asked
    };
    let alone = asked("ann").sharing();
    assert_eq!((alone.key, alone.keep, alone.join), (None, None, false));
    let named = |value| asked(value).vary("x-lizmap-user");
    assert!(named("ann").sharing().private);
    assert_eq!(named("ann").key(), named("ann").key());
    assert_ne!(named("ann").key(), named("bob").key());
    let nobody = Asked {
        headers: HeaderMap::new(),
        ..asked("")
    };
    assert_eq!(
        nobody.key(),
        get(CAPS).key(),
        "who sends none of them is not asked for more"
    );
    let own = Asked {
        headers: map(&[("x-qgis-project", "/w")]),
        ..asked("")
    };
    assert!(own.sharing().key.is_some(), "QGIS's own are in every key");
}

#[test]
fn an_answer_for_one_alone_is_not_kept() {
    let alone = get(CAPS).sharing().alone();
    assert_eq!(
        (alone.key, alone.keep, alone.fresh, alone.join),
        (None, None, None, false)
    );
}

#[test]
fn no_client_asks_what_this_server_asks_in_the_same_words() {
    let clients = [get(CAPS), get(MAP), Asked::get("/wfs3/collections", "MAP=/w")];
    for client in &clients {
        let theirs = client.sharing();
        assert!(
            theirs
                .key
                .as_ref()
                .unwrap()
                .starts_with(|first: char| first.is_ascii_digit())
        );
        let ours = theirs.clone().of_ours("project");
        assert!(ours.key.as_ref().unwrap().starts_with("project"));
        assert_ne!(ours.key, theirs.clone().of_ours("preview").key);
        let kept = |sharing: Sharing| Sharing { key: None, ..sharing };
        assert_eq!(kept(ours), kept(theirs));
    }
    assert_eq!(get(CAPS).sharing().alone().of_ours("project").key, None);
}

#[test]
fn named_headers_are_part_of_every_question() {
    let spoken = |language| get(MAP).with(&[("accept-language", language)]);
    assert_eq!(spoken("de").key(), spoken("fr").key());
    let named = |language| spoken(language).vary("accept-language");
    assert_ne!(named("de").key(), named("fr").key());
    let (one, two) = (get(MAP).vary("host"), get(MAP).vary("host").at("other"));
    assert_ne!(one.key(), two.key());
}

proptest! {
    /// Whoever asks with the same parameters asks the same; whoever changes one of them does not.
    #[test]
    fn order_does_not_matter_and_values_do(
        mut pairs in proptest::collection::btree_map("[A-Z]{1,6}", "[a-zA-Z0-9,:. ]{0,8}", 1..6),
        shift in 0_usize..6,
        suffix in "[a-zA-Z0-9,:]{1,3}",
    ) {
        pairs.retain(|key, _| !matches!(key.as_str(), "MAP" | "SERVICE") && !VOLATILE.contains(&key.as_str()));
        let written = |pairs: &[(String, String)]| {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(pairs);
            get(&format!("SERVICE=WMS&REQUEST=GetLegendGraphic&{}", query.finish())).key()
        };
        let mut list: Vec<(String, String)> = pairs.into_iter().collect();
        let one = written(&list);
        let length = list.len().max(1);
        list.rotate_left(shift % length);
        prop_assert_eq!(&written(&list), &one);
        if let Some((_, value)) = list.first_mut() {
            value.push_str(&suffix);
            prop_assert_ne!(written(&list), one);
        }
    }
}
