"""Marks the requests that QGIS itself makes, as a client of other servers, with how deep they are.

A project may have a layer of this very server. Each request that leads to another one would wait for a worker while it
holds one, until none is left; from the header the server sees how long such a chain is and can end it. QGIS's own
requests and GDAL's are marked; what a plugin sends by other means is not. Knows nothing of workers or of the protocol.
"""

import ctypes

from qgis.core import QgsNetworkAccessManager

HEADER = "X-Graticule-Depth"
_GDAL_HEADERS = b"GDAL_HTTP_HEADERS"


class Outgoing:
    """Made in a worker, not before a fork: there is one in a process, and it lives as long as that. `gdal` is the library
    that QGIS has loaded, or None."""

    def __init__(self, gdal):
        self._gdal = gdal
        self._operators = self._gdal_option()
        self._depth = None
        self.serving(0)
        QgsNetworkAccessManager.setRequestPreprocessor(self._mark)

    def serving(self, depth):
        """A request that is `depth` requests of this server away from a client is served from now on."""
        if depth == self._depth:
            return
        self._depth = depth
        self._value = str(depth + 1).encode()
        self._set_gdal_option()

    def _mark(self, request):
        # Called by whichever thread of QGIS is about to send it.
        request.setRawHeader(HEADER.encode(), self._value)

    def _gdal_option(self):
        if self._gdal is None:
            return b""
        self._gdal.CPLGetConfigOption.restype = ctypes.c_char_p
        return self._gdal.CPLGetConfigOption(_GDAL_HEADERS, b"") or b""

    def _set_gdal_option(self):
        if self._gdal is None:
            return
        headers = HEADER.encode() + b": " + self._value
        if self._operators:
            # GDAL takes lines, and without any line end a list with commas.
            separator = b"\r\n" if b"\r" in self._operators or b"\n" in self._operators else b","
            headers = self._operators.rstrip(b"\r\n, ") + separator + headers
        self._gdal.CPLSetConfigOption(_GDAL_HEADERS, headers)
