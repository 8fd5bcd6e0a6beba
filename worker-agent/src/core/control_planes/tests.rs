use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn set(projects: &[&str]) -> BTreeSet<String> {
    projects.iter().map(|project| (*project).to_owned()).collect()
}

/// What counts: the store, the revision, and the projects.
fn counts(planes: &ControlPlanes) -> (&str, u64, Vec<&str>) {
    let counts = planes.counts().unwrap();
    let projects = counts.projects.iter().map(String::as_str).collect();
    (&counts.origin.store, counts.origin.revision, projects)
}

#[test]
fn the_newest_revision_counts_whoever_tells_it() {
    let mut planes = ControlPlanes::new(2, None);
    assert_eq!((planes.counts(), planes.standing(0)), (None, Standing::Away));
    planes.attached(0, "s");
    planes.attached(1, "s");
    assert_eq!(planes.standing(0), Standing::Silent);
    planes.told(0, 4, set(&["/a"]));
    planes.told(1, 5, set(&["/b"]));
    assert_eq!(counts(&planes), ("s", 5, vec!["/b"]));
    assert_eq!(
        [0, 1].map(|place| planes.standing(place)),
        [Standing::Behind, Standing::Agrees]
    );
    // The one that knows it goes; the other catches up.
    planes.lost(1);
    assert_eq!(counts(&planes), ("s", 5, vec!["/b"]));
    planes.told(0, 4, set(&["/a", "/c"]));
    assert_eq!(counts(&planes), ("s", 5, vec!["/b"]), "not even anew");
    planes.told(0, 5, set(&["/b"]));
    assert_eq!(planes.standing(0), Standing::Agrees);
    planes.told(0, 6, set(&[]));
    assert_eq!(counts(&planes), ("s", 6, vec![]));
}

#[test]
fn what_one_of_them_wants_kept_is_kept() {
    let mut planes = ControlPlanes::new(2, None);
    for (place, projects) in [(0, ["/a", "/b"]), (1, ["/b", "/c"])] {
        planes.attached(place, "s");
        planes.told(place, 1, set(&projects));
    }
    assert_eq!(counts(&planes).2, ["/a", "/b", "/c"]);
    planes.told(0, 1, set(&["/b"]));
    assert_eq!(counts(&planes).2, ["/b", "/c"]);
    planes.lost(1);
    assert_eq!(counts(&planes).2, ["/b"], "who is not there wants nothing");
    planes.lost(0);
    assert_eq!(counts(&planes).2, ["/b"], "while nobody is there all stays as it is");
}

#[test]
fn of_two_stores_that_of_the_first_control_plane_counts() {
    let mut planes = ControlPlanes::new(2, None);
    planes.attached(1, "other");
    planes.told(1, 9, set(&["/other"]));
    assert_eq!(counts(&planes).0, "other");
    planes.attached(0, "s");
    assert_eq!(counts(&planes).0, "other", "it has not told anything");
    planes.told(0, 2, set(&["/s"]));
    assert_eq!(counts(&planes), ("s", 2, vec!["/s"]));
    assert_eq!(planes.standing(1), Standing::OtherStore);
    assert!(planes.standing(1).is_ignored() && planes.standing(1).is_attached());
    planes.told(1, 10, set(&[]));
    assert_eq!(counts(&planes), ("s", 2, vec!["/s"]));
    planes.lost(0);
    assert_eq!(counts(&planes), ("other", 10, vec![]));
}

#[test]
fn a_restart_does_not_bring_an_older_revision_and_another_identity_does() {
    let origin = Origin {
        store: "s".to_owned(),
        revision: 7,
    };
    let projects = set(&["/a"]);
    let mut planes = ControlPlanes::new(1, Some(Counts { origin, projects }));
    planes.attached(0, "s");
    planes.told(0, 6, set(&[]));
    assert_eq!(
        (counts(&planes), planes.standing(0)),
        (("s", 7, vec!["/a"]), Standing::Behind)
    );
    planes.attached(0, "put back");
    planes.told(0, 6, set(&[]));
    assert_eq!(
        (counts(&planes), planes.standing(0)),
        (("put back", 6, vec![]), Standing::Agrees)
    );
}

#[test]
fn a_control_plane_is_told_revisions_of_its_own_store_only() {
    let mut planes = ControlPlanes::new(3, None);
    for (place, store) in [(0, "s"), (1, "s"), (2, "other")] {
        planes.attached(place, store);
        planes.told(place, 3, set(&[]));
    }
    planes.told(0, 4, set(&[]));
    planes.attached(1, "s");
    let origin = planes.counts().unwrap().origin.clone();
    let taken = |planes: &ControlPlanes| [0, 1, 2].map(|place| planes.taken(place, &origin));
    assert_eq!(taken(&planes), [4, 0, 0], "1 has told nothing on its new stream");
    planes.told(1, 3, set(&[]));
    assert_eq!(taken(&planes), [4, 4, 0]);
    assert_eq!(planes.has_told(1).unwrap().revision, 3);
    assert_eq!((planes.taken(9, &origin), planes.standing(9)), (0, Standing::Away));
}

