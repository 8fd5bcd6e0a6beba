"""Which projects a zygote may load: those whose every layer is a local file or lives in memory.

A remote layer starts a network thread, a database layer a connection; neither survives a fork. So this looks at the
project file *before* QGIS does, and when in doubt it says no: the worker then loads the project by itself, which is
slower and always right. GeoPackages are looked at with `stat` alone, because to open and close one here would drop the
locks that QGIS holds on it for all children.
"""

import os
import re
import zipfile
from xml.etree import ElementTree

from . import project_file
from .project_file import ProjectError

_FILE_PROVIDERS = {"ogr", "gdal", "delimitedtext"}
_MEMORY_PROVIDERS = {"memory"}
_NO_PROVIDER = {"group", "annotation"}
_LOCAL_ARCHIVES = ("/vsizip/", "/vsigzip/", "/vsitar/")
# Files that are no data but point to some.
_POINTERS = (".vrt", ".xml", ".wms", ".json", ".gti")
_REMOTE = re.compile(rb"https?:|ftp:|/vsi(?!zip|gzip|tar|mem)|<GDAL_WMS|\b(PG|MYSQL|MSSQL|WFS|WCS|WMS|OAPIF):", re.I)
_POINTER_BYTES = 256 * 1024
# QGIS fetches their pictures and pages when it reads the layout.
_LAYOUT_TAGS = {"LayoutItem", "LayoutMultiFrame"}


def reason_against(uri, settings):
    """Why this project must not be loaded before a fork; None when it may. ProjectError when it cannot be read."""
    if not project_file.is_plain(uri):
        return "the project itself is not a plain file"
    if not settings.force_readonly_layers:
        return "its layers may be written to (force_readonly_layers is off)"
    try:
        with _open_project(uri) as source:
            return _reason_in(source, os.path.dirname(os.path.abspath(uri)))
    except FileNotFoundError as error:
        raise ProjectError("project_missing", f"{uri} is not there") from error
    except (OSError, ElementTree.ParseError, zipfile.BadZipFile, KeyError) as error:
        raise ProjectError("project_broken", f"{uri} could not be read: {error}") from error


def _open_project(uri):
    if not zipfile.is_zipfile(uri):
        return open(uri, "rb")
    with zipfile.ZipFile(uri) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(".qgs")]
        if not names:
            raise KeyError("the archive holds no .qgs file")
        return archive.open(names[0])


def _reason_in(source, folder):
    depth_of_layers = []
    for event, element in ElementTree.iterparse(source, events=("start", "end")):
        if element.tag in _LAYOUT_TAGS and _is_remote_layout_item(element):
            return "a print layout shows a remote picture or page"
        if element.tag != "maplayer":
            continue
        if event == "start":
            depth_of_layers.append(element)
            continue
        depth_of_layers.pop()
        if not depth_of_layers:
            reason = _reason_of_layer(element, folder)
            if reason:
                return reason
            element.clear()  # styles are most of a project; keep one layer in memory at a time
    return None


def _is_remote_layout_item(element):
    return any(element.get(key, "").lower().startswith(("http:", "https:", "ftp:")) for key in ("file", "url"))


def _reason_of_layer(element, folder):
    name = element.findtext("layername") or element.get("id") or "without a name"
    if element.get("embedded") == "1":
        return f"layer {name} is embedded from another project"
    provider = element.findtext("provider") or ""
    if not provider and element.get("type") in _NO_PROVIDER or provider in _MEMORY_PROVIDERS:
        return None
    if provider not in _FILE_PROVIDERS:
        return f"layer {name} is not file-backed ({provider or element.get('type') or 'unknown provider'})"
    return _reason_of_source(name, provider, element.findtext("datasource") or "", folder)


def _reason_of_source(name, provider, source, folder):
    path = source.split("|", 1)[0]
    if path.startswith("file:"):
        path = path[5:].split("?", 1)[0]
        path = path[2:] if path.startswith("///") else path
    match = re.fullmatch(r'(?:GPKG|NETCDF|HDF5|HDF4|SQLITE):"?([^"]+?)"?(?::[^:/"]*)?', path)
    if match:
        path = match.group(1)
    for archive in _LOCAL_ARCHIVES:
        if path.startswith(archive):
            local = _archive_exists(path[len(archive) - 1 :], folder)
            return None if local else f"layer {name} is in an archive that is not here ({path})"
    if path.startswith("/vsi") or "://" in path:
        return f"layer {name} is remote ({provider})"
    full = path if os.path.isabs(path) else os.path.join(folder, path)
    if not os.path.exists(full):
        # A connection string looks like a file that is not there. A plain missing file is only a bad layer.
        if re.match(r"\w{2,}:", path) or "=" in path or path.lstrip().startswith(("<", "{")):
            return f"layer {name} is a connection of its own ({provider})"
        return None
    if full.lower().endswith(_POINTERS) and os.path.isfile(full) and _points_away(full):
        return f"layer {name} points to remote data ({os.path.basename(full)})"
    return None


def _archive_exists(path, folder):
    """`/vsizip//data/a.zip/b.shp` and `/vsizip/a.zip/b.shp`: does a leading part of the path exist?"""
    path = path[1:] if path.startswith("//") else os.path.join(folder, path.lstrip("/"))
    while path and path != os.path.dirname(path):
        if os.path.isfile(path):
            return True
        path = os.path.dirname(path)
    return False


def _points_away(path):
    with open(path, "rb") as file:
        return _REMOTE.search(file.read(_POINTER_BYTES)) is not None
