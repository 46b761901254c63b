"""Predictions on a video: the same video with overlays and ids, and the tracks as CSV and JSON."""

import csv
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, TypeVar

import numpy as np
from detectron2.structures import Instances
from pycocotools import mask as mask_utils
from tqdm import tqdm

from hiera_det.report.predictions import Color, draw_instances

from .tracker import Tracker
from hiera_det.data.video_files import VideoReader, VideoWriter

__all__ = ["VideoResult", "predict_video"]

logger = logging.getLogger(__name__)

COLUMNS = ("frame", "time", "id", "class", "score", "x", "y", "width", "height", "area")
T = TypeVar("T")


class Detector(Protocol):
    """What is asked of a predictor."""

    class_names: list[str]
    class_colors: list[Color]

    def predict_images(self, images: list[np.ndarray]) -> list[Instances]: ...


class VideoResult(NamedTuple):
    """The files that were written, and what is in them."""

    video: Path
    csv: Path
    json: Path
    num_frames: int
    num_tracks: int
    num_detections: int


def predict_video(
    predictor: Detector,
    path: str | os.PathLike,
    output_folder: str | os.PathLike,
    *,
    score: float = 0.5,
    classes: Sequence[str] | None = None,
    batch_size: int = 8,
    max_gap: float = 1.0,
) -> VideoResult:
    """Detects on every frame, follows the objects, and writes three files.

    NAME.mp4 has boxes, masks, ids and scores drawn on the frames, at the times of the source;
    without sound. NAME_tracks.csv has a row for each detection: frame (from 0), time (s), id,
    class, score, box (x, y, width, height in px), area (px^2; of the mask where there is one).
    NAME_tracks.json has the same with masks as COCO's RLE. Frames are read, shown to the predictor
    and written in batches: memory does not grow with the length of the video.

    Args:
        predictor: a `Predictor`, or anything with its class_names, class_colors, predict_images.
        path: whatever FFmpeg decodes.
        output_folder: created if missing.
        score: detections of a lower one are left out.
        classes: names of those to keep; None keeps all.
        batch_size: frames shown to the predictor at a time.
        max_gap: seconds that an object may go undetected and keep its id.

    Returns:
        The files, and the numbers of frames, tracks and detections.

    Raises:
        FileNotFoundError: there is no such video.
        FileExistsError: a file that would be written is there already.
        ValueError: it is no video, or a class has no such name.
        ImportError: PyAV or SciPy is missing.
    """
    path, output_folder = Path(path), Path(output_folder)
    kept = _class_numbers(predictor.class_names, classes)
    targets = [
        output_folder / f"{path.stem}{end}" for end in (".mp4", "_tracks.csv", "_tracks.json")
    ]
    for target in targets:
        if target.exists():
            raise FileExistsError(f"{target} is there already; move it, or choose another folder")
    tracker = Tracker(max_gap)
    num_detections = 0
    with ExitStack() as stack:
        video = stack.enter_context(VideoReader(path))
        frames = iter(video)
        first = next(frames, None)
        if first is None:
            raise ValueError(f"no frame of {path} can be decoded")
        output_folder.mkdir(parents=True, exist_ok=True)
        writer = stack.enter_context(VideoWriter(targets[0], video.fps, video.time_base))
        tables = stack.enter_context(
            _TrackFiles(targets[1], targets[2], video, first.image.shape[:2], predictor.class_names)
        )
        frames = _chain(first, frames)
        bar = stack.enter_context(
            tqdm(total=video.expected_frames or None, desc=path.name, unit="frame")
        )
        for batch in _batches(frames, batch_size):
            predictions = predictor.predict_images([frame.image for frame in batch])
            for frame, instances in zip(batch, predictions, strict=True):
                shown = instances[_is_shown(instances, score, kept)].to("cpu")
                boxes, numbers = shown.pred_boxes.tensor.numpy(), shown.pred_classes.tolist()
                ids = tracker.update(boxes, np.array(numbers, dtype=int), frame.time)
                drawn = _draw(frame.image, shown, ids, predictor)
                tables.write(writer.num_frames, frame.time, ids, shown)
                writer.write(drawn, frame.pts)
                num_detections += len(shown)
                bar.update()
        num_frames = writer.num_frames
        bar.total = num_frames  # what a file claims to hold is often an estimate
        _tell_losses(video, num_frames)
    return VideoResult(*targets, num_frames, tracker.num_tracks, num_detections)


