"""What the agent has configured, as it comes in GRATICULE_SETTINGS. Knows names, types and defaults, nothing else."""

import json
from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class Settings:
    """The settings of `[worker.qgis]`, and what a zygote loads before it forks."""

    ignore_bad_layers: bool = True
    force_readonly_layers: bool = True
    trust_layer_metadata: bool = True
    disable_getprint: bool = False
    warm_up: bool = True
    preload: list = field(default_factory=list)

    @classmethod
    def from_json(cls, text):
        """Raises ValueError, naming the key, when the text is not what an agent of the same build writes."""
        given = json.loads(text)
        if not isinstance(given, dict):
            raise ValueError("GRATICULE_SETTINGS is not a JSON object")
        known = {f.name: f for f in fields(cls)}
        for name, value in given.items():
            if name not in known:
                raise ValueError(f"GRATICULE_SETTINGS has an unknown key {name!r}; known are {', '.join(known)}")
            wanted = list if name == "preload" else bool
            if not isinstance(value, wanted):
                raise ValueError(f"GRATICULE_SETTINGS: {name} is {value!r}, not a {wanted.__name__}")
        for entry in given.get("preload", []):
            if not (isinstance(entry, dict) and isinstance(entry.get("uri"), str)):
                raise ValueError(f"GRATICULE_SETTINGS: preload has {entry!r}, not an object with a uri")
        return cls(**given)
