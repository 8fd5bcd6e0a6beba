//! The rule by which requests that kill workers come to be refused. Agents and the control plane judge by it, each from
//! what it knows, so that they agree. It knows no request and no clock: a request is its fingerprint, a kill is a time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many kills of one fingerprint are remembered for one agent; the latest stay.
pub const MAX_KILLS: usize = 32;

/// How much of a request's text is kept, in bytes.
pub const MAX_TEXT: usize = 2048;

/// How many clearings are remembered; the latest stay.
pub const MAX_CLEARS: usize = 64;

/// Whether a text can be a fingerprint: 16 hexadecimal digits, small letters.
#[must_use]
pub fn is_fingerprint(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The beginning of a text, at most so many bytes of it.
#[must_use]
pub fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// When a fingerprint is refused, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// So many kills within the window are too many; 0: never.
    pub limit: u32,
    /// For how long a kill counts.
    pub window: Duration,
    /// For how long a fingerprint is refused, at least. It is also refused while as many kills as the limit count, so
    /// that no window ever has more.
    pub duration: Duration,
}

impl Rule {
    /// Until when a fingerprint with these kills is refused, the earliest first; none when there were never too many.
    #[must_use]
    pub fn refused_until(&self, kills: &[Instant]) -> Option<Instant> {
        let limit = usize::try_from(self.limit).ok().filter(|limit| *limit > 0)?;
        kills
            .windows(limit)
            .filter_map(|together| Some((*together.first()?, *together.last()?)))
            .filter(|(first, last)| last.duration_since(*first) < self.window)
            .map(|(first, last)| (last + self.duration).max(first + self.window))
            .max()
    }

    /// How a fingerprint with these kills stands, the earliest first.
    #[must_use]
    pub fn judge(&self, now: Instant, kills: &[Instant]) -> Standing {
        if let Some(until) = self.refused_until(kills).filter(|until| *until > now) {
            return Standing::Refused { until };
        }
        match kills.last().map(|last| *last + self.window).filter(|end| *end > now) {
            Some(until) => Standing::Suspected { until },
            None => Standing::Clear,
        }
    }

    /// Whether a kill still matters to a fingerprint that is refused, or is not.
    #[must_use]
    pub fn counts(&self, now: Instant, refused: bool, kill: Instant) -> bool {
        refused || kill + self.window > now
    }
}

/// What a fingerprint's kills come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There is nothing against it.
    Clear,
    /// It has killed, and is served.
    Suspected {
        /// When its last kill no longer counts.
        until: Instant,
    },
    /// It is refused.
    Refused {
        /// When it is served again.
        until: Instant,
    },
}

impl Standing {
    /// Whether it is refused.
    #[must_use]
    pub const fn refused(self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// For how long the entry stays.
    #[must_use]
    pub fn remaining(self, now: Instant) -> Duration {
        match self {
            Self::Clear => Duration::ZERO,
            Self::Suspected { until } | Self::Refused { until } => until.saturating_duration_since(now),
        }
    }
}

/// What operators have cleared: kills before that time do not count, whoever comes to tell of them later.
#[derive(Debug, Clone, Default)]
pub struct Clears(VecDeque<Clear>);

/// One clearing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clear {
    /// What was cleared; empty: everything.
    pub fingerprint: String,
    /// When.
    pub at: Instant,
}

impl Clears {
    /// Remembers a clearing; false when as much was known.
    pub fn add(&mut self, fingerprint: &str, at: Instant) -> bool {
        if self.cover(fingerprint, at) {
            return false;
        }
        self.0
            .retain(|clear| !(fingerprint.is_empty() && clear.at <= at || clear.fingerprint == fingerprint));
        self.0.push_back(Clear {
            fingerprint: fingerprint.to_owned(),
            at,
        });
        if self.0.len() > MAX_CLEARS {
            self.0.pop_front();
        }
        true
    }

    /// Whether a kill of this fingerprint at that time has been cleared. An empty fingerprint stands for any.
    #[must_use]
    pub fn cover(&self, fingerprint: &str, at: Instant) -> bool {
        self.0
            .iter()
            .any(|clear| (clear.fingerprint.is_empty() || clear.fingerprint == fingerprint) && at <= clear.at)
    }

