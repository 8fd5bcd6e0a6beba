use super::*;

const fn secs(seconds: u64) -> Clock {
    Duration::from_secs(seconds)
}

fn agent(id: &str, places: usize) -> Agent {
    Agent {
        id: id.to_owned(),
        ready: true,
        places,
        ..Agent::default()
    }
}

fn asked(agent: &mut Agent, projects: impl Iterator<Item = usize>) {
    let asked = projects.map(|n| (format!("/p{n:03}"), u32::try_from(n).unwrap() + 2));
    agent.asked = Arc::new(asked.collect());
}

fn pins(pins: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pins.iter()
        .map(|(project, replicas)| ((*project).to_owned(), *replicas))
        .collect()
}

fn served_by<'a>(placement: &'a Placement, project: &str) -> Vec<&'a str> {
    let mut found = placement.projects().filter(|(name, _)| *name == project);
    found.next().map_or_else(Vec::new, |(_, placed)| {
        placed.agents.iter().map(String::as_str).collect()
    })
}

fn load(agents: &mut [Agent], placement: &Placement) {
    for (project, placed) in placement.projects() {
        for agent in agents.iter_mut().filter(|agent| placed.kept.contains(&agent.id)) {
            Arc::make_mut(&mut agent.loaded).insert(project.to_owned());
        }
    }
}

#[test]
fn others_can_spare_one_as_long_as_they_have_places() {
    let (mut a, mut b) = (agent("a", 100), agent("b", 100));
    asked(&mut a, 0..90);
    asked(&mut b, 90..160);
    let can = |agents: &[Agent]| Room::of(agents).others_can_spare(&agents[0]);
    assert!(can(&[a.clone(), b.clone()]), "30 places for 30 projects");
    asked(&mut b, 90..161);
    assert!(!can(&[a.clone(), b.clone()]));
    b.loaded = Arc::new(["/p090".to_owned()].into());
    assert!(can(&[a.clone(), b.clone()]), "what is pinned needs no place");
    b.ready = false;
    assert!(!can(&[a.clone(), b]));
    assert!(can(&[a.clone(), agent("c", 0)]), "it has not said");
    assert!(!can(&[a]));
}

#[test]
fn as_few_as_possible_of_the_least_asked_for_are_moved_to_who_has_places() {
    let (mut a, mut b) = (agent("a", 100), agent("b", 100));
    asked(&mut a, 0..108);
    asked(&mut b, 108..200);
    let (agents, none, mut placement) = ([a, b], pins(&[]), Placement::default());
    assert_eq!(placement.decide(secs(0), &agents, &none, true), [], "it has to last");
    assert_eq!(placement.next_deadline(), Some(SETTLE));
    let moves = placement.decide(SETTLE, &agents, &none, true);
    let projects: Vec<&str> = moves.iter().map(|m| m.project.as_str()).collect();
    let least: Vec<String> = (0..8).map(|n| format!("/p{n:03}")).collect();
    assert_eq!(projects, least);
    assert!(
        moves
            .iter()
            .all(|m| m.from == ["a"] && m.to == ["b"] && m.reason == Reason::Overfull)
    );
    // It stays so, though a is still told of until its clients ask elsewhere.
    for second in 6..60 {
        assert_eq!(placement.decide(secs(second), &agents, &none, true), []);
    }
    assert_eq!(placement.next_deadline(), None);
}

#[test]
fn nothing_is_moved_where_nobody_has_places_or_none_are_needed() {
    let (mut a, mut b) = (agent("a", 100), agent("b", 100));
    asked(&mut a, 0..150);
    asked(&mut b, 150..250);
    let mut placement = Placement::default();
    for second in 0..30 {
        let agents = [a.clone(), b.clone()];
        assert_eq!(placement.decide(secs(second), &agents, &pins(&[]), true), []);
    }
    asked(&mut a, 0..100);
    asked(&mut b, 150..160);
    for second in 30..60 {
        let agents = [a.clone(), b.clone()];
        assert_eq!(placement.decide(secs(second), &agents, &pins(&[]), true), []);
    }
    // One that has not said how many places it has is left alone.
    a.places = 0;
    asked(&mut a, 0..500);
    for second in 60..90 {
        let agents = [a.clone(), b.clone()];
        assert_eq!(placement.decide(secs(second), &agents, &pins(&[]), true), []);
    }
}

#[test]
fn a_moved_project_goes_home_when_its_agent_goes_or_nobody_asks_for_it() {
    let (mut a, mut b) = (agent("a", 2), agent("b", 4));
    asked(&mut a, 0..4);
    let (none, mut placement) = (pins(&[]), Placement::default());
    placement.decide(secs(0), &[a.clone(), b.clone()], &none, true);
    let moves = placement.decide(SETTLE, &[a.clone(), b.clone()], &none, true);
    assert_eq!(moves.len(), 2);
    assert_eq!(served_by(&placement, "/p000"), ["b"]);
    Arc::make_mut(&mut a.asked).remove("/p000");
    let moves = placement.decide(secs(6), &[a.clone(), b.clone()], &none, true);
    assert_eq!((moves.len(), moves[0].reason), (1, Reason::Unused));
    b.ready = false;
    let moves = placement.decide(secs(7), &[a.clone(), b.clone()], &none, true);
    assert_eq!(
        (moves[0].project.as_str(), moves[0].reason),
        ("/p001", Reason::NotReady)
    );
    assert_eq!(placement.projects().count(), 0);
    b.ready = true;
    asked(&mut a, 0..4);
    placement.decide(secs(8), &[a.clone(), b.clone()], &none, true);
    placement.decide(secs(13), &[a.clone(), b.clone()], &none, true);
    let moves = placement.decide(secs(14), &[a.clone()], &none, true);
    assert!(moves.iter().all(|m| m.reason == Reason::Gone) && moves.len() == 2);
    // What is pinned everywhere needs no place.
    let all = pins(&[("/p000", 0), ("/p001", 0)]);
    for second in 15..30 {
        assert_eq!(placement.decide(secs(second), &[a.clone(), b.clone()], &all, true), []);
    }
}

