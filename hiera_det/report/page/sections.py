"""Sections of the page, each from numbers to HTML."""

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from hiera_det.report.curves import Curve, binned, panels_of

from .charts import PLOT, histogram, line_chart
from .detections import Truth
from .markup import Html, data_element, element, join
from .scores import Confusion, Scores

__all__ = [
    "confusion_section",
    "curves_section",
    "dataset_section",
    "files_section",
    "gallery_section",
    "lost_section",
    "pictures_section",
    "precision_recall_section",
    "run_section",
    "section",
    "tables_section",
]

TASKS = {"segm": "mask", "bbox": "box"}
MAX_MATRIX, MAX_CURVES, MAX_FILES = 20, 100, 500  # classes, classes, files
FEW_LETTERS = 9  # of a class name over a column
FEW_CLASSES = 8  # whose matrix leaves room for a list beside it
NUM_OPEN = 12  # images that are seen at once; the others open by a click
CURVE_STEP = 2  # of the 101 points of a precision-recall curve
SMALL, MEDIUM, LARGE = 0, 32**2, 96**2  # COCO's bounds of an object's area, px
LOST = {  # TIDE's kinds of error, in its words and ours
    "Loc": ("localisation", "right class, but the overlap is between 0.1 and 0.5"),
    "Cls": ("class", "well placed, called by another class"),
    "Both": ("class and localisation", "another class, and the overlap is between 0.1 and 0.5"),
    "Dupe": ("duplicate", "a second detection of an object that was found"),
    "Bkg": ("background", "there is no object (overlap below 0.1)"),
    "Miss": ("missed", "an object that nothing above explains as found or misplaced"),
}


def section(identifier: str, title: str, lead: str, *content: str) -> Html:
    return element(
        "section",
        element("h2", title),
        element("p", lead, class_="lead") if lead else Html(""),
        *content,
        id=identifier,
    )


def _percent(value: float) -> str:
    return "–" if value != value else f"{value:.1f}"


def _meter(share: float) -> Html:
    width = 0.0 if share != share else 100 * min(max(share, 0.0), 1.0)
    return element("span", element("i", style=f"width:{width:.1f}%"), class_="meter")


def _table(head: Sequence[str], rows: Sequence[Html], class_: str | None = None) -> Html:
    titles = element("tr", *(element("th", name, scope="col") for name in head))
    table = element("table", element("thead", titles), element("tbody", *rows), class_=class_)
    return element("div", table, class_="scroll", tabindex="0")


def _row(name: str, cells: Sequence[str], class_: str | None = None) -> Html:
    return element(
        "tr",
        element("th", name, scope="row", title=name),
        *(element("td", cell) for cell in cells),
        class_=class_,
    )


# --------------------------------------------------------------------------------- the run
def run_section(
    command: str,
    facts: Sequence[tuple[str, str]],
    machine: Sequence[tuple[str, str]],
    config_text: str,
) -> Html:
    """The command, settings by name, the machine by name, and the text of config.yaml."""
    parts = [element("p", element("code", command), class_="command")] if command else []
    settings = (element("div", element("dt", a), element("dd", b)) for a, b in facts)
    parts.append(element("dl", *settings, class_="facts"))
    if machine:
        rows = (element("div", element("dt", a), element("dd", b)) for a, b in machine)
        table = element("dl", *rows, class_="facts")
        parts.append(element("details", element("summary", "machine and versions"), table))
    if config_text:
        whole = element("pre", config_text, tabindex="0")
        parts.append(element("details", element("summary", "config.yaml, all of it"), whole))
    return section("run", "What was run", "", *parts)


def curves_section(curves: dict[str, Curve]) -> Html:
    charts = [
        line_chart(title, {name: binned(curve) for name, curve in group.items()}, is_log=is_log)
        for title, group, is_log in panels_of(curves)
        if any(len(curve[0]) > 1 for curve in group.values())  # one evaluation is no curve
    ]
    if not charts:
        return Html("")
    lead = "From metrics.json; the number behind a name is its last value."
    return section("curves", "Curves", lead, element("div", *charts, class_="columns"))


