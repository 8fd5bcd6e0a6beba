"""Projects that must fail, for tests: `broken` has one layer whose file is not there beside one that is sound,
`unreadable` is no project at all."""

from kit import copy_table, fill, new_project, publish, save, single


def write(kit):
    """broken.qgs with `sound` and `lost`, and unreadable.qgs."""
    for name in ("sound", "lost"):
        copy_table(kit.world_map, "countries", kit.path(f"{name}.gpkg"), name, columns=["NAME"])
    project = new_project("Broken", "One of its layers is lost.")
    publish(project, [single(kit.vector(f"{name}.gpkg", name), fill("#d9e6c3")) for name in ("sound", "lost")])
    save(project, kit.path("broken.qgs"))
    kit.path("lost.gpkg").unlink()
    kit.path("unreadable.qgs").write_text("<!DOCTYPE qgis>\n<qgis version='3.40'><half", encoding="utf-8")