#[test]
fn who_is_strained_gets_nothing_more() {
    let (mut a, mut b, c) = (agent("a", 2), agent("b", 10), agent("c", 3));
    asked(&mut a, 0..4);
    b.strained = true;
    let agents = [a, b, c];
    let mut placement = Placement::default();
    placement.decide(secs(0), &agents, &pins(&[]), true);
    let moves = placement.decide(SETTLE, &agents, &pins(&[]), true);
    assert!(moves.len() == 2 && moves.iter().all(|m| m.to == ["c"]), "{moves:?}");
}

#[test]
fn a_pin_is_kept_by_as_many_as_are_to_serve_it_and_by_two_at_least() {
    let mut agents: Vec<Agent> = ["a", "b", "c", "d"].map(|id| agent(id, 10)).into();
    let wishes = pins(&[("/all", 0), ("/one", 1), ("/three", 3)]);
    let mut placement = Placement::default();
    let moves = placement.decide(secs(0), &agents, &wishes, true);
    assert!(
        moves.iter().all(|m| m.reason == Reason::Pin && m.from.is_empty()),
        "{moves:?}"
    );
    let counts = |project: &str| {
        (
            served_by(&placement, project).len(),
            placement.kept(project).map(<[_]>::len),
        )
    };
    assert_eq!((counts("/one"), counts("/three")), ((1, Some(2)), (3, Some(3))));
    assert_eq!(counts("/all"), (0, None), "left to the hash");
    load(&mut agents, &placement);
    assert_eq!(
        placement.decide(secs(1), &agents, &wishes, true),
        [],
        "that they have it changes nothing"
    );
    let ended = placement.decide(secs(2), &agents, &pins(&[("/all", 0), ("/three", 3)]), true);
    assert_eq!(
        (ended.len(), ended[0].project.as_str(), ended[0].reason),
        (1, "/one", Reason::Pin)
    );
}

#[test]
fn when_an_agent_goes_another_one_that_has_the_project_serves_at_once() {
    let mut agents: Vec<Agent> = ["a", "b", "c", "d"].map(|id| agent(id, 10)).into();
    let (wishes, mut placement) = (pins(&[("/one", 1)]), Placement::default());
    placement.decide(secs(0), &agents, &wishes, true);
    load(&mut agents, &placement);
    placement.decide(secs(1), &agents, &wishes, true);
    let first = served_by(&placement, "/one")[0].to_owned();
    let spare = placement.kept("/one").unwrap()[1].clone();

    let mut draining = agents.clone();
    draining.iter_mut().find(|a| a.id == first).unwrap().ready = false;
    let moves = placement.decide(secs(2), &draining, &wishes, true);
    assert_eq!(
        (moves[0].to.as_slice(), moves[0].reason),
        ([spare.clone()].as_slice(), Reason::NotReady)
    );
    assert_eq!(
        placement.kept("/one").unwrap().len(),
        3,
        "a third one loads it, the first keeps it"
    );
    // It comes back, with what it had.
    let moves = placement.decide(secs(3), &agents, &wishes, true);
    assert_eq!(
        (moves[0].to.as_slice(), moves[0].reason),
        ([first.clone()].as_slice(), Reason::Ready)
    );
    assert_eq!(placement.kept("/one").unwrap().len(), 2);

    agents.retain(|a| a.id != first);
    let moves = placement.decide(secs(4), &agents, &wishes, true);
    assert_eq!(
        (moves[0].to.as_slice(), moves[0].reason),
        ([spare].as_slice(), Reason::Gone)
    );
}

#[test]
fn a_better_agent_is_waited_for() {
    // The one that goes best with the project comes last.
    let mut ids = ["a", "b", "c", "d"].map(str::to_owned);
    ids.sort_by_key(|id| std::cmp::Reverse(score("/one", id)));
    let mut agents: Vec<Agent> = ids[1..].iter().map(|id| agent(id, 10)).collect();
    let (wishes, mut placement) = (pins(&[("/one", 1)]), Placement::default());
    placement.decide(secs(0), &agents, &wishes, true);
    load(&mut agents, &placement);
    agents.push(agent(&ids[0], 10));
    assert_eq!(placement.decide(secs(1), &agents, &wishes, true), []);
    assert_eq!(
        placement.kept("/one").unwrap().len(),
        3,
        "the second spare stays until the new one has it"
    );
    load(&mut agents, &placement);
    let moves = placement.decide(secs(2), &agents, &wishes, true);
    assert_eq!(
        (moves[0].to.as_slice(), moves[0].reason),
        ([ids[0].clone()].as_slice(), Reason::Ready)
    );
    assert_eq!(placement.kept("/one").unwrap(), [ids[0].clone(), ids[1].clone()]);
}
