"""LazyConfig, LazyCall, instantiate."""

import functools
import logging
import math
from collections import OrderedDict
from dataclasses import dataclass

import detectron2.data.transforms as T
import pytest
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.layers import ShapeSpec
from omegaconf import DictConfig, ListConfig, OmegaConf


@dataclass
class Point:
    x: int
    y: int = 0


def _config(**content):
    return OmegaConf.create(content, flags={"allow_objects": True})


def _written(tmp_path, **files):
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".py").write_text(text)
    return tmp_path


def _override_base():
    return OmegaConf.create(
        {
            "a": {"b": 1, "c": [1, 2], "d": None},
            "train": {"lr": 1e-4, "out": "x", "amp": {"enabled": False}},
        }
    )


# ------------------------------------------------------------------ overrides


def test_overrides_give_the_recorded_configs(golden_json):
    """Overrides follow hydra's grammar: types, lists, dicts, new keys, list indices, quotes."""
    recorded = golden_json["config/overrides"]
    for override, expected in recorded.items():
        try:
            changed = LazyConfig.apply_overrides(_override_base(), [override])
        except Exception as error:
            assert expected == f"ERROR {type(error).__name__}", override
        else:
            assert OmegaConf.to_container(changed, resolve=False) == expected, override


def test_overrides_change_the_config_in_place():
    """The config that is passed in is changed, and returned."""
    cfg = _override_base()
    assert LazyConfig.apply_overrides(cfg, ["a.b=2", "a.b=3"]) is cfg
    assert cfg.a.b == 3


def test_override_through_a_scalar_names_it():
    """Descending into something that is no config raises KeyError with the path."""
    with pytest.raises(KeyError, match="a.b"):
        LazyConfig.apply_overrides(_override_base(), ["a.b.q=1"])


def test_override_deletion_is_refused():
    """``~key`` raises NotImplementedError."""
    with pytest.raises(NotImplementedError):
        LazyConfig.apply_overrides(_override_base(), ["~a.b"])


@pytest.mark.lite_only
def test_override_with_several_values_is_refused():
    """``a=1,2`` is a sweep in hydra, for which one run has no use."""
    with pytest.raises(ValueError, match=r"\[\.\.\.\]"):
        LazyConfig.apply_overrides(_override_base(), ["a.b=1,2"])


# ------------------------------------------------------------------ files


def test_file_exports_configs_without_underscore(tmp_path):
    """Only dicts and configs are exported, and only under names without a leading ``_``."""
    _written(tmp_path, f="x = dict(a=1)\n_y = dict(a=1)\nn = 3\ns = [1]\ndef g(): pass\n")
    cfg = LazyConfig.load(str(tmp_path / "f.py"))
    assert isinstance(cfg, DictConfig)
    assert sorted(cfg) == ["x"]


def test_relative_import_loads_afresh(tmp_path):
    """A change to an imported config stays in the importing file."""
    _written(
        tmp_path,
        base="x = dict(a=1)\nK = 5\n",
        sub__child="from ..base import x, K\nx.a = K\ny = dict(z='${x.a}')\n",
    )
    child = LazyConfig.load(str(tmp_path / "sub/child.py"))
    assert isinstance(child.x, DictConfig)
    assert (child.x.a, child.y.z) == (5, 5)
    assert LazyConfig.load(str(tmp_path / "base.py")).x.a == 1


@pytest.mark.lite_only
def test_config_file_does_not_leave_an_import_hook(tmp_path):
    """Python's import is itself again, also after a file that fails."""
    before = __import__
    _written(tmp_path, bad="raise RuntimeError('from the file')\n")
    with pytest.raises(RuntimeError, match="from the file"):
        LazyConfig.load(str(tmp_path / "bad.py"))
    assert __import__ is before


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("from . import x", "folder|directories"),
        ("from .sub import x", "folder|directories"),
        ("from .nothing import x", "nothing.py.* does not exist"),
    ],
)
def test_relative_import_of_no_file_is_an_error(tmp_path, line, match):
    """Only files can be imported from; the error names what was tried."""
    _written(tmp_path, f=line, sub__x="x = dict()")
    with pytest.raises(ImportError, match=match):
        LazyConfig.load(str(tmp_path / "f.py"))


@pytest.mark.parametrize("text", ["x = (\n", "from .broken import y\n"])
def test_syntax_error_names_the_file(tmp_path, text):
    """SyntaxError with the path of the file that has it."""
    _written(tmp_path, f=text, broken="y = (\n")
    with pytest.raises(SyntaxError, match=r"(f|broken)\.py"):
        LazyConfig.load(str(tmp_path / "f.py"))


def test_load_other_suffix_and_missing_file(tmp_path):
    """ValueError for what is neither Python nor YAML; FileNotFoundError for what is not there."""
    with pytest.raises(ValueError, match="x.txt"):
        LazyConfig.load(str(tmp_path / "x.txt"))
    with pytest.raises(FileNotFoundError):
        LazyConfig.load(str(tmp_path / "x.py"))


def test_load_keys(tmp_path):
    """``keys`` selects names: one, or a tuple of them."""
    _written(tmp_path, f="a = dict(x=1)\nb = dict(x=2)\nn = 3\n")
    path = str(tmp_path / "f.py")
    assert LazyConfig.load(path, "a").x == 1
    assert LazyConfig.load(path, "n") == 3
    a, b = LazyConfig.load(path, ("a", "b"))
    assert (a.x, b.x) == (1, 2)


