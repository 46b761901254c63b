"""Video of moving shapes: frames, truth, and what a tracker makes of the truth."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from hiera_det.data.shapes_draw import CLASS_NAMES
from hiera_det.data.shapes_video import draw_moving_scene, make_shapes_video


def test_frames_show_objects_that_move_pass_leave_and_return():
    frames = list(draw_moving_scene(seed=2, num_objects=6, num_frames=150))
    again = list(draw_moving_scene(seed=2, num_objects=6, num_frames=3))
    assert all(np.array_equal(frames[k].image, again[k].image) for k in range(3))
    assert len(frames) == 150 and frames[0].image.shape == (240, 240, 3)
    categories = frames[0].categories
    assert len(categories) == 6 and set(categories) <= set(range(len(CLASS_NAMES)))
    seen = np.array([[(f.owners == k + 1).sum() for k in range(6)] for f in frames])  # (150, 6)
    assert seen.max(axis=0).min() > 300  # all are seen at some time
    assert (seen == 0).any()  # and some not at another
    for k in range(6):  # where an object is, the picture is not the background
        f = frames[int(seen[:, k].argmax())]
        inside = cv2.erode((f.owners == k + 1).astype(np.uint8), np.ones((5, 5))) > 0
        outside = f.owners == 0
        distance = np.abs(f.image[inside].mean(axis=0) - f.image[outside].mean(axis=0))
        assert distance.max() > 30


def test_a_tracker_follows_the_truth():
    pytest.importorskip("scipy", reason="tracking is in the extra `video`")
    from hiera_det.predict.tracker import Tracker

    tracker, ids = Tracker(), {}
    for k, frame in enumerate(draw_moving_scene(seed=2, num_frames=150)):
        numbers = [n for n in np.unique(frame.owners) if n and (frame.owners == n).sum() > 40]
        rectangles = [cv2.boundingRect((frame.owners == n).astype(np.uint8)) for n in numbers]
        boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in rectangles])
        classes = np.array([frame.categories[n - 1] for n in numbers])
        for number, found in zip(numbers, tracker.update(boxes, classes, k / 25), strict=True):
            ids.setdefault(number, []).append(found)
    changes = sum(int((np.diff(track) != 0).sum()) for track in ids.values())
    # One that hides in full for more than a second, or leaves, comes back as another.
    assert len(ids) == 6 and changes <= 3


@pytest.mark.slow
def test_the_command_writes_a_video(tmp_path):
    pytest.importorskip("av", reason="PyAV is in the extra `video`")
    path = tmp_path / "shapes.mp4"
    command = [sys.executable, "-m", "hiera_det.data.shapes_video", str(path), "--frames", "12"]
    subprocess.run(command, check=True)
    reader = cv2.VideoCapture(str(path))
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == 12 and reader.get(cv2.CAP_PROP_FPS) == 25
    with pytest.raises(FileExistsError, match="is there already"):
        make_shapes_video(path)
