"""Data that is computed, not copied: graticule lines, the distance to the coast, map colours, a made-up relief.

Knows GDAL and numpy, nothing of QGIS. Everything follows from its arguments: the same input gives the same file.
"""

import numpy
from osgeo import gdal, ogr, osr

gdal.UseExceptions()
WGS84 = osr.SpatialReference()
WGS84.ImportFromEPSG(4326)
WGS84.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)


def open_gpkg(path):
    """The gpkg at `path` for writing, made when it is not there."""
    driver = ogr.GetDriverByName("GPKG")
    return ogr.Open(str(path), update=1) if path.exists() else driver.CreateDataSource(str(path))


def graticule(path, step=15):
    """Meridians and parallels every `step` degrees, and the named circles; a line is named as people say it."""
    data = open_gpkg(path)
    layer = data.CreateLayer("graticule", WGS84, ogr.wkbLineString, ["FID=fid", "GEOMETRY_NAME=geom"])
    layer.CreateField(ogr.FieldDefn("name", ogr.OFTString))
    layer.CreateField(ogr.FieldDefn("kind", ogr.OFTString))
    layer.CreateField(ogr.FieldDefn("degrees", ogr.OFTReal))
    layer.StartTransaction()
    for longitude in range(-180, 181, step):
        side = "" if longitude in (0, 180, -180) else ("E" if longitude > 0 else "W")
        kind = "prime" if longitude == 0 else "meridian"
        points = [(longitude, latitude) for latitude in range(-85, 86)]
        _add_line(layer, f"{abs(longitude)}°{side}", kind, longitude, points)
    circles = {0: "Equator", 23.4364: "Tropic of Cancer", -23.4364: "Tropic of Capricorn",
               66.5636: "Arctic Circle", -66.5636: "Antarctic Circle"}
    for latitude in sorted({*range(-75, 76, step), *circles}):
        name = circles.get(latitude) or f"{abs(latitude)}°{'N' if latitude > 0 else 'S'}"
        kind = "equator" if latitude == 0 else ("circle" if latitude in circles else "parallel")
        _add_line(layer, name, kind, latitude, [(longitude, latitude) for longitude in range(-180, 181)])
    layer.CommitTransaction()


def _add_line(layer, name, kind, degrees, points):
    shape = ogr.Geometry(ogr.wkbLineString)
    for x, y in points:
        shape.AddPoint_2D(x, y)
    feature = ogr.Feature(layer.GetLayerDefn())
    feature.SetField("name", name)
    feature.SetField("kind", kind)
    feature.SetField("degrees", float(degrees))
    feature.SetGeometry(shape)
    layer.CreateFeature(feature)


def coast_distance(world_map, path, width=1440):
    """A GeoTIFF of the distance to the nearest coast in degrees: negative on land, positive on water."""
    height = width // 2
    land = _memory_raster(width, height, gdal.GDT_Byte)
    source = ogr.Open(str(world_map))
    gdal.RasterizeLayer(land, [1], source.GetLayerByName("countries"), burn_values=[1])
    degrees = 360.0 / width
    away = {}
    for value in (0, 1):
        distance = _memory_raster(width, height, gdal.GDT_Float32)
        gdal.ComputeProximity(land.GetRasterBand(1), distance.GetRasterBand(1), [f"VALUES={1 - value}"])
        away[value] = distance.GetRasterBand(1).ReadAsArray() * degrees
    mask = land.GetRasterBand(1).ReadAsArray() == 1
    _write_tiff(path, numpy.where(mask, -away[1], away[0]), WGS84, (-180.0, degrees, 0.0, 90.0, 0.0, -degrees))


def _memory_raster(width, height, kind):
    raster = gdal.GetDriverByName("MEM").Create("", width, height, 1, kind)
    raster.SetGeoTransform((-180.0, 360.0 / width, 0.0, 90.0, 0.0, -180.0 / height))
    raster.SetProjection(WGS84.ExportToWkt())
    return raster


def _write_tiff(path, values, srs, transform):
    height, width = values.shape
    options = ["COMPRESS=DEFLATE", "PREDICTOR=3", "TILED=YES"]
    out = gdal.GetDriverByName("GTiff").Create(str(path), width, height, 1, gdal.GDT_Float32, options)
    out.SetGeoTransform(transform)
    out.SetProjection(srs.ExportToWkt())
    out.GetRasterBand(1).WriteArray(values.astype(numpy.float32))
    out.BuildOverviews("AVERAGE", [2, 4, 8])


def relief(path, size=1024, seed=7):
    """A made-up island of about 40 km in EPSG:3857: fractal noise, lifted in the middle and sunk at the rim. Metres."""
    noise = numpy.random.RandomState(seed).standard_normal((size, size))
    frequency = numpy.hypot(*numpy.meshgrid(numpy.fft.fftfreq(size), numpy.fft.fftfreq(size)))
    frequency[0, 0] = 1.0
    ground = numpy.real(numpy.fft.ifft2(numpy.fft.fft2(noise) / frequency**1.9))
    ground = (ground - ground.mean()) / ground.std()
    y, x = numpy.mgrid[-1:1:size * 1j, -1:1:size * 1j]
    ground = ground * 0.75 + 2.1 - 3.6 * (numpy.hypot(x, y * 1.25) ** 1.7)
    ground = numpy.where(ground > 0, numpy.maximum(ground, 0.0) ** 1.35, ground) * 620.0
    web_mercator = osr.SpatialReference()
    web_mercator.ImportFromEPSG(3857)
    _write_tiff(path, ground, web_mercator, (-20480.0, 40.0, 0.0, 20480.0, 0.0, -40.0))


def map_colors(path, table, key, colors):
    """Colours 1…`colors` for the polygons of `table` so that neighbours differ, written to the column `mapcolor`.

    Greedy, those with the most neighbours first; of the free colours the one used least. `key` breaks ties.
    """
    data = ogr.Open(str(path), update=1)
    layer = data.GetLayerByName(table)
    layer.CreateField(ogr.FieldDefn("mapcolor", ogr.OFTInteger))
    shapes = {f.GetFID(): (f.GetField(key) or "", f.GetGeometryRef().Clone()) for f in layer}
    boxes = {fid: shape.GetEnvelope() for fid, (_, shape) in shapes.items()}
    touching = {fid: set() for fid in shapes}
    fids = sorted(shapes)
    for place, one in enumerate(fids):
        a = boxes[one]
        ready = shapes[one][1].CreatePreparedGeometry()
        for two in fids[place + 1:]:
            b = boxes[two]
            if a[0] <= b[1] and b[0] <= a[1] and a[2] <= b[3] and b[2] <= a[3] and ready.Intersects(shapes[two][1]):
                touching[one].add(two)
                touching[two].add(one)
    chosen, used = {}, dict.fromkeys(range(1, colors + 1), 0)
    for fid in sorted(fids, key=lambda fid: (-len(touching[fid]), shapes[fid][0])):
        taken = {chosen.get(other) for other in touching[fid]}
        free = [color for color in used if color not in taken] or list(used)
        chosen[fid] = min(free, key=lambda color: (used[color], color))
        used[chosen[fid]] += 1
    layer.StartTransaction()
    for fid, color in chosen.items():
        feature = layer.GetFeature(fid)
        feature.SetField("mapcolor", color)
        layer.SetFeature(feature)
    layer.CommitTransaction()
