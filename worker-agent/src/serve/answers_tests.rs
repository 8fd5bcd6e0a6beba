use std::sync::atomic::AtomicUsize;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::mpsc;

use super::*;
use crate::core::ogc::{Incoming, parse};

const CAPS: &str = "SERVICE=WMS&REQUEST=GetCapabilities";
const MAP: &str = "SERVICE=WMS&REQUEST=GetMap&WIDTH=9&HEIGHT=9";
const AGE: Duration = Duration::from_secs(300);
const GRACE: Duration = Duration::from_millis(100);

/// Answers as an agent gives them, with QGIS left out.
struct World {
    answers: Answers,
    version: &'static str,
    /// The version that workers have.
    held: &'static str,
    renders: Arc<AtomicUsize>,
    status: u16,
    headers: Vec<(String, String)>,
    body: &'static str,
    stream: bool,
    /// Renders do not end.
    hangs: bool,
}

impl World {
    fn new(max_bytes: usize) -> Self {
        let rules = SharingRules {
            max_age: AGE,
            map_max_age: Duration::ZERO,
            map_max_pixels: 1 << 20,
            join: true,
            vary_headers: vec![http::header::AUTHORIZATION],
            forwarded: ogc::Forwarded::default(),
        };
        let limits = Limits {
            max_bytes,
            max_entry_bytes: max_bytes,
        };
        Self {
            answers: Answers::new(rules, limits, GRACE, Arc::new(Metrics::new(5.0).unwrap())),
            version: "1",
            held: "1",
            renders: Arc::default(),
            status: 200,
            headers: vec![("Content-Type".into(), "text/xml".into())],
            body: "<WMS_Capabilities/>",
            stream: false,
            hangs: false,
        }
    }

    async fn ask(&self, query: &str, headers: &[(&'static str, &str)]) -> Answered {
        self.send(Method::GET, query, headers, "").await
    }

    async fn send(&self, method: Method, query: &str, headers: &[(&'static str, &str)], body: &str) -> Answered {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        let asked = Asked {
            method,
            path: "/ows/w".into(),
            query: Some(query.into()),
            headers: map,
            authority: Some("h".into()),
            body: Bytes::copy_from_slice(body.as_bytes()),
            id: "r-1".into(),
            accepted: Instant::now(),
        };
        let request = parse(&Incoming {
            method: &asked.method,
            path: &asked.path,
            query: asked.query.as_deref(),
            content_type: None,
            body: &asked.body,
        })
        .unwrap();
        let origin = Origin::from_headers(&asked.headers, Some("h"), "http").unwrap();
        let project = ProjectRef {
            uri: "/srv/w.qgs".into(),
            version: self.version.into(),
            file: None,
            begun: crate::core::message::Begun::default(),
        };
        let call = Call {
            asked: &asked,
            request: &request,
            project: &project,
            sharing: self.answers.sharing(&asked, &request, &origin),
            deadline: asked.accepted + Duration::from_secs(20),
            too_late: Refusal::Deadline { seconds: 20 },
        };
        self.answers.answer(call, || self.render()).await
    }

    fn render(&self) -> impl Future<Output = Rendered> + Send + 'static {
        let (renders, version) = (Arc::clone(&self.renders), self.held.to_owned());
        let (status, headers, body, stream) = (self.status, self.headers.clone(), self.body, self.stream);
        let hangs = self.hangs;
        async move {
            renders.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            if hangs {
                std::future::pending::<()>().await;
            }
            let body = if stream {
                ToldBody::Stream(mpsc::channel(1).1)
            } else {
                ToldBody::Whole(vec![body.into()])
            };
            Rendered {
                served: Served {
                    attempts: 1,
                    worker: 7,
                    version: Some(version),
                    waited: Some(Duration::ZERO),
                    cost: Duration::from_millis(3),
                },
                result: Ok(Told {
                    status: StatusCode::from_u16(status).unwrap(),
                    headers,
                    body,
                }),
            }
        }
    }

    fn renders(&self) -> usize {
        self.renders.load(Ordering::SeqCst)
    }
}

fn told(answered: &Answered) -> &Told {
    answered.result.as_ref().unwrap()
}

fn said<'a>(answered: &'a Answered, name: &str) -> &'a str {
    header(&told(answered).headers, name).unwrap_or_default()
}

fn text(answered: &Answered) -> String {
    match &told(answered).body {
        ToldBody::Whole(pieces) => String::from_utf8(pieces.concat()).unwrap(),
        ToldBody::Stream(_) => "a stream".into(),
    }
}