# ------------------------------------------------------------------ saving


def test_saved_text_is_the_recorded_one(tmp_path, golden_json):
    """Targets as the shortest dotted path, interpolations kept, keys sorted."""
    cfg = _config(
        aug=LazyCall(T.RandomFlip)(horizontal=True),
        lst=[LazyCall(T.ResizeShortestEdge)(short_edge_length=(1, 2), max_size=5)],
        n=3,
        ref="${n}",
    )
    path = str(tmp_path / "c.yaml")
    LazyConfig.save(cfg, path)
    assert open(path).read() == golden_json["config/yaml"]
    back = LazyConfig.load(path)
    made = instantiate(back.lst)
    types = [type(x).__name__ for x in (instantiate(back.aug), made, made[0].short_edge_length)]
    assert [*types, back.ref] == golden_json["config/roundtrip"]


@pytest.mark.parametrize(
    ("value", "check"),
    [
        (LazyCall(OrderedDict)(s=ShapeSpec(channels=3)), lambda v: v.s == ShapeSpec(channels=3)),
        (functools.partial(math.pow, 2), lambda v: v(3) == 8),
        (math.pow, lambda v: v is math.pow),
    ],
    ids=["dataclass", "partial", "function"],
)
def test_objects_survive_saving(tmp_path, value, check):
    """Dataclass instances, partials and functions come back from YAML."""
    path = str(tmp_path / "c.yaml")
    LazyConfig.save(_config(value=value), path)
    assert check(LazyConfig.load(path).value)
    assert not (tmp_path / "c.yaml.pkl").exists()


def test_what_yaml_cannot_hold_is_pickled_and_told(tmp_path, caplog):
    """A lambda goes to ``<file>.pkl`` with a log line, and the run goes on."""
    path = str(tmp_path / "c.yaml")
    logger = logging.getLogger("detectron2.config.lazy")
    logger.addHandler(caplog.handler)
    try:
        LazyConfig.save(_config(f=lambda x: x), path)
    finally:
        logger.removeHandler(caplog.handler)
    assert f"{path}.pkl" in caplog.text
    assert (tmp_path / "c.yaml.pkl").exists()


# ------------------------------------------------------------------ LazyCall, instantiate


def test_lazy_call_describes(golden_json):
    """A LazyCall makes a config with ``_target_``; a dataclass target is stored as a string."""
    cfg = LazyCall(OrderedDict)(a=1)
    assert isinstance(cfg, DictConfig)
    assert cfg._target_ is OrderedDict and cfg.a == 1
    assert LazyCall(ShapeSpec)(channels=3)._target_ == golden_json["config/dataclass_target"]


def test_lazy_call_of_no_callable():
    with pytest.raises(TypeError, match="3"):
        LazyCall(3)


def test_instantiate_calls_inside_out():
    """Arguments are instantiated before the call; interpolations are resolved."""
    cfg = _config(n=3, a=LazyCall(OrderedDict)(b=LazyCall(OrderedDict)(c="${n}")))
    assert instantiate(cfg.a) == OrderedDict(b=OrderedDict(c=3))


def test_instantiate_makes_new_objects_each_time():
    cfg = LazyCall(OrderedDict)(x=1)
    assert instantiate(cfg) is not instantiate(cfg)


def test_lists_arrive_as_list_config():
    """Config lists, of calls or of numbers, become ListConfig: constructors have to accept it."""
    made = instantiate(LazyCall(OrderedDict)(numbers=[1, 2], calls=[LazyCall(OrderedDict)(x=1)]))
    assert type(made["numbers"]) is ListConfig and type(made["calls"]) is ListConfig
    assert made["calls"][0] == OrderedDict(x=1)


def test_plain_containers():
    """A list stays a list; a dict without ``_target_`` comes back as it is, its values too."""
    assert instantiate([LazyCall(OrderedDict)(x=1)]) == [OrderedDict(x=1)]
    cfg = _config(a=LazyCall(OrderedDict)(x=1))
    assert instantiate(cfg) is cfg
    assert instantiate({"_target_": "builtins.dict", "x": 1}) == {"x": 1}
    assert instantiate(7) == 7


def test_dataclass_argument_stays_a_dataclass():
    """A dataclass instance in a config arrives as that dataclass."""
    made = instantiate(LazyCall(OrderedDict)(s=ShapeSpec(channels=3)))
    assert made["s"] == ShapeSpec(channels=3)
    assert type(made["s"]) is ShapeSpec


def test_instantiate_bad_targets():
    """ImportError for a path to nothing, TypeError of the call itself with the target logged."""
    with pytest.raises(ImportError, match="no.such"):
        instantiate({"_target_": "no.such.Thing"})
    with pytest.raises(TypeError, match="nope"):
        instantiate(LazyCall(ShapeSpec)(nope=1))
    with pytest.raises(AssertionError, match="3"):
        instantiate({"_target_": 3})


@pytest.mark.parametrize(
    "path",
    ["torch.nn.Linear", "torch.optim.AdamW", "detectron2.layers.ShapeSpec", "math.pow"]
    + ["detectron2.config.instantiate", "detectron2.config.LazyConfig.load"],
)
def test_target_strings_are_the_shortest_path(path):
    """``locate`` and its inverse: the shortest dotted path that gives the same object."""
    from detectron2.utils.registry import _convert_target_to_string, locate

    assert _convert_target_to_string(locate(path)) == path
