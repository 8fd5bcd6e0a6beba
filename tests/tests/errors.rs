//! How requests fail that must fail: with the right status and an exception document that the client's service knows.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use http::Method;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::Signal;
use stack::shots::get_map;
use stack::{Answer, Plan, Stack, parts, until};

const CAPABILITIES: &str = "SERVICE=WMS&REQUEST=GetCapabilities";

/// Checks the status and that the body is an exception document that names the request, and gives its code.
fn refused(answer: &Answer, status: u16) -> String {
    let (code, text) = answer.expect(status).exception();
    let id = answer.header("x-request-id");
    assert!(
        !id.is_empty() && text.contains(id),
        "the request's id {id} is not in: {text}"
    );
    code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_refused_with_exception_documents() {
    let stack = Plan::agents(1)
        .agent("CONF_SERVER__MAX_BODY_SIZE", 50_000)
        .start()
        .await;
    let collections = "/wfs3/collections?f=json";
    for (target, status, code) in [
        (format!("/?MAP=/nowhere&{CAPABILITIES}"), 404, "UnknownProject"),
        (format!("/ows/nowhere?{CAPABILITIES}"), 404, "UnknownProject"),
        (format!("/ows/no/such/folder?{CAPABILITIES}"), 404, "UnknownProject"),
        (
            "/?MAP=/nowhere&SERVICE=WFS&VERSION=1.0.0&REQUEST=GetCapabilities".into(),
            404,
            "UnknownProject",
        ),
        (
            "/?MAP=/nowhere&SERVICE=WFS&VERSION=1.1.0&REQUEST=GetCapabilities".into(),
            404,
            "UnknownProject",
        ),
        (
            "/?MAP=/nowhere&SERVICE=WCS&VERSION=1.0.0&REQUEST=GetCapabilities".into(),
            404,
            "UnknownProject",
        ),
        (
            "/?MAP=/nowhere&SERVICE=WMTS&REQUEST=GetCapabilities".into(),
            404,
            "UnknownProject",
        ),
        (format!("{collections}&MAP=/nowhere"), 404, "UnknownProject"),
        (format!("/ows/nowhere{collections}"), 404, "UnknownProject"),
        (format!("/?{CAPABILITIES}"), 400, "MissingProject"),
        (format!("/ows/?{CAPABILITIES}"), 400, "MissingProject"),
        (format!("/?MAP=&{CAPABILITIES}"), 400, "MissingProject"),
        ("/?SERVICE=WFS&REQUEST=GetCapabilities".into(), 400, "MissingProject"),
        (collections.into(), 400, "MissingProject"),
        (
            "/?MAP=/world&SERVICE=WXS&REQUEST=GetCapabilities".into(),
            400,
            "InvalidServices",
        ),
        (
            "/?MAP=/world&REQUEST=GetCapabilities".into(),
            400,
            "MissingParameterValue",
        ),
        (format!("/nothing/here?{CAPABILITIES}"), 404, "NotFound"),
    ] {
        let answer = stack.get(&target).await;
        assert_eq!(refused(&answer, status), code, "{target}: {}", answer.text());
    }
    // What the client's service and version expect.
    for (query, root, media_type) in [
        ("SERVICE=WMS&VERSION=1.3.0", "ServiceExceptionReport", "text/xml"),
        (
            "SERVICE=WMS&VERSION=1.1.1",
            "ServiceExceptionReport",
            "application/vnd.ogc.se_xml",
        ),
        ("SERVICE=WFS&VERSION=1.0.0", "ServiceExceptionReport", "text/xml"),
        ("SERVICE=WFS&VERSION=1.1.0", "ExceptionReport", "text/xml"),
        ("SERVICE=WMTS&VERSION=1.0.0", "ExceptionReport", "text/xml"),
    ] {
        let answer = stack
            .get(&format!("/?MAP=/nowhere&REQUEST=GetCapabilities&{query}"))
            .await;
        assert_eq!(
            (answer.xml().name.as_str(), answer.media_type()),
            (root, media_type),
            "{query}"
        );
    }
    // Errors that QGIS finds are QGIS's own documents.
    let answer = stack
        .get("/?MAP=/world&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=none&CRS=EPSG:4326")
        .await;
    assert!((400..500).contains(&answer.status), "{}", answer.status);
    answer.exception();

    let large = format!("MAP=/world&{CAPABILITIES}&PAD={}", "x".repeat(60_000));
    let answer = stack
        .client()
        .post("/?SERVICE=WMS", "application/x-www-form-urlencoded", large)
        .await;
    assert_eq!(refused(&answer, 413), "BodyTooLarge");

    // The agent is none the worse for all this.
    stack.get(&format!("/?MAP=/world&{CAPABILITIES}")).await.expect(200);
    assert!(stack.agents[0].stats().await.exits.values().all(|count| *count == 0));
}

/// A project beside the search path, that no name may reach.
fn lay_out(folder: &Path) {
    let demo = parts::projects();
    let inside = folder.join("inside");
    std::fs::create_dir_all(inside.join(".hidden")).unwrap();
    std::fs::create_dir(folder.join("inside-too")).unwrap();
    for place in ["secret.qgs", "inside-too/secret.qgs", "inside/.hidden/secret.qgs"] {
        std::fs::copy(demo.join("world.qgs"), folder.join(place)).unwrap();
    }
    symlink(folder.join("secret.qgs"), inside.join("link.qgs")).unwrap();
    symlink(folder, inside.join("out")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_outside_the_search_paths_is_reached_or_read() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let stack = Plan::agents(1).projects(folder.path().join("inside")).start().await;
    let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    for secret in ["secret.qgs", "inside-too/secret.qgs", "inside/.hidden/secret.qgs"] {
        watch
            .add_watch(
                &folder.path().join(secret),
                AddWatchFlags::IN_OPEN | AddWatchFlags::IN_ACCESS,
            )
            .unwrap();
    }

    let absolute = folder.path().join("secret.qgs").display().to_string();
    let names = [
        "/../secret",
        "..%2Fsecret",
        "%2e%2e/secret",
        "..%252fsecret",
        "....//secret",
        "/./../secret.qgs",
        "x/../../secret",
        "..\\secret",
        "..%5Csecret",
        "/inside/../../secret",
        "secret%00.qgs",
        "..%c0%afsecret",
        "%EF%BC%8E%EF%BC%8E/secret",
        "..;/secret",
        "/link",
        "link.qgs",
        "/out/secret",
        "out/inside-too/secret.qgs",
        "/.hidden/secret",
        "../inside-too/secret",
        "/inside-too/secret",
        "file:///etc/passwd",
        "/etc/passwd",
        "/proc/self/environ",
        "postgresql://localhost/x",
        "http://127.0.0.1:9/x.qgs",
        "%7E/secret",
        "~root/secret",
        "$HOME/secret",
        "%0d%0asecret",
        "secret%20",
        "/dev/zero",
        absolute.as_str(),
    ];
    for name in names {
        for target in [
            format!("/?MAP={name}&{CAPABILITIES}"),
            format!("/ows/{name}?{CAPABILITIES}"),
            format!("/wfs3/collections?MAP={name}"),
        ] {
            // What is no valid request target cannot be sent by this client, nor by any other.
            let Ok(answer) = stack.client().ask(Method::GET, &target, &[], "").await else {
                continue;
            };
            assert!(
                matches!(answer.status, 400 | 403 | 404),
                "{target}: {} {}",
                answer.status,
                answer.text()
            );
            assert!(!answer.text().contains("WMS_Capabilities"), "{target}");
            answer.exception();
        }
        let body = format!("MAP={name}&{CAPABILITIES}");
        let answer = stack
            .client()
            .post("/", "application/x-www-form-urlencoded", body)
            .await;
        assert!(
            matches!(answer.status, 400 | 403 | 404),
            "POST {name}: {} {}",
            answer.status,
            answer.text()
        );
    }
    // Names that lead out are told so, or that there is nothing.
    for name in [
        "/../secret",
        "..%2Fsecret",
        "/link",
        "/out/secret",
        "/.hidden/secret",
        &absolute,
    ] {
        let answer = stack.get(&format!("/?MAP={name}&{CAPABILITIES}")).await;
        assert!(matches!(answer.status, 403 | 404), "{name}: {}", answer.status);
    }
    let read = watch.read_events();
    assert!(
        read.as_ref().is_err_and(|error| *error == nix::Error::EAGAIN),
        "a secret was opened: {read:?}"
    );
    for worker in stack.agents[0].stats().await.workers {
        assert!(worker.projects.is_empty(), "{:?}", worker.projects);
    }
    // The watch sees what is opened, so that its silence means something.
    std::fs::read(folder.path().join("secret.qgs")).unwrap();
    assert!(!watch.read_events().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_hangs_is_answered_for_at_the_deadline_and_replaced() {
    let deadline = Duration::from_secs(4);
    let plan = Plan::agents(1)
        .agent("CONF_SERVER__TIMEOUT", deadline.as_secs())
        .agent("CONF_WORKER__CANCEL_TIMEOUT", 0.5);
    let stack = plan.start().await;
    let agent = &stack.agents[0];
    stack.get(&get_map("40,0,60,20", 64)).await.expect(200);

    // It is stopped while it has the request. When the answer was faster than the signal, another request follows.
    let (hung, answer, took) = loop {
        let (client, target) = (stack.client().clone(), get_map("-90,-180,90,180", 1500));
        let sent = Instant::now();
        let request = tokio::spawn(async move { client.get(&target).await });
        let mut busy = None;
        until("a worker to be busy", async || {
            busy = agent
                .stats()
                .await
                .workers
                .into_iter()
                .find(|worker| worker.state == "busy");
            busy.is_some() || request.is_finished()
        })
        .await;
        if let Some(worker) = &busy {
            agent.signal_worker(worker, Signal::SIGSTOP);
        }
        let answer = request.await.unwrap();
        if let (Some(worker), 504) = (busy, answer.status) {
            break (worker, answer, sent.elapsed());
        }
        answer.expect(200);
    };
    println!("answered after {:.2} s", took.as_secs_f64());
    assert_eq!(refused(&answer, 504), "DeadlineExceeded");
    assert!(took >= deadline, "given up after {took:?}");

    // The next request is served, and soon by as many workers as before.
    stack.get(&get_map("40,0,60,20", 64)).await.expect(200);
    until("the hung worker to be replaced", async || {
        let workers = agent.workers().await;
        workers.len() == 2 && workers.iter().all(|worker| worker.pid != hung.pid)
    })
    .await;
    assert_eq!(agent.stats().await.exits.get("deadline"), Some(&1));
    until("the hung process to be gone", async || {
        !Path::new(&format!("/proc/{}", hung.pid)).exists()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoys_own_errors_are_exception_documents_too() {
    let mut stack = Plan::agents(1).start().await;
    stack.agents[0].terminate();
    stack.agents[0].until_ended().await;
    stack.until_in_service(0).await;
    for (target, root) in [
        (
            "/?MAP=/world&SERVICE=WMS&REQUEST=GetCapabilities",
            "ServiceExceptionReport",
        ),
        (
            "/ows/world?service=wms&REQUEST=GetCapabilities",
            "ServiceExceptionReport",
        ),
        ("/?MAP=/world&Service=WFS&REQUEST=GetCapabilities", "ExceptionReport"),
        ("/?MAP=/world&REQUEST=GetCapabilities&SERVICE=wcs", "ExceptionReport"),
        ("/?MAP=/world&SERVICE=WMTS&REQUEST=GetCapabilities", "ExceptionReport"),
    ] {
        let answer = stack.get(target).await;
        refused(&answer, 503);
        assert_eq!(answer.xml().name, root, "{target}");
    }
    let answer = stack.get("/wfs3/collections?MAP=/world").await;
    assert!(answer.expect(503).json()["description"].is_string());
    assert_eq!(answer.json()["request_id"], answer.header("x-request-id"));
    no_slash_may_hide_in_a_path(&stack).await;
}

async fn no_slash_may_hide_in_a_path(stack: &Stack) {
    let answer = stack.get("/ows/..%2Fsecret?SERVICE=WMS&REQUEST=GetCapabilities").await;
    assert_eq!(answer.expect(400).xml().name, "ServiceExceptionReport");
}
