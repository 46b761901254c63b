"""Reading files: what is read, what is refused, and that refusing runs nothing."""

import os
import pickle
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from hiera_det.checkpoint.files import read_checkpoint, write_checkpoint

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
META = {"variant": "hiera_t", "source": "official MAE", "pos_embed": "absolute"}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        OrderedDict(STATE),
        {"model_state": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"state": {}}, "iteration": 7},
        {"state_dict": STATE},
        {"model": {"module." + key: value for key, value in STATE.items()}},
        {"module._orig_mod." + key: value for key, value in STATE.items()},
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pyth", ".bin"])
def test_every_wrapper_is_unwrapped(content, suffix, tmp_path):
    path = str(tmp_path / f"weights{suffix}")
    torch.save(content, path)
    file = read_checkpoint(path)
    assert_close(file.state, STATE, rtol=0, atol=0)
    assert (file.path, file.meta) == (path, {})


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_written_files_read_back(suffix, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path = str(tmp_path / f"weights{suffix}")
    strided = STATE | {"a.weight": STATE["a.weight"].t().contiguous().t()}
    write_checkpoint(path, strided, META)
    file = read_checkpoint(path)
    assert_close(file.state, STATE, rtol=0, atol=0)
    assert file.meta == META
    assert os.listdir(tmp_path) == [f"weights{suffix}"]


def test_writing_never_overwrites_and_leaves_nothing_half_done(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="weights.pth exists"):
        write_checkpoint(str(path), STATE, META)
    assert path.read_text() == "mine"
    path.unlink()

    def full_disk(_, name):
        Path(name).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(str(path), STATE, META)
    assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError, match="write .pth or .safetensors"):
        write_checkpoint(str(tmp_path / "weights.npz"), STATE, META)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_checkpoint(str(tmp_path / "no" / "weights.pth"), STATE, META)


def test_a_missing_file_names_its_neighbours(tmp_path):
    torch.save(STATE, tmp_path / "mae_hiera_base_224.pth")
    with pytest.raises(FileNotFoundError, match="nearest in .*: mae_hiera_base_224.pth"):
        read_checkpoint(str(tmp_path / "mae_hiera_base.pth"))
    with pytest.raises(FileNotFoundError, match="has none like it"):
        read_checkpoint(str(tmp_path / "xyz.pt"))
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        read_checkpoint(str(tmp_path / "no" / "mae.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_truncated_files_are_named(suffix, keep, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"weights{suffix}"
    write_checkpoint(str(path), STATE, META)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=f"weights{suffix} is damaged"):
        read_checkpoint(str(path))


def test_damage_anywhere_in_a_file_of_the_old_format_is_named(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": STATE}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="weights.pth is (damaged|refused)"):
            read_checkpoint(str(path))


class Malicious:
    """Creates a file when unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(save, tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "it_ran"
    save({"model": STATE, "extra": Malicious(trace)}, path)
    with pytest.raises(ValueError, match="weights.pth is (refused|damaged)"):
        read_checkpoint(str(path))
    assert not trace.exists()
    torch.load(path, weights_only=False) if save is torch.save else pickle.loads(path.read_bytes())
    assert trace.exists()  # the file was indeed dangerous


def test_the_refused_type_is_named(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": STATE, "args": Namespace(lr=1)}, path)
    with pytest.raises(ValueError, match=r"argparse\.Namespace.*could run code"):
        read_checkpoint(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no tensors"),
        ({"model": {}}, "holds no tensors"),
        ([torch.ones(1)], "holds a list, not a state dict"),
        ({"epoch": 3}, "its top level has 'epoch', a int"),
        ({"model": {"w": 1}}, "'model' has 'w', a int"),
        ({"model": STATE, "hiera_det": "x"}, "'hiera_det' is a str"),
    ],
)
def test_what_is_no_state_dict_is_named(content, message, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=message) as error:
        read_checkpoint(str(path))
    assert "weights.pth" in str(error.value)


def test_other_suffixes_are_refused(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="the suffix '.pkl' is none of .pth"):
        read_checkpoint(str(path))
