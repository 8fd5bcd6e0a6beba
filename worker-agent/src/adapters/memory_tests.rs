//! Faked trees of `/proc` and `/sys`, as kernels and containers of different kinds show them.

use tempfile::TempDir;

use super::*;

const MEMINFO: &str = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    4000000 kB\n";
const HOST: u64 = 16_000_000 * 1024;
const GIB: u64 = 1 << 30;

struct Tree(TempDir);

impl Tree {
    fn new(groups: &str) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.with("proc/meminfo", MEMINFO).with("proc/self/cgroup", groups)
    }

    fn with(self, path: &str, text: impl AsRef<str>) -> Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text.as_ref()).unwrap();
        self
    }

    /// A group of version 2.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "numbers and `max` alike read best by value"
    )]
    fn v2(self, group: &str, limit: impl ToString, current: u64, inactive: u64) -> Self {
        let at = |file| format!("sys/fs/cgroup/{group}{file}");
        self.with(&at("/memory.max"), format!("{}\n", limit.to_string()))
            .with(&at("/memory.current"), format!("{current}\n"))
            .with(
                &at("/memory.stat"),
                format!("anon 1\nfile 2\ninactive_file {inactive}\nactive_file 0\n"),
            )
    }

    /// A group of version 1.
    fn v1(self, group: &str, limit: u64, usage: u64, inactive: u64) -> Self {
        let at = |file| format!("sys/fs/cgroup/memory/{group}{file}");
        let stat = format!(
            "inactive_file 7\nactive_file 8\nhierarchical_memory_limit 9\ntotal_inactive_file {inactive}\n\
             total_active_file 0\n"
        );
        self.with(&at("/memory.limit_in_bytes"), format!("{limit}\n"))
            .with(&at("/memory.usage_in_bytes"), format!("{usage}\n"))
            .with(&at("/memory.stat"), stat)
    }

    fn machine(&self) -> Machine {
        Machine::find(self.0.path()).unwrap()
    }

    /// Source, total and what is used.
    fn seen(&self) -> (&'static str, u64, u64) {
        let machine = self.machine();
        (machine.source().name(), machine.total(), machine.used().unwrap())
    }
}

#[test]
fn version_2_with_a_limit() {
    let tree = Tree::new("0::/app\n").v2("app", 4 * GIB, 3 * GIB, GIB);
    assert_eq!(tree.seen(), ("cgroup v2", 4 * GIB, 2 * GIB));
}

#[test]
fn in_a_container_with_a_namespace_the_own_group_is_the_root() {
    let tree = Tree::new("0::/\n").v2("", 2 * GIB, GIB, 0);
    assert_eq!(tree.seen(), ("cgroup v2", 2 * GIB, GIB));
}

#[test]
fn the_smallest_of_nested_limits_counts_with_its_own_use() {
    let nested = "0::/pods/one/main\n";
    let outer = Tree::new(nested)
        .v2("pods", 8 * GIB, 5 * GIB, 0)
        .v2("pods/one", 3 * GIB, 2 * GIB, GIB)
        .v2("pods/one/main", "max", GIB, 0);
    assert_eq!(outer.seen(), ("cgroup v2", 3 * GIB, GIB));
    let inner = Tree::new(nested)
        .v2("pods/one", 3 * GIB, 2 * GIB, 0)
        .v2("pods/one/main", GIB, GIB / 2, 0);
    assert_eq!(inner.seen(), ("cgroup v2", GIB, GIB / 2));
}

#[test]
fn version_1_with_a_limit_also_when_the_path_is_the_hosts() {
    let groups = "9:name=systemd:/\n5:cpu,memory:/docker/abc\n1:cpuset:/other\n0::/\n";
    let tree = Tree::new(groups).v1("docker/abc", 2 * GIB, GIB, GIB / 4);
    assert_eq!(tree.seen(), ("cgroup v1", 2 * GIB, GIB - GIB / 4));
    // Mounted from the container's group on, as without a namespace.
    let tree = Tree::new(groups).v1("", 2 * GIB, GIB, 0);
    assert_eq!(tree.seen(), ("cgroup v1", 2 * GIB, GIB));
}

/// A data set that all workers read moves to the active list; a container that does nothing but serve it is full of it.
#[test]
fn files_that_are_read_again_and_again_can_be_had_back() {
    let current = 4 * GIB - 4096;
    let stat = "anon 1073741824\nfile 3221221376\nshmem 104857600\ninactive_anon 1178599424\nactive_anon 0\n\
                inactive_file 1048576\nactive_file 3115315200\nunevictable 0\n";
    let tree = Tree::new("0::/app\n").v2("app", 4 * GIB, current, 0);
    let tree = tree.with("sys/fs/cgroup/app/memory.stat", stat);
    let used = current - 1_048_576 - 3_115_315_200;
    assert_eq!(tree.seen(), ("cgroup v2", 4 * GIB, used));
    assert_eq!(used, GIB + 104_857_600, "what is in memory alone counts");

    let stat = "cache 0\ninactive_file 0\nactive_file 0\ntotal_inactive_file 1048576\ntotal_active_file 3115315200\n";
    let tree = Tree::new("4:memory:/app\n").v1("app", 4 * GIB, current, 0);
    let tree = tree.with("sys/fs/cgroup/memory/app/memory.stat", stat);
    assert_eq!(tree.seen(), ("cgroup v1", 4 * GIB, used));
}

