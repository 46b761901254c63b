"""EventStorage and its writers."""

import json
import sys

import pytest
import torch
from detectron2.utils.events import (
    EventStorage,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)


def test_smoothing_is_a_median_of_the_last_iterations(golden_json):
    """Noisy scalars are the median over the window, others the last value; scopes prefix names."""
    values = [5.0, 1.0, 9.0, 2.0, 7.0]
    with EventStorage(3) as storage:
        for i, value in enumerate(values):
            storage.iter = 3 + i
            storage.put_scalar("a", value)
            storage.put_scalar("lr", value, smoothing_hint=False)
            with storage.name_scope("stage1"):
                storage.put_scalars(b=value * 2)
        smooth = storage.latest_with_smoothing_hint(3)
    recorded = golden_json["loader/events"]
    assert {name: list(pair) for name, pair in smooth.items()} == recorded


def test_current_storage():
    """The innermost open storage is the current one; without one, asking is an error."""
    with pytest.raises(AssertionError, match="EventStorage"):
        get_event_storage()
    with EventStorage() as outer:
        with EventStorage() as inner:
            assert get_event_storage() is inner
        assert get_event_storage() is outer
    with pytest.raises(AssertionError, match="EventStorage"):
        get_event_storage()


def test_scalars_and_history():
    """Values are floats filed under the iteration; histories keep all, ``latest`` the last."""
    with EventStorage(5) as storage:
        storage.put_scalar("x", torch.tensor(2.0))
        storage.step()
        storage.put_scalar("x", 4)
        storage.put_scalar("y", 1, cur_iter=99)
    assert storage.latest() == {"x": (4.0, 6), "y": (1.0, 99)}
    assert storage.history("x").values() == [(2.0, 5), (4.0, 6)]
    assert sorted(storage.histories()) == ["x", "y"]
    with pytest.raises(KeyError, match="nothing"):
        storage.history("nothing")


def test_count_samples_counts_iterations_not_values():
    """Samples of the last ``window_size`` iterations, where a scalar is not put in each."""
    with EventStorage() as storage:
        for iteration in (0, 1, 5, 9):
            storage.iter = iteration
            storage.put_scalar("x", iteration)
    assert [storage.count_samples("x", window) for window in (1, 5, 9, 20)] == [1, 2, 3, 4]
    assert storage.count_samples("nothing") == 0


def test_changed_smoothing_hint_is_an_error():
    with EventStorage() as storage:
        storage.put_scalar("x", 1)
        with pytest.raises(AssertionError, match="x"):
            storage.put_scalar("x", 1, smoothing_hint=False)


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_writer_one_line_per_iteration(tmp_path):
    """Each write adds what is new, grouped by iteration, medians for noisy scalars."""
    path = tmp_path / "metrics.json"
    writer = JSONWriter(str(path), window_size=20)
    with EventStorage(10) as storage:
        for loss in (1.0, 9.0, 2.0):
            storage.put_scalar("total_loss", loss)
            storage.put_scalar("lr", loss / 10, smoothing_hint=False)
            storage.step()
        writer.write()
        storage.put_scalar("bbox/AP", 33.0, smoothing_hint=False)
        writer.write()
        writer.write()
    writer.close()
    assert _lines(path) == [
        {"iteration": 12, "lr": 0.2, "total_loss": 2.0},
        {"bbox/AP": 33.0, "iteration": 13},
    ]


def test_json_writer_appends(tmp_path):
    """A second run in the same folder keeps the lines of the first."""
    path = tmp_path / "metrics.json"
    for start in (0, 7):
        writer = JSONWriter(str(path))
        with EventStorage(start) as storage:
            storage.put_scalar("x", start)
            writer.write()
        writer.close()
    assert [line["iteration"] for line in _lines(path)] == [0, 7]


def test_tensorboard_writer_writes_scalars_and_images(tmp_path):
    """Event files appear; images leave the storage once they are written."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorboardXWriter(str(tmp_path))
    with EventStorage(4) as storage:
        storage.put_scalar("x", 2.0)
        storage.put_image("picture", torch.zeros(3, 4, 4))
        writer.write()
        assert not storage._vis_data
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("x")] == [(4, 2.0)]
    assert [e.step for e in events.Images("picture")] == [4]


@pytest.mark.lite_only
def test_missing_tensorboard_is_told(tmp_path, monkeypatch):
    """Only the writer needs tensorboard, and its error says what to do."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        TensorboardXWriter(str(tmp_path))
