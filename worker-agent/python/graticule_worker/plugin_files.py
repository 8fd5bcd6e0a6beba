"""Finds server plugins on disk and reads what they say of themselves. Runs none of their code, knows no QGIS."""

import configparser
import os
import re
from dataclasses import dataclass, field

METADATA = "metadata.txt"
_TRUE = {"true", "yes", "on", "1"}
_LONGEST = 500
"""Characters of a text in metadata.txt that are told on."""


@dataclass
class Found:
    """A folder that holds a server plugin, or should. With a `problem` it must not be loaded."""

    name: str
    path: str
    version: str = ""
    description: str = ""
    problem: str = ""
    minimum: tuple = field(default=(), repr=False)
    maximum: tuple = field(default=(), repr=False)


def find(paths, allowed, qgis_version):
    """The server plugins in the folders `paths`, in their order and then by name. `allowed` are the names that may be
    loaded, None for all; one of those that is not there is found as a problem. Folders that do not say of themselves
    that they are server plugins are passed over, unless they are named."""
    found = []
    for path in paths:
        found += _find_in(path, allowed, _parts(qgis_version), found)
    names = {plugin.name for plugin in found}
    missing = [name for name in allowed or () if name not in names]
    where = ", ".join(paths)
    return found + [Found(name, "", problem=f"there is no folder of this name in {where}") for name in missing]


def _find_in(path, allowed, qgis, before):
    if os.path.isfile(os.path.join(path, METADATA)):
        name = os.path.basename(os.path.normpath(path))
        problem = "this is a plugin's own folder: worker.qgis.plugins.paths names the folder that holds plugins"
        return [Found(name, path, problem=problem)]
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        return [Found(os.path.basename(path), path, problem=f"cannot be looked through: {error.strerror}")]
    loaded = {plugin.name: plugin.path for plugin in before if not plugin.problem}
    found = []
    for name in names:
        folder = os.path.join(path, name)
        named = allowed is not None and name in allowed
        if name.startswith((".", "__")) or not os.path.isdir(folder) or (allowed is not None and not named):
            continue
        plugin = Found(name, folder)
        if not _describe(plugin) and not named:
            continue
        if not plugin.problem and name in loaded:
            plugin.problem = f"{loaded[name]} has this name already"
        plugin.problem = plugin.problem or _version_problem(plugin, qgis)
        found.append(plugin)
    return found


def _describe(plugin):
    """Fills in what metadata.txt says. False for a folder that is no server plugin."""
    path = os.path.join(plugin.path, METADATA)
    # Texts in it may have percent signs, and some plugins write a key twice.
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            parser.read_file(file)
    except FileNotFoundError:
        plugin.problem = f"it has no {METADATA}"
        return False
    except OSError as error:
        plugin.problem = f"its {METADATA} cannot be read: {error.strerror}"
        return True
    except configparser.Error as error:
        first = str(error).splitlines()[0]
        plugin.problem = f"its {METADATA} is broken: {first}"
        return True
    section = next((name for name in parser.sections() if name.lower() == "general"), None)
    said = dict(parser[section]) if section else {}
    plugin.version = said.get("version", "").strip()[:_LONGEST]
    plugin.description = " ".join(said.get("description", "").split())[:_LONGEST]
    plugin.minimum = _parts(said.get("qgisminimumversion", ""))
    plugin.maximum = _parts(said.get("qgismaximumversion", ""))
    if said.get("server", "").strip().lower() not in _TRUE:
        plugin.problem = f"its {METADATA} does not say server=True"
        return False
    if not os.path.isfile(os.path.join(plugin.path, "__init__.py")):
        plugin.problem = "it has no __init__.py that can be read"
    return True


def _parts(version):
    """(3, 40, 6) of 3.40.6-Bratislava; nothing when there is no number."""
    match = re.match(r"\d+(\.\d+)*", version.strip())
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _version_problem(plugin, qgis):
    # 3.34 as the last version means all of 3.34, and without one the first version's major number is the last.
    minimum, maximum = plugin.minimum, plugin.maximum or plugin.minimum[:1]
    now = _text(qgis)
    if minimum and qgis < minimum:
        return f"it is for QGIS {_text(minimum)} or newer, and this is {now}: install an older version of the plugin"
    if maximum and qgis[: len(maximum)] > maximum:
        return f"it is for QGIS up to {_text(maximum)}, and this is {now}: install a newer version of the plugin"
    return ""


def _text(parts):
    return ".".join(str(part) for part in parts)
