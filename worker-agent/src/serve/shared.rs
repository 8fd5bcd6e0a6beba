//! Identical requests in flight share one render: the first begins it, the others wait for the same answer.
//!
//! A render runs in a task of its own, so that it outlives whoever began it; it is dropped, which cancels it, when the
//! last one who waits for it has gone. It knows neither what is rendered nor what makes two requests identical.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// What a render comes to: an answer for all who wait for it, or one that only one of them can have.
#[derive(Debug)]
pub enum Rendered<T, S> {
    /// For everybody.
    Whole(T),
    /// For who began it; the others are to render by themselves.
    Single(S),
}

/// What one who asked gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<T, S> {
    /// It began the render, and this is all of the answer.
    Led(T),
    /// It began the render, and this is an answer for it alone.
    LedSingle(S),
    /// It joined the render of another.
    Joined(T),
    /// It joined the render of another, whose answer cannot be shared: it is to render by itself, without joining again.
    Alone,
    /// It joined the render of another, and its own deadline passed first.
    Late,
    /// The render ended without an answer: it panicked, or the agent is stopping.
    Lost,
}

/// What a render has come to so far.
#[derive(Debug, Clone)]
enum State<T> {
    Running,
    Whole(T),
    Single,
}

/// One render. Those who wait for it hold it.
#[derive(Debug)]
struct Flight<T> {
    deadline: Instant,
    state: watch::Receiver<State<T>>,
    task: AbortHandle,
}

impl<T> Drop for Flight<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A flight in the table, and its number: a key may have another flight by the time that one ends.
type Listed<T> = (u64, Weak<Flight<T>>);

#[derive(Debug)]
struct Table<T> {
    flights: HashMap<String, Listed<T>>,
    next: u64,
}

/// The flights; clones share them.
#[derive(Debug)]
pub struct Shared<T> {
    table: Arc<Mutex<Table<T>>>,
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self {
            table: Arc::clone(&self.table),
        }
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        let flights = HashMap::new();
        Self {
            table: Arc::new(Mutex::new(Table { flights, next: 0 })),
        }
    }
}

/// Takes a flight off the table when its render has ended, however it did.
struct Landing<T> {
    table: Arc<Mutex<Table<T>>>,
    key: String,
    number: u64,
}

impl<T> Drop for Landing<T> {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        if table
            .flights
            .get(&self.key)
            .is_some_and(|(number, _)| *number == self.number)
        {
            table.flights.remove(&self.key);
        }
    }
}

/// The table is whole after every change, so a panic elsewhere does not spoil it.
fn lock<T>(table: &Mutex<Table<T>>) -> MutexGuard<'_, Table<T>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Clone + Send + Sync + 'static> Shared<T> {
    /// Answers the question `key` by `deadline`: with the answer of a render in flight when there is one that has at least
    /// half as much time left, else by beginning `render`. Dropping the returned future means that this client has gone.
    ///
    /// A render keeps to its own deadline, which is that of who began it.
    pub async fn answer<S, F>(&self, key: String, deadline: Instant, render: F) -> Outcome<T, S>
    where
        S: Send + 'static,
        F: Future<Output = Rendered<T, S>> + Send + 'static,
    {
        let (flight, single) = self.board(key, deadline, render);
        let mut state = flight.state.clone();
        let landed = async {
            let ended = state.wait_for(|state| !matches!(state, State::Running)).await;
            ended.map(|state| state.clone())
        };
        let Some(mut single) = single else {
            return match tokio::time::timeout_at(deadline, landed).await {
                Ok(Ok(State::Whole(answer))) => Outcome::Joined(answer),
                Ok(Ok(State::Single | State::Running)) => Outcome::Alone,
                Ok(Err(_)) => Outcome::Lost,
                Err(_) => Outcome::Late,
            };
        };
        match landed.await {
            Ok(State::Whole(answer)) => Outcome::Led(answer),
            Ok(State::Single | State::Running) => single.try_recv().map_or(Outcome::Lost, Outcome::LedSingle),
            Err(_) => Outcome::Lost,
        }
    }

    /// The flight to wait for; with where an answer for one alone comes out, when it was begun here.
    fn board<S, F>(&self, key: String, deadline: Instant, render: F) -> (Arc<Flight<T>>, Option<oneshot::Receiver<S>>)
    where
        S: Send + 'static,
        F: Future<Output = Rendered<T, S>> + Send + 'static,
    {
        // Outlives the guard: the last hold on a flight must not be let go of while the table is locked, since what its
        // render holds is dropped with it.
        let unfit;
        let mut table = lock(&self.table);
        let found = table.flights.get(&key).and_then(|(_, flight)| flight.upgrade());
        match found {
            Some(flight) if has_time(flight.deadline, deadline) => return (flight, None),
            other => unfit = other,
        }
        table.next += 1;
        let number = table.next;
        let (tell, state) = watch::channel(State::Running);
        let (give, single) = oneshot::channel();
        let landing = Landing {
            table: Arc::clone(&self.table),
            key: key.clone(),
            number,
        };
        let task = tokio::spawn(async move {
            let rendered = render.await;
            // Off the table before anybody is told: who comes now begins anew.
            drop(landing);
            tell.send_replace(match rendered {
                Rendered::Whole(answer) => State::Whole(answer),
                Rendered::Single(answer) => {
                    // When who began it has gone, the answer goes as well.
                    drop(give.send(answer));
                    State::Single
                }
            });
        });
        let flight = Arc::new(Flight {
            deadline,
            state,
            task: task.abort_handle(),
        });
        table.flights.insert(key, (number, Arc::downgrade(&flight)));
        drop(table);
        drop(unfit);
        (flight, Some(single))
    }

    /// How many renders are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        lock(&self.table).flights.len()
    }
}

/// Whether a render that ends by `flight` is worth waiting for by one who has until `own`.
fn has_time(flight: Instant, own: Instant) -> bool {
    let now = Instant::now();
    flight.saturating_duration_since(now) * 2 >= own.saturating_duration_since(now)
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
