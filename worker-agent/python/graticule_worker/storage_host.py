"""Runs a handler of projects that an operator wrote: a class that looks for projects and lists them.

Started by the agent as a script. Orders come as lines of JSON on standard input, one at a time; each is answered with a line
on what was standard output. What the handler itself prints goes to the agent's log. Knows the handler's three methods, and
nothing of QGIS: a handler that wants QGIS imports it.

Exit codes: 0 the agent has gone, 70 could not start.
"""

import datetime
import importlib
import json
import math
import os
import sys

EXIT_START_FAILED = 70
FIRST_OWN_DESCRIPTOR = 10
MOST_LISTED = 100_000
LONGEST_TEXT = 4096
SUFFIXES = (".qgs", ".qgz")


class BadAnswer(Exception):
    """The handler gave back something else than it should."""


def one_line(error):
    """What an exception says, on one line."""
    text = " ".join(str(error).split())[:500]
    return text or type(error).__name__


def load(name, options, python_path):
    """The handler: an instance of the class `name`, such as `package.module.Class`."""
    sys.path[:0] = python_path
    module, _, attribute = name.rpartition(".")
    if not module:
        raise ValueError(f"handler {name!r} names no module: write it as package.module.Class")
    found = getattr(importlib.import_module(module), attribute, None)
    if found is None:
        raise ValueError(f"module {module} has no class {attribute}")
    handler = found(options)
    if not callable(getattr(handler, "look", None)):
        raise ValueError(f"class {name} has no method look(url, relative, suffix)")
    return handler


def look(handler, url, relative, suffix):
    """The project that the handler finds, as the agent wants it; None when there is none."""
    found = handler.look(url, relative, suffix)
    if found is None:
        return None
    if not isinstance(found, dict):
        raise BadAnswer(f"look() gave {type(found).__name__}, not a dict or None")
    unknown = set(found) - {"uri", "version", "file"}
    if unknown:
        raise BadAnswer(f"look() gave the key {min(map(str, unknown))!r}; known are uri, version and file")
    answer = {key: _text(found.get(key), f"look() gave a {key}") for key in ("uri", "version")}
    if found.get("file") is not None:
        file = _text(os.fspath(found["file"]), "look() gave a file")
        if not os.path.isabs(file):
            raise BadAnswer(f"look() gave the file {file!r}, not an absolute path")
        answer["file"] = file
    return answer


def listed(handler, url):
    """Every project that the handler lists, as the agent wants it."""
    if not callable(getattr(handler, "list", None)):
        raise BadAnswer("the handler has no method list(url), so its projects cannot be listed")
    entries = []
    for entry in handler.list(url):
        if len(entries) == MOST_LISTED:
            raise BadAnswer(f"list() gave more than {MOST_LISTED} projects")
        if not isinstance(entry, dict):
            raise BadAnswer(f"list() gave {type(entry).__name__}, not a dict")
        relative = _text(entry.get("relative"), "list() gave a relative").strip("/")
        answer = {"relative": relative}
        for suffix in SUFFIXES:
            if relative.endswith(suffix):
                answer = {"relative": relative[: -len(suffix)], "suffix": suffix}
        modified = _seconds(entry.get("modified"))
        if modified is not None:
            answer["modified"] = modified
        if isinstance(entry.get("bytes"), int) and entry["bytes"] >= 0:
            answer["bytes"] = entry["bytes"]
        entries.append(answer)
    return entries


def _text(value, what):
    if not isinstance(value, str) or not value or len(value) > LONGEST_TEXT or not value.isprintable():
        raise BadAnswer(f"{what} that is no text of 1 to {LONGEST_TEXT} printable characters: {value!r:.100}")
    return value


def _seconds(modified):
    """Seconds since 1970, from a number or a datetime."""
    if modified is None:
        return None
    if isinstance(modified, datetime.datetime):
        modified = modified.timestamp()
    if isinstance(modified, bool) or not isinstance(modified, (int, float)) or not math.isfinite(modified) or modified < 0:
        raise BadAnswer(f"list() gave modified as {modified!r}, not a datetime or seconds since 1970")
    return float(modified)


def answer(handler, order):
    """The answer to one order."""
    try:
        if order["call"] == "look":
            return {"found": look(handler, order["url"], order["relative"], order["suffix"])}
        return {"listed": listed(handler, order["url"])}
    except BadAnswer as error:
        return {"error": f"the handler is wrong: {one_line(error)}"}
    except Exception as error:  # whatever the handler raises is its answer
        return {"error": one_line(error)}


def serve(handler, orders, answers):
    """Answers orders until there are no more."""
    for line in orders:
        order = json.loads(line)
        said = dict(answer(handler, order), id=order["id"])
        answers.write(json.dumps(said).encode() + b"\n")
        answers.flush()


def take_streams():
    """The agent's ends, moved away from where a handler's own input and output are."""
    from graticule_worker import descriptors

    orders = os.fdopen(descriptors.duplicate_above(0, FIRST_OWN_DESCRIPTOR), "rb")
    answers = os.fdopen(descriptors.duplicate_above(1, FIRST_OWN_DESCRIPTOR), "wb")
    descriptors.put_null_on(0)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)
    return orders, answers


def main():
    agent = os.getppid()
    # A script's own folder is put on the path by Python. Its parent belongs there: a module called `worker` would meet that of
    # a handler.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from graticule_worker import isolation, process, settings

    options = settings.Settings.from_json(os.environ.get("GRATICULE_SETTINGS", "{}"))
    orders, answers = take_streams()
    process.leave_terminal()
    isolation.apply(options.isolation, isolation.WORKER_OOM_SCORE)
    process.die_with_parent(agent)
    process.set_title("graticule-store")
    first = json.loads(orders.readline())
    try:
        handler = load(first["handler"], first["options"], first["python_path"])
    except Exception as error:
        import traceback

        traceback.print_exc()
        answers.write(json.dumps({"error": f"{type(error).__name__}: {one_line(error)}"}).encode() + b"\n")
        answers.flush()
        return EXIT_START_FAILED
    answers.write(b'{"ready": true}\n')
    answers.flush()
    serve(handler, orders, answers)
    return 0


if __name__ == "__main__":
    code = EXIT_START_FAILED
    try:
        code = main()
    except (ValueError, OSError) as error:
        print(f"the handler's process could not go on: {error}", file=sys.stderr, flush=True)
    # A handler's threads would keep the process; nobody is left to talk to.
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(code)