# --------------------------------------------------------------------------------- the numbers
def tables_section(scores: dict[str, Scores], names: Sequence[str], counts: np.ndarray) -> Html:
    """AP by size and by class.

    Args:
        counts: int (K, 4), objects of each class: all, small, medium, large.
    """
    total = counts.sum(axis=0)
    rows = []
    for task, result in scores.items():
        cells = [_percent(result.ap(size=k)) for k in range(4)]
        rows.append(_row(f"{TASKS[task]} AP", cells))
    rows.append(_row("objects", [f"{n:,}" for n in total]))
    sizes = _table(["", "all", "small < 32²", "medium", "large > 96²"], rows)
    tables = []
    for task, result in scores.items():
        order = sorted(range(len(names)), key=lambda k: _last_if_nan(result.ap(category=k)))
        whole = (result.ap(), result.ap(0), result.ap(5), result.ar())
        rows = [_row("all classes", [f"{total[0]:,}", *map(_percent, whole)], "all")]
        for k in order:
            ap = result.ap(category=k)
            others = (result.ap(0, k), result.ap(5, k), result.ar(k))
            first = join(_percent(ap), _meter(ap / 100))
            rows.append(_row(names[k], [f"{counts[k, 0]:,}", first, *map(_percent, others)]))
        head = ["", "objects", "AP", "AP50", "AP75", "recall"]
        table = _table(head, rows)
        tables.append(element("div", element("h3", f"{TASKS[task]} AP by class"), table))
    lead = (
        "COCO's average precision in percent, the weakest classes first. AP is the mean over IoU "
        "0.50 to 0.95; recall is the most that is reached, over the same."
    )
    by_size = element("div", element("h3", "by size, in pixels of area"), sizes)
    return section(
        "ap", "Average precision", lead, by_size, element("div", *tables, class_="columns tables")
    )


def _last_if_nan(value: float) -> float:
    return value if value == value else float("inf")


def precision_recall_section(
    scores: dict[str, Scores], names: Sequence[str], counts: np.ndarray
) -> tuple[Html, Html]:
    """The section, and the data of its script."""
    lines = {"IoU 0.50": 0, "IoU 0.75": 5, "mean 0.50 to 0.95": None}
    shown = sorted(np.flatnonzero(counts[:, 0]).tolist(), key=lambda k: -counts[k, 0])[:MAX_CURVES]
    classes: list[int | None] = [None, *shown]
    charts, data = [], {}
    for task, result in scores.items():
        curves = {name: result.curve(t)[::CURVE_STEP] for name, t in lines.items()}
        recall = np.linspace(0, 1, len(next(iter(curves.values())))).tolist()
        charts.append(
            line_chart(
                TASKS[task],
                {name: (recall, values) for name, values in curves.items()},
                x_label="recall",
                x_range=(0, 1),
                y_range=(0, 1),
                legend={name: f"AP {_percent(result.ap(t))}" for name, t in lines.items()},
                identifier=f"curves-{task}",
            )
        )
        data[task] = [
            {
                "curves": [
                    [round(v, 3) for v in result.curve(t, k)[::CURVE_STEP]] for t in lines.values()
                ],
                "aps": [f"AP {_percent(result.ap(t, k))}" for t in lines.values()],
            }
            for k in classes
        ]
    options = [element("option", "all classes", value="0")]
    options += [element("option", names[k], value=str(n)) for n, k in enumerate(shown, 1)]
    chooser = element("label", "class ", element("select", *options, id="curves-class"))
    content = element("div", *charts, class_="columns")
    lead = "Precision over recall; the number is the area below the curve, in percent."
    html = section("pr", "Precision and recall", lead, element("p", chooser), content)
    return html, data_element("curves-data", {"plot": list(PLOT), "tasks": data})


