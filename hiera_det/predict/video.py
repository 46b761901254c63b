"""Predictions on a video: the same video with overlays and ids, and the tracks as CSV and JSON."""

import csv
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
from detectron2.structures import Instances
from tqdm import tqdm

from hiera_det.data.rle import encode_mask
from hiera_det.data.video_files import VideoFrame, VideoReader, VideoWriter
from hiera_det.report.predictions import draw_instances

from .folder import class_numbers, is_shown
from .tracker import Tracker

__all__ = ["VideoResult", "predict_video"]

logger = logging.getLogger(__name__)

COLUMNS = ("frame", "time", "id", "class", "score", "x", "y", "width", "height", "area")
ENDINGS = (".mp4", "_tracks.csv", "_tracks.json")
T = TypeVar("T")


class VideoResult(NamedTuple):
    """The files that were written, and what is in them."""

    video: Path
    csv: Path
    json: Path
    num_frames: int
    num_tracks: int
    num_detections: int


class _Finished(NamedTuple):
    picture: np.ndarray  # uint8 (H, W, 3), RGB
    records: list[dict[str, Any]]  # of its detections, as in the JSON


def predict_video(
    predictor: Any,
    path: str | os.PathLike,
    output_folder: str | os.PathLike,
    *,
    score: float = 0.5,
    classes: Sequence[str] | None = None,
    batch_size: int = 8,
    num_workers: int = 2,
    max_gap: float = 1.0,
    predict: Callable[[list[np.ndarray]], list[Instances]] | None = None,
) -> VideoResult:
    """Detects on every frame, follows the objects, and writes three files.

    NAME.mp4 has boxes, masks, ids and scores drawn on the frames, at the times of the source;
    without sound. NAME_tracks.csv has a row for each detection: frame (from 0), time (s), id,
    class, score, box (x, y, width, height in px), area (px^2; of the mask where there is one).
    NAME_tracks.json has the same with masks as COCO's RLE. Frames are read, shown to the detector
    and written in batches: memory does not grow with the length of the video.

    Args:
        predictor: a `Predictor`, or anything with its `class_names`, `class_colors` and
            `predict_images`.
        path: whatever FFmpeg decodes.
        output_folder: created if missing.
        score: detections of a lower one are left out.
        classes: names of those to keep; None keeps all.
        batch_size: frames that the detector gets at once.
        num_workers: threads that draw and encode masks, while the detector is at the next batch.
        max_gap: seconds that an object may go undetected and keep its id.
        predict: instead of the predictor's own, on a list of RGB images.

    Returns:
        The files, and the numbers of frames, tracks and detections.

    Raises:
        FileNotFoundError: there is no such video.
        FileExistsError: a file that would be written is there already.
        ValueError: it is no video, or a class has no such name.
        ImportError: PyAV or SciPy is missing.
    """
    path, output_folder = Path(path), Path(output_folder)
    kept = None if classes is None else class_numbers(predictor.class_names, classes)
    targets = [output_folder / f"{path.stem}{end}" for end in ENDINGS]
    for target in targets:
        if target.exists():
            raise FileExistsError(f"{target} is there already; move it, or choose another folder")
    tracker = Tracker(max_gap)
    with ExitStack() as stack:
        video = stack.enter_context(VideoReader(path))
        frames = iter(video)
        first = list(islice(frames, 1))
        if not first:
            raise ValueError(f"no frame of {path} can be decoded")
        size = first[0].image.shape[:2]
        output_folder.mkdir(parents=True, exist_ok=True)
        files = stack.enter_context(_Files(targets, video, size, predictor))
        bar = stack.enter_context(
            tqdm(total=video.expected_frames or None, desc=path.name, unit="frame", disable=None)
        )
        pool = stack.enter_context(ThreadPoolExecutor(max(1, num_workers)))
        waiting: deque[tuple[int, Future[_Finished]]] = deque()  # drawn by threads, in order
        for batch in _batches(chain([first.pop()], frames), batch_size):
            found = (predict or predictor.predict_images)([frame.image for frame in batch])
            for frame, instances in zip(batch, found, strict=True):
                shown = instances[is_shown(instances, score, kept)].to("cpu")
                boxes, numbers = shown.pred_boxes.tensor.numpy(), shown.pred_classes.numpy()
                ids = tracker.update(boxes, numbers, frame.time)
                waiting.append((frame.pts, pool.submit(_finish, frame, shown, ids, predictor)))
            while len(waiting) > batch_size:
                files.write(*waiting.popleft())
                bar.update()
        while waiting:
            files.write(*waiting.popleft())
            bar.update()
        bar.total = files.num_frames  # what a file claims to hold is often an estimate
        _tell_losses(video, files.num_frames)
    counts = files.num_frames, tracker.num_tracks, files.num_detections
    return VideoResult(targets[0], targets[1], targets[2], *counts)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _finish(frame: VideoFrame, shown: Instances, ids: Sequence[int], predictor: Any) -> _Finished:
    """What is written of a frame: the picture, and the records of its detections."""
    numbers = shown.pred_classes.tolist()
    masks = shown.pred_masks if shown.has("pred_masks") else None
    scores = shown.scores.tolist()
    names = [predictor.class_names[k] for k in numbers]
    labels = [f"{name} #{number}" for name, number in zip(names, ids, strict=True)]
    colors = [predictor.class_colors[k] for k in numbers]
    boxes = shown.pred_boxes.tensor
    drawn = draw_instances(frame.image, boxes, labels, colors, masks, scores)
    records = []
    for k, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        box = [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)]
        record: dict[str, Any] = {
            "time": round(frame.time, 6),
            "id": ids[k],
            "class": names[k],
            "score": round(scores[k], 4),
            "bbox": box,
            "area": round(box[2] * box[3], 2),
        }
        if masks is not None:
            mask = np.asarray(masks[k], dtype=bool)  # (H, W)
            record["area"] = int(mask.sum())
            record["segmentation"] = encode_mask(mask)
        records.append(record)
    return _Finished(drawn, records)


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


class _Files:
    """NAME.mp4, NAME_tracks.csv and NAME_tracks.json, written frame by frame.

    Closing makes all three whole, also after an error.
    """

    def __init__(
        self, paths: Sequence[Path], video: VideoReader, size: Sequence[int], predictor: Any
    ):
        self.num_frames = self.num_detections = 0
        self._writer = VideoWriter(paths[0], video.fps, video.time_base)
        self._csv: IO[str] = paths[1].open("w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._csv)
        self._rows.writerow(COLUMNS)
        head = {
            "video": video.path.name,
            "height": size[0],
            "width": size[1],
            "fps": float(video.fps),
            "class_names": list(predictor.class_names),
        }
        self._json: IO[str] = paths[2].open("w", encoding="utf-8")
        self._json.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "detections": [')

    def write(self, pts: int, future: "Future[_Finished]") -> None:
        """Appends a frame, when it is drawn."""
        finished = future.result()
        for record in finished.records:
            record = {"frame": self.num_frames, **record}
            values = [record[name] for name in ("frame", "time", "id", "class", "score")]
            self._rows.writerow([*values, *record["bbox"], record["area"]])
            separator = ",\n" if self.num_detections else "\n"
            self._json.write(separator + json.dumps(record, ensure_ascii=False))
            self.num_detections += 1
        self._writer.write(finished.picture, pts)
        self.num_frames += 1

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *error: Any) -> None:
        self._json.write(f'\n], "num_frames": {self.num_frames}}}\n')
        self._json.close()
        self._csv.close()
        self._writer.close()
