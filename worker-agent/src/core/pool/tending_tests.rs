//! What workers do between requests, case by case.

use std::time::Duration;

use super::tests::{Run, SECOND, assign, finished, policy};
use super::*;

fn load(worker: WorkerId, project: &str) -> Action {
    let chore = Chore::Load {
        project: project.into(),
        evict: vec![],
    };
    Action::Tend { worker, chore }
}

fn loaded(worker: WorkerId, project: &str) -> Event {
    let outcome = Tended::Loaded {
        project: project.into(),
        took: Duration::from_millis(300),
    };
    Event::Tended { worker, outcome }
}

fn changed(project: &str) -> Event {
    Event::Changed {
        project: project.into(),
    }
}

/// Two workers that both hold `/a`.
fn both_hold_a() -> Run {
    let mut run = Run::running(policy());
    assert_eq!(run.arrive(1, "/a"), [assign(1, 1)]);
    assert_eq!(run.arrive(2, "/a"), [assign(2, 2)]);
    run.on(finished(1, Some("/a")));
    run.on(finished(2, Some("/a")));
    run
}

#[test]
fn a_changed_project_is_loaded_by_one_worker_after_the_other_while_the_others_serve() {
    let mut run = both_hold_a();
    assert_eq!(run.on(changed("/a")), [load(1, "/a")]);
    assert_eq!(run.arrive(3, "/a"), [assign(3, 2)], "the old version is served");
    assert_eq!(run.arrive(4, "/a"), [], "nobody is free");
    assert_eq!(run.on(loaded(1, "/a")), [assign(4, 1)], "the new one is");
    assert_eq!(run.on(finished(2, None)), [load(2, "/a")], "before whatever waits");
    assert_eq!(run.on(loaded(2, "/a")), []);
}

#[test]
fn a_busy_worker_loads_what_has_changed_once_it_is_idle() {
    let mut run = both_hold_a();
    assert_eq!(run.arrive(3, "/a"), [assign(3, 1)]);
    assert_eq!(run.on(changed("/a")), [load(2, "/a")]);
    run.on(loaded(2, "/a"));
    assert_eq!(run.on(finished(1, None)), [load(1, "/a")]);
}

#[test]
fn a_worker_that_loaded_the_new_version_for_a_request_does_not_load_it_again() {
    let mut run = both_hold_a();
    assert_eq!(run.arrive(3, "/a"), [assign(3, 1)]);
    assert_eq!(run.on(changed("/a")), [load(2, "/a")]);
    assert_eq!(run.on(finished(1, Some("/a"))), []);
    assert_eq!(run.on(loaded(2, "/a")), []);
}

#[test]
fn a_version_that_cannot_be_loaded_leaves_the_old_one_and_requests_wait_for_its_workers() {
    let mut run = Run::running(policy());
    assert_eq!(run.arrive(1, "/a"), [assign(1, 1)]);
    run.on(finished(1, Some("/a")));
    assert_eq!(run.on(changed("/a")), [load(2, "/a")], "worker 1 serves the old one");
    let outcome = Tended::Broken { project: "/a".into() };
    assert_eq!(run.on(Event::Tended { worker: 2, outcome }), []);
    assert_eq!(run.arrive(2, "/a"), [assign(2, 1)]);
    assert_eq!(run.arrive(3, "/a"), [], "worker 2 could not load it");
    assert_eq!(run.on(finished(1, None)), [assign(3, 1)]);
    run.on(finished(1, None));
    // Once it is repaired, everybody may load it again.
    assert_eq!(run.on(changed("/a")), [load(2, "/a")]);
    run.on(loaded(2, "/a"));
    let outcome = Tended::Done;
    run.on(Event::Tended { worker: 1, outcome });
    assert_eq!(run.arrive(4, "/a"), [assign(4, 2)]);
    assert_eq!(run.arrive(5, "/a"), [assign(5, 1)]);
}

