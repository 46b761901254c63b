"""Tracker: ids of generated moving boxes."""

import numpy as np
import pytest

pytest.importorskip("scipy", reason="tracking is in the extra `video`")

from hiera_det.predict.tracker import Tracker  # noqa: E402

FPS = 25


def square(x: float, y: float, side: float = 30) -> list[float]:
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def track(frames: list[dict[str, tuple]], **kwargs) -> list[dict[str, int]]:
    """Ids by name, of frames that are {name: (box, class)}; in a random order each time."""
    tracker, rng, result = Tracker(**kwargs), np.random.default_rng(0), []
    for k, frame in enumerate(frames):
        names = list(rng.permutation(list(frame)))
        boxes = np.array([frame[name][0] for name in names])
        ids = tracker.update(boxes, np.array([frame[name][1] for name in names]), k / FPS)
        assert len(set(ids)) == len(ids)
        result.append(dict(zip(names, ids, strict=True)))
    return result


def ids_of(name: str, result: list[dict[str, int]]) -> set[int]:
    return {ids[name] for ids in result if name in ids}


@pytest.mark.parametrize("is_hidden", [False, True], ids=["both seen", "one behind the other"])
@pytest.mark.parametrize("classes", [(0, 0), (0, 1)], ids=["same class", "two classes"])
def test_objects_that_cross_keep_their_ids(is_hidden, classes):
    frames = []
    for k in range(60):
        left, right = 20 + 4 * k, 256 - 4 * k
        frame = {"a": (square(left, 100), classes[0])}
        if not is_hidden or abs(left - right) > 22:
            frame["b"] = (square(right, 105), classes[1])
        frames.append(frame)
    result = track(frames)
    assert len(ids_of("a", result)) == len(ids_of("b", result)) == 1
    assert ids_of("a", result) != ids_of("b", result)


@pytest.mark.parametrize(("gap", "num_ids"), [(20, 1), (26, 2)])
def test_an_object_that_is_gone_for_more_than_a_second_is_a_new_one(gap, num_ids):
    frames = [{} if 10 <= k < 10 + gap else {"a": (square(20 + k, 80), 0)} for k in range(60)]
    assert len(ids_of("a", track(frames))) == num_ids


def test_max_gap_is_in_seconds():
    frames = [{} if 10 <= k < 16 else {"a": (square(20 + k, 80), 0)} for k in range(30)]
    assert len(ids_of("a", track(frames, max_gap=0.2))) == 2
    assert len(ids_of("a", track(frames, max_gap=0.3))) == 1


def test_ids_rise_as_objects_appear_and_none_is_given_twice():
    frames = [{}, {}]
    frames += [{"a": (square(50, 50), 0)}] * 5
    frames += [{"a": (square(50, 50), 0), "b": (square(150, 50), 0)}] * 5
    frames += [{}] * 40 + [{"c": (square(50, 50), 0)}]
    result = track(frames)
    assert ids_of("a", result) == {1} and ids_of("b", result) == {2} and ids_of("c", result) == {3}


def test_small_objects_may_move_further_than_their_size():
    frames = [
        {str(row): (square(20 + 14 * k, 40 + 60 * row, 12), 0) for row in range(3)}
        for k in range(30)
    ]
    result = track(frames)
    assert [len(ids_of(str(row), result)) for row in range(3)] == [1, 1, 1]


def test_a_new_object_does_not_inherit_the_id_of_one_that_vanished_elsewhere():
    frames = [{"a": (square(50, 50), 0)}] * 5 + [{"b": (square(130, 50), 0)}] * 5
    result = track(frames)
    assert ids_of("a", result) == {1} and ids_of("b", result) == {2}


def test_a_flip_of_the_class_keeps_the_id_and_neighbours_of_two_classes_do_not_swap():
    flips = [{"a": (square(50 + k, 50), int(k == 5))} for k in range(10)]
    assert len(ids_of("a", track(flips))) == 1
    # Two detections on one object, one of each class: the classes tell them apart.
    both = [{"a": (square(50 + k, 50), 0), "b": (square(51 + k, 50), 1)} for k in range(20)]
    result = track(both)
    assert len(ids_of("a", result)) == len(ids_of("b", result)) == 1


def test_a_crowd_that_moves_and_is_missed_now_and_then_keeps_its_ids():
    rng = np.random.default_rng(1)
    position, velocity = rng.uniform(30, 290, (12, 2)), rng.normal(0, 4, (12, 2))
    classes, frames = rng.integers(0, 3, 12), []
    for _ in range(120):
        position = position + velocity
        velocity = np.where((position < 13) | (position > 307), -velocity, velocity)
        position = position.clip(13, 307)
        frames.append(
            {
                str(k): (np.array(square(*position[k], 26)) + rng.normal(0, 1, 4), int(classes[k]))
                for k in range(12)
                if rng.random() > 0.05
            }
        )
    result = track(frames)
    # Detections of one class that bounce off the same corner can be taken for each other.
    assert sum(len(ids_of(str(k), result)) == 1 for k in range(12)) == 12
