use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

fn settings(endpoint: &str) -> BTreeMap<String, Bucket> {
    let bucket = Bucket {
        endpoint: endpoint.into(),
        access_key_id: "who".into(),
        secret_access_key: String::from("s3cret").into(),
        allow_http: true,
        ..Bucket::default()
    };
    BTreeMap::from([("default".into(), bucket)])
}

#[tokio::test]
async fn a_server_that_is_not_there_or_does_not_answer_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let client = Client::new("maps", &settings(&endpoint), Duration::from_millis(300)).unwrap();
    let silent = client.head("x.qgs").await.unwrap_err();
    assert_eq!(
        silent,
        Trouble::Down(format!(
            "{endpoint} does not answer: see that it runs and is not overloaded"
        ))
    );
    drop(listener);
    let gone = client.head("x.qgs").await.unwrap_err();
    let expected = format!("{endpoint} cannot be reached: see that it runs, and that the endpoint is right");
    assert_eq!(gone, Trouble::Down(expected));
    assert!(!format!("{client:?}").contains("s3cret"), "{client:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_named() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
        }
    });
    let client = Client::new("maps", &settings(&endpoint), Duration::from_secs(2)).unwrap();
    let Trouble::Down(problem) = client.head("x.qgs").await.unwrap_err() else {
        panic!("it is down")
    };
    assert!(problem.contains("no certificate that this machine trusts"), "{problem}");
}

/// A server that answers every request by what `answers` makes of its first line.
async fn server(answers: fn(&str) -> (u16, String)) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            let head = String::from_utf8(head).unwrap();
            let (status, body) = answers(head.lines().next().unwrap_or_default());
            let length = body.len();
            let sent = if head.starts_with("HEAD") { "" } else { &body };
            let answer = format!(
                "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
                 etag: \"e\"\r\nconnection: close\r\n\r\n{sent}"
            );
            drop(stream.write_all(answer.as_bytes()).await);
        }
    });
    Client::new("maps", &settings(&endpoint), Duration::from_secs(5)).unwrap()
}

fn page(keys: std::ops::Range<u32>, next: Option<&str>) -> String {
    let entries: String = keys
        .map(|n| {
            let suffix = if n % 2 == 0 { "qgs" } else { "gpkg" };
            format!(
                "<Contents><Key>a/p {n}.{suffix}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                 <ETag>\"e\"</ETag><Size>7</Size></Contents>"
            )
        })
        .collect();
    let next = next.map_or(String::new(), |next| {
        format!("<NextContinuationToken>{next}</NextContinuationToken>")
    });
    format!(
        "<ListBucketResult><IsTruncated>{}</IsTruncated>{entries}{next}</ListBucketResult>",
        !next.is_empty()
    )
}

#[tokio::test]
async fn every_page_of_a_listing_is_read() {
    let client = server(|line| {
        assert!(line.contains("list-type=2") && line.contains("prefix=a%2F"), "{line}");
        let second = line.contains("continuation-token=more");
        (
            200,
            if second {
                page(3..5, None)
            } else {
                page(0..3, Some("more"))
            },
        )
    });
    let found = client.await.list("a/", |key| key.ends_with(".qgs")).await.unwrap();
    let keys: Vec<&str> = found.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(keys, ["a/p 0.qgs", "a/p 2.qgs", "a/p 4.qgs"]);
    let first = &found[0];
    assert_eq!((first.tag.as_str(), first.bytes), ("\"e\"", 7));
    assert_eq!(
        first.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(),
        1_767_225_600
    );
}

#[tokio::test]
async fn a_listing_without_end_is_refused() {
    let endless = server(|_| (200, page(0..20_000, Some("more")))).await;
    let Err(Trouble::Unusable(problem)) = endless.list("", |_| false).await else {
        panic!("it is too long")
    };
    assert!(problem.contains("100000 objects"), "{problem}");
}

#[tokio::test]
async fn a_refusal_without_words_is_asked_for_its_reason() {
    let refusing = server(|_| {
        (
            403,
            "<Error><Code>SignatureDoesNotMatch</Code><Key>s3cret</Key></Error>".into(),
        )
    })
    .await;
    let Err(Trouble::Down(problem)) = refusing.head("x.qgs").await else {
        panic!("it is down")
    };
    assert!(
        problem.contains("does not fit its access key") && !problem.contains("s3cret"),
        "{problem}"
    );
    assert_eq!(refusing.head_if_allowed("x.gpkg").await, Ok(None));

    let elsewhere = server(|_| (301, "<Error><Code>PermanentRedirect</Code></Error>".into())).await;
    let Err(Trouble::Down(problem)) = elsewhere.head("x.qgs").await else {
        panic!("it is down")
    };
    assert!(problem.contains("is in another region"), "{problem}");
}

#[tokio::test]
async fn a_fetch_that_is_too_long_or_too_short_is_no_copy() {
    let client = server(|_| (200, "0123456789".into())).await;
    let mut object = client.head("x.qgs").await.unwrap().unwrap();
    assert_eq!((object.tag.as_str(), object.bytes), ("\"e\"", 10));
    let mut file = NamedTempFile::new().unwrap();
    client.fetch(&object, &mut file, |_| ()).await.unwrap();
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "0123456789");
    for bytes in [9, 11] {
        object.bytes = bytes;
        let fetched = client.fetch(&object, &mut NamedTempFile::new().unwrap(), |_| ()).await;
        assert!(matches!(fetched, Err(Trouble::Down(_))), "{fetched:?}");
    }
}