#[test]
fn what_only_one_worker_holds_is_loaded_by_another_and_then_dropped() {
    let mut run = Run::running(policy());
    assert_eq!(run.arrive(1, "/a"), [assign(1, 1)]);
    run.on(finished(1, Some("/a")));
    assert_eq!(run.on(changed("/a")), [load(2, "/a")]);
    assert!(run.pool.is_renewing("/a"));
    assert_eq!(
        run.arrive(2, "/a"),
        [assign(2, 1)],
        "the old version, however long the load takes"
    );
    assert_eq!(run.on(loaded(2, "/a")), []);
    let chore = Chore::Drop {
        projects: vec!["/a".into()],
    };
    assert_eq!(run.on(finished(1, None)), [Action::Tend { worker: 1, chore }]);
    let outcome = Tended::Done;
    run.on(Event::Tended { worker: 1, outcome });
    assert!(!run.pool.is_renewing("/a"));
    assert_eq!(run.arrive(3, "/a"), [assign(3, 2)]);
}

#[test]
fn a_holder_that_has_dropped_the_project_needs_no_relief() {
    let mut run = both_hold_a();
    let project = Some("/a".to_owned());
    assert_eq!(run.arrive(3, "/x"), [assign(3, 1)]);
    run.on(changed("/a"));
    run.on(Event::Drop { project });
    run.on(finished(1, None));
    for worker in [1, 2] {
        let outcome = Tended::Done;
        run.on(Event::Tended { worker, outcome });
    }
    assert!(!run.pool.is_renewing("/a"));
}

#[test]
fn what_cannot_be_loaded_again_is_dropped_last() {
    let mut run = Run::running(Policy { workers: 1, ..policy() });
    for (ticket, project) in [(1, "/a"), (2, "/b")] {
        assert_eq!(run.arrive(ticket, project), [assign(ticket, 1)]);
        run.on(finished(1, Some(project)));
    }
    assert_eq!(run.on(changed("/a")), [load(1, "/a")], "there is nobody else");
    let outcome = Tended::Broken { project: "/a".into() };
    run.on(Event::Tended { worker: 1, outcome });
    assert_eq!(
        run.arrive(3, "/c"),
        [Action::Assign {
            ticket: 3,
            worker: 1,
            evict: vec!["/b".into()]
        }],
        "/a was used longer ago"
    );
}

#[test]
fn a_project_is_checked_out_by_every_worker_in_turn() {
    let mut run = Run::running(policy());
    assert_eq!(run.on(Event::CheckOut { project: "/a".into() }), [load(1, "/a")]);
    assert_eq!(run.on(loaded(1, "/a")), [load(2, "/a")]);
    assert_eq!(run.on(loaded(2, "/a")), []);
    assert_eq!(run.on(Event::CheckOut { project: "/a".into() }), [], "they have it");
}

#[test]
fn a_dropped_project_goes_from_every_worker_as_it_falls_idle() {
    let mut run = both_hold_a();
    assert_eq!(run.arrive(3, "/a"), [assign(3, 1)]);
    let drops = |worker| {
        let projects = vec!["/a".to_owned()];
        let chore = Chore::Drop { projects };
        Action::Tend { worker, chore }
    };
    let project = Some("/a".to_owned());
    assert_eq!(run.on(Event::Drop { project }), [drops(2)]);
    assert_eq!(run.on(finished(1, None)), [drops(1)]);
    let outcome = Tended::Done;
    assert_eq!(run.on(Event::Tended { worker: 2, outcome }), []);
    let holds = |worker: &WorkerView| worker.projects.iter().any(|held| held == "/a");
    assert!(!run.pool.view(run.now).workers.iter().any(holds));
}

#[test]
fn a_load_that_does_not_end_is_a_failure() {
    let mut run = both_hold_a();
    run.on(changed("/a"));
    let actions = run.later(120 * SECOND);
    assert!(actions.contains(&Action::Kill { worker: 1 }), "{actions:?}");
}