def confusion_section(result: Confusion, names: Sequence[str]) -> Html:
    counts, num_classes = result.counts, len(names)
    off = counts[:-1, :-1] * (1 - np.eye(num_classes, dtype=int))
    pairs = np.dstack(np.unravel_index(np.argsort(-off, axis=None)[:12], off.shape))[0]
    per_class = counts[:-1].sum(axis=1)
    rows = [
        _row(
            f"{names[a]} → {names[b]}",
            [f"{off[a, b]:,}", f"{100 * off[a, b] / max(per_class[a], 1):.0f} %"],
        )
        for a, b in pairs
        if off[a, b]
    ]
    if rows:
        listed = _table(["object → taken for", "objects", "of its class"], rows)
    else:
        listed = element("p", "No object was taken for another class.", class_="soft")
    mistakes = off.sum(axis=0) + off.sum(axis=1)
    shown = sorted(np.argsort(-mistakes, kind="stable")[:MAX_MATRIX].tolist())
    lead = (
        f"Rows are objects, columns what they were detected as, at a score of {result.threshold:g} "
        "and more and an IoU of 0.5."
    )
    if num_classes > MAX_MATRIX:
        lead += f" The {MAX_MATRIX} of {num_classes} classes that are confused most."
    matrix = element("div", _matrix(counts, shown, names), class_="scroll whole", tabindex="0")
    common = element("div", element("h3", "most frequent"), listed)
    beside = "columns" if len(shown) <= FEW_CLASSES else None
    return section("confusion", "Confusion", lead, element("div", matrix, common, class_=beside))


def _matrix(counts: np.ndarray, shown: list[int], names: Sequence[str]) -> Html:
    """A heat map; the shade is the share of its row, of the last row that of its largest."""
    keys = [*shown, len(names)]
    head = [element("th", "")]
    titles = [*(names[k] for k in shown), "missed"]
    head += [element("th", element("span", title), scope="col", title=title) for title in titles]
    rows = []
    for k in keys:
        is_background = k == len(names)
        row = counts[k]
        whole = max(int(row.max() if is_background else row.sum()), 1)
        name = "no object" if is_background else names[k]
        cells = [element("th", name, scope="row", title=name)]
        for j in keys:
            if is_background and j == len(names):
                cells.append(element("td", ""))
                continue
            share = row[j] / whole
            style = f"background:rgb(var(--heat) / {0.85 * share:.2f})"
            if share > 0.6:
                style += ";color:var(--card)"
            cells.append(element("td", f"{row[j]:,}" if row[j] else "", style=style))
        rows.append(element("tr", *cells))
    is_upright = len(shown) > FEW_CLASSES or max(map(len, titles)) > FEW_LETTERS
    classes = ["heat"] + ["upright"] * is_upright + ["many"] * (len(shown) > FEW_CLASSES)
    return element(
        "table",
        element("thead", element("tr", *head)),
        element("tbody", *rows),
        class_=" ".join(classes),
    )


def lost_section(scores: dict[str, Scores]) -> Html:
    lead = (
        "What AP50 would gain if one kind of error were repaired (TIDE, Bolya et al. 2020). The "
        "gains do not add up to what is missing: a repair of one kind uncovers another."
    )
    parts = []
    for task, result in scores.items():
        if result.tide is None:
            continue
        most = max(*result.tide.values(), 1e-9)
        rows = []
        for name, (title, meaning) in LOST.items():
            lost = result.tide[name]
            rows.append(element("dt", title, title=meaning))
            rows.append(element("dd", _meter(lost / most), element("small", meaning)))
            rows.append(element("dd", f"{lost:.1f}"))
        parts.append(
            element(
                "div",
                element("h3", f"{TASKS[task]}: AP50 is {_percent(result.ap(0))}"),
                element("dl", *rows, class_="bars"),
            )
        )
    if not parts:
        hint = join("This needs hotcoco: ", element("code", 'pip install "hiera_det[fast]"'))
        return section("lost", "Where AP is lost", "", element("p", hint))
    return section("lost", "Where AP is lost", lead, element("div", *parts, class_="columns"))


