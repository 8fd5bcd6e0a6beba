//! What a process uses of memory, as the kernel counts it.

use std::io::ErrorKind;

/// One process's memory. Of an agent, which closes itself to others of its own user, only root is told the last two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The most that was ever resident, in bytes.
    pub peak: u64,
    /// What is resident now, in bytes.
    pub resident: u64,
    /// What only this process has, written to, in bytes; 0 when it is closed.
    pub private_dirty: u64,
    /// What is resident, each page that several share counted in part, in bytes; 0 when it is closed.
    pub proportional: u64,
}

impl Memory {
    /// Reads it.
    ///
    /// # Panics
    /// When there is no such process, or it is another user's.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let status = read(pid, "status");
        let rollup = match std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => "Private_Dirty: 0 kB\nPss: 0 kB".into(),
            read => read.unwrap_or_else(|error| panic!("process {pid}: {error}")),
        };
        Self {
            peak: kilobytes(&status, "VmHWM:"),
            resident: kilobytes(&status, "VmRSS:"),
            private_dirty: kilobytes(&rollup, "Private_Dirty:"),
            proportional: kilobytes(&rollup, "Pss:"),
        }
    }
}

/// What a process and all that descend from it use together, in bytes: each page that they share counts once.
///
/// # Panics
/// When there is no such process, or it is another user's.
#[must_use]
pub fn family(pid: u32) -> u64 {
    Memory::of(pid).proportional + children(pid).into_iter().map(family).sum::<u64>()
}

/// The processes that a process started and that are its own still.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    // The kernel lists children by the thread that started them.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("children")));
    let children: String = children.map(Result::unwrap_or_default).collect();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Makes the kernel forget a process's peak, so that the next one read is of what comes after. The peak of one that is
/// closed stays that since its start, which is never less.
///
/// # Panics
/// When there is no such process.
pub fn forget_peak(pid: u32) {
    match std::fs::write(format!("/proc/{pid}/clear_refs"), "5") {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
        done => done.unwrap(),
    }
}

fn read(pid: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_else(|error| panic!("process {pid}: {error}"))
}

fn kilobytes(text: &str, name: &str) -> u64 {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_else(|| panic!("no {name} in {text}"));
    value.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
