"""QGIS as a client: its providers for WMS, WFS, OGC API Features and WCS, unchanged. Usage: with_qgis.py OWS_URL API_URL.

OWS_URL is what users type for WMS, WFS and WCS, API_URL for OGC API Features; both name the project `world`.
"""

import os
import sys
import tempfile

HOME = tempfile.mkdtemp(prefix="graticule-client-")
os.environ.update(QT_QPA_PLATFORM="offscreen", QGIS_CUSTOM_CONFIG_PATH=HOME, XDG_RUNTIME_DIR=HOME, XDG_CACHE_HOME=HOME)

from qgis.core import (  # noqa: E402
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsDataSourceUri,
    QgsFeatureRequest,
    QgsMapRendererSequentialJob,
    QgsMapSettings,
    QgsPointXY,
    QgsRaster,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize  # noqa: E402

EUROPE = QgsRectangle(-5, 35, 25, 55)


def valid(layer):
    """The layer, which its provider must have opened without complaint."""
    problem = layer.error().message() or (layer.dataProvider() and layer.dataProvider().error().message())
    assert layer.isValid(), f"{layer.providerType()} {layer.source()}: {problem}"
    return layer


def colours(layer):
    """How many colours a map of the layer has."""
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(QgsCoordinateReferenceSystem("EPSG:4326"))
    settings.setExtent(EUROPE)
    settings.setOutputSize(QSize(240, 160))
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    assert not job.errors(), [error.message for error in job.errors()]
    image = job.renderedImage()
    return len({image.pixel(x, y) for x in range(240) for y in range(160)})


def source(**parameters):
    """A layer's source as QGIS's own dialogues write it."""
    uri = QgsDataSourceUri()
    for name, value in parameters.items():
        uri.setParam(name, value)
    return bytes(uri.encodedUri()).decode()


def wms(url, version):
    uri = source(url=url, version=version, layers="countries", styles="default", format="image/png", crs="EPSG:4326")
    layer = valid(QgsRasterLayer(uri, "countries", "wms"))
    assert colours(layer) > 20
    result = layer.dataProvider().identify(QgsPointXY(2.5, 46.5), QgsRaster.IdentifyFormatText, EUROPE, 240, 160)
    assert result.isValid() and "France" in str(result.results()), result.results()
    assert layer.htmlMetadata() and "World" in layer.htmlMetadata()


def features(layer):
    """Every feature of `countries`, and the one at a point."""
    names = [feature["NAME"] for feature in layer.getFeatures()]
    assert {"France", "Brazil", "Japan"} <= set(names) and len(names) > 200, (len(names), names[:20])
    request = QgsFeatureRequest(QgsRectangle(2.0, 46.5, 2.2, 46.7))
    request.setFlags(QgsFeatureRequest.ExactIntersect)
    assert [feature["NAME"] for feature in layer.getFeatures(request)] == ["France"]
    assert all(feature.hasGeometry() for feature in layer.getFeatures())
    assert colours(layer) > 2


def wcs(url):
    uri = source(url=url, identifier="coast_distance", version="1.0.0", crs="EPSG:4326", format="GeoTIFF")
    layer = valid(QgsRasterLayer(uri, "distance", "wcs"))
    values = [layer.dataProvider().sample(QgsPointXY(*point), 1) for point in ((20.0, 0.0), (-125.0, -30.0))]
    assert values[0][1] and values[1][1], values
    assert values[0][0] < -5 and values[1][0] > 10, ("land is negative, the open sea far from coasts", values)


def main():
    ows, api = sys.argv[1:]
    QgsApplication.setPrefixPath(os.environ.get("QGIS_PREFIX_PATH", "/usr"), True)
    application = QgsApplication([], False)
    application.initQgis()
    for version in ("1.1.1", "1.3.0"):
        wms(ows, version)
    for version in ("1.0.0", "1.1.0"):
        uri = f"url='{ows}' typename='countries' version='{version}' srsname='EPSG:4326'"
        features(valid(QgsVectorLayer(uri, "countries", "WFS")))
    features(valid(QgsVectorLayer(f"url='{api}' typename='countries' pageSize='60'", "countries", "OAPIF")))
    wcs(ows)
    print("QGIS is content", flush=True)
    os._exit(0)  # its own end may hang on network threads


if __name__ == "__main__":
    main()
