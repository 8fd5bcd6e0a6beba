"""Maps that nobody has asked for, so that the first one that somebody asks for is not slow.

A zygote draws one of a layer in memory before it forks; a worker draws one of each project that it inherited. When, is the
agent's to decide. Imported by processes that have QGIS, and does not know the channel.
"""

import os
import sys
from urllib.parse import quote

from . import describe

_PIXELS = 16


def throwaway_map(qgis):
    """Draw one small map of a layer in memory, so that fonts, styles and code are there before a fork.

    Drawn sequentially whatever is configured: parallel rendering would leave threads behind.
    """
    from qgis.core import Qgis as QgisInfo
    from qgis.core import (
        QgsCoordinateReferenceSystem,
        QgsFeature,
        QgsGeometry,
        QgsPalLayerSettings,
        QgsProject,
        QgsRectangle,
        QgsVectorLayer,
        QgsVectorLayerSimpleLabeling,
    )
    from qgis.server import QgsBufferServerRequest, QgsBufferServerResponse

    project = QgsProject(None, QgisInfo.ProjectCapabilities())
    project.setCrs(QgsCoordinateReferenceSystem("EPSG:4326"))
    layer = QgsVectorLayer("Polygon?crs=EPSG:4326&field=name:string", "warm", "memory")
    feature = QgsFeature(layer.fields())
    feature.setAttributes(["warm"])
    feature.setGeometry(QgsGeometry.fromRect(QgsRectangle(1, 1, 9, 9)))
    layer.dataProvider().addFeatures([feature])
    labels = QgsPalLayerSettings()
    labels.fieldName = "name"
    layer.setLabeling(QgsVectorLayerSimpleLabeling(labels))
    layer.setLabelsEnabled(True)
    project.addMapLayer(layer)

    url = (
        "http://localhost/?SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=warm&STYLES=&CRS=EPSG:4326"
        "&BBOX=0,0,10,10&WIDTH=64&HEIGHT=64&FORMAT=image/png"
    )
    configured = os.environ.get("QGIS_SERVER_PARALLEL_RENDERING", "0")
    qgis.server.putenv("QGIS_SERVER_PARALLEL_RENDERING", "0")
    try:
        response = QgsBufferServerResponse()
        qgis.server.handleRequest(QgsBufferServerRequest(url), response, project)
        if response.statusCode() != 200:
            print(f"the warm-up map failed with status {response.statusCode()}", file=sys.stderr, flush=True)
    finally:
        qgis.server.putenv("QGIS_SERVER_PARALLEL_RENDERING", configured)
        QgsProject.setInstance(None)


def first_map(qgis, project):
    """Draw a few pixels of a project's topmost layer where nothing is, and give back whether that went well: what QGIS opens
    and keeps for a project's first map is there then, and a worker's own copies of shared memory are made.

    The service is called directly, so that no plugin takes it for a client's request.
    """
    from qgis.server import QgsBufferServerRequest, QgsBufferServerResponse

    names = describe.drawable(project)
    if not names:
        return False
    url = (
        "http://localhost/?SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&STYLES=&CRS=EPSG:4326&BBOX=89.9,179.9,90,180"
        f"&WIDTH={_PIXELS}&HEIGHT={_PIXELS}&FORMAT=image/png&LAYERS={quote(names[-1])}"
    )
    response = QgsBufferServerResponse()
    service = qgis.server.serverInterface().serviceRegistry().getService("WMS")
    service.executeRequest(QgsBufferServerRequest(url), response, project)
    return response.statusCode() == 200
