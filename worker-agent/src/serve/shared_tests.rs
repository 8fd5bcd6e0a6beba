use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::*;

type Out = Outcome<usize, &'static str>;

const SOON: Duration = Duration::from_secs(600);

/// Renders that end when they are told to, and are counted.
#[derive(Clone, Default)]
struct Kitchen {
    shared: Shared<usize>,
    begun: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    finish: Arc<Notify>,
}

struct CountDrop(Arc<AtomicUsize>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Kitchen {
    /// Asks for `key`; the render gives its number.
    async fn ask(&self, key: &str, within: Duration) -> Out {
        self.render(key, within, Rendered::Whole).await
    }

    async fn render(
        &self,
        key: &str,
        within: Duration,
        make: impl Fn(usize) -> Rendered<usize, &'static str> + Send + 'static,
    ) -> Out {
        let (begun, finish) = (Arc::clone(&self.begun), Arc::clone(&self.finish));
        let dropped = CountDrop(Arc::clone(&self.dropped));
        let render = async move {
            let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
            finish.notified().await;
            std::mem::forget(dropped);
            make(number)
        };
        self.shared
            .answer(key.to_owned(), Instant::now() + within, render)
            .await
    }

    fn counts(&self) -> (usize, usize) {
        (self.begun.load(Ordering::SeqCst), self.dropped.load(Ordering::SeqCst))
    }

    fn spawn(&self, key: &'static str, within: Duration) -> tokio::task::JoinHandle<Out> {
        let kitchen = self.clone();
        tokio::spawn(async move { kitchen.ask(key, within).await })
    }
}

/// Lets every task that can go on do so.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_hundred_who_ask_the_same_share_one_render() {
    let kitchen = Kitchen::default();
    let mut asking = JoinSet::new();
    for _ in 0..100 {
        let kitchen = kitchen.clone();
        asking.spawn(async move { kitchen.ask("a", SOON).await });
    }
    settle().await;
    assert_eq!((kitchen.counts(), kitchen.shared.in_flight()), ((1, 99), 1));
    kitchen.finish.notify_one();
    let outcomes = asking.join_all().await;
    assert_eq!(outcomes.iter().filter(|out| **out == Out::Led(1)).count(), 1);
    assert_eq!(outcomes.iter().filter(|out| **out == Out::Joined(1)).count(), 99);
    assert_eq!(kitchen.shared.in_flight(), 0);
    // Whoever comes now begins anew.
    kitchen.finish.notify_one();
    assert_eq!(kitchen.ask("a", SOON).await, Out::Led(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn they_share_it_also_when_they_come_at_once_on_several_threads() {
    for _ in 0..20 {
        let kitchen = Kitchen::default();
        let mut asking = JoinSet::new();
        for _ in 0..100 {
            let kitchen = kitchen.clone();
            asking.spawn(async move { kitchen.ask("a", SOON).await });
        }
        // Each who asks holds the same two `Arc`s of its own until it has an answer.
        while kitchen.dropped.load(Ordering::SeqCst) < 99 {
            tokio::task::yield_now().await;
        }
        kitchen.finish.notify_one();
        asking.join_all().await;
        assert_eq!((kitchen.counts(), kitchen.shared.in_flight()), ((1, 99), 0));
    }
}

#[tokio::test]
async fn other_questions_are_rendered_apart() {
    let kitchen = Kitchen::default();
    let (one, two) = (kitchen.spawn("a", SOON), kitchen.spawn("b", SOON));
    settle().await;
    assert_eq!(kitchen.shared.in_flight(), 2);
    kitchen.finish.notify_waiters();
    let numbers = [one.await.unwrap(), two.await.unwrap()];
    assert!(numbers.contains(&Out::Led(1)) && numbers.contains(&Out::Led(2)));
}

#[tokio::test]
async fn a_render_outlives_who_began_it_and_ends_with_the_last_who_waits() {
    let kitchen = Kitchen::default();
    let leader = kitchen.spawn("a", SOON);
    settle().await;
    let (stays, leaves) = (kitchen.spawn("a", SOON), kitchen.spawn("a", SOON));
    settle().await;
    assert_eq!(
        kitchen.counts(),
        (1, 2),
        "those who join do not begin their own renders"
    );
    leader.abort();
    leaves.abort();
    settle().await;
    assert_eq!(kitchen.counts(), (1, 2), "it goes on");
    kitchen.finish.notify_one();
    assert_eq!(stays.await.unwrap(), Out::Joined(1));

    let (leader, follower) = (kitchen.spawn("b", SOON), kitchen.spawn("b", SOON));
    settle().await;
    assert_eq!(kitchen.counts(), (2, 3));
    follower.abort();
    leader.abort();
    settle().await;
    assert_eq!(kitchen.counts(), (2, 4), "nobody waits, so it was dropped");
    assert_eq!(kitchen.shared.in_flight(), 0);
    // And is not waited for by who comes next.
    kitchen.finish.notify_one();
    assert_eq!(kitchen.ask("b", SOON).await, Out::Led(3));
}

#[tokio::test]
async fn what_cannot_be_shared_goes_to_who_began_it() {
    let kitchen = Kitchen::default();
    let stream =
        |kitchen: Kitchen| tokio::spawn(async move { kitchen.render("a", SOON, |_| Rendered::Single("stream")).await });
    let (leader, follower) = (stream(kitchen.clone()), stream(kitchen.clone()));
    settle().await;
    kitchen.finish.notify_one();
    assert_eq!(leader.await.unwrap(), Out::LedSingle("stream"));
    assert_eq!(follower.await.unwrap(), Out::Alone);

    // When who began it has gone, nobody has the stream.
    let (leader, follower) = (stream(kitchen.clone()), stream(kitchen.clone()));
    settle().await;
    leader.abort();
    settle().await;
    kitchen.finish.notify_one();
    assert_eq!(follower.await.unwrap(), Out::Alone);
}

#[tokio::test]
async fn who_has_much_more_time_does_not_wait_for_a_render_that_is_about_to_end() {
    let kitchen = Kitchen::default();
    let first = kitchen.spawn("a", Duration::from_secs(600));
    settle().await;
    let joins = kitchen.spawn("a", Duration::from_secs(1000));
    settle().await;
    assert_eq!(kitchen.counts().0, 1);
    let begins = kitchen.spawn("a", Duration::from_secs(1400));
    settle().await;
    assert_eq!(kitchen.counts().0, 2);
    // From now on the later one is joined, and the end of the first does not take it off the table.
    kitchen.finish.notify_one();
    assert_eq!(first.await.unwrap(), Out::Led(1));
    assert_eq!(joins.await.unwrap(), Out::Joined(1));
    let last = kitchen.spawn("a", Duration::from_secs(1400));
    settle().await;
    assert_eq!((kitchen.counts().0, kitchen.shared.in_flight()), (2, 1));
    kitchen.finish.notify_one();
    assert_eq!(begins.await.unwrap(), Out::Led(2));
    assert_eq!(last.await.unwrap(), Out::Joined(2));
}

#[tokio::test]
async fn who_joins_gives_up_alone_when_its_own_deadline_passes() {
    let kitchen = Kitchen::default();
    let leader = kitchen.spawn("a", SOON);
    settle().await;
    let hasty = kitchen.spawn("a", Duration::from_millis(20));
    assert_eq!(hasty.await.unwrap(), Out::Late);
    kitchen.finish.notify_one();
    assert_eq!(leader.await.unwrap(), Out::Led(1));
}

#[tokio::test]
async fn a_render_that_panics_is_told_to_all_and_forgotten() {
    let kitchen = Kitchen::default();
    let ask = |kitchen: Kitchen| {
        tokio::spawn(async move { kitchen.render("a", SOON, |_| panic!("as the test wants it")).await })
    };
    let (leader, follower) = (ask(kitchen.clone()), ask(kitchen.clone()));
    settle().await;
    kitchen.finish.notify_one();
    assert_eq!(leader.await.unwrap(), Out::Lost);
    assert_eq!(follower.await.unwrap(), Out::Lost);
    assert_eq!(kitchen.shared.in_flight(), 0);
    kitchen.finish.notify_one();
    assert_eq!(kitchen.ask("a", SOON).await, Out::Led(2));
}
