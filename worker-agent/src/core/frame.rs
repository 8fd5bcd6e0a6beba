//! Frames of the worker protocol (`docs/worker-protocol.md`): how bytes become messages and back. It reads no socket and
//! knows nothing of what the messages mean.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// The largest payload of one frame, in bytes.
pub const MAX_PAYLOAD: usize = 1024 * 1024;

/// The size of body frames that the agent sends, in bytes.
pub const BODY_CHUNK: usize = 256 * 1024;

const PREFIX: usize = 5;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A JSON object that opens a message.
    Head,
    /// A piece of a body.
    Body,
    /// A JSON object that closes a message.
    End,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::Head => b'H',
            Self::Body => b'B',
            Self::End => b'E',
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        match byte {
            b'H' => Some(Self::Head),
            b'B' => Some(Self::Body),
            b'E' => Some(Self::End),
            _ => None,
        }
    }
}

/// One message or piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: Kind,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Bytes,
}

/// A peer that does not speak the protocol; its socket is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length goes beyond [`MAX_PAYLOAD`].
    #[error("a frame of {0} bytes, where {MAX_PAYLOAD} are allowed")]
    TooLong(usize),
    /// None of the known kinds.
    #[error("a frame of the unknown kind 0x{0:02x}")]
    UnknownKind(u8),
}

/// Puts frames together from bytes that come in pieces of any size.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The buffer to read into directly, behind what is already there.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Gives the next whole frame, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// As soon as a frame's first five bytes are wrong, before its payload is waited for.
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator could not tell `not yet` from `never again`"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((prefix, _)) = self.buffer.split_at_checked(PREFIX) else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]) as usize;
        let kind = Kind::of(prefix[4]).ok_or(FrameError::UnknownKind(prefix[4]))?;
        if length > MAX_PAYLOAD {
            return Err(FrameError::TooLong(length));
        }
        if self.buffer.len() < PREFIX + length {
            self.buffer.reserve(PREFIX + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(Frame {
            kind,
            payload: self.buffer.split_to(length).freeze(),
        }))
    }
}

/// Writes one frame.
///
/// # Panics
/// When the payload is longer than [`MAX_PAYLOAD`]: whoever makes a message bounds it.
#[must_use]
pub fn encode(kind: Kind, payload: &[u8]) -> Bytes {
    assert!(
        payload.len() <= MAX_PAYLOAD,
        "a frame's payload is bounded by its maker"
    );
    let mut frame = BytesMut::with_capacity(PREFIX + payload.len());
    frame.put_u32(u32::try_from(payload.len()).expect("bounded above"));
    frame.put_u8(kind.byte());
    frame.put_slice(payload);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bad_prefix_is_refused_before_its_payload_comes() {
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0, 0, 1, b'X']);
        assert_eq!(decoder.next(), Err(FrameError::UnknownKind(b'X')));
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0x10, 0, 1, b'B']);
        assert_eq!(decoder.next(), Err(FrameError::TooLong(MAX_PAYLOAD + 1)));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(
            frames in prop::collection::vec((0..3_u8, prop::collection::vec(any::<u8>(), 0..300)), 0..8),
            step in 1..64_usize,
        ) {
            let kinds = [Kind::Head, Kind::Body, Kind::End];
            let sent: Vec<Frame> = frames
                .into_iter()
                .map(|(kind, payload)| Frame { kind: kinds[kind as usize], payload: payload.into() })
                .collect();
            let bytes: Vec<u8> = sent.iter().flat_map(|f| encode(f.kind, &f.payload)).collect();
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(step) {
                decoder.push(piece);
                while let Some(frame) = decoder.next().unwrap() {
                    got.push(frame);
                }
            }
            prop_assert_eq!(got, sent);
        }
    }
}
