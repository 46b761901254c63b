"""Tracking by detection: ids for the objects of a video, from their boxes and classes alone.

SORT's scheme (Bewley et al., 1602.00763): every track foretells its box, and boxes are assigned so
that the sum of overlaps is largest. The overlap is DIoU (Zheng et al., 1911.08287), which tells
near from far where boxes do not touch, so that small objects may move further than their size.
"""

import numpy as np

__all__ = ["Tracker"]

MIN_SIMILARITY = -0.3  # DIoU of equal squares with a gap of half their side between them is -0.31
CLASS_PENALTY = 0.5  # of DIoU: another class only where boxes overlap well
SMOOTHING = 0.5  # of the velocity: the share of the newest step


class _Track:
    def __init__(self, number: int, box: np.ndarray, category: int, time: float):
        self.number, self.box, self.category, self.time = number, box, category, time
        self.velocity: np.ndarray | None = None  # (2,), px per second; None until the second box

    def box_at(self, time: float) -> np.ndarray:
        """Foretold box (4,): moved on at constant velocity."""
        if self.velocity is None:
            return self.box
        return self.box + np.tile(self.velocity * (time - self.time), 2)

    def update(self, box: np.ndarray, category: int, time: float) -> None:
        step = (box.reshape(2, 2).mean(axis=0) - self.box.reshape(2, 2).mean(axis=0)) / (
            time - self.time
        )
        old = self.velocity
        self.velocity = step if old is None else SMOOTHING * step + (1 - SMOOTHING) * old
        self.box, self.category, self.time = box, category, time


class Tracker:
    """Gives the detections of each frame the ids of their objects: 1, 2, 3, ... as they appear.

    An object that is not detected for up to `max_gap` seconds keeps its id if it moves on as it
    did; one that is gone for longer gets a new id when it comes back. No id is given twice.
    """

    def __init__(self, max_gap: float = 1.0):
        """
        Args:
            max_gap: seconds.

        Raises:
            ImportError: SciPy is missing.
        """
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError as error:
            raise ImportError('tracking needs SciPy: pip install "hiera_det[video]"') from error
        self._assign = linear_sum_assignment
        self.max_gap = max_gap
        self.num_tracks = 0  # so far
        self._tracks: list[_Track] = []

    def update(self, boxes: np.ndarray, classes: np.ndarray, time: float) -> list[int]:
        """Ids of the detections of the next frame.

        Args:
            boxes: (N, 4), x0, y0, x1, y1 in px.
            classes: int (N,).
            time: of the frame, in s; later than the one before.

        Returns:
            N ids, all different.
        """
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        self._tracks = [t for t in self._tracks if time - t.time <= self.max_gap + 1e-6]
        tracks = self._tracks
        foretold = np.array([t.box_at(time) for t in tracks]).reshape(-1, 4)
        similarity = _diou(foretold, boxes)  # (num_tracks, N)
        same_class = np.array([t.category for t in tracks])[:, None] == np.asarray(classes)
        similarity -= CLASS_PENALTY * ~same_class.reshape(similarity.shape)
        gain = np.maximum(similarity - MIN_SIMILARITY, 0)  # 0: as good as no pair
        found: dict[int, _Track] = {}
        for row, column in zip(*self._assign(gain, maximize=True), strict=True):
            if gain[row, column] > 0:
                found[int(column)] = tracks[row]
        ids = []
        for k, box in enumerate(boxes):
            track = found.get(k)
            if track is None:
                self.num_tracks += 1
                track = _Track(self.num_tracks, box, int(classes[k]), time)
                tracks.append(track)
            else:
                track.update(box, int(classes[k]), time)
            ids.append(track.number)
        return ids


def _diou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """DIoU of boxes (M, 4) and (N, 4): (M, N), in -1..1."""
    a, b = first[:, None], second[None]  # (M, 1, 4), (1, N, 4)
    inner = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    outer = np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])
    between = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2  # all (M, N, 2)
    common = inner.clip(0).prod(axis=-1)
    areas = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1)
    iou = common / np.maximum(areas - common, 1e-9)
    return iou - (between**2).sum(axis=-1) / np.maximum((outer**2).sum(axis=-1), 1e-9)
