"""Polygons of COCO's format: flat lists x, y, x, y, ... in px."""

from collections.abc import Sequence

__all__ = ["clip_polygon", "polygon_area", "polygons_box"]

Point = tuple[float, float]


def clip_polygon(polygon: Sequence[float], width: float, height: float) -> list[float]:
    """The part of a polygon inside (0, 0, width, height), by Sutherland and Hodgman's method.

    Args:
        polygon: flat, 3 points or more.
        width, height: of the image, in px.

    Returns:
        A flat polygon; empty if nothing lies inside. Parts of a concave one stay joined by edges on
        the border, which have no area.
    """
    points: list[Point] = list(zip(polygon[0::2], polygon[1::2], strict=True))
    for axis, bound, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        points = _clip_at(points, axis, bound, sign)
    return [value for point in points for value in point]


def _clip_at(points: list[Point], axis: int, bound: float, sign: int) -> list[Point]:
    """What lies where sign * (coordinate - bound) >= 0."""
    kept: list[Point] = []
    for k, point in enumerate(points):
        last = points[k - 1]
        inside, was_inside = (sign * (p[axis] - bound) >= 0 for p in (point, last))
        if inside != was_inside:
            share = (bound - last[axis]) / (point[axis] - last[axis])
            other = last[1 - axis] + share * (point[1 - axis] - last[1 - axis])
            kept.append((bound, other) if axis == 0 else (other, bound))
        if inside:
            kept.append(point)
    return kept


def polygon_area(polygon: Sequence[float]) -> float:
    """Area in px, by the shoelace formula; of a polygon that crosses itself, parts cancel."""
    xs, ys = polygon[0::2], polygon[1::2]
    return abs(sum(xs[k - 1] * ys[k] - xs[k] * ys[k - 1] for k in range(len(xs)))) / 2


def polygons_box(polygons: Sequence[Sequence[float]]) -> list[float]:
    """[x, y, width, height] around some polygons, in px."""
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
