"""What the tests with real QGIS share: the projects, written once, and ways to look at an answer.

All tests: `/usr/bin/python3 -m unittest discover -s tests`, in the folder above this one, with the system's Python,
because that one has QGIS.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import driver  # noqa: E402

WMS = "SERVICE=WMS&VERSION=1.3.0&REQUEST="
GET_MAP = WMS + "GetMap&CRS=EPSG:4326&STYLES=&FORMAT=image/png"
_folder = None


def folder():
    """The folder of the test projects; written at the first call, removed at the end."""
    global _folder
    if _folder is None:
        _folder = tempfile.mkdtemp(prefix="graticule-test-")
        atexit.register(shutil.rmtree, _folder, ignore_errors=True)
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "make_data.py")
        done = subprocess.run([driver.PYTHON, script, _folder], capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"make_data.py failed:\n{done.stderr}")
    return _folder


def project(name):
    return os.path.join(folder(), name)


def get_map(layers, box="0,0,60,100", width=200, height=120, base="http://h:9080/ows/world?"):
    return f"{base}{GET_MAP}&LAYERS={layers}&BBOX={box}&WIDTH={width}&HEIGHT={height}"


def colours(png):
    """(width, height, how many different colours) of a picture. Fails when it cannot be decoded."""
    from qgis.PyQt.QtGui import QImage

    image = QImage.fromData(png)
    assert not image.isNull(), "not a picture"
    width, height = image.width(), image.height()
    return width, height, len({image.pixel(x, y) for x in range(0, width, 3) for y in range(0, height, 3)})


class Case(unittest.TestCase):
    """A temporary folder for the processes of one test class."""

    @classmethod
    def setUpClass(cls):
        driver.become_subreaper()
        cls.tmpdir = tempfile.mkdtemp(prefix="graticule-test-")
        cls.addClassCleanup(shutil.rmtree, cls.tmpdir, ignore_errors=True)
        folder()

    def drop(self, peer):
        self.addCleanup(peer.end)
        return peer
