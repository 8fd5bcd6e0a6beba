use std::io::Write as _;
use std::time::Duration;

use super::*;

fn open(dir: &Path, max_bytes: u64) -> Arc<Copies> {
    Arc::new(Copies::open(dir, max_bytes, None).unwrap())
}

fn put(copies: &Arc<Copies>, id: &str, content: &str) {
    let mut file = copies.fresh().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    copies.keep(file, id).unwrap();
}

fn files(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = pairs.iter().map(|(path, id)| ((*path).to_owned(), (*id).to_owned()));
    owned.collect()
}

/// A version of a project whose one object has ten bytes.
fn version(copies: &Arc<Copies>, project: &str, version: &str) -> io::Result<PathBuf> {
    let id = format!("{project}-{version}").replace('/', "-");
    let _hold = copies.hold(vec![id.clone()], 10)?;
    put(copies, &id, "0123456789");
    copies.plant(project, version, &files(&[("a/x.qgs", &id)]))?;
    Ok(copies.tree(project, version).unwrap())
}

#[test]
fn trees_share_objects_and_everybody_may_read_them() {
    let dir = tempfile::tempdir().unwrap();
    let copies = open(dir.path(), 1000);
    put(&copies, "aaproject", "<qgis/>");
    put(&copies, "bbdata", "data");
    assert!(copies.has("aaproject", 7) && !copies.has("aaproject", 8) && !copies.has("cc", 0));
    assert!(copies.tree("b/p", "1").is_none());
    for version in ["1", "2"] {
        let list = files(&[("maps/x.qgs", "aaproject"), ("data/y/z.gpkg", "bbdata")]);
        copies.plant("b/p", version, &list).unwrap();
    }
    let tree = copies.tree("b/p", "1").unwrap();
    assert_eq!(fs::read_to_string(tree.join("maps/x.qgs")).unwrap(), "<qgis/>");
    let data = fs::metadata(tree.join("maps/../data/y/z.gpkg")).unwrap();
    assert_eq!((data.nlink(), data.mode() & 0o777), (3, 0o444));
    for folder in ["", "maps", "data", "data/y"] {
        assert_eq!(
            fs::metadata(tree.join(folder)).unwrap().mode() & 0o777,
            0o755,
            "{folder}"
        );
    }
}

#[test]
fn what_was_left_half_done_is_removed_and_whole_copies_stay() {
    let dir = tempfile::tempdir().unwrap();
    let copies = open(dir.path(), 1000);
    version(&copies, "b/p", "1").unwrap();
    fs::write(copies.fresh().unwrap().keep().unwrap().1, "half").unwrap();
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 1);
    let busy = Copies::open(dir.path(), 1000, None).unwrap_err();
    assert!(busy.to_string().contains("another agent"), "{busy}");
    drop(copies);
    let copies = open(dir.path(), 1000);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    assert!(copies.tree("b/p", "1").unwrap().join("a/x.qgs").is_file());
}

#[test]
fn the_longest_unused_goes_first_and_what_is_served_stays() {
    let dir = tempfile::tempdir().unwrap();
    let copies = open(dir.path(), 30);
    let first = version(&copies, "b/p", "1").unwrap();
    let second = version(&copies, "b/p", "2").unwrap();
    let other = version(&copies, "b/q", "1").unwrap();
    let third = version(&copies, "b/p", "3").unwrap();
    assert!(!first.exists(), "no longer served, and the oldest");
    assert!(second.exists() && other.exists() && third.exists());
    assert!(!copies.has("b-p-1", 10), "its object goes with it");
    let fourth = version(&copies, "b/r", "1").unwrap();
    assert!(!second.exists() && fourth.exists());
    // All that is left is served.
    let full = version(&copies, "b/s", "1").unwrap_err();
    assert!(
        full.to_string()
            .contains("10 bytes more than worker.storage.files.max_bytes"),
        "{full}"
    );
    assert!(other.exists() && third.exists() && fourth.exists());
    copies.forget("b/q");
    version(&copies, "b/s", "1").unwrap();
    assert!(!other.exists(), "it may go since it is not there any more");
}

#[test]
fn what_is_outdated_goes_although_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let copies = open(dir.path(), 1000);
    let old = version(&copies, "b/p", "1").unwrap();
    version(&copies, "b/p", "2").unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(4000);
    let folder = File::open(&old).unwrap();
    folder.set_times(FileTimes::new().set_modified(long_ago)).unwrap();
    drop(copies.hold(Vec::new(), 0).unwrap());
    assert!(!old.exists() && !copies.has("b-p-1", 10) && copies.has("b-p-2", 10));
}

#[test]
fn objects_that_are_being_used_stay() {
    let dir = tempfile::tempdir().unwrap();
    let copies = open(dir.path(), 10);
    let hold = copies.hold(vec!["aa".into()], 0).unwrap();
    let again = copies.hold(vec!["aa".into()], 0).unwrap();
    put(&copies, "aa", "x");
    drop(hold);
    drop(copies.hold(Vec::new(), 1).unwrap());
    assert!(copies.has("aa", 1));
    drop(again);
    drop(copies.hold(Vec::new(), 1).unwrap());
    assert!(!copies.has("aa", 1));
}

#[test]
fn a_folder_that_workers_cannot_reach_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    let user = User {
        name: "maps".into(),
        uid: 4_000_000,
        gid: 4_000_000,
        groups: Vec::new(),
        home: "/".into(),
    };
    let said = Copies::open(&dir.path().join("files"), 10, Some(&user))
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("user maps") && said.contains("worker.storage.files.dir"),
        "{said}"
    );
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    assert!(Copies::open(&dir.path().join("files"), 10, Some(&user)).is_ok());
}