#[tokio::test]
async fn an_answer_is_rendered_once_then_given_then_confirmed() {
    let world = World::new(1 << 20);
    let miss = world.ask(CAPS, &[]).await;
    assert_eq!((miss.how, said(&miss, CACHE_HEADER)), (How::Miss, "miss"));
    assert_eq!(said(&miss, "cache-control"), "no-cache");
    assert_eq!(said(&miss, "vary"), "authorization");
    let hit = world.ask(CAPS, &[]).await;
    assert_eq!((hit.how, said(&hit, CACHE_HEADER)), (How::Hit, "hit"));
    assert_eq!((text(&hit).as_str(), said(&hit, "age")), ("<WMS_Capabilities/>", "0"));
    assert_eq!(said(&hit, "content-type"), "text/xml");
    assert_eq!((hit.served.version.as_deref(), hit.served.worker), (Some("1"), 0));
    let tag = said(&miss, "etag").to_owned();
    assert_eq!(said(&hit, "etag"), tag);
    let confirmed = world.ask(CAPS, &[("if-none-match", &tag)]).await;
    assert_eq!(told(&confirmed).status, StatusCode::NOT_MODIFIED);
    assert_eq!(
        (text(&confirmed).as_str(), said(&confirmed, "etag")),
        ("", tag.as_str())
    );
    assert_eq!(said(&confirmed, "content-type"), "");
    assert_eq!(said(&confirmed, "cache-control"), "no-cache");
    let changed = world.ask(CAPS, &[("if-none-match", "\"other\"")]).await;
    assert_eq!(told(&changed).status, StatusCode::OK);
    assert_eq!(world.renders(), 1);
}

#[tokio::test]
async fn a_client_that_has_a_fresh_render_s_answer_is_told_so() {
    let world = World::new(1 << 20);
    let tag = etag("text/xml", world.body.as_bytes());
    let confirmed = world.ask(CAPS, &[("if-none-match", &tag)]).await;
    assert_eq!((confirmed.how, told(&confirmed).status.as_u16()), (How::Miss, 304));
    assert_eq!(world.ask(CAPS, &[]).await.how, How::Hit);
}

#[tokio::test]
async fn another_version_is_rendered_and_what_came_from_an_old_one_is_not_kept() {
    let mut world = World::new(1 << 20);
    world.ask(CAPS, &[]).await;
    // The file has changed, and a pinned project is still served from the old version.
    world.version = "2";
    for _ in 0..2 {
        let old = world.ask(CAPS, &[]).await;
        assert_eq!((old.how, old.served.version.as_deref()), (How::Miss, Some("1")));
    }
    (world.held, world.body) = ("2", "<new/>");
    assert_eq!(text(&world.ask(CAPS, &[]).await), "<new/>");
    let hit = world.ask(CAPS, &[]).await;
    assert_eq!((hit.how, text(&hit).as_str()), (How::Hit, "<new/>"));
    assert_eq!(world.renders(), 4);
}

#[tokio::test]
async fn clients_may_have_it_made_anew_or_not_kept() {
    let mut world = World::new(1 << 20);
    let first = world.ask(CAPS, &[("cache-control", "no-store")]).await;
    assert_eq!(first.how, How::Miss);
    assert_eq!(world.ask(CAPS, &[]).await.how, How::Miss, "it was not kept");
    world.body = "<new/>";
    assert_eq!(text(&world.ask(CAPS, &[]).await), "<WMS_Capabilities/>");
    let anew = world.ask(CAPS, &[("cache-control", "no-cache")]).await;
    assert_eq!((anew.how, text(&anew).as_str()), (How::Miss, "<new/>"));
    assert_eq!(
        text(&world.ask(CAPS, &[]).await),
        "<new/>",
        "it took the place of the old"
    );
}

#[tokio::test]
async fn credentials_are_for_their_owner_alone() {
    let world = World::new(1 << 20);
    for _ in 0..2 {
        let own = world.ask(CAPS, &[("cookie", "a=1")]).await;
        assert_eq!((own.how, said(&own, "etag")), (How::Bypass, ""));
    }
    // This one is named: its value is part of the question.
    let alice = world.ask(CAPS, &[("authorization", "alice")]).await;
    assert_eq!(
        (alice.how, said(&alice, "cache-control")),
        (How::Miss, "private, no-cache")
    );
    assert_eq!(world.ask(CAPS, &[("authorization", "alice")]).await.how, How::Hit);
    assert_eq!(world.ask(CAPS, &[("authorization", "bob")]).await.how, How::Miss);
    assert_eq!(world.ask(CAPS, &[]).await.how, How::Miss);
}

