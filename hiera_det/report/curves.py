"""Curves of a run, from the `metrics.json` that Detectron2 writes."""

import json
import os
from collections import defaultdict
from pathlib import Path

__all__ = ["binned", "panels_of", "plot_metrics", "read_metrics"]

Curve = tuple[list[int], list[float]]  # iterations, values
MAX_POINTS = 1000  # of a loss; longer curves are averaged in bins


def read_metrics(metrics_file: str | os.PathLike) -> dict[str, Curve]:
    """The curves in a `metrics.json`: by name, iterations in rising order and a value for each.

    A resumed run appends to the file and repeats the iterations since its checkpoint: the last
    value stands. A last line that was cut short is left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line before the last is not a JSON object, or there is no metric at all.
    """
    path = Path(metrics_file)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; give the metrics.json of a run's output_dir"
        )
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            iteration = record.pop("iteration")
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise ValueError(
                f'{path}, line {number}: {line!r:.60} is not an object with an "iteration"; '
                "this is not a metrics.json of Detectron2"
            ) from error
        for name, value in record.items():
            if isinstance(value, (int, float)):
                values[name][int(iteration)] = float(value)
    if not values:
        raise ValueError(f"{path} holds no metrics; has the run written any?")
    return {
        name: (sorted(by_iteration), [by_iteration[k] for k in sorted(by_iteration)])
        for name, by_iteration in values.items()
    }


def binned(curve: Curve) -> Curve:
    """Averages of neighbours, so that at most MAX_POINTS are left."""
    step = -(-len(curve[0]) // MAX_POINTS)
    if step == 1:
        return curve
    starts = range(0, len(curve[0]), step)
    means = [sum(curve[1][k : k + step]) / len(curve[1][k : k + step]) for k in starts]
    return [curve[0][k] for k in starts], means


def panels_of(curves: dict[str, Curve]) -> list[tuple[str, dict[str, Curve], bool]]:
    """The plots of the page: title, curves by label, whether the axis is logarithmic."""
    losses = {k: v for k, v in curves.items() if k == "total_loss" or k.startswith("loss")}
    panels = [("loss", losses, True)]
    panels.append(("learning rate", {k: v for k, v in curves.items() if k == "lr"}, False))
    for task, title in (("bbox", "box AP"), ("segm", "mask AP")):
        of_task = {
            name: curves[f"{task}/{name}"]
            for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")
            if f"{task}/{name}" in curves
        }
        panels.append((title, of_task, False))
    accuracy = ("fast_rcnn/cls_accuracy", "fast_rcnn/fg_cls_accuracy", "mask_rcnn/accuracy")
    of_training = {k: v for k, v in curves.items() if k.startswith(accuracy)}
    panels.append(("accuracy in training", of_training, False))
    panels.append(("seconds per iteration", {k: curves[k] for k in curves if k == "time"}, False))
    return [panel for panel in panels if panel[1]]


def plot_metrics(metrics_file: str | os.PathLike, png_file: str | os.PathLike) -> Path:
    """Draws losses, learning rate and, where they are there, AP, accuracy and speed as one PNG.

    Args:
        metrics_file: `metrics.json` of a run, also of one that is under way or was resumed.
        png_file: the picture; its folder is created if missing.

    Returns:
        `png_file`.

    Raises:
        FileNotFoundError, ValueError: see `read_metrics`.
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogFormatter
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install matplotlib") from error

    panels = panels_of(read_metrics(metrics_file))
    num_columns = min(3, len(panels))
    num_rows = -(-len(panels) // num_columns)
    figure = Figure(figsize=(5.2 * num_columns, 3.6 * num_rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # needs no display, and leaves pyplot's state alone
    figure.suptitle(str(metrics_file), fontsize="small")
    for k, (title, curves, is_log) in enumerate(panels):
        axes = figure.add_subplot(num_rows, num_columns, k + 1)
        for label, curve in curves.items():
            is_main = label in ("total_loss", "AP")
            # A marker shows the evaluations, of which there may be but one.
            marker = "o" if len(curve[0]) < 30 else None
            axes.plot(
                *binned(curve),
                label=label,
                linewidth=1.8 if is_main else 1.1,
                color="black" if is_main else None,
                marker=marker,
                markersize=3.5,
            )
        if is_log and all(value > 0 for curve in curves.values() for value in curve[1]):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        else:
            axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("iteration", fontsize="small")
        axes.tick_params(labelsize="small", which="both")
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend(fontsize="x-small", framealpha=0.6)
    png_file = Path(png_file)
    png_file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png_file, format="png")
    return png_file
