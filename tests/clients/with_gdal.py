"""GDAL's drivers as clients: WMS, WFS and OAPIF, unchanged. Usage: with_gdal.py OWS_URL API_URL.

OWS_URL is what users type for WMS and WFS, API_URL for OGC API Features; both name the project `world`.
"""

import sys

from osgeo import gdal

gdal.UseExceptions()
gdal.SetConfigOption("GDAL_HTTP_TIMEOUT", "60")
gdal.SetConfigOption("GDAL_DEFAULT_WMS_CACHE_PATH", "/vsimem/wms-cache")
gdal.SetConfigOption("GML_SKIP_RESOLVE_ELEMS", "ALL")


def with_query(url, query):
    """The URL with more parameters."""
    joint = "" if url.endswith(("?", "&")) else "&" if "?" in url else "?"
    return url + joint + query


def wms(url, version):
    """The layers as the driver finds them in the capabilities, and one of them drawn."""
    found = gdal.Open("WMS:" + with_query(url, f"SERVICE=WMS&VERSION={version}&REQUEST=GetCapabilities"))
    layers = {title: name for name, title in found.GetSubDatasets()}
    assert "Countries" in layers, layers
    layer = gdal.Open(layers["Countries"])
    assert layer.RasterCount in (3, 4)
    # The whole world on 300 by 150 pixels.
    pixels = layer.ReadAsArray(buf_xsize=300, buf_ysize=150)
    assert pixels.shape[1:] == (150, 300) and pixels[:3].min() != pixels[:3].max(), "a blank map"


def vectors(source, *options):
    """Every feature of `countries`, page by page, with attributes and shapes, and those of a small area."""
    data = gdal.OpenEx(source, gdal.OF_VECTOR, open_options=options)
    # WFS names come with a prefix.
    layers = {layer.GetName().split(":")[-1]: layer for layer in (data.GetLayer(i) for i in range(data.GetLayerCount()))}
    assert {"countries", "graticule"} <= set(layers), layers
    countries = layers["countries"]
    names = set()
    for feature in countries:
        assert not feature.GetGeometryRef().IsEmpty()
        names.add(feature.GetField("NAME"))
    assert {"France", "Brazil", "Japan"} <= names and len(names) > 200, (len(names), sorted(names)[:20])
    assert countries.GetFeatureCount() >= len(names)
    countries.SetSpatialFilterRect(2.0, 46.5, 2.2, 46.7)
    assert [feature.GetField("NAME") for feature in countries] == ["France"]


def main():
    ows, api = sys.argv[1:]
    for version in ("1.1.1", "1.3.0"):
        wms(ows, version)
    for version in ("1.0.0", "1.1.0"):
        vectors("WFS:" + with_query(ows, f"VERSION={version}"))
    vectors("OAPIF:" + api, "PAGE_SIZE=60")
    print("GDAL is content")


if __name__ == "__main__":
    main()
