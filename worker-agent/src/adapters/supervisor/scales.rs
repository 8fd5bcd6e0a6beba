//! Weighs the workers and the machine, again and again, and tells the pool. What follows from a weight is the pool's.
//!
//! It runs on a thread of its own: reading a process's memory takes the kernel milliseconds.

use std::collections::BTreeMap;
use std::io::ErrorKind;
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
        known: BTreeMap::new(),
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
    /// Workers with the anonymous memory that they had when they were first seen, most of it the zygote's.
    known: BTreeMap<WorkerId, u64>,
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
        self.known.retain(|worker, _| {
            let there = status.pids.contains_key(worker);
            if !there {
                self.sampler.forget(*worker);
            }
            there
        });
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
            let first = *self.known.entry(worker.id).or_insert(anonymous);
            let bytes = match private_dirty(pid) {
                Ok(private) => private,
                // Workers of another user are closed to an agent without CAP_SYS_PTRACE. What they have grown by is the
                // next best thing.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => anonymous.saturating_sub(first),
                Err(_) => continue,
            };
            self.sampler.read(now, worker.id, anonymous, bytes);
            self.tell(Event::Weighed {
                worker: worker.id,
                bytes,
            });
        }
    }

    fn tell(&self, event: Event) {
        // Once the pool has ended, the next look at the status says so.
        drop(self.messages.send(Message::Event(event)));
    }
}
