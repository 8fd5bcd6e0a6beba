#!/usr/bin/python3
"""Writes the demo projects and their data into one directory.

    /usr/bin/python3 demo/projects/make.py [TARGET]            the six projects, default .parts/projects
    /usr/bin/python3 demo/projects/make.py --tests [TARGET]    projects that must fail, default .parts/test-projects
    /usr/bin/python3 demo/projects/make.py --bench [TARGET]    200 towns for benches, default .parts/bench-projects

A second run does nothing while these scripts and QGIS's world map stay as they are. The projects are written beside
TARGET and moved into place when all are whole, so a server never sees half of them. Each project is one module here
with a `write(kit)` function; what a project shows is in that module and nowhere else.
"""

import argparse
import hashlib
import importlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARTS = HERE.parent.parent / ".parts"
DEMO = ["world", "atlas150", "relief", "slow", "points", "roads"]
TESTS = ["broken"]
BENCH = ["many"]
STAMP = ".made-from"


def fingerprint(world_map):
    """A hash of everything the projects are made from: these scripts and the world map's size and date."""
    digest = hashlib.sha256()
    for script in sorted(HERE.glob("*.py")):
        digest.update(script.name.encode() + b"\0" + script.read_bytes() + b"\0")
    seen = world_map.stat()
    digest.update(f"{world_map} {seen.st_size} {int(seen.st_mtime)}".encode())
    return digest.hexdigest()


def find_world_map():
    """QGIS's own world map, from the package qgis-common."""
    for prefix in (os.environ.get("QGIS_PREFIX_PATH", "/usr"), "/usr", "/usr/local"):
        path = Path(prefix) / "share/qgis/resources/data/world_map.gpkg"
        if path.is_file():
            return path
    sys.exit("error: QGIS's world map (world_map.gpkg) is not on this machine: install the package qgis-common, or run demo/install.sh demo")


def start_qgis(home):
    """QGIS without a window, with a profile of its own in `home`; the caller keeps the returned application."""
    os.environ.update(
        QT_QPA_PLATFORM="offscreen", QGIS_CUSTOM_CONFIG_PATH=str(home), QT_HASH_SEED="0", OPENBLAS_NUM_THREADS="1",
        XDG_RUNTIME_DIR=str(home), QT_LOGGING_RULES="*.debug=false;qt.qpa.*=false",
        OGR_CURRENT_DATE="2026-01-01T00:00:00.000Z",  # or every gpkg would carry the hour it was written
    )
    from qgis.core import QgsApplication, QgsSettings

    QgsApplication.setPrefixPath(os.environ.get("QGIS_PREFIX_PATH", "/usr"), True)
    application = QgsApplication([], False)
    application.initQgis()
    QgsSettings().setValue("projects/anonymize_saved_projects", True)  # no user name and no date in the files
    return application


def make(names, target, world_map, stamp):
    """Runs the modules `names` into a new directory and puts it where `target` is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    os.chmod(fresh, 0o755)
    home = Path(tempfile.mkdtemp(prefix="graticule-qgis-"))
    try:
        application = start_qgis(home)
        from kit import Kit

        kit = Kit(fresh, world_map)
        for name in names:
            began = time.monotonic()
            print(f"  {name:<9}", end="", flush=True)
            importlib.import_module(name).write(kit)
            print(f" {time.monotonic() - began:5.1f} s", flush=True)
        (fresh / STAMP).write_text(stamp + "\n")
        application.exitQgis()
        if target.exists():
            shutil.rmtree(target)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description="Writes the demo projects.")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--tests", action="store_true", help="the projects that tests need and no demo should show")
    other.add_argument("--bench", action="store_true", help="the many projects that benches ask")
    parser.add_argument("target", nargs="?", type=Path, help="directory to write; what it held is replaced")
    args = parser.parse_args()
    names, folder = DEMO, "projects"
    if args.tests:
        names, folder = TESTS, "test-projects"
    elif args.bench:
        names, folder = BENCH, "bench-projects"
    target = (args.target or PARTS / folder).absolute()
    if target.exists() and any(target.iterdir()) and not (target / STAMP).exists():
        sys.exit(f"error: {target} is not empty and was not written by this script; name another directory")
    world_map = find_world_map()
    stamp = fingerprint(world_map)
    if (target / STAMP).exists() and (target / STAMP).read_text().strip() == stamp:
        print(f"Projects: up to date in {target}")
        return
    print(f"Projects: writing {target}", flush=True)
    make(names, target, world_map, stamp)
    sys.stdout.flush()
    os._exit(0)  # QGIS's own tear-down after exitQgis may crash in Python's; everything is on disk


if __name__ == "__main__":
    main()