# --------------------------------------------------------------------------------- the images
def gallery_section(
    cards: list[dict], names: Sequence[str], num_images: int, threshold: float, f1: float
) -> tuple[Html, Html]:
    """The section, and the data of its script."""
    toolbar = element(
        "div",
        element(
            "label",
            "score ≥ ",
            element("output", f"{threshold:.2f}", id="score-value", for_="score"),
            element(
                "input",
                type="range",
                id="score",
                min="0",
                max="100",
                value=str(round(100 * threshold)),
                aria_label="lowest score of a detection that is shown, in percent",
            ),
            class_="slider",
        ),
        element(
            "label",
            element("input", type="checkbox", id="show-truth", checked=True),
            "ground truth",
        ),
        element(
            "label",
            element("input", type="checkbox", id="show-predictions", checked=True),
            "predictions",
        ),
        class_="toolbar",
    )
    kinds = {"right": "right", "wrong": "wrong", "missed": "missed object", "found": "found object"}
    legend = element(
        "ul",
        *(element("li", element("i"), text, class_=name) for name, text in kinds.items()),
        class_="outcomes",
    )
    worst = [k for k, card in enumerate(cards) if card["group"] == "worst"]
    groups = {
        "the {} worst": worst[:NUM_OPEN],
        "the next {}": worst[NUM_OPEN:],
        "{} at random": [k for k, card in enumerate(cards) if card["group"] == "random"],
        "the {} best": [k for k, card in enumerate(cards) if card["group"] == "best"],
    }
    parts = []
    for title, members in groups.items():
        if members:
            figures = element("div", *(_card(cards[k]) for k in members), class_="cards")
            summary = element("summary", title.format(len(members)))
            parts.append(element("details", summary, figures, open=members[0] == 0))
    best = f"F1 is highest, {f1:.2f}, at the score that the slider begins with. " if f1 else ""
    lead = (
        f"{len(cards)} of {num_images:,} validation images. A detection is right where it overlaps "
        f"an object of its class by an IoU of 0.5. {best}A click enlarges, arrow keys go on."
    )
    script = element("noscript", element("p", "The images are drawn by JavaScript, which is off."))
    counts = element("p", id="gallery-counts", class_="soft", aria_live="polite")
    html = section("gallery", "Images", lead, script, toolbar, legend, counts, *parts)
    return html, data_element("gallery-data", {"names": list(names), "cards": cards})


def _card(card: dict) -> Html:
    canvas = element("canvas", role="img", aria_label=card["name"])
    name = element("span", card["name"], title=card["name"])
    caption = element("figcaption", name, element("small"))
    return element("figure", element("button", canvas, type="button"), caption, class_="card")


def pictures_section(files: Sequence[Path]) -> Html:
    """PNG files of a run, as JPEGs."""
    figures = []
    for file in files:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((1400, 1800))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=85)
        source = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
        image = element("img", src=source, alt=file.name)
        figures.append(element("figure", image, element("figcaption", file.name)))
    return section("pictures", "Pictures", "", element("div", *figures, class_="pictures"))


# --------------------------------------------------------------------------------- the data
def size_counts(truth: Truth) -> np.ndarray:
    """Objects of each class, int (K, 4): all, small, medium, large. Crowds do not count."""
    objects = [a for a in truth.content["annotations"] if not a["iscrowd"]]
    counts = np.zeros((len(truth.names), 4), dtype=int)
    classes = np.array([a["category_id"] - 1 for a in objects], dtype=int)
    areas = np.array([a["area"] for a in objects], dtype=float)
    bounds = [(SMALL, np.inf), (SMALL, MEDIUM), (MEDIUM, LARGE), (LARGE, np.inf)]
    for column, (low, high) in enumerate(bounds):
        is_in = (areas >= low) & (areas < high)
        counts[:, column] = np.bincount(classes[is_in], minlength=len(truth.names))
    return counts


