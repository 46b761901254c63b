"""Prediction on image files: overlays, COCO-format JSON, a table of counts, a contact sheet.

Each of some threads takes a batch from the files to what is written: it reads, resizes, detects,
pastes masks, encodes, draws, writes. A GPU is used by one of them at a time, while the others are
busy with the rest; on a CPU it is the cores that they share.
"""

import csv
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image
from tqdm import tqdm

from hiera_det.data.images import read_image
from hiera_det.data.rle import encode_mask
from hiera_det.report.contact_sheet import draw_contact_sheet, thumbnail
from hiera_det.report.predictions import class_labels, draw_instances

from .inputs import InputFile
from .predictor import Predictor

__all__ = ["RESULTS", "Summary", "class_numbers", "predict_files"]

logger = logging.getLogger(__name__)

RESULTS = "coco_instances_results.json"  # Detectron2's name
SAME_FORMAT = (".bmp", ".jpeg", ".jpg", ".png", ".webp")  # overlays keep these, else .png is added


class Summary(NamedTuple):
    """What was written; `failed` are the files that could not be read, with the reason."""

    output: Path
    num_images: int
    num_detections: int  # of at least `score`, and of the classes asked for
    failed: dict[str, str]


class _Loaded(NamedTuple):
    """An image in memory: RGB uint8 (H, W, 3), and the model's input."""

    pixels: np.ndarray
    input: Any


class _Result(NamedTuple):
    """What is kept of an image."""

    size: tuple[int, int]  # height, width
    records: list[dict[str, Any]]  # COCO's results
    counts: list[int]  # by class, of what is shown
    areas: list[int]  # px, of each mask (or box) shown
    thumbnail: np.ndarray | None


class _Whole:
    """A `Predictor`, whose detector takes a batch alone, apart from the rest of the work."""

    def __init__(self, predictor: Predictor):
        self.predictor, self.lock = predictor, Lock()

    def load(self, path: Path) -> _Loaded:
        pixels = self.predictor.pixels(path)
        rgb = _shown(pixels, self.predictor.image_format)
        return _Loaded(rgb, self.predictor.model_input(pixels))

    def detect(self, inputs: Sequence[Any]) -> list[Instances]:
        if self.predictor.device.type == "cpu":
            return self.predictor.detect(inputs)
        with self.lock:  # its memory is for one batch
            return self.predictor.detect(inputs)

    def finish(self, raw: Instances, size: tuple[int, int]) -> Instances:
        return self.predictor.finish(raw, *size)


class _Function:
    """A function of RGB images: tiles, test-time augmentation, ONNX."""

    def __init__(self, predict: Callable[[list[np.ndarray]], list[Instances]], predictor: Any):
        self.detect = predict
        self.mapper = getattr(predictor, "mapper", None)

    def load(self, path: Path) -> _Loaded:
        keys = ("intensity_range", "page")
        pixels = read_image(path, "RGB", *(getattr(self.mapper, key, None) for key in keys))
        return _Loaded(pixels, pixels)

    def finish(self, found: Instances, size: tuple[int, int]) -> Instances:
        return found


class _Writer:
    """What is made of the detections of an image, by threads."""

    def __init__(self, predictor: Any, output: Path, score: float, kept: list[int] | None):
        self.names, self.colors = predictor.class_names, predictor.class_colors
        count = len(self.names)
        self.category_ids = getattr(predictor, "category_ids", None) or list(range(1, count + 1))
        self.output, self.score, self.kept = output, score, kept

    def write(
        self,
        found: Instances,
        pixels: np.ndarray,
        overlay: str,
        image_id: Any,
        caption: str | None,
    ) -> _Result:
        """Writes the overlay; a thumbnail with `caption`, if there is one, is for the sheet."""
        records = self._records(found, image_id)
        shown = found[is_shown(found, self.score, self.kept)]
        numbers = shown.pred_classes.tolist()
        masks = shown.pred_masks if shown.has("pred_masks") else None
        drawn = draw_instances(
            pixels,
            shown.pred_boxes.tensor,
            class_labels(numbers, self.names),
            [self.colors[k] for k in numbers],
            masks,
            shown.scores.tolist(),
        )
        path = self.output / "overlays" / overlay
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn).save(path, quality=90)  # which PNG has no use for
        return _Result(
            pixels.shape[:2],
            records,
            np.bincount(numbers, minlength=len(self.names)).tolist(),
            _areas(shown, masks),
            None if caption is None else thumbnail(drawn, caption),
        )

    def _records(self, found: Instances, image_id: Any) -> list[dict[str, Any]]:
        """COCO's results, as Detectron2's evaluator writes them."""
        fields = {key: value for key, value in found.get_fields().items() if key != "pred_masks"}
        records = instances_to_coco_json(Instances(found.image_size, **fields), image_id)
        for record in records:
            record["category_id"] = self.category_ids[record["category_id"]]
        if found.has("pred_masks"):
            for record, mask in zip(records, found.pred_masks, strict=True):
                record["segmentation"] = encode_mask(mask.numpy())
        return records


