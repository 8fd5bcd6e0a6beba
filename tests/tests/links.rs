//! Every link in every kind of document is one that the client can follow: it starts with the URL that the client used,
//! still names the project, and leads to an answer. Directly, and behind a further proxy.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use stack::client::{Answer, Client};
use stack::links::links;
use stack::proxy::{Proxy, Public};
use stack::{Plan, Stack};

/// Documents of the services, by service, with the least number of links that each has.
const SERVICES: &[(&str, &str, usize)] = &[
    ("WMS", "VERSION=1.3.0&REQUEST=GetCapabilities", 12),
    ("WMS", "VERSION=1.1.1&REQUEST=GetCapabilities", 11),
    ("WFS", "VERSION=1.0.0&REQUEST=GetCapabilities", 6),
    ("WFS", "VERSION=1.1.0&REQUEST=GetCapabilities", 6),
    (
        "WFS",
        "VERSION=1.1.0&REQUEST=GetFeature&TYPENAME=graticule&MAXFEATURES=1",
        1,
    ),
    ("WCS", "VERSION=1.0.0&REQUEST=GetCapabilities", 5),
    ("WMTS", "VERSION=1.0.0&REQUEST=GetCapabilities", 2),
];

/// Documents of the OGC API, by their paths, with the least number of links that each has.
const API: &[(&str, usize)] = &[
    ("/wfs3", 4),
    ("/wfs3.json", 4),
    ("/wfs3.html", 6),
    ("/wfs3/conformance.json", 1),
    ("/wfs3/api", 1),
    ("/wfs3/collections", 8),
    ("/wfs3/collections.html", 5),
    ("/wfs3/collections/graticule.json", 4),
    ("/wfs3/collections/graticule.html", 4),
    ("/wfs3/collections/graticule/items.json?limit=2", 4),
    ("/wfs3/collections/graticule/items.html?limit=2&offset=2", 5),
    ("/wfs3/collections/graticule/items/2.json", 2),
    ("/wfs3/collections/graticule/items/2.html", 2),
];

/// A client of the service, how it knows it, and how it names the project.
struct Visitor {
    client: Client,
    /// What URLs of the service start with, for the client.
    base: String,
    /// The same, where the client's connections go.
    reached: String,
    /// Whether it names the project in the path.
    path_form: bool,
}

impl Visitor {
    fn service(&self, service: &str, query: &str) -> String {
        let front = if self.path_form { "/ows/world?" } else { "/?MAP=/world&" };
        format!("{}{front}SERVICE={service}&{query}", self.base)
    }

    fn api(&self, path: &str) -> String {
        if self.path_form {
            return format!("{}/ows/world{path}", self.base);
        }
        format!(
            "{}{path}{}MAP=/world",
            self.base,
            if path.contains('?') { '&' } else { '?' }
        )
    }

    async fn visit(&self, url: &str) -> Answer {
        let target = format!("{}{}", self.reached, url.strip_prefix(&self.base).unwrap());
        // A client does not send a fragment, nor a space.
        let target = target.replace(' ', "%20");
        self.client
            .get_with(&target, &[("accept", "application/json, text/html;q=0.9, */*;q=0.8")])
            .await
    }

    /// A link as a client follows it: where it is a service's bare URL, with a request added.
    fn followed(&self, link: &str, service: &str) -> String {
        let origin = self.base.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
        let url = if link.starts_with('/') {
            format!("{origin}{link}")
        } else {
            link.to_owned()
        };
        assert!(
            url.strip_prefix(&self.base)
                .is_some_and(|rest| rest.starts_with(['/', '?'])),
            "{link} does not start with {}",
            self.base
        );
        let named = if self.path_form {
            url.contains("/ows/world")
        } else {
            url.contains("MAP=/world")
        };
        assert!(named, "{link} does not name the project as the client did");
        assert!(
            self.path_form != url.contains("MAP="),
            "{link} names the project in another way than the client"
        );
        if service.is_empty() || url.to_uppercase().contains("REQUEST=") {
            return url;
        }
        let joint = if !url.contains('?') {
            "?"
        } else if url.ends_with(['?', '&']) {
            ""
        } else {
            "&"
        };
        format!("{url}{joint}SERVICE={service}&REQUEST=GetCapabilities")
    }

