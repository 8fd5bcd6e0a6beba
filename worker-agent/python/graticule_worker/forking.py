"""Forks a child that belongs to our own parent, and turns it into a process that shares no state with us.

Forked twice: when the process between ends, the kernel gives the worker to the nearest subreaper, the agent. Knows
processes and descriptors, nothing of QGIS or of the protocol.
"""

import os
import random
import struct
import sys
import tempfile
import traceback

from . import descriptors, isolation, process

EXIT_START_FAILED = 70
_PID = struct.Struct("!i")


class Pipe:
    """A pipe whose ends are closed once, whoever closes them."""

    def __init__(self):
        self.read, self.write = os.pipe()

    def close_read(self):
        if self.read is not None:
            os.close(self.read)
            self.read = None

    def close_write(self):
        if self.write is not None:
            os.close(self.write)
            self.write = None

    def close(self):
        self.close_read()
        self.close_write()


class Waiting:
    """A forked worker that already belongs to the agent and waits for the word to start."""

    def __init__(self, pid, go):
        self.pid = pid
        self._go = go

    def start(self):
        """One that has died meanwhile is the agent's to notice: it is the agent's child."""
        try:
            os.write(self._go.write, b"g")
        except BrokenPipeError:
            pass

    def close(self):
        """Without `start` before it, the worker ends."""
        self._go.close()


def fork_away(become):
    """Fork a process that runs `become(wait)` and is no child of ours. `become` gets the reading end on which it must
    wait for its start. Raises OSError when the machine has no room for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    report = Pipe()
    try:
        go = Pipe()
    except OSError:
        report.close()
        raise
    try:
        between = os.fork()
        if between == 0:
            _between(report, go, become)
        report.close_write()
        told = os.read(report.read, _PID.size)
        # It leaves its child to the agent in the moment in which it ends, not before.
        os.waitpid(between, 0)
        pid = _PID.unpack(told)[0] if len(told) == _PID.size else 0
        if pid <= 0:
            raise OSError(-pid, os.strerror(-pid) if pid else "the process between died")
    except OSError:
        go.close()
        raise
    finally:
        report.close()
    go.close_read()
    return Waiting(pid, go)


def _between(report, go, become):
    """Tell the pid of the worker, or why there is none, and end."""
    try:
        try:
            pid = os.fork()
        except OSError as error:
            pid = -(error.errno or 1)
        if pid == 0:
            report.close()
            go.close_write()
            _run(become, go.read)
        os.write(report.write, _PID.pack(pid))
    finally:
        os._exit(0)


def _run(become, wait):
    try:
        become(wait)
    except BaseException:  # nothing may unwind into the zygote's code, which this process still has on its stack
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(EXIT_START_FAILED)


def settle(wait, agent, channel, output, tmpdir):
    """Make a fresh child its own: descriptors, session, temporary folder, random numbers. Returns when the agent is its
    parent and wants it to start. `output` becomes descriptors 1 and 2; `channel` stays as it is."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    descriptors.put_null_on(0)
    process.leave_terminal()
    isolation.raise_oom_score(isolation.WORKER_OOM_SCORE - isolation.ZYGOTE_OOM_SCORE)
    # Siblings go through the same sequence of temporary names.
    os.makedirs(tmpdir, mode=0o700, exist_ok=True)
    os.environ["TMPDIR"] = tmpdir
    tempfile.tempdir = None
    random.seed()
    descriptors.isolate({0, 1, 2, channel, wait})
    if not os.read(wait, 1):
        os._exit(0)  # the zygote has gone before the agent has heard of us
    os.close(wait)
    process.die_with_parent(agent)
