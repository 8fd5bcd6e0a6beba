//! Which directories among the temporary files of this machine an agent that was killed has left behind.
//!
//! While an agent lives it holds a lock on a file in its directory, which appears there already locked. The kernel lets go
//! of the lock when the agent has ended, however that was. So a free lock means that nobody will come back for it.

/// How the names of such directories begin.
pub const PREFIX: &str = "graticule-";

/// The file in it that its agent holds a lock on.
pub const LOCK: &str = "agent.lock";

/// What is known of something that has such a name, without following a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Whether it is a directory itself.
    pub directory: bool,
    /// The user it belongs to.
    pub owner: u32,
    /// The lock in it.
    pub lock: Lock,
}

/// The state of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// No plain file of the expected name is there: no agent's directory, or one that is being made.
    Missing,
    /// Somebody holds it.
    Held,
    /// Nobody does. For as long as it is looked at, we do.
    Free,
}

/// Whether it was left behind by an agent of the user `own` and is to be removed.
#[must_use]
pub fn is_leftover(found: Found, own: u32) -> bool {
    found.directory && found.owner == own && found.lock == Lock::Free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_own_directory_with_a_free_lock_is_left_behind() {
        for directory in [true, false] {
            for owner in [1000, 1001] {
                for lock in [Lock::Missing, Lock::Held, Lock::Free] {
                    let found = Found { directory, owner, lock };
                    let expected = found
                        == Found {
                            directory: true,
                            owner: 1000,
                            lock: Lock::Free,
                        };
                    assert_eq!(is_leftover(found, 1000), expected, "{found:?}");
                }
            }
        }
    }
}
