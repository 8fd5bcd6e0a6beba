//! Seeded runs of both ends against each other, over a stream that is slow, whose reader is slow, and that breaks: every
//! call ends exactly once, its messages come whole and in order, and nobody holds more than the limits say.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tonic::Code;

use super::*;
use crate::dice::Dice;

const SEEDS: u64 = 2_000;
const STEPS: usize = 300;
/// By how much the largest message of these runs is above the window, by weight.
const LARGER: usize = 37;

/// What a call is to answer.
struct Script {
    left: VecDeque<Bytes>,
    offered: Option<Bytes>,
}

/// What the one who waits has seen of a call.
#[derive(Default)]
struct Seen {
    expected: VecDeque<Bytes>,
    unread: VecDeque<usize>,
    cancelled: bool,
    end: Option<End>,
}

struct World {
    dice: Dice,
    now: Instant,
    caller: Caller,
    callee: Callee,
    down: VecDeque<Ask>,
    up: VecDeque<Answer>,
    running: BTreeMap<u64, Script>,
    /// By stream and id.
    seen: BTreeMap<u64, Seen>,
    gone: Vec<Seen>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice::seeded(seed),
            now: Instant::now(),
            caller: Caller::default(),
            callee: Callee::default(),
            down: VecDeque::new(),
            up: VecDeque::new(),
            running: BTreeMap::new(),
            seen: BTreeMap::new(),
            gone: Vec::new(),
        }
    }

    fn told(&mut self, told: Told) {
        match told {
            Told::Message(id, message) => {
                let seen = self.seen.get_mut(&id).expect("a call that was begun");
                assert!(seen.end.is_none(), "a message after the end");
                assert!(!seen.cancelled, "a message that nobody wants");
                assert_eq!(seen.expected.pop_front(), Some(message.clone()), "whole and in order");
                seen.unread.push_back(weight(&message));
            }
            Told::End(id, end) => {
                let seen = self.seen.get_mut(&id).expect("a call that was begun");
                assert!(seen.end.is_none() && !seen.cancelled, "ended twice");
                if end.code == 0 {
                    assert!(seen.expected.is_empty(), "ended well and something is missing");
                }
                seen.end = Some(end);
            }
        }
    }

    fn begin(&mut self) {
        let patience = Duration::from_millis(1 + self.dice.roll(200));
        let sizes: [usize; 5] = [0, 10, 1000, WINDOW / 2, WINDOW + 5];
        let messages: VecDeque<Bytes> = (0..self.dice.pick(6))
            .map(|n| Bytes::from(vec![n as u8; sizes[self.dice.pick(sizes.len())]]))
            .collect();
        // The call's own text carries what it is to answer.
        let plan: Vec<u8> = messages.iter().flat_map(|m| (m.len() as u32).to_le_bytes()).collect();
        let begun = self
            .caller
            .begin(self.now, "/x/Y".to_owned(), Bytes::from(plan), self.now + patience);
        match begun {
            Ok(id) => {
                let expected = messages;
                self.seen.insert(
                    id,
                    Seen {
                        expected,
                        ..Seen::default()
                    },
                );
            }
            Err(refused) => assert!(refused == Refused::TooMany && self.caller.len() == MOST_CALLS),
        }
    }

    fn deliver_down(&mut self) {
        let Some(ask) = self.down.pop_front() else { return };
        match self.callee.hear(ask) {
            Some(Order::Start { id, request, .. }) => {
                let sizes = request.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap()));
                let left = sizes
                    .enumerate()
                    .map(|(n, size)| Bytes::from(vec![n as u8; size as usize]))
                    .collect();
                self.running.insert(id, Script { left, offered: None });
            }
            Some(Order::Stop(id)) => drop(self.running.remove(&id)),
            None => {}
        }
    }

    /// One of the calls that run gets on.
    fn work(&mut self) {
        let ids: Vec<u64> = self.running.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.dice.pick(ids.len())];
        let script = self.running.get_mut(&id).unwrap();
        let next = script.offered.take().or_else(|| script.left.pop_front());
        match next.map(|message| self.callee.offer(id, message)) {
            Some(Offer::Accepted) => {}
            Some(Offer::Later(message)) => script.offered = Some(message),
            Some(Offer::Over) => drop(self.running.remove(&id)),
            None => {
                self.callee.end(id, End::well());
                self.running.remove(&id);
            }
        }
    }

    fn read(&mut self) {
        let with: Vec<u64> = self
            .seen
            .iter()
            .filter(|(_, s)| !s.unread.is_empty())
            .map(|(id, _)| *id)
            .collect();
        if with.is_empty() {
            return;
        }
        let id = with[self.dice.pick(with.len())];
        let bytes = self.seen.get_mut(&id).unwrap().unread.pop_front().unwrap();
        self.caller.taken(id, bytes);
    }

    fn cancel(&mut self) {
        let open: Vec<u64> = self
            .seen
            .iter()
            .filter(|(_, s)| s.end.is_none() && !s.cancelled)
            .map(|(id, _)| *id)
            .collect();
        if open.is_empty() {
            return;
        }
        let id = open[self.dice.pick(open.len())];
        self.seen.get_mut(&id).unwrap().cancelled = true;
        self.caller.cancel(id);
    }

    fn break_off(&mut self) {
        for told in self.caller.lost() {
            assert!(matches!(&told, Told::End(_, end) if end.code == i32::from(Code::Unavailable)));
            self.told(told);
        }
        self.callee.lost();
        (self.down, self.up) = (VecDeque::new(), VecDeque::new());
        self.running.clear();
        self.caller = Caller::default();
        self.gone.extend(std::mem::take(&mut self.seen).into_values());
    }

    fn step(&mut self) {
        match self.dice.roll(100) {
            0..20 => self.begin(),
            20..35 => {
                if self.down.len() < 8 {
                    self.down.extend(self.caller.next_ask());
                }
            }
            35..50 => self.deliver_down(),
            50..65 => self.work(),
            65..75 => {
                if self.up.len() < 8 {
                    self.up.extend(self.callee.next_answer());
                }
            }
            75..85 => {
                let told = self.up.pop_front().and_then(|answer| self.caller.hear(answer));
                told.into_iter().for_each(|told| self.told(told));
            }
            85..93 => self.read(),
            93..96 => self.cancel(),
            96..99 => {
                self.now += Duration::from_millis(self.dice.roll(30));
                let late = self.caller.tick(self.now);
                late.into_iter().for_each(|told| self.told(told));
            }
            _ => {
                if self.dice.roll(5) == 0 {
                    self.break_off();
                }
            }
        }
        self.check_invariants();
    }

    fn check_invariants(&self) {
        let (unread, said) = self.caller.books();
        assert!(unread <= WINDOW + LARGER, "{unread} bytes unread");
        assert!(said <= 3 * MOST_CALLS, "{said} things to say");
        let (calls, held, ahead) = self.callee.books();
        assert!(calls <= MOST_CALLS && held <= WINDOW + LARGER && ahead <= WINDOW + LARGER);
        let open = self.seen.values().filter(|s| s.end.is_none() && !s.cancelled).count();
        assert_eq!(open, self.caller.len(), "both know which calls are open");
    }

    /// Everybody gets on until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            self.down.extend(self.caller.next_ask());
            self.deliver_down();
            self.work();
            self.up.extend(self.callee.next_answer());
            let told = self.up.pop_front().and_then(|answer| self.caller.hear(answer));
            told.into_iter().for_each(|told| self.told(told));
            self.read();
            if self.caller.is_empty() && self.running.is_empty() && self.down.is_empty() && !self.caller.has_ask() {
                return;
            }
        }
        panic!("calls stay open: {:?}", self.caller);
    }
}

#[test]
fn every_call_ends_once_with_all_that_was_said() {
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.step();
            }
            world.settle();
            let all = world.gone.iter().chain(world.seen.values());
            for seen in all {
                assert!(seen.cancelled || seen.end.is_some(), "a call without an end");
            }
            assert_eq!(world.callee.books().0, 0, "the agent has nothing left");
        });
        if let Err(panic) = run {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
