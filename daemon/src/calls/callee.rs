//! The end of a stream that is called: what runs, and what of the answers may be sent.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tonic::Code;

use super::{Answer, Ask, End, MOST_CALLS, MOST_MESSAGE, MOST_REQUEST, WINDOW, weight};

/// What the one who carries out calls has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Begin with it.
    Start {
        /// Whose messages and end are to be told.
        id: u64,
        /// gRPC's path of the method.
        method: String,
        /// The request message.
        request: Bytes,
        /// For how long the answer is awaited.
        patience: Duration,
    },
    /// Let it be.
    Stop(u64),
}

/// What becomes of a message that is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It goes out in its turn.
    Accepted,
    /// There is no room: offer it again when some has been made.
    Later(Bytes),
    /// Nobody wants it any more.
    Over,
}

/// The calls of one stream.
#[derive(Debug, Default)]
pub struct Callee {
    calls: BTreeMap<u64, Call>,
    /// Ends of calls that were not begun.
    refused: VecDeque<(u64, End)>,
    /// Whose turn it was; the next one that has something to say goes after it.
    turn: u64,
    last: u64,
}

#[derive(Debug, Default)]
struct Call {
    /// Messages that have not been sent.
    waiting: VecDeque<Bytes>,
    held: usize,
    /// What was sent and not taken, by weight.
    ahead: usize,
    end: Option<End>,
}

impl Call {
    fn may_send(&self) -> bool {
        match self.waiting.front() {
            Some(message) => self.ahead == 0 || self.ahead.saturating_add(weight(message)) <= WINDOW,
            None => self.end.is_some(),
        }
    }
}

impl Callee {
    /// Hears the caller.
    pub fn hear(&mut self, ask: Ask) -> Option<Order> {
        match ask {
            Ask::Call {
                id,
                method,
                request,
                patience,
            } => {
                let problem = if id <= self.last {
                    Some((Code::InvalidArgument, "the number of this call was given before"))
                } else if self.calls.len() >= MOST_CALLS {
                    Some((Code::ResourceExhausted, "this agent has too many calls open"))
                } else if request.len() > MOST_REQUEST {
                    Some((Code::ResourceExhausted, "the request is too large"))
                } else {
                    None
                };
                if let Some((code, text)) = problem {
                    // Nobody who keeps the contract comes here, so nobody is owed more than the latest.
                    self.refused.truncate(MOST_CALLS - 1);
                    self.refused.push_front((id, End::failed(code, text)));
                    return None;
                }
                self.last = id;
                self.calls.insert(id, Call::default());
                Some(Order::Start {
                    id,
                    method,
                    request,
                    patience,
                })
            }
            Ask::Cancel(id) => self.calls.remove(&id).map(|_| Order::Stop(id)),
            Ask::Taken(id, bytes) => {
                if let Some(call) = self.calls.get_mut(&id) {
                    call.ahead = call.ahead.saturating_sub(bytes);
                }
                None
            }
        }
    }

    /// A call has a message for its caller. One that is too large ends the call.
    pub fn offer(&mut self, id: u64, message: Bytes) -> Offer {
        let Some(call) = self.calls.get_mut(&id) else {
            return Offer::Over;
        };
        if call.end.is_some() {
            return Offer::Over;
        }
        if message.len() > MOST_MESSAGE {
            let text = format!(
                "a message of the answer has {} bytes, at most {MOST_MESSAGE} can be carried; ask the agent itself",
                message.len()
            );
            call.end = Some(End::failed(Code::ResourceExhausted, text));
            return Offer::Over;
        }
        if call.held > 0 && call.held.saturating_add(weight(&message)) > WINDOW {
            return Offer::Later(message);
        }
        call.held += weight(&message);
        call.waiting.push_back(message);
        Offer::Accepted
    }

