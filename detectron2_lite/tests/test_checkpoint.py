"""DetectionCheckpointer: file format, what loads, what is refused, what survives a kill."""

import os
import signal
import subprocess
import sys

import detectron2
import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn
from torch.testing import assert_close


class Trainer:
    """Stands where a trainer would: anything with a state."""

    def __init__(self, iteration=0):
        self.iteration = iteration

    def state_dict(self):
        return {"iteration": self.iteration}

    def load_state_dict(self, state):
        self.iteration = state["iteration"]


class Detector(nn.Module):
    """Names as in a detector: a backbone two levels down, and a head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.bottom_up = nn.ModuleDict({"blk": nn.Linear(2, 2), "stem": nn.Linear(2, 2)})
        self.head = nn.Linear(2, 2)


def _saved(tmp_path, content, name="file.pth"):
    path = str(tmp_path / name)
    torch.save(content, path)
    return path


def _copy(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# ------------------------------------------------------------------ format


def test_file_format(tmp_path, golden_json):
    """``{"model", <checkpointable>, <extra>}`` in ``<name>.pth``; ``last_checkpoint`` is text."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    checkpointer = DetectionCheckpointer(model, str(tmp_path), trainer=Trainer(4))
    checkpointer.save("model_0000004", iteration=4)
    content = torch.load(tmp_path / "model_0000004.pth", weights_only=True)
    last = (tmp_path / "last_checkpoint").read_text()
    assert [
        sorted(content),
        sorted(content["model"]),
        content["trainer"],
        content["iteration"],
        last,
    ] == golden_json["ckpt/format"]


def test_resume_or_load(tmp_path):
    """Resuming takes ``last_checkpoint`` with all states; else the path, with the model only."""
    DetectionCheckpointer(Detector(), str(tmp_path), trainer=Trainer(4)).save("model_a", epoch=2)
    trainer, model = Trainer(), Detector()
    checkpointer = DetectionCheckpointer(model, str(tmp_path), trainer=trainer)
    assert checkpointer.resume_or_load("", resume=True) == {"epoch": 2}
    assert trainer.iteration == 4

    trainer.iteration = 0
    path = _saved(tmp_path, {"model": Detector().state_dict(), "trainer": {"iteration": 9}})
    checkpointer.resume_or_load(path, resume=False)
    assert trainer.iteration == 0
    assert_close(_copy(model), torch.load(path)["model"], rtol=0, atol=0)


def test_no_path_loads_nothing():
    model = Detector()
    before = _copy(model)
    assert DetectionCheckpointer(model).load("") == {}
    assert_close(_copy(model), before, rtol=0, atol=0)


# ------------------------------------------------------------------ what loads


def test_bare_and_ddp_state_dicts(tmp_path, golden_json):
    """A bare state_dict loads, and the prefix ``module.`` of a wrapped model is stripped."""
    source, model = Detector(), Detector()
    nn.init.constant_(source.backbone.bottom_up.blk.weight, golden_json["ckpt/strip_module"][0])
    path = _saved(tmp_path, {f"module.{k}": v for k, v in source.state_dict().items()})
    DetectionCheckpointer(model).load(path)
    assert_close(_copy(model), _copy(source), rtol=0, atol=0)


def test_matching_heuristics(tmp_path, golden_json):
    """With ``?matching_heuristics=True`` a key goes where it is a dot-suffix; other shapes stay."""
    model = Detector()
    before = _copy(model)
    content = {
        "blk.weight": torch.full((2, 2), 3.0),
        "blk.bias": torch.full((2,), 4.0),
        "stem.weight": torch.zeros(5, 5),
        "unused": torch.zeros(1),
    }
    DetectionCheckpointer(model).load(_saved(tmp_path, content) + "?matching_heuristics=True")
    weight, bias, rest_stays = golden_json["ckpt/heuristics"]
    expected = before | {
        "backbone.bottom_up.blk.weight": torch.full((2, 2), weight),
        "backbone.bottom_up.blk.bias": torch.full((2,), bias),
    }
    assert rest_stays
    assert_close(_copy(model), expected, rtol=0, atol=0)


def test_matching_heuristics_takes_the_longest_suffix(tmp_path):
    """``0.weight`` is taken over ``weight``, which fits as well."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    content = {"0.weight": torch.ones(1, 1), "weight": torch.zeros(1, 1)}
    DetectionCheckpointer(model).load(_saved(tmp_path, content) + "?matching_heuristics=True")
    assert model[0].weight.item() == 1


def test_matching_heuristics_refuses_ambiguity(tmp_path):
    """One checkpoint key that fits two model keys is an error, not a guess."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    path = _saved(tmp_path, {"weight": torch.ones(2, 2)})
    with pytest.raises(ValueError, match="multiple keys"):
        DetectionCheckpointer(model).load(path + "?matching_heuristics=True")


def test_without_heuristics_only_whole_names_load(tmp_path):
    model = Detector()
    before = _copy(model)
    path = _saved(tmp_path, {"blk.bias": torch.full((2,), 4.0)})
    DetectionCheckpointer(model).load(path)
    assert_close(_copy(model), before, rtol=0, atol=0)


