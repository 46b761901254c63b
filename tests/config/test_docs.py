"""docs/configs.md: every line to copy applies, every key that it explains exists."""

import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hiera_det.config import load_config
from hiera_det.config.values import find_node
from hiera_det.report.cost import meta_model
from hiera_det.solver import iterations

TEXT = (Path(__file__).parents[2] / "docs" / "configs.md").read_text()
LEAF = "COCO/mask_rcnn_hiera_b.py"


def code_lines(language: str) -> list[str]:
    blocks = re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


OVERRIDES = [line for line in code_lines("sh") if not line.startswith("python ")]
COMMANDS = [line for line in code_lines("sh") if "--config-file" in line]


def test_there_is_something_to_copy():
    assert len(OVERRIDES) >= 10 and len(COMMANDS) >= 2


@pytest.mark.parametrize("line", OVERRIDES)
def test_override_applies(line):
    overrides = shlex.split(line)
    cfg = load_config(LEAF, overrides)
    before = load_config(LEAF)
    for override in overrides:
        key = override.split("=")[0]
        assert OmegaConf.select(cfg, key) != OmegaConf.select(before, key), key
    meta_model(cfg.model)


@pytest.mark.parametrize("line", COMMANDS)
def test_command_applies(line):
    words = shlex.split(line)
    name = words[words.index("--config-file") + 1]
    load_config(name, [word for word in words if "=" in word])


def test_python_block_is_a_config(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("\n".join(code_lines("python")))
    cfg = load_config(str(path))
    assert cfg.model.backbone.bottom_up.trunk.drop_path_rate == 0.1
    assert cfg.train.max_iter == iterations(100, 118_000, 64)


def test_keys_of_train_are_all_explained():
    cfg = load_config(LEAF)
    table = TEXT.split("## `train`")[1].split("##")[0]
    keys = re.findall(r"`([a-z0-9_.]+)`", "\n".join(row.split("|")[1] for row in table.splitlines()
                                                if row.startswith("| `")))  # fmt: skip
    for key in keys:
        assert find_node(cfg.train, key) is not None, key
    assert {key.split(".")[0] for key in keys} == set(cfg.train)
