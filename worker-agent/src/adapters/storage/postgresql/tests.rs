use super::*;

fn backend(url: &str) -> PostgreSql {
    let shared = Shared::new(&crate::config::Storage::default()).unwrap();
    PostgreSql::new(url, &shared, Duration::from_secs(5)).unwrap()
}

#[test]
fn notifications_become_changes_of_this_search_path_alone() {
    let change = |url: &str, payload: &str| {
        let backend = backend(url);
        backend.change(&backend.template.server, payload)
    };
    let uri = |text: &str| Some(Change::Uri(text.to_owned()));
    let fixed = "postgresql://ann:s3cret@db/?dbname=gis&schema=maps";
    assert_eq!(change(fixed, ""), Some(Change::Everything));
    assert_eq!(
        change(fixed, "maps.town/a b"),
        uri("postgresql://ann@db/?dbname=gis&schema=maps&project=town/a%20b")
    );
    assert_eq!(change(fixed, "other.roads"), None);
    assert_eq!(change(fixed, "mapsroads"), None);
    assert_eq!(change(fixed, "maps.100%"), None);
    let dotted = "postgresql://db/?schema=a.b";
    assert_eq!(
        change(dotted, "a.b.roads"),
        uri("postgresql://db/?schema=a.b&project=roads")
    );
    let chosen = "postgresql://db/?dbname=gis&schema={town}";
    assert_eq!(
        change(chosen, "bern.roads"),
        uri("postgresql://db/?dbname=gis&schema=bern&project=roads")
    );
    assert_eq!(change(chosen, "nothing"), None);
}

#[test]
fn what_a_client_chose_is_missing_and_what_the_operator_wrote_is_a_fault() {
    let failure = || Failure {
        nothing_there: true,
        text: "PostgreSQL at db:5432, database gis: no table".into(),
    };
    let chosen = backend("postgresql://db/?dbname=gis&schema={town}");
    assert_eq!(chosen.trouble(&failure(), "bern"), Trouble::Missing);
    let fixed = backend("postgresql://db/?dbname=gis&schema=maps");
    let text = "schema maps of PostgreSQL at db:5432, database gis: no table".to_owned();
    assert_eq!(fixed.trouble(&failure(), "maps"), Trouble::Down(text));
}

#[test]
fn a_schema_is_quoted() {
    assert_eq!(table("maps"), "\"maps\".qgis_projects");
    assert_eq!(
        table("a\"; DROP TABLE x; --"),
        "\"a\"\"; DROP TABLE x; --\".qgis_projects"
    );
}

#[tokio::test]
async fn a_server_that_refuses_is_named_and_left_alone_for_a_moment() {
    // Nobody listens on the port of a socket that is closed again.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let backend = backend(&format!(
        "postgresql://ann:s3cret@127.0.0.1:{port}/?dbname=gis&schema=maps"
    ));
    let first = backend.list().await.unwrap_err();
    let Trouble::Down(text) = &first else {
        panic!("{first:?}")
    };
    for part in ["schema maps", "127.0.0.1", "database gis", "refused"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("s3cret"), "{text}");
    assert_eq!(backend.list().await.unwrap_err(), first);
}

#[tokio::test]
async fn databases_that_clients_make_up_are_forgotten() {
    let backend = backend("postgresql://127.0.0.1:1/?dbname={town}&schema=maps");
    let server = |name: String| Server {
        dbname: Some(name),
        ..backend.template.server.clone()
    };
    let first = backend.databases.get(&server("first".into()));
    for number in 0..200 {
        backend.databases.get(&server(number.to_string()));
    }
    assert_eq!(Arc::strong_count(&first), 1, "nothing but this test knows it");
}
