"""What a child does with inherited descriptors, without QGIS: every kind stays usable and shares nothing."""

import ctypes
import errno
import json
import os
import select
import socket
import sys
import tempfile
import traceback
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from graticule_worker import descriptors  # noqa: E402


def in_child(action):
    """What `action` returns in a forked child, through JSON."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            descriptors.isolate({0, 1, 2, write})
            os.write(write, json.dumps(action()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as answer:
        data = answer.read()
    os.waitpid(pid, 0)
    return json.loads(data)


class Isolating(unittest.TestCase):
    def test_a_file_keeps_its_offset_and_moves_alone(self):
        with tempfile.TemporaryFile() as file:  # deleted: it can only be opened again through /proc
            number = file.fileno()
            os.write(number, b"0123456789")
            os.lseek(number, 3, os.SEEK_SET)
            self.assertEqual(in_child(lambda: os.read(number, 4).decode()), "3456")
            self.assertEqual(os.lseek(number, 0, os.SEEK_CUR), 3)

    def test_a_file_keeps_its_mode(self):
        with tempfile.NamedTemporaryFile() as file:
            number = os.open(file.name, os.O_WRONLY | os.O_APPEND)
            self.addCleanup(os.close, number)

            def append():
                os.lseek(number, 0, os.SEEK_SET)
                os.write(number, b"b")
                try:
                    os.read(number, 1)
                except OSError as error:
                    return error.errno

            os.write(number, b"a")
            self.assertEqual(in_child(append), errno.EBADF)
            self.assertEqual(file.read(), b"ab")

    def test_a_socket_is_dead_and_the_parents_lives(self):
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        theirs.send(b"for the parent")

        def use():
            read = ours.recv(100).decode()
            try:
                ours.send(b"x")
            except BrokenPipeError:
                return [read, "broken"]
            return [read, "sent"]

        self.assertEqual(in_child(use), ["", "broken"])
        self.assertEqual(ours.recv(100), b"for the parent")

    def test_an_eventfd_takes_no_wakeup_from_the_parent(self):
        number = os.eventfd(0, os.EFD_NONBLOCK)
        self.addCleanup(os.close, number)
        os.eventfd_write(number, 5)

        def use():
            try:
                return os.eventfd_read(number)
            except BlockingIOError:
                os.eventfd_write(number, 2)
                return -os.eventfd_read(number)

        self.assertEqual(in_child(use), -2)
        self.assertEqual(os.eventfd_read(number), 5)

    def test_both_ends_of_a_pipe_stay_one_pipe(self):
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        self.addCleanup(os.close, write)
        os.write(write, b"parent")

        def use():
            os.write(write, b"child")
            return os.read(read, 100).decode()

        self.assertEqual(in_child(use), "child")
        self.assertEqual(os.read(read, 100), b"parent")

    def test_epoll_and_inotify_are_fresh(self):
        poll = select.epoll()
        self.addCleanup(poll.close)
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        self.addCleanup(os.close, write)
        poll.register(read, select.EPOLLIN)
        os.write(write, b"x")
        libc = ctypes.CDLL(None)
        watch = libc.inotify_init1(os.O_NONBLOCK)
        self.addCleanup(os.close, watch)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        libc.inotify_add_watch(watch, folder.name.encode(), 0x100)
        open(os.path.join(folder.name, "created"), "w").close()

        def use():
            try:
                seen = len(os.read(watch, 1000))
            except BlockingIOError:
                seen = 0
            return [poll.poll(0), seen, os.readlink(f"/proc/self/fd/{watch}")]

        self.assertEqual(in_child(use), [[], 0, "anon_inode:inotify"])
        self.assertEqual(len(poll.poll(0)), 1)
        self.assertGreater(len(os.read(watch, 1000)), 0)

    def test_those_kept_and_folders_and_devices(self):
        folder = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        null = os.open("/dev/null", os.O_RDWR)
        self.addCleanup(os.close, folder)
        self.addCleanup(os.close, null)
        listed, written = in_child(lambda: [len(os.listdir(folder)), os.write(null, b"x")])
        self.assertGreater(listed, 3)
        self.assertEqual(written, 1)


if __name__ == "__main__":
    unittest.main()
