"""Entry: reads the role from the environment and runs as a zygote or as a spawned worker.

Started by the agent as `python3 <dir>/graticule_worker`, with its socket as standard input. Knows the order of a start
and the exit codes, nothing of QGIS.

Exit codes: 0 told to quit or the agent has gone, 70 could not start, 76 the agent broke the protocol.
"""

import json
import os
import socket
import sys
import traceback

# Run as a directory, Python puts the package itself on the path. Its parent belongs there: modules called `worker` or
# `projects` at the top level would meet those of a server plugin.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from graticule_worker import descriptors, forking, isolation, process, qgis_init, settings  # noqa: E402  (after the path is right)

FIRST_OWN_DESCRIPTOR = 10


def take_stdin():
    """Move the socket away from descriptor 0, where anything that reads standard input would steal its bytes."""
    moved = descriptors.duplicate_above(0, FIRST_OWN_DESCRIPTOR)
    descriptors.put_null_on(0)
    return socket.socket(fileno=moved)


def settings_text():
    """A variable has room for some hundred pinned projects: those of a zygote come in a file, which is read once."""
    file = os.environ.pop("GRATICULE_SETTINGS_FILE", None)
    if file is None:
        return os.environ.get("GRATICULE_SETTINGS", "{}")
    with open(file, encoding="utf-8") as opened:
        text = opened.read()
    os.unlink(file)
    return text


def main():
    agent = os.getppid()
    role = os.environ.get("GRATICULE_ROLE", "")
    if role not in ("zygote", "worker"):
        raise ValueError(f"GRATICULE_ROLE is {role!r}: set it to 'zygote' or 'worker'")
    generation = os.environ.get("GRATICULE_GENERATION", "0")
    options = settings.Settings.from_json(settings_text())
    sys.stdout.reconfigure(line_buffering=True)  # a line is a log event; it must not wait for others
    sock = take_stdin()
    process.leave_terminal()
    isolation.apply(
        options.isolation, isolation.ZYGOTE_OOM_SCORE if role == "zygote" else isolation.WORKER_OOM_SCORE
    )
    process.die_with_parent(agent)  # not before: the kernel forgets it when a process becomes another user
    process.set_title(f"graticule-{role[:1]}{generation}")
    qgis_init.prepare(options)  # before the imports below, which import qgis
    if role == "zygote":
        from graticule_worker import zygote

        zygote.run(sock, options)
    else:
        from graticule_worker import worker

        worker.run_spawned(sock, options)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, json.JSONDecodeError, OSError) as error:
        print(f"graticule_worker could not start: {error}", file=sys.stderr, flush=True)
    except BaseException as error:  # whatever it is, the agent must read it: a process that ends without words helps nobody
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}"  # once more, as the agent's report has room for the last line only
        print(f"graticule_worker could not start: {said}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(forking.EXIT_START_FAILED)
