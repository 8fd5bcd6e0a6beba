//! Any bytes on a worker's socket, cut into pieces of any size.
//!
//! The decoder must not panic, must see the same frames and the same error however the bytes were cut, and what it saw
//! must encode to the bytes that came.

#![no_main]

use libfuzzer_sys::fuzz_target;
use worker_agent::core::frame::{Decoder, Frame, FrameError, MAX_PAYLOAD, encode};

/// All frames and the error at which the decoder stopped, when fed in pieces of the given sizes, over and over.
fn decode(bytes: &[u8], sizes: &[u8]) -> (Vec<Frame>, Option<FrameError>) {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    let mut sizes = sizes.iter().cycle();
    let mut rest = bytes;
    loop {
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        if rest.is_empty() {
            return (frames, None);
        }
        let size = sizes.next().map_or(rest.len(), |size| usize::from(*size) + 1);
        let (piece, after) = rest.split_at(size.min(rest.len()));
        decoder.push(piece);
        rest = after;
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((count, data)) = data.split_first() else {
        return;
    };
    let (sizes, bytes) = data.split_at(usize::from(count % 8).min(data.len()));
    let (frames, error) = decode(bytes, &[]);
    assert_eq!(decode(bytes, sizes), (frames.clone(), error));
    assert_eq!(decode(bytes, &[0]), (frames.clone(), error));
    let mut read = 0;
    for frame in frames {
        assert!(frame.payload.len() <= MAX_PAYLOAD);
        let encoded = encode(frame.kind, &frame.payload);
        assert_eq!(&encoded[..], &bytes[read..read + encoded.len()]);
        read += encoded.len();
    }
});
