"""QGIS, started fast and with no thread that a fork could lose.

`prepare` must run before anything else imports qgis: it is in the import that threads start and time is lost.
Knows how QGIS starts, nothing of projects or of the protocol.
"""

import contextlib
import ctypes
import importlib
import os
import sys
import tempfile

BEARER_THREAD = "Qt bearer threa"
"""The one thread that remains: Qt's, idle, harmless in children that do not have it."""

_DEFAULTS = {
    "QT_QPA_PLATFORM": "offscreen",
    "QT_BEARER_POLL_TIMEOUT": "-1",
    "QT_EXCLUDE_GENERIC_BEARER": "1",
    "OPENBLAS_NUM_THREADS": "1",  # numpy would start a thread for each core
    # QGIS tells by qDebug which service modules it loads, at every start.
    "QT_LOGGING_RULES": "default.debug=false",
    "QGIS_SERVER_LOG_STDERR": "1",
    "QGIS_SERVER_LOG_LEVEL": "2",
    "QGIS_SERVER_PARALLEL_RENDERING": "0",
    "QGIS_SERVER_MAX_THREADS": "1",
    # KiB for each open GeoPackage layer. SQLite's own 2 MiB are private to each layer of each worker, and the system's cache has
    # the same pages once for all: 150 layers took 330 MB of a worker after their capabilities, and take 46, in half the time.
    "OGR_SQLITE_PRAGMA": "cache_size=-128",
}


def prepare(settings):
    """Set what QGIS and Qt read from the environment, then import QGIS. What the operator has set stays."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("QGIS_SERVER_DISABLE_GETPRINT", "1" if settings.disable_getprint else "0")
    if "XDG_RUNTIME_DIR" not in os.environ:
        # Else Qt picks a name in /tmp that all users of the machine share, and says so at every start.
        runtime = os.path.join(tempfile.gettempdir(), f"xdg-{os.getuid()}")
        os.makedirs(runtime, mode=0o700, exist_ok=True)
        os.environ["XDG_RUNTIME_DIR"] = runtime
    # qgis/__init__ imports the GUI library for nothing, a fifth of the start. The name is given back, for plugins.
    sys.modules["qgis.gui"] = None
    try:
        importlib.import_module("qgis.server")
    finally:
        del sys.modules["qgis.gui"]


class Qgis:
    """The one QgsApplication and the one QgsServer of this process. Both live until the process ends."""

    def __init__(self, application, server, version, gdal):
        self.application = application
        self.server = server
        self.version = version
        self.gdal = gdal  # the GDAL library that QGIS has loaded, for ctypes; None when it was not found

    def versions(self):
        """What this process runs, by name."""
        from qgis.PyQt.QtCore import qVersion

        versions = {"qgis": self.version, "qt": qVersion(), "python": sys.version.split()[0]}
        if self.gdal is not None:
            tell = self.gdal.GDALVersionInfo
            tell.restype, tell.argtypes = ctypes.c_char_p, [ctypes.c_char_p]
            versions["gdal"] = tell(b"RELEASE_NAME").decode()
        return versions


def start():
    """Start QGIS, once in a process, after `prepare`. Both together take about half a second."""
    from qgis.core import Qgis as QgisInfo
    from qgis.core import QgsApplication, QgsNetworkAccessManager
    from qgis.server import QgsServer

    QgsApplication.setPrefixPath(os.environ.get("QGIS_PREFIX_PATH", "/usr"), True)
    application = QgsApplication([], False)
    # With its plugin folders in sight, Qt's network manager would load a bearer plugin that starts a D-Bus thread.
    paths = application.libraryPaths()
    application.setLibraryPaths([])
    QgsNetworkAccessManager.instance()
    application.setLibraryPaths(paths)
    gdal = _loaded_gdal()
    with _quiet(gdal):
        application.initQgis()
        server = QgsServer()

    return Qgis(application, server, QgisInfo.QGIS_VERSION.split("-")[0], gdal)


def _loaded_gdal():
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        path = next((line.split()[-1] for line in maps if "/libgdal.so" in line), None)
    return path and ctypes.CDLL(path)


@contextlib.contextmanager
def _quiet(gdal):
    """QGIS unloads two GDAL drivers that a distribution's GDAL does not have, and GDAL warns of it at every start."""
    if gdal is None:
        yield
        return
    gdal.CPLPushErrorHandler(ctypes.cast(gdal.CPLQuietErrorHandler, ctypes.c_void_p))
    try:
        yield
    finally:
        gdal.CPLPopErrorHandler()
