use proptest::prelude::*;

use super::*;

/// Names that must never reach a file system, and the rule that each breaks.
fn hostile() -> Vec<(String, &'static str)> {
    let table: &[(&str, &str)] = &[
        ("", "Empty"),
        ("/", "Empty"),
        ("////", "Empty"),
        ("..", "Traversal"),
        (".", "Traversal"),
        ("/..", "Traversal"),
        ("/../etc/passwd", "Traversal"),
        ("../../etc/passwd", "Traversal"),
        ("/public/../private", "Traversal"),
        ("/public/..", "Traversal"),
        ("/./world", "Traversal"),
        ("/public/./world", "Traversal"),
        ("world/..", "Traversal"),
        ("//..//..//etc", "Traversal"),
        ("/...", "Hidden"),
        ("/.../world", "Hidden"),
        ("/.hidden", "Hidden"),
        ("/.git/config", "Hidden"),
        ("/.qgs", "Hidden"),
        ("/public/.qgz", "Hidden"),
        ("/..world", "Hidden"),
        ("/.ssh/id_rsa", "Hidden"),
        ("\\world", "Backslash"),
        ("/public\\world", "Backslash"),
        ("..\\..\\windows", "Backslash"),
        ("/public/..\\..", "Backslash"),
        ("C:\\maps\\world", "Backslash"),
        ("\\\\host\\share", "Backslash"),
        ("%2e%2e/etc", "Encoded"),
        ("%2E%2E%2Fetc", "Encoded"),
        ("/public%2froads", "Encoded"),
        ("/public%5croads", "Encoded"),
        ("/world%00.png", "Encoded"),
        ("/%252e%252e", "Encoded"),
        ("/world%20", "Encoded"),
        ("/..%c0%af..", "Encoded"),
        ("/world\0", "Invisible"),
        ("/world\0.qgs", "Invisible"),
        ("\0", "Invisible"),
        ("/wor\nld", "Invisible"),
        ("/wor\r\nld", "Invisible"),
        ("/wor\tld", "Invisible"),
        ("/wor\u{1b}[31mld", "Invisible"),
        ("/wor\u{7f}ld", "Invisible"),
        ("/wor\u{85}ld", "Invisible"),
        ("/wor\u{200b}ld", "Invisible"),
        ("/wor\u{200d}ld", "Invisible"),
        ("/wor\u{202e}dl", "Invisible"),
        ("/wor\u{2066}ld", "Invisible"),
        ("/wor\u{2028}ld", "Invisible"),
        ("\u{feff}/world", "Invisible"),
        ("/wor\u{ad}ld", "Invisible"),
        ("/wor\u{fffd}ld", "Invisible"),
        ("/wor\u{fe0f}ld", "Invisible"),
        ("/wor\u{e0041}ld", "Invisible"),
        ("/\u{ff0e}\u{ff0e}/etc", "LookAlike"),
        ("/\u{2024}\u{2024}/etc", "LookAlike"),
        ("/\u{2025}/etc", "LookAlike"),
        ("/\u{2026}/etc", "LookAlike"),
        ("/\u{fe52}\u{fe52}/etc", "LookAlike"),
        ("/\u{ff61}\u{ff61}/etc", "LookAlike"),
        ("/public\u{2215}roads", "LookAlike"),
        ("/public\u{2044}roads", "LookAlike"),
        ("/public\u{ff0f}roads", "LookAlike"),
        ("/public\u{29f8}roads", "LookAlike"),
        ("/public\u{ff3c}roads", "LookAlike"),
        ("/public\u{2216}roads", "LookAlike"),
        ("/\u{ff05}2e\u{ff05}2e", "LookAlike"),
        (" ", "Blank"),
        ("/ world", "Blank"),
        ("/world ", "Blank"),
        ("/public /world", "Blank"),
        ("/world\u{3000}", "Blank"),
        ("/ ../etc", "Blank"),
        ("/.. /etc", "Hidden"),
    ];
    let mut all: Vec<(String, &str)> = table.iter().map(|(name, rule)| ((*name).to_owned(), *rule)).collect();
    all.push(("/".to_owned() + &"a".repeat(MAX_SEGMENT + 1), "SegmentTooLong"));
    all.push(("/".to_owned() + &"é".repeat(128), "SegmentTooLong"));
    all.push(("/a".repeat(MAX_NAME / 2 + 1), "TooLong"));
    all.push(("/..".repeat(MAX_NAME), "TooLong"));
    all
}