    /// All of them, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = &Clear> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule {
        limit: 2,
        window: Duration::from_secs(600),
        duration: Duration::from_secs(300),
    };

    fn at(start: Instant, seconds: &[u64]) -> Vec<Instant> {
        seconds.iter().map(|s| start + Duration::from_secs(*s)).collect()
    }

    #[test]
    fn too_many_kills_within_the_window_refuse() {
        let start = Instant::now();
        let until = |kills: &[u64]| {
            RULE.refused_until(&at(start, kills))
                .map(|until| until.duration_since(start).as_secs())
        };
        assert_eq!(until(&[]), None);
        assert_eq!(until(&[0]), None);
        assert_eq!(until(&[0, 600]), None, "the first has left the window");
        assert_eq!(until(&[0, 1]), Some(600), "until the first has left the window");
        assert_eq!(until(&[0, 599]), Some(899), "and no shorter than the duration");
        assert_eq!(until(&[0, 599, 1300]), Some(899));
        assert_eq!(RULE.refused_until(&at(start, &[0, 1])), Some(start + RULE.window));
        assert_eq!(Rule { limit: 0, ..RULE }.refused_until(&at(start, &[0, 1])), None);
        let one = Rule { limit: 1, ..RULE };
        assert_eq!(
            one.refused_until(&at(start, &[7])),
            Some(start + Duration::from_secs(607))
        );
    }

    #[test]
    fn a_standing_says_how_long_it_lasts() {
        let start = Instant::now();
        let remaining = |kills: &[u64], now| {
            let now = start + Duration::from_secs(now);
            let standing = RULE.judge(now, &at(start, kills));
            (standing.refused(), standing.remaining(now).as_secs())
        };
        assert_eq!(remaining(&[0], 100), (false, 500));
        assert_eq!(remaining(&[0, 1], 100), (true, 500));
        assert_eq!(remaining(&[0, 1], 600), (false, 1));
        assert_eq!(remaining(&[0, 1], 601), (false, 0));
    }

    /// Whatever is served whenever it may be: no stretch as long as the window has more kills than the limit.
    #[test]
    fn no_window_has_more_kills_than_the_limit() {
        for (limit, window, duration) in [(1, 50, 10), (2, 50, 10), (2, 10, 50), (3, 30, 30), (3, 40, 7)] {
            let rule = Rule {
                limit,
                window: Duration::from_secs(window),
                duration: Duration::from_secs(duration),
            };
            let start = Instant::now();
            for step in 1..9 {
                let mut kills: Vec<Instant> = Vec::new();
                for second in (0..2000).step_by(step) {
                    let now = start + Duration::from_secs(second);
                    if !rule.judge(now, &kills).refused() {
                        kills.push(now);
                        let refused = rule.judge(now, &kills).refused();
                        kills.retain(|kill| rule.counts(now, refused, *kill));
                        let within = kills.iter().filter(|kill| **kill + rule.window > now).count();
                        assert!(within <= limit as usize, "{rule:?}: {within} at second {second}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_was_cleared_stays_so() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut clears = Clears::default();
        assert!(clears.add("a", start));
        assert!(!clears.add("a", start), "as much was known");
        assert!(clears.cover("a", start) && !clears.cover("a", later) && !clears.cover("b", start));
        assert!(clears.add("", later), "everything");
        assert!(clears.cover("b", later) && !clears.add("a", start));
        assert_eq!(clears.iter().count(), 1, "it holds what was cleared before");
        for n in 0..1000 {
            clears.add(&n.to_string(), later + Duration::from_secs(n));
        }
        assert_eq!(clears.iter().count(), MAX_CLEARS);
        assert!(clears.cover("999", later));
    }

    #[test]
    fn fingerprints_and_texts_are_bounded() {
        assert!(is_fingerprint("0123456789abcdef"));
        for other in ["", "0123456789ABCDEF", "0123456789abcde", "0123456789abcdeg"] {
            assert!(!is_fingerprint(other), "{other}");
        }
        assert_eq!(cut("grün", 3), "gr");
        assert_eq!(cut("grün", 9), "grün");
    }
}