#[tokio::test]
async fn what_qgis_and_plugins_say_goes_before_the_agent_s_own_words() {
    let mut world = World::new(1 << 20);
    world.headers.push(("Cache-Control".into(), "public, max-age=7".into()));
    world.headers.push(("ETag".into(), "\"own\"".into()));
    let own = world.ask(CAPS, &[]).await;
    assert_eq!(
        (said(&own, "cache-control"), said(&own, "etag")),
        ("public, max-age=7", "\"own\"")
    );
    assert_eq!(
        told(&own)
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("etag"))
            .count(),
        1
    );
    let confirmed = world.ask(CAPS, &[("if-none-match", "W/\"own\"")]).await;
    assert_eq!(told(&confirmed).status, StatusCode::NOT_MODIFIED);

    let mut secret = World::new(1 << 20);
    secret.headers.push(("Cache-Control".into(), "private".into()));
    let mut refused = World::new(1 << 20);
    refused.body = "<ServiceExceptionReport version=\"1.3.0\"/>";
    let mut failed = World::new(1 << 20);
    failed.status = 500;
    let mut streamed = World::new(1 << 20);
    streamed.stream = true;
    for world in [secret, refused, failed, streamed, World::new(0), World::new(100)] {
        world.ask(CAPS, &[]).await;
        let again = world.ask(CAPS, &[]).await;
        assert_ne!(again.how, How::Hit);
        assert_eq!(world.renders(), 2);
    }
}

#[tokio::test]
async fn identical_requests_share_one_render_and_later_ones_do_not() {
    let world = World::new(1 << 20);
    let asks = (0..100).map(|_| world.ask(MAP, &[]));
    let answers = futures::future::join_all(asks).await;
    assert_eq!(world.renders(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.how == How::Bypass).count(), 1);
    assert!(answers.iter().all(|answer| text(answer) == world.body));
    assert_eq!(world.ask(MAP, &[]).await.how, How::Bypass);
    assert_eq!(world.renders(), 2);
    let cache = world.answers.inner.metrics.cache();
    assert_eq!((cache.joined, cache.hits, cache.misses, cache.entries), (99, 0, 0, 0));
}

#[tokio::test]
async fn who_asks_after_a_change_does_not_get_what_was_begun_before() {
    let world = World::new(1 << 20);
    world.ask(CAPS, &[]).await;
    let change = || world.send(Method::POST, "", &[], "<Transaction service=\"WFS\"/>");
    assert_eq!(change().await.how, How::Bypass);
    assert_eq!(
        world.ask(CAPS, &[]).await.how,
        How::Miss,
        "what was kept is out of date"
    );

    // A render that began before the change is neither joined nor kept.
    let (begun, joined) = (world.ask(MAP, &[]), async {
        change().await;
        world.ask(MAP, &[]).await
    });
    let (slow, after) = tokio::join!(begun, joined);
    assert_eq!((slow.how, after.how), (How::Bypass, How::Bypass));
    let (begun, _) = tokio::join!(world.ask(CAPS, &[("cache-control", "no-cache")]), change());
    assert_eq!(begun.how, How::Miss);
    assert_eq!(world.ask(CAPS, &[]).await.how, How::Miss);
}

#[tokio::test]
async fn a_change_whose_client_has_left_may_still_come() {
    const CHANGE: &str = "<Transaction xmlns=\"http://www.opengis.net/wfs\" service=\"WFS\"/>";
    let mut world = World::new(1 << 20);
    let ask = async |world: &World| world.ask(CAPS, &[]).await.how;
    assert_eq!((ask(&world).await, ask(&world).await), (How::Miss, How::Hit));
    world.hangs = true;
    let change = world.send(Method::POST, "SERVICE=WFS&REQUEST=Transaction", &[], CHANGE);
    assert!(tokio::time::timeout(Duration::from_millis(20), change).await.is_err());
    world.hangs = false;
    // What is rendered now may be from before the change.
    assert_eq!((ask(&world).await, ask(&world).await), (How::Miss, How::Hit));
    tokio::time::sleep(GRACE + SETTLING + Duration::from_millis(200)).await;
    assert_eq!((ask(&world).await, ask(&world).await), (How::Miss, How::Hit));
    // One that is answered has been made.
    world
        .send(Method::POST, "SERVICE=WFS&REQUEST=Transaction", &[], CHANGE)
        .await;
    assert_eq!((ask(&world).await, ask(&world).await), (How::Miss, How::Hit));
    tokio::time::sleep(GRACE + SETTLING + Duration::from_millis(200)).await;
    assert_eq!(ask(&world).await, How::Hit);
}
