"""The generated set: right masks, same seed same files, never half a set."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from hiera_det.data import shapes, shapes_draw

SMALL = dict(num_train=26, num_val=14, image_size=128, seed=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    shapes.make_shapes(root, **SMALL)
    return root


@pytest.fixture
def registered(root):
    shapes.register_shapes(root)
    yield root
    shapes.register_shapes()


def digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def test_same_seed_gives_the_same_files_and_another_seed_others(root, tmp_path):
    shapes.make_shapes(tmp_path / "same", **SMALL)
    shapes.make_shapes(tmp_path / "other", **{**SMALL, "seed": 4})
    assert digest(tmp_path / "same" / "shapes") == digest(root / "shapes")
    assert digest(tmp_path / "other" / "shapes") != digest(root / "shapes")


@pytest.mark.parametrize("index", range(12))
def test_polygons_are_the_visible_masks(index):
    size = 192
    rng = np.random.default_rng(index)
    image, objects = shapes_draw.draw_scene(rng, size, num_objects=6, has_crowd=index % 4 == 0)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert len(objects) >= 2
    fine_size = size * shapes_draw.SUPERSAMPLING
    union = np.zeros((fine_size, fine_size), int)
    for thing in objects:
        visible = thing.visible.astype(bool)
        union += visible
        if not thing.is_crowd:
            fine = [[shapes_draw.SUPERSAMPLING * v for v in polygon] for polygon in thing.polygons]
            rles = mask_utils.frPyObjects(fine, fine_size, fine_size)
            drawn = mask_utils.decode(mask_utils.merge(rles)).astype(bool)
            iou = (drawn & visible).sum() / (drawn | visible).sum()
            assert iou > 0.96, (shapes_draw.CLASS_NAMES[thing.category], thing.area, iou)
            coarse = mask_utils.merge(mask_utils.frPyObjects(thing.polygons, size, size))
            assert mask_utils.area(coarse) == pytest.approx(thing.area, rel=0.1)
    assert union.max() <= 1  # a hidden part belongs to the object in front alone


def test_scenes_have_all_sizes_and_classes_overlaps_and_parts():
    sizes, classes, num_parts = Counter(), Counter(), Counter()
    for index in range(60):
        rng = np.random.default_rng(index)
        for thing in shapes_draw.draw_scene(rng, 192, num_objects=5)[1]:
            sizes["S" if thing.area < 32**2 else "M" if thing.area < 96**2 else "L"] += 1
            classes[shapes_draw.CLASS_NAMES[thing.category]] += 1
            num_parts[len(thing.polygons)] += 1
    total = sum(sizes.values())
    assert min(sizes.values()) > 0.1 * total, sizes
    assert set(classes) == set(shapes_draw.CLASS_NAMES) and min(classes.values()) > 0.08 * total
    assert num_parts[0] == 0 and sum(num_parts.values()) - num_parts[1] > 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_json_is_coco(root, split):
    coco = COCO(root / "shapes" / "annotations" / f"instances_{split}.json")
    assert len(coco.imgs) == SMALL[f"num_{split}"]
    assert [c["name"] for c in coco.cats.values()] == list(shapes_draw.CLASS_NAMES)
    assert min(coco.anns) == 1
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        assert mask.shape == (128, 128)
        assert annotation["area"] == pytest.approx(mask.sum(), rel=0.12)
        x, y, width, height = mask_utils.toBbox(coco.annToRLE(annotation))
        np.testing.assert_allclose(annotation["bbox"], [x, y, width, height], atol=2.5)
    crowds = [a for a in coco.anns.values() if a["iscrowd"]]
    assert crowds and all(isinstance(a["segmentation"]["counts"], list) for a in crowds)
    assert any(not coco.getAnnIds(imgIds=[k]) for k in coco.imgs)


@pytest.mark.parametrize("split", ["train", "val"])
def test_registered_set_loads_in_detectron2(registered, split):
    dicts = DatasetCatalog.get(f"shapes_{split}")
    assert len(dicts) == SMALL[f"num_{split}"]
    assert read_image(dicts[0]["file_name"], "RGB").shape == (128, 128, 3)
    metadata = MetadataCatalog.get(f"shapes_{split}")
    assert metadata.thing_classes == list(shapes_draw.CLASS_NAMES)
    assert metadata.evaluator_type == "coco" and Path(metadata.json_file).is_file()
    classes = {a["category_id"] for record in dicts for a in record["annotations"]}
    assert classes <= set(range(len(shapes_draw.CLASS_NAMES)))


def test_registering_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "new"))
    shapes.register_shapes()  # as at import
    assert "shapes_train" in DatasetCatalog and "shapes_val" in DatasetCatalog
    assert MetadataCatalog.get("shapes_val").json_file.startswith(str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    shapes.register_shapes()


def test_first_use_makes_the_default_set(tmp_path, monkeypatch):
    made = []

    def make(root):
        made.append(root)
        return shapes_make(root, **SMALL)

    shapes_make = shapes.make_shapes
    monkeypatch.setattr(shapes, "make_shapes", make)
    shapes.register_shapes(tmp_path)
    try:
        assert len(DatasetCatalog.get("shapes_val")) == SMALL["num_val"]
        assert len(DatasetCatalog.get("shapes_train")) == SMALL["num_train"]
    finally:
        shapes.register_shapes()
    assert made == [tmp_path]


def test_another_set_is_told_and_left_alone(root, tmp_path):
    before = digest(root / "shapes")
    with pytest.raises(ValueError, match="seed is 3, expected 5; delete the folder"):
        shapes.make_shapes(root, **{**SMALL, "seed": 5})
    shapes.make_shapes(root, **SMALL)  # the same: nothing to do
    assert digest(root / "shapes") == before

    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "meta.json").write_text(json.dumps({"version": -1}))
    shapes.register_shapes(tmp_path)
    try:
        with pytest.raises(ValueError, match=f"version is -1, expected {shapes.VERSION}"):
            DatasetCatalog.get("shapes_train")
        (tmp_path / "shapes" / "meta.json").unlink()
        with pytest.raises(ValueError, match="is not a shapes set"):
            DatasetCatalog.get("shapes_train")
    finally:
        shapes.register_shapes()


def test_interrupted_making_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shapes, "_annotation", interrupt)
        with pytest.raises(KeyboardInterrupt):
            shapes.make_shapes(tmp_path, **SMALL)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []
    shapes.make_shapes(tmp_path, **SMALL)
    assert (tmp_path / "shapes" / "meta.json").is_file()


@pytest.mark.parametrize("bad", [dict(num_train=0), dict(image_size=32), dict(seed=-1)])
def test_bad_arguments_raise(tmp_path, bad):
    with pytest.raises(ValueError, match="make_shapes needs"):
        shapes.make_shapes(tmp_path, **{**SMALL, **bad})
