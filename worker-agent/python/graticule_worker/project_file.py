"""A project as the agent names it, before QGIS has seen it. Knows files and errors, nothing of QGIS."""

import os


class ProjectError(Exception):
    """A project that cannot be served. `kind` is the protocol's: project_missing or project_broken."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


def is_plain(uri):
    """Whether the project is a file, and not one inside a database or a GeoPackage (`postgresql:…`, `geopackage:…`)."""
    return "://" not in uri and not uri.startswith(("postgresql:", "geopackage:"))


def check(uri):
    """Raises ProjectError when a plain file is missing or cannot be read. QGIS says only that it failed; the difference
    between missing and broken is ours to tell."""
    if not is_plain(uri):
        return
    try:
        os.stat(uri)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ProjectError("project_missing", f"{uri} is not there") from error
    except OSError as error:
        raise ProjectError("project_broken", f"{uri} cannot be reached: {error.strerror}") from error
    if not os.access(uri, os.R_OK):
        raise ProjectError("project_broken", f"{uri} cannot be read by user {os.getuid()}: give it read permission")
