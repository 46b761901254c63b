"""Configs of files of weights: every shipped detector passes, nothing else is called or read."""

import copy

import pytest
import yaml
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from omegaconf import OmegaConf

from hiera_det.config import config_root, config_text, load_safe_config
from hiera_det.report.cost import meta_model

ROOT = config_root()
LEAVES = sorted(
    p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.py") if "common" not in p.parts
)
FAST = ("COCO/cascade_mask_rcnn_hiera_t.py", "COCO/mask_rcnn_hiera_b_sfp.py", "custom/coco_json.py")
# No detector, but all that is looked at.
CONTENT = {
    "model": {
        "_target_": "detectron2.modeling.GeneralizedRCNN",
        "backbone": {"_target_": "hiera_det.modeling.backbone.HieraBackbone"},
        "head": {"input_shape": ShapeSpec(channels=64, height=7, width=7)},
        "pixel_mean": [1.0, 2.0, 3.0],
        "input_format": "RGB",
    },
    "dataloader": {
        "image_size": 160,
        "test": {
            "dataset": {"_target_": "os.system", "names": "shapes_val"},
            "mapper": {
                "_target_": "hiera_det.data.mapper.DatasetMapper",
                "image_format": "RGB",
                "page": "${dataloader.image_size}",
            },
        },
    },
    "optimizer": {"_target_": "os.system", "lr": 1.0},
    "train": {"seed": 1, "max_iter": "${iterations:1,${dataloader.image_size},1}"},
}


def text_with(changes: dict | None = None) -> str:
    """CONTENT as YAML, with other values at dotted keys."""
    content = copy.deepcopy(CONTENT)
    for key, value in (changes or {}).items():
        *parents, last = key.split(".")
        node = content
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return yaml.dump(content, default_flow_style=None, width=1000)


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in LEAVES]
)
def test_every_detector_that_ships_passes_and_is_the_same(load, name):
    cfg = load(name)
    safe = load_safe_config(config_text(cfg), name)
    expected, found = meta_model(cfg.model), meta_model(safe.model)
    assert str(found) == str(expected)
    shapes = {key: value.shape for key, value in expected.state_dict().items()}
    assert {key: value.shape for key, value in found.state_dict().items()} == shapes
    mappers = [instantiate(c.dataloader.test.mapper) for c in (cfg, safe)]
    assert type(mappers[0]) is type(mappers[1])
    assert str(mappers[0].augmentations) == str(mappers[1].augmentations)
    assert mappers[0].image_format == mappers[1].image_format
    assert safe.dataloader.image_size == cfg.dataloader.image_size


def test_class_names_of_a_custom_config_are_kept_and_its_dataset_is_not_asked(load):
    safe = load_safe_config(config_text(load("custom/coco_json.py")), "file")
    assert len(safe.dataloader.class_names) == safe.model.roi_heads.num_classes == 6
    assert safe.dataloader.test.dataset.names is None


TARGETS = [
    "os.system",
    "posix.system",
    "subprocess.Popen",
    "subprocess.run",
    "builtins.eval",
    "eval",
    "torch.hub.load",
    "torch.load",
    "torch.nn.os.system",
    "torch.nn.Linear.from_pretrained",
    "torch.utils.cpp_extension.load",
    "detectron2.config.LazyConfig.load",
    "detectron2.config.instantiate",
    "detectron2.engine.launch",
    "detectron2.data.build_detection_test_loader",
    "detectron2.checkpoint.DetectionCheckpointer",
    "detectron2.modeling.torch.hub.load",
    "detectron2.utils.registry.locate",
    "hiera_det.cli.main",
    "hiera_det.checkpoint.read_checkpoint",
    "hiera_det.config.load_config",
    "hiera_det.engine.checkpointer.os.system",
    "hiera_det.engine.checkpointer.replace_file",
    "hiera_det.data.shapes.make_shapes",
    "pathlib.Path.touch",
    "detectron2",
    "GeneralizedRCNN",
    "",
]
PLACES = [
    "model",
    "model.backbone",
    "model.backbone.bottom_up",
    "model.pixel_mean",
    "dataloader.test.mapper",
    "dataloader.test.mapper.image_format",
]


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_no_part_of_a_detector_is_refused_before_anything_is_called(target, tmp_path):
    marker = tmp_path / "marker"
    call = {"_target_": target, "command": f"touch {marker}", "args": ["touch", str(marker)]}
    for place in PLACES:
        for value in (call, [call], {"deep": [{"er": call}]}):
            with pytest.raises(ValueError, match="none of the parts|is of no detector") as error:
                load_safe_config(text_with({place: value}), "evil.pth")
            assert "evil.pth" in str(error.value)
    assert not marker.exists()


