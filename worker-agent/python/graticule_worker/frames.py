"""Frames: a length, a kind and a payload, as `docs/worker-protocol.md` draws them.

`Decoder` is fed bytes as they come and knows no socket; `Channel` writes frames to one.
"""

import json
import struct

MAX_PAYLOAD = 1 << 20
"""The largest payload of a frame, in bytes."""

CHUNK = 256 * 1024
"""The usual payload of a body frame, in bytes."""

HEAD, BODY, END = b"H"[0], b"B"[0], b"E"[0]

_PREFIX = struct.Struct(">IB")


class FrameError(Exception):
    """The bytes are no frames of this protocol. The only remedy is to close the socket."""


def encode(kind, payload):
    """One frame. `payload` is bytes for a body, an object that JSON can tell for a head and an end."""
    if kind != BODY:
        payload = json.dumps(payload, separators=(",", ":")).encode()
    return prefix(kind, len(payload)) + bytes(payload)


def prefix(kind, length):
    """The five bytes before a payload of that length."""
    if length > MAX_PAYLOAD:
        raise FrameError(f"a payload of {length} bytes; at most {MAX_PAYLOAD} fit in a frame")
    if kind == BODY and length == 0:
        raise FrameError("a body frame without a byte")
    return _PREFIX.pack(length, kind)


class Decoder:
    """Turns bytes, however they are cut, into (kind, payload): bytes for a body, a dict for a head and an end."""

    def __init__(self):
        self._buffer = bytearray()

    def feed(self, data):
        """All frames that are complete with `data`. Raises FrameError, after which the decoder is of no more use."""
        self._buffer += data
        frames, at = [], 0
        while len(self._buffer) - at >= _PREFIX.size:
            length, kind = _PREFIX.unpack_from(self._buffer, at)
            # Both are checked before the payload is there: a wrong length must not make us wait or collect.
            if kind not in (HEAD, BODY, END):
                raise FrameError(f"unknown frame kind 0x{kind:02x}")
            prefix(kind, length)
            start, after = at + _PREFIX.size, at + _PREFIX.size + length
            if len(self._buffer) < after:
                break
            frames.append((kind, _payload(kind, bytes(self._buffer[start:after]))))
            at = after
        del self._buffer[:at]
        return frames

    def pending(self):
        """How many bytes wait for the rest of their frame."""
        return len(self._buffer)


def _payload(kind, data):
    if kind == BODY:
        return data
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a head or end frame is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise FrameError("a head or end frame is no JSON object")
    return value


class Channel:
    """The writing end of a socket. Blocks while the reader is slow: that is the back-pressure."""

    def __init__(self, sock):
        self.socket = sock

    def head(self, value):
        self.socket.sendall(encode(HEAD, value))

    def end(self, value):
        self.socket.sendall(encode(END, value))

    def body(self, data):
        """`data` as one frame; nothing when it is empty."""
        if not data:
            return
        first = prefix(BODY, len(data))
        # One system call for both, and no copy of the payload to put the prefix before it.
        sent = self.socket.sendmsg([first, data])
        if sent < len(first) + len(data):
            rest = first[sent:]
            if rest:
                self.socket.sendall(rest)
            self.socket.sendall(memoryview(data)[max(0, sent - len(first)) :])
