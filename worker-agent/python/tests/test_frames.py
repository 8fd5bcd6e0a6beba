"""Frames: what is written can be read, however it is cut, and what is no frame is refused."""

import json
import os
import random
import socket
import struct
import sys
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from graticule_worker import frames  # noqa: E402


class Decoding(unittest.TestCase):
    MESSAGES = [
        (frames.HEAD, {"op": "ping", "id": "p-1", "echo": "ä\u2028\x00"}),
        (frames.BODY, b"\x00"),
        (frames.BODY, bytes(range(256)) * 1024),
        (frames.END, {}),
        (frames.BODY, b"B" * frames.MAX_PAYLOAD),
    ]

    def encoded(self):
        return b"".join(frames.encode(kind, payload) for kind, payload in self.MESSAGES)

    def test_layout_is_length_kind_payload(self):
        self.assertEqual(frames.encode(frames.BODY, b"abc"), b"\x00\x00\x00\x03Babc")
        self.assertEqual(frames.encode(frames.END, {"a": 1}), b'\x00\x00\x00\x07E{"a":1}')

    def test_whole(self):
        decoder = frames.Decoder()
        self.assertEqual(decoder.feed(self.encoded()), self.MESSAGES)
        self.assertEqual(decoder.pending(), 0)

    def test_cut_anywhere(self):
        data = self.encoded()
        for seed in range(50):
            rng, decoder, got, at = random.Random(seed), frames.Decoder(), [], 0
            while at < len(data):
                step = rng.choice([1, 2, 5, 100, 65536, 1 << 20])
                got += decoder.feed(data[at : at + step])
                at += step
            self.assertEqual(got, self.MESSAGES, f"seed {seed}")

    def test_byte_by_byte(self):
        data = b"".join(frames.encode(*message) for message in self.MESSAGES[:2] + self.MESSAGES[3:4])
        decoder, got = frames.Decoder(), []
        for byte in data:
            got += decoder.feed(bytes([byte]))
        self.assertEqual(got, self.MESSAGES[:2] + self.MESSAGES[3:4])

    def refused(self, data):
        with self.assertRaises(frames.FrameError):
            frames.Decoder().feed(data)

    def test_too_long_is_refused_before_the_payload_comes(self):
        self.refused(struct.pack(">IB", frames.MAX_PAYLOAD + 1, frames.BODY))
        self.refused(b"\xff\xff\xff\xffH")

    def test_no_frames(self):
        self.refused(b"\x00\x00\x00\x02X{}")
        self.refused(b"GET / HTTP/1.1\r\n")
        self.refused(b"\x00\x00\x00\x00B")
        for payload in (b"", b"{", b"[]", b"1", b"\xff\xfe", b"[" * 100_000):
            self.refused(struct.pack(">IB", len(payload), frames.HEAD) + payload)

    def test_garbage_never_raises_anything_else(self):
        for seed in range(500):
            rng = random.Random(seed)
            data = bytearray(self.encoded()[:400]) if rng.random() < 0.5 else bytearray(rng.randbytes(200))
            for _ in range(rng.randrange(1, 5)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            try:
                frames.Decoder().feed(bytes(data))
            except frames.FrameError:
                pass

    def test_writing_is_bounded_as_well(self):
        with self.assertRaises(frames.FrameError):
            frames.encode(frames.BODY, b"x" * (frames.MAX_PAYLOAD + 1))
        with self.assertRaises(frames.FrameError):
            frames.encode(frames.HEAD, {"x": "y" * frames.MAX_PAYLOAD})


class Writing(unittest.TestCase):
    def test_a_body_larger_than_the_socket_takes_at_once(self):
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        body = random.Random(1).randbytes(frames.MAX_PAYLOAD)
        channel = frames.Channel(ours)

        def write():
            channel.head({"a": 1})
            channel.body(body)
            channel.body(b"")
            channel.end({})
            ours.close()

        writer = threading.Thread(target=write)
        writer.start()
        decoder, got = frames.Decoder(), []
        while data := theirs.recv(1000):
            got += decoder.feed(data)
        writer.join()
        theirs.close()
        self.assertEqual(got, [(frames.HEAD, {"a": 1}), (frames.BODY, body), (frames.END, {})])

    def test_json_is_utf8(self):
        data = frames.encode(frames.HEAD, {"name": "Zürich"})
        self.assertEqual(json.loads(data[5:].decode("utf-8")), {"name": "Zürich"})


if __name__ == "__main__":
    unittest.main()
