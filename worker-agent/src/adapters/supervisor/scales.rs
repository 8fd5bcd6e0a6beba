//! Weighs the workers and the machine, again and again, and tells the pool. What follows from a weight is the pool's.
//!
//! It runs on a thread of its own: reading a process's memory takes the kernel milliseconds.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::Status;
use super::task::Message;
use crate::adapters::memory::{Machine, private_dirty, resident_anonymous};
use crate::core::memory::Sampler;
use crate::core::pool::{Event, WorkerId};

/// How often workers are looked at. A request that takes memory as fast as it can is so noticed before it has taken
/// much more than its limit.
const PAUSE: Duration = Duration::from_millis(100);

/// How many looks at workers come between two looks at the machine.
const MACHINE_EVERY: u32 = 5;

/// How many looks at the machine come between two searches for its limit, which may be changed while it runs.
const LIMIT_EVERY: u32 = 60;

/// Starts the thread. It ends when the pool has ended.
///
/// # Errors
/// When the kernel refuses a thread, or does not say how much memory there is.
pub(super) fn start(
    messages: mpsc::UnboundedSender<Message>,
    status: watch::Receiver<Arc<Status>>,
) -> std::io::Result<Machine> {
    let machine = Machine::find(Path::new("/"))?;
    let scales = Scales {
        messages,
        status,
        machine: machine.clone(),
        sampler: Sampler::default(),
        known: BTreeSet::new(),
    };
    std::thread::Builder::new()
        .name("scales".into())
        .spawn(move || scales.run())?;
    Ok(machine)
}

struct Scales {
    messages: mpsc::UnboundedSender<Message>,
    status: watch::Receiver<Arc<Status>>,
    machine: Machine,
    sampler: Sampler,
    known: BTreeSet<WorkerId>,
}

impl Scales {
    fn run(mut self) {
        let mut round: u32 = 0;
        while self.status.has_changed().is_ok() {
            if round.is_multiple_of(MACHINE_EVERY * LIMIT_EVERY)
                && let Ok(found) = Machine::find(Path::new("/"))
            {
                self.machine = found;
            }
            if round.is_multiple_of(MACHINE_EVERY)
                && let Ok(used) = self.machine.used()
            {
                let total = self.machine.total();
                self.tell(Event::Machine { total, used });
            }
            self.weigh();
            round = round.wrapping_add(1);
            std::thread::sleep(PAUSE);
        }
    }

    fn weigh(&mut self) {
        let status = Arc::clone(&self.status.borrow());
        let limit = status.view.memory.soft_limit;
        let now_there: BTreeSet<WorkerId> = status.pids.keys().copied().collect();
        for gone in self.known.difference(&now_there) {
            self.sampler.forget(*gone);
        }
        self.known = now_there;
        for worker in status.view.workers.iter().filter(|worker| worker.state != "leaving") {
            let Some(&pid) = status.pids.get(&worker.id) else {
                continue;
            };
            // It may have ended since.
            let Ok(anonymous) = resident_anonymous(pid) else {
                continue;
            };
            let (now, busy) = (Instant::now(), !worker.busy_for.is_zero());
            if !self.sampler.due(now, worker.id, anonymous, limit, busy) {
                continue;
            }
            if let Ok(private) = private_dirty(pid) {
                self.sampler.read(now, worker.id, anonymous, private);
                self.tell(Event::Weighed {
                    worker: worker.id,
                    bytes: private,
                });
            }
        }
    }

    fn tell(&self, event: Event) {
        // Once the pool has ended, the next look at the status says so.
        drop(self.messages.send(Message::Event(event)));
    }
}
