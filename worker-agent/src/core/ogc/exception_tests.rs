use super::*;

fn all() -> Vec<(Refusal, u16)> {
    let text = || "x".to_owned();
    vec![
        (Refusal::MissingProject, 400),
        (
            Refusal::AmbiguousProject {
                first: text(),
                second: text(),
            },
            400,
        ),
        (Refusal::BadProjectName(NameError::Traversal), 403),
        (Refusal::BadProjectName(NameError::Empty), 400),
        (Refusal::UnknownProject { project: text() }, 404),
        (Refusal::ProjectGone { project: text() }, 410),
        (Refusal::ProjectNotLoaded { project: text() }, 403),
        (Refusal::OutsideSearchPaths { project: text() }, 403),
        (
            Refusal::MissingParameter {
                name: "SERVICE",
                example: "SERVICE=WMS",
            },
            400,
        ),
        (Refusal::UnknownService { service: text() }, 400),
        (Refusal::Malformed(text()), 400),
        (Refusal::BadOrigin(text()), 400),
        (Refusal::NotFound { path: text() }, 404),
        (
            Refusal::MethodNotAllowed {
                method: text(),
                allow: "GET",
            },
            405,
        ),
        (Refusal::BodyTooLarge { limit: 1 }, 413),
        (
            Refusal::QueueFull {
                waiting: 9,
                retry_after: 2,
            },
            503,
        ),
        (Refusal::Draining, 503),
        (Refusal::NoWorker, 503),
        (
            Refusal::Quarantined {
                fingerprint: "0123456789abcdef".to_owned(),
                seconds: 90,
            },
            503,
        ),
        (Refusal::Deadline { seconds: 20 }, 504),
        (
            Refusal::LoopDetected {
                project: text(),
                depth: 3,
            },
            508,
        ),
        (
            Refusal::WorkerDied {
                safe: true,
                verdict: text(),
            },
            503,
        ),
        (
            Refusal::WorkerDied {
                safe: false,
                verdict: text(),
            },
            502,
        ),
        (
            Refusal::ProjectBroken {
                project: text(),
                message: text(),
                layers: vec![],
            },
            500,
        ),
        (Refusal::Internal { message: text() }, 500),
    ]
}

const DIALECTS: [Dialect; 7] = [
    Dialect::Wms11,
    Dialect::Wms13,
    Dialect::Report12,
    Dialect::Ows10,
    Dialect::Wfs20,
    Dialect::Ows11,
    Dialect::Json,
];

/// The text of an XML document's only text node, read by an XML parser.
fn text_of(document: &str) -> String {
    let mut reader = quick_xml::Reader::from_str(document);
    let mut text = String::new();
    loop {
        match reader.read_event().expect("well-formed") {
            quick_xml::events::Event::Text(part) => text.push_str(&part.xml10_content()),
            quick_xml::events::Event::GeneralRef(part) => {
                text.push_str(quick_xml::escape::resolve_predefined_entity(&part).expect("predefined"));
            }
            quick_xml::events::Event::Eof => return text.trim().to_owned(),
            _ => {}
        }
    }
}

#[test]
fn each_reason_has_its_status() {
    for (reason, status) in all() {
        assert_eq!(reason.status().as_u16(), status, "{reason:?}");
    }
}

#[test]
fn only_what_may_be_repeated_is_tried_elsewhere() {
    for (reason, status) in all() {
        // What killed workers here would kill some there.
        let elsewhere = status == 503 && !matches!(reason, Refusal::Quarantined { .. });
        assert_eq!(reason.retry_elsewhere(), elsewhere, "{reason:?}");
        assert_eq!(reason.retry_after().is_some(), status == 503, "{reason:?}");
        assert_eq!(reason.allow().is_some(), status == 405, "{reason:?}");
    }
    assert_eq!(
        Refusal::QueueFull {
            waiting: 9,
            retry_after: 2
        }
        .retry_after(),
        Some(2)
    );
    for (seconds, after) in [(0, 1), (90, 90), (90_000, 3600)] {
        let fingerprint = "0123456789abcdef".to_owned();
        let reason = Refusal::Quarantined { fingerprint, seconds };
        assert_eq!(reason.retry_after(), Some(after));
        assert!(reason.to_string().contains("0123456789abcdef"), "{reason}");
    }
}

