//! Whether a reload has come to its end, told from the pool as it is shown. Pure.

use super::Status;
use crate::core::pool::Start;

/// The generations of workers before and after a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reloaded {
    /// 0 when there was none yet.
    pub before: u64,
    /// What all workers are of now.
    pub after: u64,
}

/// The end of a reload that began when new workers came from `before`, if it has ended.
pub(super) fn judge(before: Option<Start>, seen: &Status) -> Option<Result<Reloaded, String>> {
    if let Some(pressure) = seen.gave_up {
        return Some(Err(format!(
            "failure pressure {pressure:.2} is above its limit, and the agent exits"
        )));
    }
    if let Some(problem) = &seen.zygote_problem {
        return Some(Err(problem.clone()));
    }
    if !seen.view.settled {
        return None;
    }
    let generation = |start: Option<Start>| start.map_or(0, Start::generation);
    if seen.view.start == before {
        // A generation that lost a project was turned down.
        let problems = seen.pin_problems.iter();
        let problems: Vec<String> = problems.map(|(name, problem)| format!("{name}: {problem}")).collect();
        return Some(Err(match problems.as_slice() {
            [] => "it was turned down; the log says why".to_owned(),
            problems => format!("pinned projects cannot be loaded: {}", problems.join("; ")),
        }));
    }
    Some(Ok(Reloaded {
        before: generation(before),
        after: generation(seen.view.start),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(start: Start, settled: bool) -> Status {
        let mut status = Status::default();
        (status.view.start, status.view.settled) = (Some(start), settled);
        status
    }

    #[test]
    fn a_reload_ends_when_every_worker_is_of_the_new_generation() {
        let before = Some(Start::Fork(1));
        assert_eq!(judge(before, &seen(Start::Fork(1), false)), None);
        assert_eq!(judge(before, &seen(Start::Fork(2), false)), None);
        let done = Reloaded { before: 1, after: 2 };
        assert_eq!(judge(before, &seen(Start::Fork(2), true)), Some(Ok(done)));
        // From spawned workers to forked ones the number need not grow.
        let same = Reloaded { before: 2, after: 2 };
        assert_eq!(
            judge(Some(Start::Spawn(2)), &seen(Start::Fork(2), true)),
            Some(Ok(same))
        );
    }

    #[test]
    fn a_reload_that_comes_to_nothing_says_why() {
        let before = Some(Start::Fork(1));
        let mut rejected = seen(Start::Fork(1), true);
        rejected.pin_problems.insert("/bad".into(), "damaged".into());
        let said = judge(before, &rejected).unwrap().unwrap_err();
        assert!(said.contains("/bad: damaged"), "{said}");
        let mut ended = seen(Start::Fork(1), false);
        ended.zygote_problem = Some("it ended".into());
        assert_eq!(judge(before, &ended), Some(Err("it ended".into())));
        let mut over = seen(Start::Fork(1), false);
        over.gave_up = Some(6.0);
        assert!(judge(before, &over).unwrap().is_err());
    }
}
