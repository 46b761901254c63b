"""The page: reads a run's folder, and writes what it finds as one HTML file."""

import base64
import hashlib
import logging
import os
import string
import subprocess
import time
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from omegaconf import DictConfig
from tqdm import tqdm

import hiera_det
from hiera_det.data.run_check import dataset_names

from . import gallery, scores, sections
from .detections import Matches, Truth, match, read_detections, read_truth
from .markup import Html, element, join
from .run_folder import Run, select

__all__ = ["write_report", "write_report_of_run"]

logger = logging.getLogger(__name__)

RESULTS = Path("inference") / "coco_instances_results.json"
MAX_TRAIN_JSON = 64 << 20  # bytes: parsing COCO's own takes half a minute
TITLES = {
    "run": "Run",
    "curves": "Curves",
    "gallery": "Images",
    "ap": "AP",
    "pr": "Precision and recall",
    "lost": "Where AP is lost",
    "confusion": "Confusion",
    "pictures": "Pictures",
    "data": "Data",
    "files": "Files",
}


def write_report(
    folder: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    show_progress: bool = False,
) -> Path:
    """Writes a page about a run, finished or not.

    It holds all that it shows and asks nothing of the network; texts of the run are escaped. What
    is missing in the folder is said in the page. An older page is replaced.

    Args:
        folder: output_dir of a training or evaluation.
        output: the file; report.html in the folder by default.
        show_progress: a bar of the images that are gone through.

    Returns:
        The file.

    Raises:
        FileNotFoundError: there is no such folder, or it holds nothing of a run.
        ValueError: `output` is a file that is no page of this function, or a folder.
    """
    run = Run.read(folder)
    file = Path(output) if output is not None else run.folder / "report.html"
    _check_output(file)
    page = _Page(run, file, show_progress)
    page.build()
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(page.html().encode("utf-8", "replace"))
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def write_report_of_run(cfg: DictConfig) -> None:
    """`write_report` at the end of a run, on the main process; a failure is a line in the log."""
    if not comm.is_main_process():
        return
    try:
        start = time.perf_counter()
        path = write_report(cfg.train.output_dir)
        logger.info("Report: %s (%.1f s)", path, time.perf_counter() - start)
    except Exception as error:  # a picture of the run is never worth the run
        logger.warning(
            "No report: %s: %s; hiera-det report %s tries again",
            type(error).__name__, error, cfg.train.output_dir, exc_info=True,
        )  # fmt: skip


def _check_output(file: Path) -> None:
    """Refuses to replace what is not a report.

    Raises:
        ValueError: see `write_report`.
    """
    if file.is_dir():
        raise ValueError(f"{file} is a folder; give the name of a file, as {file / 'report.html'}")
    if file.exists() and GENERATOR.encode() not in file.read_bytes()[:4096]:
        raise ValueError(f"{file} exists and is no report; choose another name")


GENERATOR = '<meta name="generator" content="hiera-det report">'