#[test]
fn hostile_names_are_refused_each_by_its_rule() {
    let all = hostile();
    assert!(all.len() >= 60);
    for (name, rule) in all {
        let error = ProjectName::parse(&name).expect_err(&name);
        let debug = format!("{error:?}");
        assert!(debug.starts_with(rule), "{name:?}: {debug}, not {rule}");
        assert!(!error.to_string().chars().any(char::is_control), "{name:?}");
    }
}

#[test]
fn names_have_one_spelling() {
    for spelling in ["world", "/world", "//world", "/world/", "world//"] {
        let name = ProjectName::parse(spelling).unwrap();
        assert_eq!(
            (name.key(), name.suffix(), name.to_string().as_str()),
            ("/world", None, "/world")
        );
    }
    let name = ProjectName::parse("public//roads.qgz").unwrap();
    assert_eq!((name.key(), name.suffix()), ("/public/roads", Some(Suffix::Qgz)));
    assert_eq!(name.spelled(), "/public/roads.qgz");
    // Only small letters, only at the end.
    assert_eq!(ProjectName::parse("/world.QGS").unwrap().key(), "/world.QGS");
    assert_eq!(ProjectName::parse("/world.qgs/x").unwrap().key(), "/world.qgs/x");
}

#[test]
fn the_length_counts_in_the_one_spelling() {
    let fits = "a/".repeat(510) + "abc";
    let name = ProjectName::parse(&fits).unwrap();
    assert_eq!(
        (name.key().len(), ProjectName::parse(name.key())),
        (MAX_NAME, Ok(name.clone()))
    );
    let longer = fits + "d";
    assert_eq!(longer.len(), MAX_NAME);
    assert_eq!(
        ProjectName::parse(&longer),
        Err(NameError::TooLong { bytes: MAX_NAME + 1 })
    );
}

#[test]
fn ordinary_names_of_all_languages_pass() {
    for name in [
        "/Städte/Zürich 2024",
        "/道路",
        "/дороги",
        "/a.b-c_d~e",
        "/100% sure",
        "/50%",
        "/l·lengua",
        "/it's (new)",
    ] {
        assert_eq!(ProjectName::parse(name).unwrap().key(), name);
    }
}

fn paths(pairs: &[(&str, &str)]) -> SearchPaths {
    SearchPaths::new(pairs.iter().copied()).unwrap()
}

fn files(paths: &SearchPaths, name: &str) -> Vec<String> {
    let name = ProjectName::parse(name).unwrap();
    let files = match paths.locate(&name).map(|found| found.at) {
        Ok(At::Directory(found)) => found.files,
        _ => Vec::new(),
    };
    files.iter().map(|file| file.display().to_string()).collect()
}

#[test]
fn the_longest_location_wins() {
    let paths = paths(&[
        ("/", "/srv/all"),
        ("/public", "/srv/public"),
        ("/public/archive", "/mnt/archive"),
    ]);
    assert_eq!(files(&paths, "/world"), ["/srv/all/world.qgs", "/srv/all/world.qgz"]);
    assert_eq!(files(&paths, "/public/a/roads.qgs"), ["/srv/public/a/roads.qgs"]);
    assert_eq!(files(&paths, "/public/archive/1990.qgz"), ["/mnt/archive/1990.qgz"]);
    // A location is whole segments, and leaves something to look for.
    assert_eq!(
        files(&paths, "/publications"),
        ["/srv/all/publications.qgs", "/srv/all/publications.qgz"]
    );
    assert_eq!(files(&paths, "/public"), ["/srv/all/public.qgs", "/srv/all/public.qgz"]);
    let order: Vec<&str> = paths.iter().map(|(location, _)| location).collect();
    assert_eq!(order, ["/public/archive", "/public", "/"]);
}

#[test]
fn what_no_location_takes_is_outside() {
    let paths = paths(&[("/public/", "/srv/public")]);
    assert_eq!(files(&paths, "/public/roads.qgs"), ["/srv/public/roads.qgs"]);
    let error = paths
        .locate(&ProjectName::parse("/private/x.qgs").unwrap())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the project '/private/x.qgs' is outside every search path"
    );
    assert!(
        SearchPaths::default()
            .locate(&ProjectName::parse("/x").unwrap())
            .is_err()
    );
}

