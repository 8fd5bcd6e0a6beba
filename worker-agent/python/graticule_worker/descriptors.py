"""What a forked child does with the descriptors it was born with, so that it shares no state with parent or siblings.

A fork shares the open file *description*: an offset moved by one process is moved for all, a byte read from a socket is
gone for all, a wake-up taken from an eventfd is lost to its owner. QGIS in several children then answers with wrong
images and status 200. So each inherited descriptor is replaced by one of its own kind before QGIS is touched.

Knows Linux descriptors, nothing of QGIS or of the protocol.
"""

import ctypes
import fcntl
import os
import select
import socket
import stat
import sys

_IN_NONBLOCK = os.O_NONBLOCK
_IN_CLOEXEC = os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)


def duplicate_above(descriptor, lowest):
    """A second descriptor for the same thing, numbered `lowest` or higher, closed on exec."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)


def put_null_on(descriptor):
    """Put /dev/null on a number, whatever was there."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, descriptor, inheritable=descriptor <= 2)
    if null != descriptor:
        os.close(null)


def isolate(keep):
    """Replace every open descriptor but those in `keep`. Raises OSError when one cannot be made safe."""
    pipes = {}
    for descriptor in _open_descriptors():
        if descriptor not in keep:
            _isolate_one(descriptor, pipes)
    for pair in pipes.values():
        for end in pair:
            os.close(end)


def _open_descriptors():
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    # The listing's own descriptor is among them and closed by now.
    return [number for number in numbers if _is_open(number)]


def _is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _isolate_one(descriptor, pipes):
    status = os.fstat(descriptor)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if stat.S_ISREG(status.st_mode):
        _reopen(descriptor, flags)
    elif stat.S_ISDIR(status.st_mode):
        _replace(descriptor, os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    elif stat.S_ISSOCK(status.st_mode):
        _replace(descriptor, _dead_socket())
    elif stat.S_ISFIFO(status.st_mode):
        # Both ends of one pipe in the parent become both ends of one pipe in the child.
        if status.st_ino not in pipes:
            pipes[status.st_ino] = os.pipe()
        read, write = pipes[status.st_ino]
        end = read if flags & os.O_ACCMODE == os.O_RDONLY else write
        _replace(descriptor, duplicate_above(end, 3))
        _set_nonblocking(descriptor, flags)
    elif stat.S_ISCHR(status.st_mode):
        pass  # /dev/null, /dev/urandom: no state to share
    else:
        _isolate_anonymous(descriptor, flags)


def _isolate_anonymous(descriptor, flags):
    kind = os.readlink(f"/proc/self/fd/{descriptor}")
    if "eventfd" in kind:
        _replace(descriptor, os.eventfd(0, os.EFD_CLOEXEC))
    elif "inotify" in kind:
        fresh = _libc.inotify_init1(_IN_CLOEXEC | (flags & _IN_NONBLOCK))
        if fresh < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        _replace(descriptor, fresh)
    elif "eventpoll" in kind:
        poll = select.epoll()
        _replace(descriptor, duplicate_above(poll.fileno(), 3))
        poll.close()
    elif "timerfd" in kind or "signalfd" in kind:
        # Whoever reads it finds nothing, as with a timer that is not armed. An eventfd does that as well.
        _replace(descriptor, os.eventfd(0, os.EFD_CLOEXEC))
    else:
        print(f"descriptor {descriptor} ({kind}) is of an unknown kind and stays shared", file=sys.stderr, flush=True)
        return
    _set_nonblocking(descriptor, flags)


def _reopen(descriptor, flags):
    offset = os.lseek(descriptor, 0, os.SEEK_CUR)
    kept = flags & (os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | getattr(os, "O_NOATIME", 0))
    # Through /proc also a file that was deleted or renamed is opened again, the very same one.
    fresh = os.open(f"/proc/self/fd/{descriptor}", kept | os.O_CLOEXEC)
    os.lseek(fresh, offset, os.SEEK_SET)
    _replace(descriptor, fresh)


def _dead_socket():
    """A socket whose peer has gone: reads end, writes fail, so that its user makes a new connection."""
    ours, theirs = socket.socketpair()
    theirs.close()
    return ours.detach()


def _replace(descriptor, fresh):
    inheritable = os.get_inheritable(descriptor)
    os.dup2(fresh, descriptor, inheritable=inheritable)
    os.close(fresh)


def _set_nonblocking(descriptor, flags):
    os.set_blocking(descriptor, not flags & os.O_NONBLOCK)