#[test]
fn every_document_is_well_formed_and_carries_message_and_request_id() {
    for (reason, _) in all() {
        for dialect in DIALECTS {
            let (content_type, document) = reason.document(dialect, "r-<17>&\"'");
            let expected = format!("{reason} (request r-<17>&\"')");
            if dialect == Dialect::Json {
                assert_eq!(content_type, "application/json");
                let value: serde_json::Value = serde_json::from_str(&document).unwrap();
                assert_eq!(value["code"], reason.code());
                assert_eq!(value["description"], expected);
            } else {
                assert!(content_type.contains("xml"));
                assert_eq!(text_of(&document), expected, "{dialect:?}");
                assert!(document.contains(&format!("ode=\"{}\"", reason.code())));
            }
        }
    }
}

#[test]
fn nothing_from_outside_breaks_a_document() {
    let reason = Refusal::UnknownProject {
        project: "</ServiceException>\u{0}\u{1b}]]>\u{ffff}é<!--\"".to_owned(),
    };
    for dialect in DIALECTS {
        let (_, document) = reason.document(dialect, "r\r\n1");
        let text = if dialect == Dialect::Json {
            document.clone()
        } else {
            text_of(&document)
        };
        assert!(text.contains("</ServiceException>]]>é<!--"), "{text}");
        assert!(!document.contains(['\0', '\u{1b}', '\r', '\u{ffff}']), "{document}");
    }
}

#[test]
fn services_and_versions_have_their_own_form() {
    let root = |service, version: &str| {
        let (content_type, text) = Dialect::of(service, version).document("C", Some("L"), "m");
        (content_type, text.lines().nth(1).unwrap_or_default().to_owned())
    };
    let ogc = "xmlns=\"http://www.opengis.net/ogc\"";
    let xml = "text/xml; charset=utf-8";
    let wms13 = (xml, format!("<ServiceExceptionReport version=\"1.3.0\" {ogc}>"));
    assert_eq!(root(Some(Service::Wms), ""), wms13);
    assert_eq!(root(Some(Service::Wms), "1.3.0"), wms13);
    assert_eq!(root(None, ""), wms13);
    let wms11 = (
        "application/vnd.ogc.se_xml; charset=utf-8",
        "<ServiceExceptionReport version=\"1.1.1\">".to_owned(),
    );
    assert_eq!(root(Some(Service::Wms), "1.1.1"), wms11);
    let report12 = (xml, format!("<ServiceExceptionReport version=\"1.2.0\" {ogc}>"));
    assert_eq!(root(Some(Service::Wfs), "1.0.0"), report12);
    assert_eq!(root(Some(Service::Wcs), "1.0.0"), report12);
    let ows = |namespace: &str, version: &str| {
        (
            xml,
            format!("<ows:ExceptionReport xmlns:ows=\"http://www.opengis.net/{namespace}\" version=\"{version}\">"),
        )
    };
    assert_eq!(root(Some(Service::Wfs), "1.1.0"), ows("ows", "1.1.0"));
    assert_eq!(root(Some(Service::Wfs), ""), ows("ows", "1.1.0"));
    assert_eq!(root(Some(Service::Wfs), "2.0.0"), ows("ows/1.1", "2.0.0"));
    assert_eq!(root(Some(Service::Wcs), "1.1.1"), ows("ows/1.1", "1.1.0"));
    assert_eq!(root(Some(Service::Wmts), "1.0.0"), ows("ows/1.1", "1.1.0"));
}

#[test]
fn a_broken_project_names_its_layers() {
    let layers = vec!["roads".to_owned(), "rivers".to_owned()];
    let reason = Refusal::ProjectBroken {
        project: "/w".to_owned(),
        message: "2 bad layers".to_owned(),
        layers,
    };
    assert_eq!(
        reason.to_string(),
        "the project '/w' cannot be served: 2 bad layers; repair or remove the layers roads, rivers"
    );
}
