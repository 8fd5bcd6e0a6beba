"""OWSLib as a client: every service it knows, unchanged. Usage: with_owslib.py OWS_URL API_URL.

OWS_URL is what users type for WMS, WFS and WCS, API_URL for OGC API Features; both name the project `world`.
"""

import json
import sys

from osgeo import gdal
from owslib.ogcapi.features import Features
from owslib.util import openURL
from owslib.wcs import WebCoverageService
from owslib.wfs import WebFeatureService
from owslib.wms import WebMapService

gdal.UseExceptions()


def image(data, size=None):
    """The image's pixels, which must be of that size and not all the same."""
    gdal.FileFromMemBuffer("/vsimem/answer", data)
    try:
        opened = gdal.Open("/vsimem/answer")
        assert size in (None, (opened.RasterXSize, opened.RasterYSize)), (opened.RasterXSize, opened.RasterYSize)
        pixels = opened.ReadAsArray()
        assert pixels.min() != pixels.max(), "a blank image"
        return pixels
    finally:
        gdal.Unlink("/vsimem/answer")


def wms(url, version):
    service = WebMapService(url, version=version)
    assert "countries" in service.contents and service.contents["countries"].title == "Countries"
    for operation in ("GetMap", "GetFeatureInfo"):
        assert any(operation == known.name for known in service.operations)
    # 1.3.0 wants the axes of EPSG:4326 in their own order; OWSLib turns them.
    area = {"srs": "EPSG:4326", "bbox": (-5, 35, 25, 55), "size": (150, 100)}
    answer = service.getmap(layers=["coast_distance", "countries"], format="image/png", **area)
    image(answer.read(), (150, 100))
    info = service.getfeatureinfo(
        layers=["countries"], query_layers=["countries"], info_format="application/json", format="image/png",
        xy=(38, 42), **area)
    names = [feature["properties"]["NAME"] for feature in json.loads(info.read())["features"]]
    assert names == ["France"], names
    image(openURL(service.contents["countries"].styles["default"]["legend"]).read())


def wfs(url, version):
    service = WebFeatureService(url, version=version)
    assert "countries" in service.contents, list(service.contents)
    gml = service.getfeature(typename=["countries"], maxfeatures=3).read()
    assert gml.count(b"featureMember>") == 6, gml[:400]
    text = service.getfeature(typename=["graticule"], outputFormat="application/json", bbox=(-10, -10, 10, 10)).read()
    names = {feature["properties"]["name"] for feature in json.loads(text)["features"]}
    assert "Equator" in names and len(names) < 10, names
    schema = service.get_schema("countries")
    assert "NAME" in schema["properties"], schema


def wcs(url):
    service = WebCoverageService(url, version="1.0.0")
    coverage = service.contents["coast_distance"]
    assert coverage.boundingBoxWGS84 == (-180.0, -90.0, 180.0, 90.0), coverage.boundingBoxWGS84
    answer = service.getCoverage(
        identifier="coast_distance", bbox=(-5, 35, 25, 55), crs="EPSG:4326", format="GeoTIFF", width=60, height=40)
    values = image(answer.read(), (60, 40))
    assert values.min() < 0 < values.max(), "land and sea"


def features(url):
    service = Features(url)
    # OWSLib asks for the landing page without the query of the URL, so that it sees links in the path form alone.
    assert service.links or "?" in url
    assert service.conformance()["conformsTo"]
    names = {collection["id"] for collection in service.collections()["collections"]}
    assert {"countries", "graticule"} <= names, names
    assert service.collection("countries")["title"] == "Countries"
    page = service.collection_items("countries", limit=100)
    total, seen = page["numberMatched"], [feature["id"] for feature in page["features"]]
    pages = 1
    while len(seen) < total:
        page = service.collection_items("countries", limit=100, offset=len(seen))
        seen += [feature["id"] for feature in page["features"]]
        pages += 1
    assert pages == 3 and len(set(seen)) == total, (pages, len(seen), total)
    assert service.collection_item("countries", str(seen[5]))["id"] == seen[5]


def errors(url):
    """A project that is not there is an error for the client, not a service without layers."""
    try:
        WebMapService(url.replace("world", "nowhere"), version="1.3.0")
    except Exception as error:  # OWSLib passes on what its HTTP library raises, whatever that is
        assert "404" in str(error) or "no project" in str(error), error
    else:
        raise AssertionError("a project that is not there was found")


def main():
    ows, api = sys.argv[1:]
    for version in ("1.1.1", "1.3.0"):
        wms(ows, version)
    for version in ("1.0.0", "1.1.0"):
        wfs(ows, version)
    wcs(ows)
    features(api)
    errors(ows)
    print("OWSLib is content")


if __name__ == "__main__":
    main()
