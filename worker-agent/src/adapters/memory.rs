//! Reads how much memory there is, how much is in use, and what one process holds of it.
//!
//! The bound is the control group's where one is set, of version 2 or 1, else the host's memory. What it means when the
//! memory runs out is not decided here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the bound comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A control group of version 2.
    CgroupV2,
    /// A control group of version 1.
    CgroupV1,
    /// The host's memory.
    Host,
}

impl Source {
    /// For logs and people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CgroupV2 => "cgroup v2",
            Self::CgroupV1 => "cgroup v1",
            Self::Host => "host",
        }
    }
}

/// The memory that this process may use together with its neighbours in the same bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    source: Source,
    total: u64,
    /// The control group's directory, or `/proc/meminfo`.
    place: PathBuf,
}

impl Machine {
    /// Looks at what bounds this process, below `root`: `/`, but for tests. Of the own control group and those around it,
    /// the smallest limit counts, and the host's memory when that is smaller still. Limits can be changed while a process
    /// runs; to notice, look again: it takes a few small reads.
    ///
    /// # Errors
    /// When not even the host's memory can be read.
    pub fn find(root: &Path) -> io::Result<Self> {
        let place = root.join("proc/meminfo");
        let host = Self {
            source: Source::Host,
            total: field(&place, "MemTotal:")?.saturating_mul(1024),
            place,
        };
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let bounds = v2(root, &groups).into_iter().chain(v1(root, &groups));
        Ok(bounds
            .chain([host.clone()])
            .min_by_key(|bound| bound.total)
            .unwrap_or(host))
    }

    /// The bound, in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// What is in use of it and cannot be had back at once, in bytes: not counted are files on a disk that the kernel keeps
    /// in memory, also those that are read again and again. Files in memory alone (tmpfs) count: they have nowhere to go.
    ///
    /// # Errors
    /// When the kernel does not tell, as when the control group has gone.
    pub fn used(&self) -> io::Result<u64> {
        // The kernel has files in memory on the lists of anonymous pages, so neither of the two lists holds any.
        let (usage, files) = match self.source {
            Source::CgroupV2 => ("memory.current", ["active_file", "inactive_file"]),
            Source::CgroupV1 => ("memory.usage_in_bytes", ["total_active_file", "total_inactive_file"]),
            Source::Host => {
                let available = field(&self.place, "MemAvailable:")?.saturating_mul(1024);
                return Ok(self.total.saturating_sub(available));
            }
        };
        let place = self.place.join("memory.stat");
        let stat = fs::read_to_string(&place)?;
        let mut used = number(&self.place.join(usage))?;
        for key in files {
            let bytes = find(&stat, key).ok_or_else(|| no_field(&place.display().to_string(), key))?;
            used = used.saturating_sub(bytes);
        }
        Ok(used)
    }

    /// Where the bound comes from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }
}

fn v2(root: &Path, groups: &str) -> Option<Machine> {
    let mount = root.join("sys/fs/cgroup");
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    tightest(Source::CgroupV2, &mount, own, "memory.max")
}

fn v1(root: &Path, groups: &str) -> Option<Machine> {
    let mount = root.join("sys/fs/cgroup/memory");
    let own = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        let own = parts.next()?;
        controllers.split(',').any(|name| name == "memory").then_some(own)
    })?;
    tightest(Source::CgroupV1, &mount, own, "memory.limit_in_bytes")
}

/// The group with the smallest limit among the own one and those around it. In a container the own group is often named
/// as the host sees it, and only a part of its path, or none, is mounted: groups that are not there are passed over.
fn tightest(source: Source, mount: &Path, own: &str, limit: &str) -> Option<Machine> {
    let inside = |path: &&Path| path.components().all(|part| part.as_os_str() != "..");
    Path::new(own.trim_start_matches('/'))
        .ancestors()
        .filter(inside)
        .filter_map(|group| {
            let place = mount.join(group);
            // `max` is no number; version 1 writes a number beyond any machine.
            let total = number(&place.join(limit)).ok()?;
            Some(Machine { source, total, place })
        })
        .min_by_key(|group| group.total)
}

/// The private dirty memory of a process, in bytes, with what of it is swapped out. The process stands still while the
/// kernel counts, 2 to 6 ms for QGIS.
///
/// # Errors
/// When the process has ended, or is not this user's.
pub fn private_dirty(pid: i32) -> io::Result<u64> {
    in_rollup(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?)
}

/// The anonymous memory of a process that is not swapped out, in bytes, shared with its zygote or not. Cheap.
///
/// # Errors
/// When the process has ended.
pub fn resident_anonymous(pid: i32) -> io::Result<u64> {
    Ok(field(Path::new(&format!("/proc/{pid}/status")), "RssAnon:")?.saturating_mul(1024))
}

fn in_rollup(text: &str) -> io::Result<u64> {
    let private = find(text, "Private_Dirty:").ok_or_else(|| no_field("smaps_rollup", "Private_Dirty:"))?;
    // A page that several processes have swapped out counts for each of them in `Swap`, for its part in `SwapPss`.
    let swapped = find(text, "SwapPss:").or_else(|| find(text, "Swap:")).unwrap_or(0);
    Ok(private.saturating_add(swapped).saturating_mul(1024))
}

fn number(path: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let told = text.trim();
    told.parse()
        .map_err(|_| io::Error::other(format!("{} holds `{told}`, not a number", path.display())))
}

fn field(path: &Path, key: &str) -> io::Result<u64> {
    find(&fs::read_to_string(path)?, key).ok_or_else(|| no_field(&path.display().to_string(), key))
}

fn find(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(key))
            .then(|| words.next()?.parse().ok())
            .flatten()
    })
}

fn no_field(place: &str, key: &str) -> io::Error {
    io::Error::other(format!("{place} has no number for `{key}`"))
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
