"""Tries something in a forked child before this process does it: whether it ends well, and whether it may be done before
workers are forked, which inherit neither threads nor connections.

The child is killed afterwards with all that it has started. Knows processes, nothing of QGIS or of plugins.
"""

import json
import os
import signal
import sys
import time
import warnings

from . import process

_SETTLE = 0.05
"""Seconds until what was started in passing has ended, and what has been asked to start runs."""
_LOOK_EVERY = 0.005
_MOST_PRINTED = 16 * 1024
_MOST_TOLD = 32 * 1024
"""Bytes of the child's word. It is read when the child has ended, so that a pipe must hold it."""


class ProbeError(Exception):
    """It did not end well; the text says how."""


class Hung(ProbeError):
    """It did not end in time."""


def probe(attempt, patience, allowed_threads):
    """Calls `attempt` in a child and gives (what it returned, why it must not be done before a fork or None). Whatever it
    returns must be JSON. ProbeError when it raised, ended the process, crashed, or took longer than `patience` seconds;
    what the child has printed is then printed here."""
    read, write = os.pipe()
    printed = os.memfd_create("probe", os.MFD_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of a fork beside Qt's thread
        parent, child = os.getpid(), os.fork()
        if child == 0:
            os.close(read)
            _run(attempt, parent, write, printed, allowed_threads)
    os.close(write)
    try:
        ended = _wait(child, patience)
        status = _end(child)
        told = os.read(read, _MOST_TOLD) if ended and os.WIFEXITED(status) else b""
        try:
            return _outcome(ended, status, told, patience)
        except ProbeError:
            _print(printed)
            raise
    finally:
        os.close(read)
        os.close(printed)


def _run(attempt, parent, write, printed, allowed_threads):
    """The child. Does not return."""
    word = {}
    try:
        process.die_with_parent(parent)
        process.set_title("graticule-probe")
        process.leave_terminal()  # all that it starts is killed with it, as one group
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        before = _descriptors()
        word["result"] = attempt()
        time.sleep(_SETTLE)
        word["reason"] = _reason(process.threads_besides(allowed_threads), _descriptors() - before)
    except SystemExit as error:
        word = {"error": f"it ends the process: SystemExit({error.code!r})"}
    except BaseException as error:
        word = {"error": str(error) or type(error).__name__}
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(write, json.dumps(word).encode()[:_MOST_TOLD] + b"\n")
    finally:
        os._exit(0)


def _reason(threads, descriptors):
    if threads:
        return f"it starts threads: {', '.join(threads)}"
    return f"it opens connections: {', '.join(sorted(descriptors))}" if descriptors else None


def _descriptors():
    """What is open besides files and devices, with the numbers by which the kernel tells one from another."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the listing's own
        if not target.startswith("/"):
            found.add(target)
    return found


def _wait(child, patience):
    """Whether it has ended within so many seconds. It is not reaped."""
    give_up = time.monotonic() + patience
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= give_up:
            return False
        time.sleep(_LOOK_EVERY)
    return True


def _end(child):
    """Kill it and its group; its wait status. Until it is reaped its number is nobody else's."""
    for kill in (os.killpg, os.kill):
        try:
            kill(child, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # it had no group of its own yet; it has ended
    return os.waitpid(child, 0)[1]


def _outcome(ended, status, told, patience):
    if not ended:
        raise Hung(f"it hangs: it was not done after {patience:.3g} s")
    if os.WIFSIGNALED(status):
        raise ProbeError(f"it crashes: {signal.Signals(os.WTERMSIG(status)).name}")
    if not told.endswith(b"\n"):
        raise ProbeError(f"it ends the process with code {os.waitstatus_to_exitcode(status)}")
    word = json.loads(told)
    if "error" in word:
        raise ProbeError(word["error"])
    return word["result"], word["reason"]


def _print(printed):
    size = os.fstat(printed).st_size
    text = os.pread(printed, _MOST_PRINTED, max(0, size - _MOST_PRINTED))
    if text:
        sys.stderr.write(text.decode(errors="replace"))
        sys.stderr.flush()