def dataset_section(truths: dict[str, Truth]) -> Html:
    """Objects of each class, their sizes, and how many an image, of each split."""
    facts, charts = [], []
    for split, truth in truths.items():
        objects = [a for a in truth.content["annotations"] if not a["iscrowd"]]
        num_images = len(truth.content["images"])
        per_image = np.zeros(num_images, dtype=int)
        for annotation in objects:
            per_image[annotation["image_id"] - 1] += 1
        facts.append(
            _row(
                split,
                [
                    f"{num_images:,}",
                    f"{int((per_image == 0).sum()):,}",
                    f"{len(objects):,}",
                    f"{len(truth.content['annotations']) - len(objects):,}",
                    f"{per_image.mean() if num_images else 0:.1f}",
                    f"{per_image.max(initial=0):,}",
                ],
            )
        )
        sides = np.sqrt([max(float(a["area"]), 0.25) for a in objects])
        charts.append(_sizes_chart(f"size of an object, {split}", sides))
        charts.append(_counts_chart(f"objects an image, {split}", per_image))
    head = ["", "images", "of these empty", "objects", "crowds", "mean an image", "most"]
    title = element("h3", "objects by class")
    by_class = element("div", title, _class_table(truths), class_="tall")
    return section(
        "data",
        "Data",
        "",
        _table(head, facts),
        element("div", *charts[:2], by_class, *charts[2:], class_="columns data"),
    )


def _sizes_chart(title: str, sides: np.ndarray) -> Html:
    """Square roots of areas, in bins that grow by the square root of 2."""
    exponents = np.floor(2 * np.log2(sides)).astype(int) if len(sides) else np.zeros(0, dtype=int)
    low, high = (int(exponents.min()), int(exponents.max())) if len(exponents) else (8, 12)
    counts = np.bincount(exponents - low, minlength=high - low + 1) if len(exponents) else [0] * 5
    labels = [f"{2 ** (k / 2):.0f}" for k in range(low, high + 1)]
    return histogram(title, labels, [int(n) for n in counts], "side, px: root of the area")


def _counts_chart(title: str, per_image: np.ndarray) -> Html:
    most = int(per_image.max(initial=0))
    width = max(1, -(-(most + 1) // 24))
    counts = np.bincount(per_image // width, minlength=most // width + 1)
    labels = [str(k * width) if width == 1 else f"{k * width}–" for k in range(len(counts))]
    return histogram(title, labels, [int(n) for n in counts], "objects")


def _class_table(truths: dict[str, Truth]) -> Html:
    columns = {
        split: dict(zip(t.names, size_counts(t)[:, 0], strict=True)) for split, t in truths.items()
    }
    last = list(columns.values())[-1]
    most = max([*last.values(), 1])
    rows = []
    for name in sorted(last, key=lambda name: -last[name]):
        cells = [f"{column.get(name, 0):,}" for column in columns.values()]
        cells[-1] = join(cells[-1], _meter(last[name] / most))
        rows.append(_row(name, cells))
    return _table(["", *columns], rows)


# --------------------------------------------------------------------------------- files
def files_section(files: Sequence[tuple[str, Path]]) -> Html:
    """Links to files.

    Args:
        files: path from the page's folder, and the file.
    """
    rows = []
    for name, path in files[:MAX_FILES]:
        link = element("a", name, href=quote(os.fsencode(name.replace(os.sep, "/"))))
        rows.append(element("tr", element("td", link), element("td", _bytes(path.stat().st_size))))
    table = element("table", element("tbody", *rows))
    more = len(files) - MAX_FILES
    rest = element("p", f"and {more} more", class_="soft") if more > 0 else Html("")
    return section("files", "Files", "", element("div", table, class_="scroll", tabindex="0"), rest)


def _bytes(size: float) -> str:
    if size < 1000:
        return f"{size:,.0f} bytes"
    return f"{size / 1e3:,.1f} kB" if size < 1e6 else f"{size / 1e6:,.1f} MB"