def predict_files(
    predictor: Any,
    files: Sequence[InputFile],
    output: str | os.PathLike,
    *,
    score: float = 0.5,
    classes: Sequence[str] | None = None,
    ids: Sequence[Any] | None = None,
    batch_size: int = 1,
    num_workers: int = 2,
    predict: Callable[[list[np.ndarray]], list[Instances]] | None = None,
    max_thumbnails: int = 24,
    progress: bool | None = None,
) -> Summary:
    """Predicts on image files and writes, into a folder:

    overlays/                       the images with boxes, masks and scores of at least `score`
    coco_instances_results.json     all detections, as evaluation writes them
    images.json                     the ids of the images, in COCO's format
    counts.csv                      objects of at least `score` by image and class, mask areas
    contact_sheet.png               the first overlays, small

    Args:
        predictor: a `Predictor`, or anything with `class_names`, `class_colors` and
            `predict_images`.
        files: of `find_inputs`.
        output: folder; new, or empty.
        score: of what is drawn and counted. The JSON has all that the model finds.
        classes: names of what is drawn and counted; None for all.
        ids: of the images, in the JSON; 1, 2, … by default.
        batch_size: images that the detector gets at once.
        num_workers: threads, each of which has a batch; 0 does all in this one.
        predict: instead of the predictor's own, on a list of RGB images.
        max_thumbnails: of the contact sheet.
        progress: whether to show a bar; None does on a terminal.

    Raises:
        FileExistsError: the folder holds something.
        ValueError: an unknown class.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(
            f"{output} holds files already, and nothing is overwritten: choose another --output"
        )
    kept = None if classes is None else class_numbers(predictor.class_names, classes)
    writer = _Writer(predictor, output, score, kept)
    if predict is None and isinstance(predictor, Predictor):
        source: Any = _Whole(predictor)
    else:
        source = _Function(predict or predictor.predict_images, predictor)
    ids = list(range(1, len(files) + 1)) if ids is None else list(ids)
    overlays = _overlay_names(files)
    output.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    results: dict[int, _Result] = {}

    def work(batch: Sequence[int]) -> None:
        loaded: dict[int, _Loaded] = {}
        for k in batch:
            try:
                loaded[k] = source.load(files[k].path)
            except (ValueError, OSError) as error:
                failed[files[k].name] = str(error)
                logger.warning("skipped: %s", error)
        found = source.detect([one.input for one in loaded.values()]) if loaded else []
        for (k, one), raw in zip(loaded.items(), found, strict=True):
            instances = source.finish(raw, one.pixels.shape[:2])
            caption = files[k].name if k < max_thumbnails else None
            results[k] = writer.write(instances, one.pixels, overlays[k], ids[k], caption)

    batches = [range(len(files))[k : k + batch_size] for k in range(0, len(files), batch_size)]
    with _Threads(num_workers) as threads, _bar(len(files), progress) as bar:
        for batch, future in zip(batches, threads.map(work, batches), strict=True):
            future.result()
            bar.update(len(batch))
    done = sorted(results)
    _write_tables(output, [files[k] for k in done], [results[k] for k in done],
                  [ids[k] for k in done], writer)  # fmt: skip
    thumbnails = [t for k in done if (t := results[k].thumbnail) is not None]
    if thumbnails:
        draw_contact_sheet(thumbnails, output / "contact_sheet.png")
    num_detections = sum(sum(results[k].counts) for k in done)
    return Summary(output, len(done), num_detections, failed)


def is_shown(found: Instances, score: float, kept: Sequence[int] | None) -> torch.Tensor:
    """bool (N,): of at least `score`, and of the classes `kept` where there are any."""
    flags = found.scores >= score
    return flags if kept is None else flags & torch.isin(found.pred_classes, torch.tensor(kept))


def class_numbers(names: Sequence[str], asked: Sequence[str]) -> list[int]:
    """The places of class names.

    Raises:
        ValueError: there is no such class; names the nearest.
    """
    unknown = [name for name in asked if name not in names]
    if unknown:
        import difflib

        near = difflib.get_close_matches(unknown[0], names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise ValueError(f"no class is called {unknown[0]!r}; {hint}")
    return [list(names).index(name) for name in asked]


# ------------------------------------------------------------------------------------ threads
class _Threads:
    """A pool of threads; with none, what is asked for is done at once."""

    def __init__(self, count: int):
        self.count = count

    def __enter__(self) -> "_Threads":
        if self.count > 0:
            self.pool = ThreadPoolExecutor(self.count, "predict")
        return self

    def __exit__(self, *error: Any) -> None:
        if self.count > 0:
            self.pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable, items: Iterable[Any]) -> Iterator[Future]:
        """Futures in the order of the items, of which two more for each thread are under way."""
        rest = iter(items)
        futures: deque[Future] = deque()
        while True:
            while len(futures) < max(1, 2 * self.count) and (item := next(rest, None)) is not None:
                futures.append(self._submit(function, item))
            if not futures:
                return
            yield futures.popleft()

    def _submit(self, function: Callable, item: Any) -> Future:
        if self.count > 0:
            return self.pool.submit(function, item)
        future: Future = Future()
        function(item)
        future.set_result(None)
        return future


def _bar(total: int, progress: bool | None) -> tqdm:
    return tqdm(total=total, unit="image", disable=None if progress is None else not progress)


# ------------------------------------------------------------------------------------ values
def _shown(pixels: np.ndarray, format: str) -> np.ndarray:
    """Pixels of the model's format as RGB (H, W, 3)."""
    if format == "L":
        return pixels.repeat(3, axis=2)  # (H, W, 1) -> (H, W, 3)
    return pixels[:, :, ::-1] if format == "BGR" else pixels