def _chain(first: T, others: Iterator[T]) -> Iterator[T]:
    """`itertools.chain` would keep the first in memory to the end."""
    yield first
    del first
    yield from others


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _class_numbers(names: Sequence[str], classes: Sequence[str] | None) -> list[int] | None:
    if classes is None:
        return None
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise ValueError(f"no class is called {unknown[0]!r}; there are {', '.join(names)}")
    return [names.index(name) for name in classes]


def _is_shown(instances: Instances, score: float, kept: list[int] | None) -> Any:
    """Flags (N,)."""
    flags = instances.scores >= score
    if kept is not None:
        flags = (
            flags
            & sum(
                (instances.pred_classes == k for k in kept), start=flags.new_zeros(flags.shape)
            ).bool()
        )
    return flags


def _draw(
    image: np.ndarray, shown: Instances, ids: Sequence[int], predictor: Detector
) -> np.ndarray:
    numbers = shown.pred_classes.tolist()
    return draw_instances(
        image,
        shown.pred_boxes.tensor,
        [f"{predictor.class_names[k]} #{number}" for k, number in zip(numbers, ids, strict=True)],
        [predictor.class_colors[k] for k in numbers],
        shown.pred_masks if shown.has("pred_masks") else None,
        shown.scores.tolist(),
    )


def _tell_losses(video: VideoReader, num_frames: int) -> None:
    """Says in the log how much of a damaged file could be used."""
    if video.num_damaged:
        logger.warning(
            "%s is damaged: %d of its packets do not decode; the other %d frames are written",
            video.path,
            video.num_damaged,
            num_frames,
        )
    # Claims that rest on the duration are a little off.
    elif num_frames < 0.95 * video.expected_frames - 1:
        logger.warning(
            "%s is cut off: it says %d frames and holds %d, which are written",
            video.path,
            video.expected_frames,
            num_frames,
        )


class _TrackFiles:
    """NAME_tracks.csv and NAME_tracks.json, written frame by frame."""

    def __init__(
        self,
        csv_path: Path,
        json_path: Path,
        video: VideoReader,
        size: Sequence[int],
        class_names: list[str],
    ):
        self.class_names = class_names
        self._csv: IO[str] = csv_path.open("w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._csv)
        self._rows.writerow(COLUMNS)
        head = {
            "video": video.path.name,
            "height": size[0],
            "width": size[1],
            "fps": float(video.fps),
            "class_names": class_names,
        }
        self._json: IO[str] = json_path.open("w", encoding="utf-8")
        self._json.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "detections": [')
        self._separator = "\n"
        self._num_frames = 0

    def write(self, frame: int, time: float, ids: Sequence[int], shown: Instances) -> None:
        self._num_frames += 1
        has_masks = shown.has("pred_masks")
        for k, number in enumerate(ids):
            x0, y0, x1, y1 = (round(v, 2) for v in shown.pred_boxes.tensor[k].tolist())
            box = [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]
            record: dict[str, Any] = {
                "frame": frame,
                "time": round(time, 6),
                "id": number,
                "class": self.class_names[int(shown.pred_classes[k])],
                "score": round(float(shown.scores[k]), 4),
                "bbox": box,
                "area": round(box[2] * box[3], 2),
            }
            if has_masks:
                mask = np.asarray(shown.pred_masks[k], dtype=np.uint8)  # (H, W)
                code = mask_utils.encode(np.asfortranarray(mask))
                record["area"] = int(mask.sum())
                record["segmentation"] = {"size": code["size"], "counts": code["counts"].decode()}
            values = [record[name] for name in ("frame", "time", "id", "class", "score")]
            self._rows.writerow([*values, *box, record["area"]])
            self._json.write(self._separator + json.dumps(record, ensure_ascii=False))
            self._separator = ",\n"

    def __enter__(self) -> "_TrackFiles":
        return self

    def __exit__(self, *error: Any) -> None:
        self._json.write(f'\n], "num_frames": {self._num_frames}}}\n')
        self._json.close()
        self._csv.close()
