"""What the agent has configured, as it comes in GRATICULE_SETTINGS. Knows names, types and defaults, nothing else."""

import json
from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class User:
    """Who this process is to become. `groups` are the supplementary ones."""

    name: str = ""
    uid: int = 0
    gid: int = 0
    groups: list = field(default_factory=list)


@dataclass(frozen=True)
class Isolation:
    """`[worker.isolation]`. Limits of 0 stay as the agent's; without a `user` the process stays who it is."""

    user: User | None = None
    open_files: int = 0
    file_size: int = 0


@dataclass(frozen=True)
class Plugins:
    """`[worker.qgis.plugins]`: the folders that hold plugins, the names that may be loaded (None: all) and those that must
    be, and how long trying one may take."""

    paths: list = field(default_factory=list)
    allowed: list | None = None
    required: list = field(default_factory=list)
    patience_ms: int = 10_000


@dataclass(frozen=True)
class Settings:
    """The settings of `[worker.qgis]` and `[worker.isolation]`, and what a zygote loads before it forks."""

    ignore_bad_layers: bool = True
    force_readonly_layers: bool = True
    trust_layer_metadata: bool = True
    disable_getprint: bool = False
    warm_up: bool = True
    isolation: Isolation = field(default_factory=Isolation)
    plugins: Plugins = field(default_factory=Plugins)
    preload: list = field(default_factory=list)

    @classmethod
    def from_json(cls, text):
        """Raises ValueError, naming the key, when the text is not what an agent of the same build writes."""
        given = json.loads(text)
        _check(given, cls, "GRATICULE_SETTINGS")
        for entry in given.get("preload", []):
            if not (isinstance(entry, dict) and isinstance(entry.get("uri"), str)):
                raise ValueError(f"GRATICULE_SETTINGS: preload has {entry!r}, not an object with a uri")
        if "isolation" in given:
            given["isolation"] = _isolation(given["isolation"])
        if "plugins" in given:
            given["plugins"] = _plugins(given["plugins"])
        return cls(**given)


def _isolation(given):
    _check(given, Isolation, "GRATICULE_SETTINGS: isolation")
    if given.get("user") is not None:
        _check(given["user"], User, "GRATICULE_SETTINGS: user")
        given["user"] = User(**given["user"])
    return Isolation(**given)


def _plugins(given):
    place = "GRATICULE_SETTINGS: plugins"
    _check(given, Plugins, place)
    for name in ("paths", "allowed", "required"):
        if not all(isinstance(text, str) for text in given.get(name) or []):
            raise ValueError(f"{place}: {name} is {given[name]!r}, not a list of texts")
    return Plugins(**given)


def _check(given, cls, place):
    """Whether an object of JSON has only keys that the class has, with values of their types."""
    if not isinstance(given, dict):
        raise ValueError(f"{place} is {given!r}, not a JSON object")
    known = {f.name: f.type for f in fields(cls)}
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{place} has an unknown key {name!r}; known are {', '.join(known)}")
        wanted = known[name] if known[name] in (bool, int, str, list) else (dict, type(None))
        wanted = (list, type(None)) if known[name] == list | None else wanted
        if not isinstance(value, wanted) or wanted is int and (isinstance(value, bool) or value < 0):
            expected = wanted.__name__ if isinstance(wanted, type) else "JSON object"
            raise ValueError(f"{place}: {name} is {value!r}, not a valid {expected}")