    /// A call has ended; what it said before still goes out before that.
    pub fn end(&mut self, id: u64, end: End) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.end.get_or_insert(end);
        }
    }

    /// Takes what is to be sent next: one message or end, of each call in its turn.
    pub fn next_answer(&mut self) -> Option<Answer> {
        if let Some((id, end)) = self.refused.pop_back() {
            return Some(Answer::End(id, end));
        }
        let id = self.whose_turn()?;
        self.turn = id;
        let call = self.calls.get_mut(&id)?;
        if let Some(message) = call.waiting.pop_front() {
            call.held -= weight(&message);
            call.ahead += weight(&message);
            return Some(Answer::Message(id, message));
        }
        let end = self.calls.remove(&id)?.end?;
        Some(Answer::End(id, end))
    }

    /// Whether there is something to send.
    #[must_use]
    pub fn has_answer(&self) -> bool {
        !self.refused.is_empty() || self.whose_turn().is_some()
    }

    fn whose_turn(&self) -> Option<u64> {
        let ready = |(id, call): (&u64, &Call)| call.may_send().then_some(*id);
        let after = self.calls.range(self.turn.saturating_add(1)..).find_map(ready);
        after.or_else(|| self.calls.range(..=self.turn).find_map(ready))
    }

    /// The stream is gone: nothing of it counts any more. A new one begins.
    pub fn lost(&mut self) -> Vec<u64> {
        std::mem::take(self).calls.into_keys().collect()
    }

    /// The most bytes that any call holds back, and the most that any has sent ahead, for the simulation.
    #[cfg(test)]
    pub(super) fn books(&self) -> (usize, usize, usize) {
        let held = self.calls.values().map(|call| call.held).max().unwrap_or(0);
        let ahead = self.calls.values().map(|call| call.ahead).max().unwrap_or(0);
        (self.calls.len(), held, ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: u64) -> Ask {
        Ask::Call {
            id,
            method: "/x/Y".to_owned(),
            request: Bytes::new(),
            patience: Duration::from_secs(1),
        }
    }

    fn bytes(n: usize) -> Bytes {
        Bytes::from(vec![7; n])
    }

    #[test]
    fn messages_go_out_in_order_and_the_end_last() {
        let mut callee = Callee::default();
        assert!(matches!(callee.hear(call(1)), Some(Order::Start { id: 1, .. })));
        assert!(!callee.has_answer());
        assert_eq!(callee.offer(1, bytes(1)), Offer::Accepted);
        assert_eq!(callee.offer(1, bytes(2)), Offer::Accepted);
        callee.end(1, End::well());
        assert_eq!(callee.offer(1, bytes(3)), Offer::Over);
        assert_eq!(callee.next_answer(), Some(Answer::Message(1, bytes(1))));
        assert_eq!(callee.next_answer(), Some(Answer::Message(1, bytes(2))));
        assert_eq!(callee.next_answer(), Some(Answer::End(1, End::well())));
        assert_eq!(callee.next_answer(), None);
        assert_eq!(callee.offer(1, bytes(3)), Offer::Over);
    }

    #[test]
    fn no_more_than_a_window_goes_ahead_of_the_reader_and_another_call_is_not_held_up() {
        let mut callee = Callee::default();
        callee.hear(call(1));
        callee.hear(call(2));
        assert_eq!(callee.offer(1, bytes(WINDOW)), Offer::Accepted);
        assert_eq!(callee.offer(1, bytes(9)), Offer::Later(bytes(9)));
        assert_eq!(callee.next_answer(), Some(Answer::Message(1, bytes(WINDOW))));
        assert_eq!(callee.offer(1, bytes(9)), Offer::Accepted);
        assert_eq!(callee.offer(2, bytes(5)), Offer::Accepted);
        assert_eq!(callee.next_answer(), Some(Answer::Message(2, bytes(5))));
        assert!(!callee.has_answer(), "the window of the first is full");
        callee.hear(Ask::Taken(1, WINDOW + 32));
        assert_eq!(callee.next_answer(), Some(Answer::Message(1, bytes(9))));
    }

    #[test]
    fn calls_take_turns() {
        let mut callee = Callee::default();
        for id in 1..=3 {
            callee.hear(call(id));
            callee.offer(id, bytes(1));
            callee.offer(id, bytes(1));
        }
        let order = std::iter::from_fn(|| callee.next_answer()).map(|answer| match answer {
            Answer::Message(id, _) | Answer::End(id, _) => id,
        });
        assert_eq!(order.collect::<Vec<_>>(), [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let mut callee = Callee::default();
        callee.hear(call(1));
        assert_eq!(callee.offer(1, bytes(MOST_MESSAGE + 1)), Offer::Over);
        let ended = callee.next_answer();
        assert!(matches!(ended, Some(Answer::End(1, end)) if end.code == i32::from(Code::ResourceExhausted)));
        for id in 2..(2 + MOST_CALLS as u64) {
            assert!(callee.hear(call(id)).is_some());
        }
        assert_eq!(callee.hear(call(1000)), None);
        assert!(matches!(callee.next_answer(), Some(Answer::End(1000, end)) if end.code == 8));
        assert_eq!(callee.hear(call(3)), None, "a number that was given before");
        assert!(matches!(callee.next_answer(), Some(Answer::End(3, end)) if end.code == 3));
    }

    #[test]
    fn a_cancelled_call_is_stopped_and_says_nothing_more() {
        let mut callee = Callee::default();
        callee.hear(call(1));
        callee.offer(1, bytes(1));
        assert_eq!(callee.hear(Ask::Cancel(1)), Some(Order::Stop(1)));
        assert_eq!(callee.hear(Ask::Cancel(1)), None);
        assert!(!callee.has_answer());
        callee.hear(call(2));
        assert_eq!(callee.lost(), [2]);
        assert!(callee.hear(call(1)).is_some(), "a new stream counts anew");
    }
}
