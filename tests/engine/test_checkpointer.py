"""Checkpoints: whole files, full disks, and nothing in them that runs code."""

import errno
import pickletools
import shutil
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from hiera_det.engine.checkpointer import DiskFullError, RunCheckpointer, plain, replace_file


class State:
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state


def globals_in(path) -> set[str]:
    """Names of the classes and functions that the pickle of a .pth refers to."""
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        operations = list(pickletools.genops(archive.read(name)))
    strings, found = [], set()
    for operation, argument, _ in operations:
        if operation.name == "GLOBAL":
            found.add(argument.replace(" ", "."))
        elif operation.name == "STACK_GLOBAL":
            found.add(".".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
    return found


def test_checkpoint_holds_tensors_and_plain_values_alone(tmp_path):
    """Options straight from a config are OmegaConf's lists; torch 2.4 refuses such a file."""
    cfg = OmegaConf.create({"betas": [0.9, 0.95], "nested": {"eps": 1e-8}})
    state = {"betas": cfg.betas, "nested": cfg.nested, "step": np.float64(3), "pair": (1, 2)}
    model = torch.nn.Linear(2, 2)
    RunCheckpointer(model, tmp_path, extra=State(state)).save("model", iteration=3)
    allowed = {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch.FloatStorage",
    }
    assert globals_in(tmp_path / "model.pth") <= allowed
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    assert content["extra"] == {
        "betas": [0.9, 0.95], "nested": {"eps": 1e-8}, "step": 3.0, "pair": (1, 2)
    }  # fmt: skip
    assert_close(content["model"], dict(model.state_dict()), rtol=0, atol=0)
    assert (tmp_path / "last_checkpoint").read_text() == "model.pth"


def test_what_no_checkpoint_may_hold_is_named_by_its_place():
    with pytest.raises(TypeError, match=r"checkpoint.a.1.b is a object"):
        plain({"a": [0, {"b": object()}]})
    assert type(plain(OrderedDict(a=1))) is dict


def test_untagged_checkpoint_is_not_the_one_to_resume(tmp_path):
    checkpointer = RunCheckpointer(torch.nn.Linear(2, 2), tmp_path)
    checkpointer.save("model_0000001")
    checkpointer.save("model_best", tag=False)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_full_disk_says_how_much_is_missing_and_leaves_the_old_file(tmp_path, monkeypatch):
    checkpointer = RunCheckpointer(torch.nn.Linear(512, 512), tmp_path)  # a MiB
    checkpointer.save("model")
    before = (tmp_path / "model.pth").read_bytes()
    usage = shutil.disk_usage(tmp_path)._replace(free=2**19)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(DiskFullError, match="needs 1.0 MiB, 0.5 MiB are free, 0.5 MiB are missing"):
        checkpointer.save("model")
    assert (tmp_path / "model.pth").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model.pth"]


def test_disk_that_fills_while_writing_leaves_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    path.write_text("old")
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)

    def write(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match="model.pth did not fit"):
        replace_file(path, write)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"] and path.read_text() == "old"
