//! Which local copies go when they take too much room.
//!
//! A copy of a version that is served stays, whatever happens: a worker may open its files at any time. Others are kept
//! for a while, as a worker may still hold them, and go before that only when room is needed.

use std::time::Duration;

/// A version that nobody is given any more is kept for so long, when there is room.
pub const KEPT: Duration = Duration::from_secs(3600);

/// A copy of one version of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// How long ago it was given to somebody last.
    pub unused: Duration,
    /// Whether it is the version that is served now.
    pub served: bool,
}

/// The copies that go because they are old, by their places in `copies`.
#[must_use]
pub fn outdated(copies: &[Copy]) -> Vec<usize> {
    let old = |copy: &Copy| !copy.served && copy.unused > KEPT;
    (0..copies.len()).filter(|at| old(&copies[*at])).collect()
}

/// The copies that may go when room is needed, the one to go first in front.
#[must_use]
pub fn order(copies: &[Copy]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..copies.len()).filter(|at| !copies[*at].served).collect();
    places.sort_by_key(|at| std::cmp::Reverse(copies[*at].unused));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(unused: u64, served: bool) -> Copy {
        Copy {
            unused: Duration::from_secs(unused),
            served,
        }
    }

    #[test]
    fn what_is_served_stays_and_the_longest_unused_goes_first() {
        let copies = [
            copy(10, false),
            copy(9999, true),
            copy(5000, false),
            copy(20, false),
            copy(0, true),
        ];
        assert_eq!(order(&copies), [2, 3, 0]);
        assert_eq!(outdated(&copies), [2]);
        assert!(order(&[]).is_empty() && outdated(&[copy(3600, false)]).is_empty());
    }
}
