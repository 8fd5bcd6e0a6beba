"""The zygote: starts QGIS once, loads the pinned projects, and from then on does nothing but fork.

Single-threaded to the end, and it looks before every fork whether that is still so. Never serves a request and never
renders a project: what a parent has rendered, its children render wrongly.
"""

import array
import errno
import gc
import os
import socket
import sys
import time
import traceback
import warnings
from collections import Counter

from . import forking, frames, plugins, preload, process, projects, qgis_init, warming, worker
from .project_file import ProjectError

_ALLOWED_THREADS = {qgis_init.BEARER_THREAD}
_THREADS_END_WITHIN = 0.1
"""Seconds that a thread on its way out may still take before a fork is refused."""
_MOST_DESCRIPTORS = 16
_TRANSIENT = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
"""Why a fork may fail for lack of room, so that the next one may succeed."""


def run(sock, settings):
    """Be a zygote. Does not return."""
    # Python 3.12 and later warn of a fork in a process with threads. There is one, Qt's, and it is looked after.
    warnings.filterwarnings("ignore", message=r".*multi-threaded, use of fork\(\)", category=DeprecationWarning)
    qgis = qgis_init.start()
    if settings.warm_up:
        warming.throwaway_map(qgis)  # before the plugins, which would take it for a request
    loaded = plugins.Plugins(qgis, settings, _ALLOWED_THREADS)
    loaded.load_before_forks()  # before the projects, which may need them
    held = projects.Projects(qgis.server, settings)
    failed, not_preloaded = _preload(held, settings, frames.Channel(sock))
    # Objects of before the fork are never collected: collecting would write to their pages and end the sharing.
    gc.collect()
    gc.freeze()
    zygote = Zygote(sock, qgis, held, loaded)
    zygote.serve(
        {
            "event": "ready",
            "pid": os.getpid(),
            "qgis": qgis.version,
            "versions": qgis.versions(),
            "projects": held.list(),
            "failed": failed,
            "not_preloaded": not_preloaded,
            "plugins": loaded.list(),
        }
    )


def _preload(held, settings, channel):
    failed, not_preloaded = [], []
    for entry in settings.preload:
        uri = entry["uri"]
        # Told before each: when QGIS ends or hangs, the agent knows over which.
        channel.head({"event": "preloading", "uri": uri})
        try:
            reason = preload.reason_against(entry.get("file") or uri, settings) or _load(held, entry)
            if reason is not None:
                not_preloaded.append({"uri": uri, "reason": reason})
        except Exception as error:
            if not isinstance(error, ProjectError):
                traceback.print_exc()
            failed.append({"uri": uri, "message": str(error) or type(error).__name__})
    return failed, not_preloaded


def _load(held, project):
    """None when it is held now. Threads are looked for here, while it is known whose they are: every fork will be
    refused because of them."""
    before = Counter(process.threads_besides(_ALLOWED_THREADS))
    held.get(project)
    started = Counter(_threads()) - before
    if not started:
        return None
    held.unload(project["uri"])
    return f"loading it started threads, so that no worker can be forked any more: {sorted(started.elements())}"


class Zygote:
    """Answers `fork` and `quit` on the control socket."""

    def __init__(self, sock, qgis, held, loaded):
        self._socket = sock
        self._channel = frames.Channel(sock)
        self._qgis = qgis
        self._projects = held
        self._plugins = loaded
        self._agent = os.getppid()
        self._descriptors = []
        self._no_room = False

    def serve(self, ready):
        """Say `ready`, then answer until `quit` or the end of the socket. Does not return."""
        decoder = frames.Decoder()
        try:
            self._channel.head(ready)
            while data := self._receive():
                for kind, message in decoder.feed(data):
                    self._do(kind, message)
        except frames.FrameError as error:
            print(f"the agent broke the worker protocol: {error}", file=sys.stderr)
            worker.leave(worker.EXIT_PROTOCOL)
        except OSError as error:
            if not isinstance(error, ConnectionError):
                traceback.print_exc()
        worker.leave(worker.EXIT_OK)

    def _receive(self):
        """Bytes from the agent; descriptors that came with them are put aside for the `fork` they belong to."""
        size = array.array("i").itemsize
        data, ancillary, flags, _ = self._socket.recvmsg(
            frames.CHUNK, socket.CMSG_SPACE(_MOST_DESCRIPTORS * size), socket.MSG_CMSG_CLOEXEC
        )
        # No more descriptors were to be had, and those that were sent are lost.
        self._no_room = bool(flags & socket.MSG_CTRUNC)
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received = array.array("i")
                received.frombytes(payload[: len(payload) - len(payload) % size])
                self._descriptors.extend(received)
        return data

    def _do(self, kind, message):
        op = message.get("op") if kind == frames.HEAD else None
        if op == "quit":
            worker.leave(worker.EXIT_OK)
        if op != "fork":
            raise frames.FrameError(f"expected fork or quit, got {op!r}")
        mine, self._descriptors = self._descriptors[:2], self._descriptors[2:]
        number = message.get("worker")
        transient = False
        try:
            reason = self._reason_against(message, mine)
            waiting = None if reason else self._fork(number, message["tmpdir"], *mine)
        except OSError as error:
            reason, transient = f"fork failed: {error.strerror or error}", error.errno in _TRANSIENT
        finally:
            for descriptor in mine:
                os.close(descriptor)
        if reason:
            self._channel.head({"event": "refused", "worker": number, "reason": reason, "transient": transient})
            return
        # The agent learns the pid before the worker can say a word on its own channel.
        try:
            self._channel.head({"event": "forked", "worker": number, "pid": waiting.pid})
            waiting.start()
        finally:
            waiting.close()

    def _reason_against(self, message, given):
        if len(given) != 2 and self._no_room:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if len(given) != 2:
            return f"{len(given)} descriptors came with the request, 2 belong to it"
        if not message.get("tmpdir"):
            return "the request names no tmpdir"
        threads = _threads()
        return f"threads other than the allowed: {threads}" if threads else None

    def _fork(self, number, tmpdir, channel, output):
        def become(wait):
            self._socket.close()
            forking.settle(wait, self._agent, channel, output, tmpdir)
            process.set_title(f"graticule-w{number}")
            self._plugins.load_rest()
            worker.Worker(socket.socket(fileno=channel), self._qgis, self._projects, self._plugins, "fork").run()

        return forking.fork_away(become)


def _threads():
    """Threads that forbid a fork. One that is just ending gets a moment."""
    give_up = time.monotonic() + _THREADS_END_WITHIN
    while (names := process.threads_besides(_ALLOWED_THREADS)) and time.monotonic() < give_up:
        time.sleep(0.005)
    return names