#[test]
fn dynamic_segments_fill_the_directory() {
    let paths = paths(&[
        ("/maps/{user}/{theme}", "/srv/u-{user}/themes/{theme}"),
        ("/maps/{user}/fixed", "/srv/fixed"),
    ]);
    let found = paths
        .locate(&ProjectName::parse("/maps/ann/water/rivers.qgs").unwrap())
        .unwrap();
    let at = Candidates {
        root: "/srv/u-ann/themes/water".into(),
        fence: "/srv".into(),
        files: vec!["/srv/u-ann/themes/water/rivers.qgs".into()],
    };
    assert_eq!(found.at, At::Directory(at));
    assert_eq!(found.relative, "rivers");
    assert_eq!(found.location, "/maps/{user}/{theme}");
    // Fixed before dynamic; a segment that looks like a name is only text.
    assert_eq!(files(&paths, "/maps/ann/fixed/x.qgs"), ["/srv/fixed/x.qgs"]);
    assert_eq!(
        files(&paths, "/maps/{theme}/b/x.qgs"),
        ["/srv/u-{theme}/themes/b/x.qgs"]
    );
}

#[test]
fn stores_get_a_url_in_which_nothing_of_the_client_has_a_meaning() {
    let paths = paths(&[
        (
            "/pg/{schema}",
            "postgresql://host/?dbname=gis&schema={schema}&project={path}",
        ),
        ("/s3", "s3://bucket/maps"),
        ("/files", "file:///srv/files"),
    ]);
    let at = |name: &str| paths.locate(&ProjectName::parse(name).unwrap()).unwrap().at;
    let url = "postgresql://host/?dbname=gis&schema=a%26b%3Dc&project=x%20y/z%3F%23";
    assert_eq!(at("/pg/a&b=c/x y/z?#"), At::Store(url.into()));
    assert_eq!(at("/s3/x"), At::Store("s3://bucket/maps".into()));
    assert_eq!(files(&paths, "/files/x.qgs"), ["/srv/files/x.qgs"]);
    let schemes: Vec<_> = paths.iter().map(|(_, root)| root.scheme()).collect();
    assert_eq!(schemes, [Some("postgresql"), None, Some("s3")]);
}

#[test]
fn a_name_can_be_taken_for_a_path() {
    let At::Directory(found) = direct(&ProjectName::parse("/srv/x/roads.qgs").unwrap()).at else {
        panic!("a directory");
    };
    assert_eq!(found.files, [PathBuf::from("/srv/x/roads.qgs")]);
}

#[test]
fn mistakes_in_the_configuration_are_named() {
    for (location, root, says) in [
        ("public", "/srv", "start it with '/'"),
        ("/a/../b", "/srv", "'..'"),
        ("/{}", "/srv", "needs a name"),
        ("/{a b}", "/srv", "needs a name"),
        ("/{a}/{a}", "/srv", "twice"),
        ("/x{a}", "/srv", "mixes braces"),
        ("/{a}", "/srv/{b}", "{b}"),
        ("/{a}", "/srv/{a", "unclosed"),
        ("/", "srv", "not absolute"),
        ("/", "S3://bucket", "no scheme"),
        ("/{a}", "s3://{a}/x", "may not choose"),
        ("/{a}", "postgresql://u:p@{a}/?dbname=x", "may not choose"),
        ("/", "s3://bucket/{b}", "{b}"),
        ("/", "/srv/{path}", "{path}"),
    ] {
        let error = SearchPaths::new([(location, root)]).expect_err(location).to_string();
        assert!(error.contains(says) && error.contains(location), "{error}");
        assert!(!error.contains("u:p@"), "a password: {error}");
    }
}

proptest! {
    #[test]
    fn a_name_that_passes_is_stable_and_stays_below_its_root(
        name in "\\PC{0,40}|[./a-c%\\\\ ]{0,20}|(/?[a-z.]{1,6}){1,5}",
    ) {
        if let Ok(parsed) = ProjectName::parse(&name) {
            prop_assert_eq!(&ProjectName::parse(&parsed.spelled()).unwrap(), &parsed);
            let found = paths(&[("/", "/srv/all")]).locate(&parsed).unwrap();
            let At::Directory(found) = found.at else { panic!("a directory stays one") };
            for file in found.files {
                let components: Vec<_> = file.components().collect();
                prop_assert!(file.starts_with("/srv/all"));
                let plain = |c: &std::path::Component| matches!(c, std::path::Component::Normal(_));
                prop_assert!(components[1..].iter().all(plain));
            }
        }
    }

    #[test]
    fn parsing_never_panics(name in any::<String>()) {
        let _ = ProjectName::parse(&name);
    }
}
