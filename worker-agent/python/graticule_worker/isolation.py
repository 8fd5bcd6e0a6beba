"""What a zygote or worker gives up before QGIS runs a line in it. Forked workers inherit all of it.

Nothing here can be taken back: that is the point. Knows Linux, nothing of QGIS or of the protocol.
"""

import ctypes
import os
import resource
import signal
import sys

ZYGOTE_OOM_SCORE = 300
WORKER_OOM_SCORE = 500
"""What is added to the agent's `oom_score_adj`. When memory runs out, the kernel's killer takes a worker before the
zygote that makes new ones, and both before the agent."""

_LARGEST_OOM_SCORE = 1000
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = 64
"""More than any kernel knows."""
_libc = ctypes.CDLL(None, use_errno=True)


def apply(wanted, oom_score):
    """Give up what `wanted`, a settings.Isolation, and the rules of the house say. Raises OSError, saying what failed."""
    # A file over its limit is an error for who writes it, as a full disk would be, and not the end of the process.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _limit(resource.RLIMIT_CORE, 0)
    if wanted.open_files:
        _limit(resource.RLIMIT_NOFILE, wanted.open_files)
    if wanted.file_size:
        _limit(resource.RLIMIT_FSIZE, wanted.file_size)
    raise_oom_score(oom_score)
    _drop_bounding_set()  # takes a capability, so it comes first
    if wanted.user is not None:
        _become(wanted.user)
    _drop_capabilities()
    _prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)
    if wanted.user is not None:
        # The kernel hides a process that has changed its user from that user: it could not read its own memory use.
        _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, 1)
        _check_reach(wanted.user)


def raise_oom_score(by):
    """Make this process a better choice for the kernel when memory runs out."""
    path = "/proc/self/oom_score_adj"
    try:
        with open(path, encoding="ascii") as file:
            score = int(file.read())
        with open(path, "w", encoding="ascii") as file:
            file.write(str(min(score + by, _LARGEST_OOM_SCORE)))
    except OSError as error:  # a hardened /proc: the kernel then chooses as it likes
        print(f"cannot write {path}: {error}", file=sys.stderr, flush=True)


def _limit(what, value):
    """Lower a limit, for good. One that is lower already stays."""
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(what, (value, value))


def _become(user):
    try:
        os.setgroups(user.groups)
        os.setgid(user.gid)
        os.setuid(user.uid)
    except PermissionError as error:
        raise OSError(
            f"cannot become user {user.name} (worker.isolation.user): the agent needs the capabilities CAP_SETUID and"
            " CAP_SETGID for that"
        ) from error


def _check_reach(user):
    """What the agent has made for this process lies in its runtime directory; the folders above may be closed."""
    for path, mode in ((os.environ.get("TMPDIR", "/tmp"), os.R_OK | os.W_OK | os.X_OK), (__file__, os.R_OK)):
        if not os.access(path, mode):
            raise OSError(f"user {user.name} cannot reach {path}: set worker.runtime_dir to a folder that it may enter")


def _drop_bounding_set():
    for capability in range(_CAPABILITIES):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            # The kernel knows no more of them, or we may not; then `no_new_privs` alone keeps programs from gaining any.
            return


def _drop_capabilities():
    """Permitted, effective and inheritable, and with them the ambient ones."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _prctl(name, option, value):
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({name})")