    /// Checks every link of a document and follows those that were not followed before.
    async fn check(&self, url: &str, service: &str, least: usize, followed: &mut BTreeSet<String>) -> Vec<String> {
        let answer = self.visit(url).await;
        assert_eq!(answer.status, 200, "{url}: {}", answer.text());
        let found = links(&answer);
        assert!(found.len() >= least, "{url} has {} links only: {found:#?}", found.len());
        for link in &found {
            let next = self.followed(link, service);
            if followed.insert(next.clone()) {
                let answer = self.visit(&next).await;
                assert!(
                    answer.status < 400,
                    "{url} leads to {next}: {} {}",
                    answer.status,
                    answer.text()
                );
                assert!(
                    !answer.text().contains("ServiceException"),
                    "{url} leads to {next}: {}",
                    answer.text()
                );
            }
        }
        found
    }

    /// Checks documents of every kind.
    async fn check_all(&self) {
        let mut followed = BTreeSet::new();
        for (service, query, least) in SERVICES {
            self.check(&self.service(service, query), service, *least, &mut followed)
                .await;
        }
        for (path, least) in API {
            self.check(&self.api(path), "", *least, &mut followed).await;
        }
        self.page_through().await;
        println!(
            "{} links followed from {}, project in the {}",
            followed.len(),
            self.base,
            self.form()
        );
    }

    fn form(&self) -> &str {
        if self.path_form { "path" } else { "query" }
    }

    /// From the first page of items to the last by the links named `next`: every feature comes once.
    async fn page_through(&self) {
        let mut url = self.api("/wfs3/collections/graticule/items.json?limit=12");
        let mut seen = BTreeSet::new();
        let (mut pages, mut count) = (0, 0);
        loop {
            let page = self.visit(&url).await.json();
            for feature in page["features"].as_array().unwrap() {
                seen.insert(feature["id"].to_string());
                count += 1;
            }
            pages += 1;
            assert!(pages < 20, "no end of pages");
            let links = page["links"].as_array().unwrap();
            match links.iter().find(|link| link["rel"] == "next") {
                Some(next) => url = self.followed(next["href"].as_str().unwrap(), ""),
                None => {
                    assert_eq!(page["numberMatched"], count);
                    break;
                }
            }
        }
        assert!(
            pages >= 3 && seen.len() == count,
            "{pages} pages, {} of {count} differ",
            seen.len()
        );
    }
}

async fn check_both_forms(client: &Client, base: &str, reached: &str) {
    for path_form in [false, true] {
        let visitor = Visitor {
            client: client.clone(),
            base: base.to_owned(),
            reached: reached.to_owned(),
            path_form,
        };
        visitor.check_all().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_link_leads_back_the_way_the_client_came() {
    let stack = Plan::agents(2).start().await;
    check_both_forms(stack.client(), &stack.base(), &stack.base()).await;
    // By another name of the same host.
    let base = format!("http://localhost:{}", stack.front().port());
    check_both_forms(stack.client(), &base, &base).await;
    what_a_client_says_of_forwarding_has_no_effect(&stack).await;
}

async fn what_a_client_says_of_forwarding_has_no_effect(stack: &Stack) {
    let target = "/?MAP=/world&SERVICE=WMS&REQUEST=GetCapabilities";
    let honest = links(&stack.get(target).await);
    for header in [
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "81"),
        ("x-forwarded-prefix", "/evil"),
        ("x-forwarded-for", "203.0.113.9"),
        ("forwarded", "host=evil.example;proto=https"),
        ("x-qgis-service-url", "http://evil.example/"),
        ("x-qgis-wms-service-url", "http://evil.example/"),
    ] {
        let answer = stack.client().get_with(target, &[header]).await;
        assert_eq!(links(answer.expect(200)), honest, "{header:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_link_leads_through_the_proxy_before_envoy() {
    let stack = Plan::agents(2)
        .control_plane("CONF_FRONT__TRUSTED_HOPS", 1)
        .start()
        .await;
    for public in [
        Public {
            scheme: "https",
            host: "maps.example.org",
            port: None,
            prefix: "/gis",
        },
        Public {
            scheme: "http",
            host: "maps.example.org",
            port: Some(8081),
            prefix: "/a/b",
        },
        Public {
            scheme: "https",
            host: "maps.example.org",
            port: Some(8443),
            prefix: "",
        },
    ] {
        let proxy = Proxy::start(stack.front(), public).await;
        let client = Client::new(proxy.address());
        check_both_forms(&client, &public.base(), &format!("{}{}", client.base(), public.prefix)).await;
    }
}
