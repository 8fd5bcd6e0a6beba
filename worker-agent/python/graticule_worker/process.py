"""What a process does to itself and asks about itself: its session, its parent's death, its memory and its threads.

Linux only. Knows nothing of QGIS or of the protocol.
"""

import ctypes
import os
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_libc = ctypes.CDLL(None, use_errno=True)


def leave_terminal():
    """Enter a session of our own, so that Ctrl-C reaches the agent alone and the agent decides how we end."""
    if os.getsid(0) != os.getpid():
        try:
            os.setsid()
        except PermissionError:
            pass  # already the leader of a process group; the agent started us in one of our own


def die_with_parent(parent):
    """Ask the kernel to kill this process when the parent dies. `parent` is who it must be: OSError when it is another.

    The kernel means the *thread* that is our parent: the agent must start us from one that lives as long as itself.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # It may have died before the call, and then nobody would ever tell us.
    if os.getppid() != parent:
        raise OSError(f"the parent is process {os.getppid()}, not the agent {parent}: it has gone, or is no subreaper")


def set_title(name):
    """The name that `ps` and `/proc/self/comm` show, at most 15 bytes."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def threads_besides(allowed):
    """Names of this process's threads, without the main one and those in `allowed`."""
    names = []
    for tid in os.listdir("/proc/self/task"):
        if int(tid) == os.getpid():
            continue
        try:
            with open(f"/proc/self/task/{tid}/comm", encoding="utf-8", errors="replace") as comm:
                name = comm.read().strip()
        except FileNotFoundError:
            continue  # ended while we looked
        if name not in allowed:
            names.append(name)
    return sorted(names)


class PeakMemory:
    """The largest resident size since the last `reset`, in KiB; where the kernel does not let us reset it, since the start
    of this process (for a forked one: since the fork)."""

    def __init__(self):
        self._can_reset = True

    def reset(self):
        if not self._can_reset:
            return
        try:
            with open("/proc/self/clear_refs", "wb", buffering=0) as file:
                file.write(b"5")
        except OSError as error:
            self._can_reset = False
            print(f"cannot write /proc/self/clear_refs: {error}", file=sys.stderr, flush=True)

    def kb(self):
        return _proc_kb("/proc/self/status", "VmHWM:")


class PrivateMemory:
    """Private dirty memory in KiB. The kernel walks every page for it (2 to 6 ms for a QGIS process), so a value is
    kept for a while, unless the work since then was long enough to make the cost small beside it."""

    KEEP_SECONDS = 1.0
    LONG_WORK_SECONDS = 0.1

    def __init__(self):
        self._value = 0
        self._read_at = None

    def kb(self, worked):
        """`worked` is how many seconds the request took that this is asked for."""
        now = time.monotonic()
        if self._read_at is None or now - self._read_at >= self.KEEP_SECONDS or worked >= self.LONG_WORK_SECONDS:
            self._value = _proc_kb("/proc/self/smaps_rollup", "Private_Dirty:")
            self._read_at = now
        return self._value


def _proc_kb(path, key):
    try:
        with open(path, encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith(key):
                    return int(line.split()[1])
    except OSError as error:  # a hardened /proc: the numbers are missing, the map is not
        print(f"cannot read {path}: {error}", file=sys.stderr, flush=True)
    return 0