#[test]
fn without_a_limit_the_host_counts() {
    let host = ("host", HOST, 12_000_000 * 1024);
    assert_eq!(Tree::new("").seen(), host, "no control groups at all");
    assert_eq!(Tree::new("0::/app\n").v2("app", "max", GIB, 0).seen(), host);
    let unlimited = 9_223_372_036_854_771_712;
    assert_eq!(Tree::new("4:memory:/app\n").v1("app", unlimited, GIB, 0).seen(), host);
    assert_eq!(
        Tree::new("0::/app\n").v2("app", 1_u64 << 50, GIB, 0).seen(),
        host,
        "more than there is"
    );
}

#[test]
fn garbage_is_passed_over() {
    let host = ("host", HOST, 12_000_000 * 1024);
    assert_eq!(Tree::new("0::/app\n").v2("app", "lots", GIB, 0).seen(), host);
    assert_eq!(
        Tree::new("\n::\n4:memory\nmemory:/\n0:\n").v2("", GIB, 0, 0).seen(),
        host
    );
    assert_eq!(Tree::new("0::/../secret\n").v2("../secret", GIB, 0, 0).seen(), host);
    let tree = Tree::new("0::/../..\n").v2("", GIB, 0, 0);
    assert_eq!(
        tree.machine().total(),
        GIB,
        "what is mounted counts when the own path leads out"
    );
}

#[test]
fn what_cannot_be_read_is_said() {
    let empty = tempfile::tempdir().unwrap();
    assert!(Machine::find(empty.path()).is_err());
    let error = Machine::find(Tree::new("").with("proc/meminfo", "MemTotal: many kB\n").0.path()).unwrap_err();
    assert!(error.to_string().contains("MemTotal"), "{error}");

    let tree = Tree::new("0::/app\n").v2("app", GIB, 1, 0);
    let machine = tree.machine();
    let tree = tree.with("sys/fs/cgroup/app/memory.current", "none\n");
    let error = machine.used().unwrap_err();
    assert!(error.to_string().contains("`none`, not a number"), "{error}");
    fs::remove_dir_all(tree.0.path().join("sys/fs/cgroup/app")).unwrap();
    assert!(machine.used().is_err());
}

#[test]
fn more_inactive_than_used_is_nothing_used() {
    // The two files are read one after the other.
    let tree = Tree::new("0::/app\n").v2("app", GIB, 5, 6);
    assert_eq!(tree.seen(), ("cgroup v2", GIB, 0));
}

#[test]
fn this_machine_is_understood() {
    let machine = Machine::find(Path::new("/")).unwrap();
    assert!(machine.total() > 64 << 20, "{machine:?}");
    assert!((1..=machine.total()).contains(&machine.used().unwrap()), "{machine:?}");
}

#[test]
fn swapped_pages_count() {
    let rollup = "5619d2cf8000-7ffd7311e000 ---p 00000000 00:00 0  [rollup]\nRss: 9 kB\nPrivate_Dirty:   100 kB\n";
    assert_eq!(in_rollup(rollup).unwrap(), 100 * 1024);
    assert_eq!(in_rollup(&format!("{rollup}Swap: 30 kB\n")).unwrap(), 130 * 1024);
    assert_eq!(
        in_rollup(&format!("{rollup}Swap: 30 kB\nSwapPss: 20 kB\n")).unwrap(),
        120 * 1024
    );
    assert!(in_rollup("Rss: 9 kB\n").is_err());
    assert!(in_rollup("Private_Dirty: much kB\n").is_err());
}

#[test]
fn a_process_tells_its_own() {
    let pid = i32::try_from(std::process::id()).unwrap();
    let before = private_dirty(pid).unwrap();
    let anonymous = resident_anonymous(pid).unwrap();
    assert!(before > 0 && anonymous > 0);
    let block = vec![1_u8; 64 << 20];
    assert!(private_dirty(pid).unwrap() > before + (32 << 20));
    assert!(resident_anonymous(pid).unwrap() > anonymous + (32 << 20));
    drop(block);
}

#[test]
fn a_process_that_is_not_there_is_an_error() {
    // Larger than any kernel's process ids.
    assert!(private_dirty(1 << 23).is_err());
    assert!(resident_anonymous(1 << 23).is_err());
}
