//! Work that waits for a disk, done on threads of its own, and how much of that may hang.
//!
//! A call to a file system that has gone (a network drive) does not return, and nothing can end it: its thread is lost until
//! the file system is back. So each location has a few turns. When all are taken by work that nobody waits for any more, the
//! location is away: what is asked of it is answered at once, and no other thread is lost to it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::Trouble;

/// How much of one location's work runs at a time. The runtime has 512 threads for such work, for all locations together; a
/// look takes microseconds, on a network drive a few milliseconds.
const TURNS: usize = 16;

/// The turns of one location.
#[derive(Debug)]
pub(super) struct Turns {
    free: Arc<Semaphore>,
    /// Turns that are taken by work that nobody waits for any more.
    stuck: Arc<AtomicUsize>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(TURNS)),
            stuck: Arc::default(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Abandoned,
    Ended,
}

/// A piece of work, for who waits for it and for who does it.
#[derive(Debug)]
struct Piece {
    phase: Mutex<Phase>,
    stuck: Arc<AtomicUsize>,
}

impl Piece {
    fn pass_on(&self, to: Phase) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        match (*phase, to) {
            (Phase::Running, Phase::Abandoned) => drop(self.stuck.fetch_add(1, Ordering::Relaxed)),
            (Phase::Abandoned, Phase::Ended) => drop(self.stuck.fetch_sub(1, Ordering::Relaxed)),
            (Phase::Ended, _) => return,
            _ => {}
        }
        *phase = to;
    }
}

/// Whoever holds this tells when it is dropped, however that comes about.
struct Tells(Arc<Piece>, Phase);

impl Drop for Tells {
    fn drop(&mut self) {
        self.0.pass_on(self.1);
    }
}

impl Turns {
    /// Does `work` when it has its turn. Callers bound the time, and drop the future when it has passed.
    ///
    /// # Errors
    /// What the work says, and that the location is away.
    pub async fn take<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, Trouble> {
        let free = Arc::clone(&self.free);
        let permit = match Arc::clone(&free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) if self.stuck.load(Ordering::Relaxed) >= TURNS => {
                return Err(Trouble::Down("earlier looks at it have not ended".into()));
            }
            Err(_) => free
                .acquire_owned()
                .await
                .map_err(|error| Trouble::Down(error.to_string()))?,
        };
        let piece = Arc::new(Piece {
            phase: Mutex::new(Phase::Running),
            stuck: Arc::clone(&self.stuck),
        });
        let _waits = Tells(Arc::clone(&piece), Phase::Abandoned);
        blocking(move || {
            // In this order: who gets the turn is not to find it stuck.
            let _turn = permit;
            let _does = Tells(piece, Phase::Ended);
            work()
        })
        .await
    }
}

/// Does what waits for a disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Trouble> + Send + 'static,
) -> Result<T, Trouble> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Trouble::Down(error.to_string())))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use futures::future::join_all;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn a_location_that_hangs_takes_a_few_threads_and_no_time() {
        let (away, healthy) = (Turns::default(), Turns::default());
        let (release, hung) = mpsc::channel::<()>();
        let hung = Arc::new(Mutex::new(hung));
        let begun = Arc::new(AtomicUsize::new(0));
        let hang = || {
            let (hung, begun) = (Arc::clone(&hung), Arc::clone(&begun));
            let work = move || {
                begun.fetch_add(1, Ordering::SeqCst);
                let _ = hung.lock().map(|hung| hung.recv());
                Ok(())
            };
            tokio::time::timeout(PATIENCE, away.take(work))
        };
        let looks = join_all((0..3 * TURNS).map(|_| hang())).await;
        assert!(looks.iter().all(Result::is_err), "nobody has an answer in time");
        for _ in 0..50 {
            assert!(
                matches!(hang().await, Ok(Err(Trouble::Down(_)))),
                "it is away, which is said at once"
            );
        }
        assert_eq!(healthy.take(|| Ok(7)).await, Ok(7));
        // It is back.
        drop(release);
        while away.stuck.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(begun.load(Ordering::SeqCst), TURNS, "each turn was taken once");
        assert_eq!(away.take(|| Ok(8)).await, Ok(8));
    }

    #[tokio::test]
    async fn many_looks_at_once_wait_for_one_another() {
        let turns = Turns::default();
        let look = || {
            turns.take(|| {
                std::thread::sleep(Duration::from_millis(1));
                Ok(())
            })
        };
        let looks = join_all((0..20 * TURNS).map(|_| look())).await;
        assert!(looks.iter().all(Result::is_ok));
        let broken = turns.take(|| -> Result<(), Trouble> { panic!("for a test") }).await;
        assert!(broken.is_err());
        assert_eq!(turns.free.available_permits(), TURNS);
    }
}