class _Page:
    """A page in the making: sections in order, tiles, data of the script, notes."""

    def __init__(self, run: Run, file: Path, show_progress: bool) -> None:
        self.run, self.file, self.show_progress = run, file, show_progress
        self.sections: list[Html] = []
        self.data: list[Html] = []
        self.tiles: list[tuple[str, str]] = []
        self.notes = run.notes

    def build(self) -> None:
        run = self.run
        truth = self._truth()
        self.detections(truth)
        before = self.sections
        command, facts = run.command(), self._facts()
        self.sections = [sections.run_section(command, facts, run.environment(), run.config_text)]
        self.sections.append(sections.curves_section(run.curves))
        self.sections += before
        if truth is not None:
            self.sections.append(sections.dataset_section(self._splits(truth)))
        elif pictures := [p for p in run.files() if p.suffix == ".png" and p.name != "curves.png"]:
            self.sections.append(sections.pictures_section(pictures[:6]))
        start = self.file.parent.resolve()
        files = [p for p in run.files() if p.resolve() != self.file.resolve()]
        links = [(os.path.relpath(p.resolve(), start), p) for p in files]
        self.sections.append(sections.files_section(links))

    def _truth(self) -> Truth | None:
        """The validation data, or a note why there are none."""
        run = self.run
        if run.cfg is None or not _is_detector(run.cfg):
            return None
        try:
            return read_truth(run.cfg)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.notes.append(
                f"The validation data cannot be read, so that no images are shown: {error}"
            )
            return None

    def detections(self, truth: Truth | None) -> None:
        """All sections that need detections."""
        run = self.run
        file = run.folder / RESULTS
        if run.cfg is None or not _is_detector(run.cfg):
            return
        if not file.is_file():
            self.notes.append(
                f"{RESULTS.as_posix()} is not there: the run has not been evaluated yet, so there "
                "are no AP, no precision and recall, and no images."
            )
            return
        if truth is None:
            return
        try:
            found, num_lost = read_detections(file, truth)
        except ValueError as error:
            self.notes.append(f"No AP and no images: {error}")
            return
        if num_lost:
            self.notes.append(
                f"{num_lost:,} of {num_lost + len(found):,} detections are left out: their images "
                f"or classes are not in {truth.json_file.name}."
            )
        if not found:
            self.notes.append("There is not one detection: no AP, no precision and recall.")
        try:
            self._evaluation(truth, found)
        except (ValueError, TypeError, KeyError, IndexError) as error:  # annotations without sense
            logger.debug("evaluation for the report", exc_info=True)
            self.notes.append(
                f"The detections cannot be scored ({error}); hiera-det check-data "
                f"{truth.json_file} may say why."
            )

    def _evaluation(self, truth: Truth, found: list[dict]) -> None:
        cfg = self.run.cfg
        limit = select(cfg, "dataloader.evaluator.max_dets_per_image", 100)
        has_masks = truth.has_masks() and all(d.get("segmentation") for d in found)
        tasks = ("segm", "bbox") if has_masks else ("bbox",)
        names = truth.names
        counts = sections.size_counts(truth)
        if found:
            by_task = {task: scores.score(truth, found, task, limit) for task in tasks}
            self.sections.append(sections.tables_section(by_task, names, counts))
            html, data = sections.precision_recall_section(by_task, names, counts)
            self.sections += [html, sections.lost_section(by_task)]
            self.data.append(data)
            self.tiles += [
                (f"{sections.TASKS[task]} AP", f"{result.ap():.1f}")
                for task, result in by_task.items()
            ]
            main = by_task[tasks[0]]
            self.tiles.append((f"{sections.TASKS[tasks[0]]} AP50", f"{main.ap(0):.1f}"))
        images = match(truth, found, tasks[0], limit)
        bar = tqdm(images, "images", len(truth.content["images"]), disable=not self.show_progress)
        matches = list(bar)
        threshold, f1 = scores.best_threshold(matches)
        if found:
            result = scores.confusion(matches, len(names), threshold)
            self.sections.append(sections.confusion_section(result, names))
            self.tiles.append((f"F1 at score {threshold:.2f}", f"{f1:.2f}"))
        self._gallery(truth, matches, tasks[0], threshold, f1)

    def _gallery(
        self, truth: Truth, matches: list[Matches], task: str, threshold: float, f1: float
    ) -> None:
        assert self.run.cfg is not None
        chosen = gallery.choose(gallery.rank(matches, threshold))
        cards, notes = gallery.draw(chosen, truth, matches, task, self.run.cfg)
        self.notes += notes
        html, data = sections.gallery_section(cards, truth.names, len(matches), threshold, f1)
        # the images first: they say most
        self.sections.insert(0, html)
        self.data.append(data)

    def _splits(self, truth: Truth) -> dict[str, Truth]:
        """Training data as well, where their file is there and not too large."""
        cfg = self.run.cfg
        assert cfg is not None
        splits = {"validation": truth}
        if dataset_names(cfg, "train"):
            try:
                train = read_truth(cfg, "train", MAX_TRAIN_JSON)
                splits = {"training": train} | splits
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.notes.append(f"The training data are not shown: {error}")
        return splits

    def _facts(self) -> list[tuple[str, str]]:
        """Rows about the run: settings that people compare runs by."""
        run, cfg = self.run, self.run.cfg
        steps = max((max(c[0]) for c in run.curves.values()), default=-1) + 1
        planned = select(cfg, "train.max_iter")
        done = f"{steps:,} of {planned:,}" if planned and steps else f"{planned or steps:,}"
        weights = "weights" if run.is_evaluation() else "initial weights"
        rows = {
            "folder": str(run.folder.resolve()),
            "time": run.times(),
            "iterations": done if run.curves else "",
            "epochs": _text(select(cfg, "train.epochs")),
            "images an iteration": _text(select(cfg, "dataloader.train.total_batch_size")),
            "image size": _text(select(cfg, "dataloader.image_size")),
            "learning rate": _text(select(cfg, "optimizer.lr")),
            "weight decay": _text(select(cfg, "optimizer.weight_decay")),
            "layer decay": _text(select(cfg, "optimizer.params.layer_decay")),
            "trunk": _trunk(cfg),
            weights: _text(select(cfg, "train.init_checkpoint")) or "random",
            "seed": _text(select(cfg, "train.seed")),
            "precision": _precision(cfg),
            "device": _text(select(cfg, "train.device")),
        }
        if not run.curves:
            rows.pop("epochs")
        return [(name, value) for name, value in rows.items() if value]

    # ------------------------------------------------------------------------------ the file
    def html(self) -> str:
        folder = Path(__file__).parent
        parts = {name: (folder / f"page.{name}").read_text() for name in ("html", "css", "js")}
        script = parts["js"]
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        name = self.run.folder.resolve().name
        return string.Template(parts["html"]).substitute(
            generator=GENERATOR,
            title=join(f"{name}: report"),
            script_hash=f"sha256-{digest}",
            style=parts["css"],
            head=self._head(name),
            body=join(*self.sections),
            foot=element("p", _made_by()),
            data=join(*self.data),
            script=script,
        )

    def _head(self, name: str) -> Html:
        shown = [k for k in TITLES if any(f' id="{k}"' in s[:60] for s in self.sections)]
        parts = [
            element("h1", name),
            element("nav", *(element("a", TITLES[k], href=f"#{k}") for k in shown)),
        ]
        if self.notes:
            parts.append(element("ul", *(element("li", n) for n in self.notes), class_="notes"))
        if self.tiles:
            tiles = (
                element("li", element("b", value), element("span", label))
                for label, value in self.tiles
            )
            parts.append(element("ul", *tiles, class_="tiles"))
        return join(*parts)