/// What happens to two control planes with one store, and to their streams.
#[derive(Debug, Clone)]
enum Step {
    /// Somebody pins through one of them: it reads, writes, and knows.
    Change(usize),
    /// One hears of the latest revision.
    Hear(usize),
    /// A message of one arrives.
    Deliver(usize),
    /// A stream breaks, with what was on its way.
    Break(usize),
    /// A stream begins.
    Attach(usize),
    /// One is restarted: it reads the store, and its stream is gone.
    Restart(usize),
    /// The agent is restarted, and remembers what counted.
    RestartAgent,
    /// The store is put back to an older state on purpose, by the rules: new identity, both restarted.
    PutBack(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..2_usize).prop_map(Step::Change),
        4 => (0..2_usize).prop_map(Step::Hear),
        8 => (0..2_usize).prop_map(Step::Deliver),
        1 => (0..2_usize).prop_map(Step::Break),
        3 => (0..2_usize).prop_map(Step::Attach),
        1 => (0..2_usize).prop_map(Step::Restart),
        1 => Just(Step::RestartAgent),
        1 => (0..5_u64).prop_map(Step::PutBack),
    ]
}

enum Message {
    Welcome(String),
    Pins(u64, BTreeSet<String>),
}

#[derive(Default)]
struct Plane {
    knows: u64,
    identity: String,
    stream: Option<VecDeque<Message>>,
}

struct World {
    revision: u64,
    identity: u64,
    planes: [Plane; 2],
    agent: ControlPlanes,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            revision: 0,
            identity: 0,
            planes: Default::default(),
            agent: ControlPlanes::new(2, None),
        };
        (0..2).for_each(|at| world.restart(at));
        world
    }

    /// What is pinned at a revision of a store.
    fn pinned(&self, revision: u64) -> BTreeSet<String> {
        set(&[&format!("/{}/{revision}", self.identity)])
    }

    fn tell(&mut self, at: usize) {
        let (revision, projects) = (self.planes[at].knows, self.pinned(self.planes[at].knows));
        if let Some(stream) = &mut self.planes[at].stream {
            stream.push_back(Message::Pins(revision, projects));
        }
    }

    fn drop_stream(&mut self, at: usize) {
        self.planes[at].stream = None;
        self.agent.lost(at);
    }

    fn restart(&mut self, at: usize) {
        self.drop_stream(at);
        self.planes[at].knows = self.revision;
        self.planes[at].identity = self.identity.to_string();
    }

    fn attach(&mut self, at: usize) {
        self.drop_stream(at);
        let welcome = Message::Welcome(self.planes[at].identity.clone());
        self.planes[at].stream = Some([welcome].into());
        self.tell(at);
    }

    fn deliver(&mut self, at: usize) {
        match self.planes[at].stream.as_mut().and_then(VecDeque::pop_front) {
            Some(Message::Welcome(store)) => self.agent.attached(at, &store),
            Some(Message::Pins(revision, projects)) => self.agent.told(at, revision, projects),
            None => {}
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Change(at) => {
                self.revision += 1;
                self.planes[at].knows = self.revision;
                self.tell(at);
            }
            Step::Hear(at) => {
                self.planes[at].knows = self.revision;
                self.tell(at);
            }
            Step::Deliver(at) => self.deliver(at),
            Step::Break(at) => self.drop_stream(at),
            Step::Attach(at) => self.attach(at),
            Step::Restart(at) => self.restart(at),
            Step::RestartAgent => {
                let before = self.agent.counts().cloned();
                (0..2).for_each(|at| self.drop_stream(at));
                self.agent = ControlPlanes::new(2, before);
            }
            Step::PutBack(revisions) => {
                self.identity += 1;
                self.revision = self.revision.saturating_sub(revisions);
                (0..2).for_each(|at| self.restart(at));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_agent_ends_with_the_newest_pins_and_never_goes_back(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        let mut before: Option<Origin> = None;
        for step in &steps {
            world.take(step);
            let now = world.agent.counts().map(|counts| counts.origin.clone());
            if let (Some(before), Some(now)) = (&before, &now) {
                let back = before.store == now.store && now.revision < before.revision;
                prop_assert!(!back, "{step:?}: from {before:?} to {now:?}");
            }
            prop_assert!(before.is_none() || now.is_some(), "what was known is forgotten");
            before = now;
        }
        for at in 0..2 {
            world.restart(at);
            world.attach(at);
            world.take(&Step::Hear(at));
            for _ in 0..3 {
                world.deliver(at);
            }
        }
        let counts = world.agent.counts().unwrap();
        prop_assert_eq!(&counts.origin.store, &world.identity.to_string());
        prop_assert_eq!(counts.origin.revision, world.revision);
        prop_assert_eq!(&counts.projects, &world.pinned(world.revision));
        prop_assert_eq!([0, 1].map(|at| world.agent.standing(at)), [Standing::Agrees; 2]);
    }
}