def test_wrong_shape_is_skipped(tmp_path):
    """A weight of another shape stays as it was; the rest of the file loads."""
    model = Detector()
    before = _copy(model)
    DetectionCheckpointer(model).load(
        _saved(tmp_path, {"head.weight": torch.zeros(3, 2), "head.bias": torch.zeros(2)})
    )
    assert_close(_copy(model), before | {"head.bias": torch.zeros(2)}, rtol=0, atol=0)


# ------------------------------------------------------------------ what is refused


def test_unknown_query_is_an_error(tmp_path):
    path = _saved(tmp_path, Detector().state_dict())
    with pytest.raises(ValueError, match="foo"):
        DetectionCheckpointer(Detector()).load(path + "?foo=True")


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises((FileNotFoundError, AssertionError), match="nothing.pth not found"):
        DetectionCheckpointer(Detector()).load(str(tmp_path / "nothing.pth"))


def test_weights_under_another_key_are_an_error(tmp_path):
    """``{"model_state": ...}``, as in official Hiera releases, is named, not half-loaded."""
    path = _saved(tmp_path, {"model_state": Detector().state_dict()})
    with pytest.raises(ValueError, match="model_state"):
        DetectionCheckpointer(Detector()).load(path)


class Payload:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("payload_ran",)


@pytest.mark.lite_only
@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"model": {}, "x": np.float64(3)}, "numpy.*scalar"),
        ({"weight": np.ones(2)}, "numpy.*_reconstruct"),
        ({"model": {}, "x": Payload()}, "posix.mkdir|nt.mkdir"),
    ],
)
def test_more_than_tensors_is_refused_by_name(tmp_path, monkeypatch, content, match):
    """What safe loading refuses is named in a ValueError with the file, and does not run."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"file.pth holds more than tensors.*{match}"):
        DetectionCheckpointer(Detector()).load(_saved(tmp_path, content))
    assert not (tmp_path / "payload_ran").exists()


@pytest.mark.lite_only
def test_damaged_file_is_named(tmp_path):
    path = _saved(tmp_path, Detector().state_dict())
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)
    with pytest.raises(ValueError, match="file.pth is damaged"):
        DetectionCheckpointer(Detector()).load(path)


@pytest.mark.lite_only
def test_detectron_pkl_is_absent(tmp_path):
    (tmp_path / "R-50.pkl").write_bytes(b"")
    with pytest.raises(NotImplementedError, match="not in detectron2_lite"):
        DetectionCheckpointer(Detector()).load(str(tmp_path / "R-50.pkl"))


@pytest.mark.lite_only
def test_numpy_scalars_are_saved_as_numbers(tmp_path):
    """A learning rate that numpy computed must not make the checkpoint unloadable."""
    checkpointer = DetectionCheckpointer(Detector(), str(tmp_path), trainer=Trainer(np.int64(3)))
    checkpointer.save("model", lr=np.float32(0.5), history=[np.float64(1.5)])
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    assert content["trainer"] == {"iteration": 3}
    assert (content["lr"], content["history"]) == (0.5, [1.5])


# ------------------------------------------------------------------ being killed

SAVE_AND_DIE = """
import io, os, signal, sys
import torch
from detectron2.checkpoint import DetectionCheckpointer

folder, moment, name = sys.argv[1:]
model = torch.nn.Linear(64, 64)
checkpointer = DetectionCheckpointer(model, folder)
torch.nn.init.constant_(model.weight, 1.0)
checkpointer.save("model_first", iteration=1)
torch_save = torch.save

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

def save_half(content, file):
    buffer = io.BytesIO()
    torch_save(content, buffer)
    file.write(buffer.getvalue()[: buffer.tell() // 2])
    file.flush()
    die()

if moment == "writing":
    torch.save = save_half
elif moment == "renaming":
    os.replace = die
else:
    checkpointer.tag_last_checkpoint = die
torch.nn.init.constant_(model.weight, 2.0)
checkpointer.save(name, iteration=2)
"""


@pytest.mark.lite_only
@pytest.mark.parametrize(
    ("moment", "name"),
    [
        ("writing", "model_first"),
        ("writing", "model_second"),
        ("renaming", "model_second"),
        ("tagging", "model_second"),
    ],
)
def test_kill_while_saving_leaves_a_whole_last_checkpoint(tmp_path, moment, name):
    """SIGKILL at any moment: ``last_checkpoint`` names a file that loads, the earlier one.

    Also where the same file was being overwritten; and the next save works.
    """
    root = os.path.dirname(os.path.dirname(detectron2.__file__))
    died = subprocess.run(
        [sys.executable, "-c", SAVE_AND_DIE, str(tmp_path), moment, name],
        env={**os.environ, "PYTHONPATH": root},
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    model = nn.Linear(64, 64)
    checkpointer = DetectionCheckpointer(model, str(tmp_path))
    assert checkpointer.resume_or_load("", resume=True) == {"iteration": 1}
    assert_close(model.weight.data, torch.ones(64, 64), rtol=0, atol=0)
    checkpointer.save("model_third")
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_third.pth")
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