def _is_detector(cfg: DictConfig) -> bool:
    """Whether test data are named, also where their names cannot be worked out."""
    dataset = select(cfg, "dataloader.test.dataset")
    return isinstance(dataset, DictConfig) and "names" in dataset


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def _trunk(cfg: DictConfig | None) -> str:
    """The variant, and what of it is changed."""
    for key in (
        "model.backbone.bottom_up.trunk",
        "model.backbone.net.trunk",
        "model.trunk",
        "model",
    ):
        trunk = select(cfg, key)
        variant = select(trunk, "variant") if isinstance(trunk, DictConfig) else None
        if variant:
            names = ("embed_dim", "num_heads", "stages")
            changed = [f"{n} {v}" for n in names if (v := select(trunk, n)) is not None]
            return ", ".join([str(variant), *changed])
    return ""


def _precision(cfg: DictConfig | None) -> str:
    if select(cfg, "train.amp.enabled"):
        return _text(select(cfg, "train.amp.precision"))
    return "float32" if cfg is not None else ""


def _made_by() -> str:
    """Version, and commit in a checkout, of the code that makes the page, and the time."""
    text = f"Made by hiera-det report, hiera_det {hiera_det.__version__}"
    root = Path(hiera_det.__file__).resolve().parents[1]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=5)
            text += f", commit {done.stdout.strip()}" if done.returncode == 0 else ""
        except (OSError, subprocess.TimeoutExpired):
            pass  # no git on this machine
    return f"{text}, {time.strftime('%Y-%m-%d %H:%M')}."