def _areas(shown: Instances, masks: Any) -> list[int]:
    """Pixels of each mask, or of the box where there are none."""
    if masks is None:
        return shown.pred_boxes.area().round().int().tolist()
    return [int(np.count_nonzero(mask.numpy())) for mask in masks]


def _overlay_names(files: Sequence[InputFile]) -> list[str]:
    """Relative names of the overlays, no two the same."""
    taken: set[str] = set()
    names = []
    for _, name in files:
        if not name.lower().endswith(SAME_FORMAT):
            name += ".png"
        while name in taken:
            name += ".png"
        taken.add(name)
        names.append(name)
    return names


# ------------------------------------------------------------------------------------ tables
def _write_tables(
    output: Path,
    files: Sequence[InputFile],
    results: Sequence[_Result],
    ids: Sequence[Any],
    writer: _Writer,
) -> None:
    records = [record for result in results for record in result.records]
    (output / RESULTS).write_text(json.dumps(records))
    images = [
        {"id": k, "file_name": file.name, "height": result.size[0], "width": result.size[1]}
        for k, file, result in zip(ids, files, results, strict=True)
    ]
    categories = [
        {"id": k, "name": name} for k, name in zip(writer.category_ids, writer.names, strict=True)
    ]
    content = {"images": images, "annotations": [], "categories": categories}
    (output / "images.json").write_text(json.dumps(content, indent=1))
    # A name may hold bytes that are no UTF-8, which the table repeats as they are.
    with open(
        output / "counts.csv", "w", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        rows = csv.writer(file)
        rows.writerow(["file", *writer.names, "total", "mean_area_px", "total_area_px"])
        for (_, name), result in zip(files, results, strict=True):
            total = sum(result.areas)
            mean = round(total / len(result.areas), 1) if result.areas else ""
            rows.writerow([name, *result.counts, sum(result.counts), mean, total])