def test_callables_that_are_no_text_are_refused():
    text = text_with({"model.backbone": {"_target_": ["os.system"]}})
    with pytest.raises(ValueError, match="none of the parts"):
        load_safe_config(text, "evil.pth")


def test_names_are_looked_up_in_the_table_whatever_stands_between():
    """`os.GeneralizedRCNN` of a package of ours cannot lead anywhere but to the class."""
    target = "detectron2.os.path.GeneralizedRCNN"
    safe = load_safe_config(text_with({"model._target_": target}), "file")
    assert safe.model._target_ == "detectron2.modeling.GeneralizedRCNN"


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.system ['touch {}']",
        "model: !!python/object/new:subprocess.Popen [['touch', '{}']]",
        "model: !!python/name:os.system",
        "model: !!python/module:os",
        "model: !!python/object:detectron2.layers.shape_spec.ShapeSpec {{channels: '{}'}}",
        "model: !!python/object:pathlib.Path {{}}",
        "model: [",
        "- a list",
        "model: {{_target_: detectron2.modeling.GeneralizedRCNN}}",
        "[" * 5000,
        "",
    ],
)
def test_yaml_that_makes_objects_or_no_config_is_refused(text, tmp_path):
    marker = tmp_path / "marker"
    with pytest.raises(ValueError, match="^evil.pth: "):
        load_safe_config(text.format(marker), "evil.pth")
    assert not marker.exists()


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:SECRET}",
        "${oc.env:ABSENT,x}",
        "${num_classes:%s}",
        "${ num_classes : %s }",
        "${class_names:%s}",
        "${oc.create:{a: 1}}",
        "${iterations:${oc.env:SECRET},1,1}",
        "${${model.input_format}:SECRET}",
        "a ${oc.decode:b}",
        r"\${oc.env:SECRET}",
        "$${oc.env:SECRET}",
    ],
)
@pytest.mark.parametrize("place", ["model.vis_period", "train.seed", "optimizer.lr"])
def test_resolvers_that_read_are_refused(value, place, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    text = text_with({place: value % tmp_path if "%s" in value else value})
    with pytest.raises(ValueError, match="could read files or the environment"):
        load_safe_config(text, "evil.pth")


def test_interpolations_put_together_from_pieces_are_refused(monkeypatch):
    monkeypatch.setenv("SECRET", "5")
    pieces = {"dollar": "$", "rest": "{oc.env:SECRET}", "model.pixel_mean": "${dollar}${rest}"}
    with pytest.raises(ValueError, match="becomes"):
        load_safe_config(text_with(pieces), "evil.pth")


def test_datasets_are_not_opened(tmp_path):
    question = f"${{register_coco_json:{tmp_path}/a.json,{tmp_path}}}"
    asked = {"dataloader.test.dataset.names": question}
    assert load_safe_config(text_with(asked), "file").dataloader.test.dataset.names is None
    asked["model.input_format"] = "${dataloader.test.dataset.names}"
    with pytest.raises(ValueError, match="cannot be read"):
        load_safe_config(text_with(asked), "evil.pth")


def test_shape_specs_and_keys_are_read_and_the_rest_dropped_with_what_it_would_call():
    safe = load_safe_config(text_with(), "file")
    assert instantiate(safe.model.head.input_shape) == ShapeSpec(channels=64, height=7, width=7)
    assert safe.dataloader.test.mapper.page == 160
    assert safe.dataloader.test.dataset == {"names": "shapes_val"}
    assert set(safe) == {"model", "dataloader", "train"}
    assert "os.system" not in OmegaConf.to_yaml(safe)
