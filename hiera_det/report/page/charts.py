"""Charts as inline SVG, coloured by the page's style sheet."""

import math
from collections.abc import Sequence

from .markup import Html, element, join

__all__ = ["PLOT", "histogram", "line_chart"]

WIDTH, HEIGHT = 400, 230  # units of the drawing; it is scaled to its column
PLOT = (44, 12, 346, 186)  # of these, the plot: left, top, width, height
NUM_COLORS = 6


def line_chart(
    title: str,
    curves: dict[str, tuple[Sequence[float], Sequence[float]]],
    *,
    is_log: bool = False,
    x_label: str = "iteration",
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    legend: dict[str, str] | None = None,
    identifier: str | None = None,
) -> Html:
    """Curves over a common x axis.

    Args:
        title: over the chart.
        curves: by name, x and y.
        is_log: logarithmic y axis, where all values are above 0.
        x_range, y_range: of the axes; by default those of the values, y from 0.
        legend: texts behind the names; by default the last values.
        identifier: of the SVG, for a script.
    """
    curves = {name: _finite(*curve) for name, curve in curves.items()}
    xs = [x for curve in curves.values() for x in curve[0]] or [0.0, 1.0]
    ys = [y for curve in curves.values() for y in curve[1]] or [0.0, 1.0]
    is_log = is_log and min(ys) > 0
    x_range = x_range or (min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1)
    if y_range is None:
        y_range = (min(ys), max(ys)) if is_log else (min(0.0, *ys), max(ys))
        if y_range[0] >= y_range[1]:
            y_range = (y_range[0] * (0.5 if is_log else 1), y_range[0] * 2 or 1.0)
    parts = [_axes(x_range, y_range, is_log, x_label)]
    for k, (x, y) in enumerate(curves.values()):
        color = f"c{k % NUM_COLORS}"
        parts.append(
            element("path", class_=f"curve {color}", d=_path(x, y, x_range, y_range, is_log))
        )
        if len(x) <= 12:
            for point in zip(x, y, strict=True):
                px, py = _place(*point, x_range, y_range, is_log)
                parts.append(element("circle", class_=f"dot {color}", cx=px, cy=py, r=2.5))
    if legend is None:
        legend = {name: number(y[-1]) if y else "–" for name, (_, y) in curves.items()}
    entries = [
        element(
            "li",
            element("span", class_=f"key c{k % NUM_COLORS}"),
            name,
            element("b", legend[name]),
        )
        for k, name in enumerate(curves)
    ]
    return _figure(title, parts, element("ul", *entries, class_="legend"), identifier)


def histogram(title: str, labels: Sequence[str], counts: Sequence[int], x_label: str) -> Html:
    """Bars over named bins."""
    left, top, width, height = PLOT
    most = max([*counts, 1])
    step = width / max(len(counts), 1)
    parts = [_y_axis((0, most), False)]
    for k, (label, count) in enumerate(zip(labels, counts, strict=True)):
        size = height * count / most
        bar = element("title", f"{label}: {count:,}")
        x, y = round(left + k * step + 1, 1), round(top + height - size, 1)
        parts.append(
            element(
                "rect", bar, class_="bar", x=x, y=y, width=round(step - 2, 1), height=round(size, 1)
            )
        )
        if k % -(-len(labels) // 10) == 0:
            parts.append(_text(label, left + (k + 0.5) * step, top + height + 14, "middle"))
    parts.append(_text(x_label, left + width, HEIGHT - 3, "end"))
    return _figure(title, parts, Html(""), None)


def _path(
    x: Sequence[float],
    y: Sequence[float],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    is_log: bool = False,
) -> str:
    """The `d` of a path through the points."""
    points = [_place(*point, x_range, y_range, is_log) for point in zip(x, y, strict=True)]
    return "M" + "L".join(f"{px} {py}" for px, py in points) if points else ""


def number(value: float) -> str:
    """Three or four digits."""
    if value != value:
        return "–"
    if value and abs(value) < 1e-2:
        return f"{value:.1e}"
    return f"{value:.4g}"


def _finite(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    kept = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b)]
    return [a for a, _ in kept], [b for _, b in kept]


def _figure(title: str, parts: list[Html], legend: Html, identifier: str | None) -> Html:
    svg = element(
        "svg",
        element("title", title),
        *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        id=identifier,
    )
    return element("figure", element("figcaption", title), svg, legend, class_="chart")


def _place(
    x: float, y: float, x_range: tuple[float, float], y_range: tuple[float, float], is_log: bool
) -> tuple[float, float]:
    left, top, width, height = PLOT
    if is_log:
        y, y_range = math.log(y), (math.log(y_range[0]), math.log(y_range[1]))
    across = (x - x_range[0]) / (x_range[1] - x_range[0])
    up = (y - y_range[0]) / (y_range[1] - y_range[0])
    return round(left + width * across, 1), round(top + height * (1 - min(max(up, 0), 1)), 1)


def _axes(
    x_range: tuple[float, float], y_range: tuple[float, float], is_log: bool, x_label: str
) -> Html:
    left, top, width, height = PLOT
    parts = [_y_axis(y_range, is_log)]
    for value in _ticks(*x_range, 5):
        px, _ = _place(value, y_range[0], x_range, y_range, is_log)
        parts.append(_text(_short(value), px, top + height + 14, "middle"))
    parts.append(_text(x_label, left + width, HEIGHT - 3, "end"))
    return join(*parts)


def _y_axis(y_range: tuple[float, float], is_log: bool) -> Html:
    left, _, width, _ = PLOT
    ticks = _log_ticks(*y_range) if is_log else _ticks(*y_range, 4)
    parts = []
    for value in ticks:
        _, py = _place(0, value, (0, 1), y_range, is_log)
        parts.append(element("line", class_="grid", x1=left, x2=left + width, y1=py, y2=py))
        parts.append(_text(_short(value), left - 6, py + 4, "end"))
    return join(*parts)


def _text(text: str, x: float, y: float, anchor: str) -> Html:
    return element("text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from low to high, about `count` steps."""
    rough = (high - low) / count
    base = 10 ** math.floor(math.log10(rough))
    step = next(base * factor for factor in (1, 2, 2.5, 5, 10) if base * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    factors = (1, 2, 5) if high / low < 300 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [f * 10.0**k for k in decades for f in factors if low <= f * 10.0**k <= high]
    return ticks if len(ticks) >= 2 else [low, high]


def _short(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.2g}" if abs(value) >= 1e-4 and abs(value) < 1 else _power(value)
    return f"{value:,.6g}" if abs(value) >= 1000 else f"{value:.3g}"


def _power(value: float) -> str:
    """As 7.5e-5."""
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"
