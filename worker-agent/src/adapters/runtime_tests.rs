//! Directories on a real file system, with agents that live, end, and are as good as killed.

use std::os::unix::fs::symlink;

use super::*;

const NONE: &str = "";

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

/// A directory as a killed agent leaves it: its lock is free.
fn leave_behind(base: &Path, name: &str) -> PathBuf {
    let dir = base.join(name);
    fs::create_dir_all(dir.join("w1/deep")).unwrap();
    fs::write(dir.join("w1/deep/file"), "x").unwrap();
    fs::write(dir.join(LOCK), "").unwrap();
    dir
}

#[test]
fn a_fresh_directory_goes_with_its_agent() {
    let base = tempfile::tempdir().unwrap();
    let runtime = Runtime::make(Path::new(NONE), base.path()).unwrap();
    let path = runtime.path().to_owned();
    assert_eq!(path.parent(), Some(base.path()));
    assert_eq!((mode(&path), mode(&path.join(LOCK))), (0o711, 0o600));
    fs::write(path.join("file"), "x").unwrap();
    drop(runtime);
    assert!(!path.exists());
}

#[test]
fn what_a_killed_agent_left_is_removed_and_nothing_else() {
    let base = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let leftover = leave_behind(base.path(), "graticule-dead");
    let living = Runtime::make(Path::new(NONE), base.path()).unwrap();
    assert!(!leftover.exists());

    let other_name = leave_behind(base.path(), "other-dead");
    let target = leave_behind(outside.path(), "graticule-target");
    symlink(&target, base.path().join("graticule-link")).unwrap();
    let unlocked = base.path().join("graticule-test-1");
    fs::create_dir(&unlocked).unwrap();
    fs::write(base.path().join("graticule-file"), "x").unwrap();
    let linked = base.path().join("graticule-linked-lock");
    fs::create_dir(&linked).unwrap();
    symlink(target.join(LOCK), linked.join(LOCK)).unwrap();

    let leftover = leave_behind(base.path(), "graticule-dead-too");
    symlink(&target, leftover.join("w1/out")).unwrap();
    let second = Runtime::make(Path::new(NONE), base.path()).unwrap();
    assert!(!leftover.exists());
    for path in [
        living.path(),
        second.path(),
        &other_name,
        &unlocked,
        &linked,
        &target.join("w1/deep/file"),
    ] {
        assert!(path.exists(), "{}", path.display());
    }
    assert!(base.path().join("graticule-link").is_symlink());
    assert!(base.path().join("graticule-file").exists());
}

#[test]
fn a_configured_directory_stays_and_has_one_agent() {
    let base = tempfile::tempdir().unwrap();
    let configured = base.path().join("a/run");
    let runtime = Runtime::make(&configured, base.path()).unwrap();
    assert_eq!(mode(&configured), 0o711);
    private_dir(&configured.join("w7"), None).unwrap();
    fs::write(configured.join("w7/file"), "x").unwrap();
    fs::write(configured.join("water"), "x").unwrap();
    fs::create_dir(configured.join("world")).unwrap();

    let error = Runtime::make(&configured, base.path()).unwrap_err();
    assert!(error.to_string().contains("another agent uses it"), "{error}");
    assert!(configured.join("w7").exists(), "it is not the second agent's to clear");

    drop(runtime);
    let _again = Runtime::make(&configured, base.path()).unwrap();
    assert!(!configured.join("w7").exists());
    assert!(configured.join("water").exists() && configured.join("world").exists());
}

#[test]
fn a_private_directory_is_private() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("w1");
    private_dir(&dir, None).unwrap();
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(
        private_dir(&dir, None).unwrap_err().kind(),
        io::ErrorKind::AlreadyExists
    );
    if nix::unistd::geteuid().is_root() {
        let user = User {
            name: "somebody".into(),
            uid: 12_345,
            gid: 23_456,
            groups: Vec::new(),
            home: PathBuf::new(),
        };
        let dir = base.path().join("w2");
        private_dir(&dir, Some(&user)).unwrap();
        let metadata = fs::metadata(&dir).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), mode(&dir)), (12_345, 23_456, 0o700));
    }
}
