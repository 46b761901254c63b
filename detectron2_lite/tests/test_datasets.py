"""Conventions of COCO-format datasets and of the mapper."""

import copy
import json
import logging

import detectron2.data.transforms as T
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    get_detection_dataset_dicts,
    print_instances_class_histogram,
)
from detectron2.data import detection_utils as utils
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.structures import BoxMode, polygons_to_bitmask
from PIL import Image

TRIANGLE = [1.0, 1.0, 5.0, 1.0, 5.0, 4.0]


def annotation(**changes) -> dict:
    anno = dict(id=1, image_id=1, category_id=2, bbox=[1.0, 1.0, 4.0, 3.0], area=6.0, iscrowd=0)
    return {**anno, "segmentation": [TRIANGLE], **changes}


@pytest.fixture()
def coco_file(tmp_path):
    """Write a JSON of a 10 x 8 image and the categories 5 "dog" and 2 "cat"."""

    def write(annotations, **changes) -> str:
        content = {
            "images": [dict(id=1, file_name="a.png", width=10, height=8)],
            "annotations": annotations,
            "categories": [dict(id=5, name="dog"), dict(id=2, name="cat")],
            **changes,
        }
        path = tmp_path / "coco.json"
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
        return str(path)

    return write


# ---------------------------------------------------------------- load_coco_json


def test_load_toy_set(toy, golden_json):
    """Category ids 1, 3, 7 become 0, 1, 2; metadata holds names and ids; an instance with only
    degenerate polygons is dropped; an uncompressed RLE becomes a compressed one."""
    dicts = DatasetCatalog.get(toy("train"))
    expected = golden_json["data/load"]
    assert len(dicts) == expected["n"]
    assert [len(d["annotations"]) for d in dicts] == expected["annos"]
    assert sorted(dicts[0]) == expected["keys"]
    assert sorted(dicts[0]["annotations"][0]) == expected["anno_keys"]
    assert [[a["iscrowd"] for a in d["annotations"]] for d in dicts][2:9] == expected["crowd"]
    assert dicts[0]["annotations"][0]["bbox_mode"] == expected["bbox_mode"] == BoxMode.XYWH_ABS
    crowd = dicts[2]["annotations"][-1]["segmentation"]
    assert isinstance(crowd["counts"], bytes)
    assert mask_util.area(crowd) == 40 * 110

    metadata = MetadataCatalog.get(toy("train"))
    expected = golden_json["data/meta"]
    assert metadata.thing_classes == expected["classes"]
    id_map = {str(k): v for k, v in metadata.thing_dataset_id_to_contiguous_id.items()}
    assert id_map == expected["idmap"]
    assert metadata.evaluator_type == expected["evaluator_type"]


def test_category_ids_become_contiguous_in_the_order_of_the_ids(coco_file):
    """Whatever their order in the file: 2 -> 0, 5 -> 1."""
    path = coco_file([annotation(), annotation(id=2, category_id=5)])
    (record,) = load_coco_json(path, "", "test_datasets_contiguous")
    assert [a["category_id"] for a in record["annotations"]] == [0, 1]
    assert MetadataCatalog.get("test_datasets_contiguous").thing_classes == ["cat", "dog"]


def test_without_a_name_category_ids_stay(coco_file):
    """The mapping is kept in the metadata of a name; without one there is none."""
    (record,) = load_coco_json(coco_file([annotation(category_id=5)]), "")
    assert record["annotations"][0]["category_id"] == 5


def test_images_are_sorted_by_id_and_files_joined_with_the_root(coco_file):
    """Order of the images: by id. Order of annotations in an image: that of the file."""
    images = [dict(id=i, file_name=f"{i}.png", width=10, height=8) for i in (9, 4, 7)]
    annotations = [annotation(id=k, image_id=7) for k in (3, 1, 2)]
    annotations = [dict(a, bbox=[a["id"], 1, 1, 1]) for a in annotations]
    dicts = load_coco_json(coco_file(annotations, images=images), "root")
    assert [d["image_id"] for d in dicts] == [4, 7, 9]
    assert dicts[0]["file_name"] == "root/4.png"
    assert [a["bbox"][0] for a in dicts[1]["annotations"]] == [3, 1, 2]


def test_degenerate_polygons_are_dropped(coco_file):
    """Polygons of fewer than 3 points or of odd length go, and instances without any left."""
    path = coco_file(
        [
            annotation(id=1, segmentation=[TRIANGLE, [1, 1, 2, 2]]),
            annotation(id=2, segmentation=[[1, 1, 2, 2], [1, 1, 5, 1, 5, 4, 3]]),
        ]
    )
    (record,) = load_coco_json(path, "")
    assert [a["segmentation"] for a in record["annotations"]] == [[TRIANGLE]]


@pytest.mark.parametrize("missing", ["absent", "empty"])
def test_instances_without_segmentation_stay(missing, coco_file):
    """No segmentation, or an empty list: the instance has a box only."""
    anno = annotation(segmentation=[])
    if missing == "absent":
        del anno["segmentation"]
    (record,) = load_coco_json(coco_file([anno]), "")
    assert record["annotations"] == [
        dict(iscrowd=0, bbox=[1, 1, 4, 3], category_id=2, bbox_mode=BoxMode.XYWH_ABS)
    ]


def test_extra_annotation_keys_are_kept(coco_file):
    """Other keys of annotations are dropped, unless they are asked for."""
    path = coco_file([annotation(occluded=1)])
    assert "occluded" not in load_coco_json(path, "")[0]["annotations"][0]
    (record,) = load_coco_json(path, "", extra_annotation_keys=["occluded"])
    assert record["annotations"][0]["occluded"] == 1


def test_images_alone_load(tmp_path):
    """A file without annotations, as of images to predict."""
    path = tmp_path / "images.json"
    images = [dict(id=3, file_name="3.png", width=10, height=8)]
    path.write_text(json.dumps(dict(images=images, categories=[dict(id=1, name="cat")])))
    (record,) = load_coco_json(str(path), "", "test_datasets_images_alone")
    assert (record["image_id"], record["annotations"]) == (3, [])


def test_annotations_of_unlisted_images_are_dropped(coco_file):
    """Without a word, in both: telling it before a run is for ``hiera_det.data``."""
    path = coco_file([annotation(id=1, image_id=6), annotation(id=2)])
    (record,) = load_coco_json(path, "")
    assert len(record["annotations"]) == 1


@pytest.mark.parametrize(
    "annotations",
    [
        pytest.param([annotation(category_id=3)], id="unlisted category"),
        pytest.param([annotation(), annotation()], id="id twice"),
        pytest.param([annotation(ignore=1)], id="ignore"),
    ],
)
def test_contradictory_annotations_are_refused(annotations, coco_file):
    path = coco_file(annotations)
    with pytest.raises((AssertionError, KeyError)):
        load_coco_json(path, "", "test_datasets_contradictory")


# ---------------------------------------------------------------- catalogs


def test_coco_2017_is_registered():
    """The builtin names exist and know the 80 classes before any file is read."""
    for name in ("coco_2017_train", "coco_2017_val", "coco_2017_val_100"):
        metadata = MetadataCatalog.get(name)
        assert len(metadata.thing_classes) == 80
        assert metadata.thing_classes[0] == "person" and metadata.thing_classes[79] == "toothbrush"
        assert metadata.thing_dataset_id_to_contiguous_id[90] == 79
        assert name in DatasetCatalog.list()
    json_file = MetadataCatalog.get("coco_2017_val").json_file
    assert json_file.endswith("coco/annotations/instances_val2017.json")


def test_metadata_is_set_once():
    """Equal values may be set again, other ones not; unknown attributes raise."""
    metadata = MetadataCatalog.get("test_datasets_metadata").set(thing_classes=["a"])
    metadata.thing_classes = ["a"]
    with pytest.raises((ValueError, AssertionError), match="thing_classes"):
        metadata.thing_classes = ["b"]
    assert metadata.get("stuff_classes", 3) == 3
    with pytest.raises(AttributeError, match="stuff_classes"):
        metadata.stuff_classes  # noqa: B018
    assert (metadata.name, metadata.thing_classes) == ("test_datasets_metadata", ["a"])


def test_dataset_names_are_unique():
    """A name is registered once; an unknown one raises KeyError that lists the known ones."""
    DatasetCatalog.register("test_datasets_unique", list)
    with pytest.raises((ValueError, AssertionError), match="test_datasets_unique"):
        DatasetCatalog.register("test_datasets_unique", list)
    with pytest.raises(KeyError, match="coco_2017_train"):
        DatasetCatalog.get("test_datasets_unknown")


# ---------------------------------------------------------------- get_detection_dataset_dicts


def test_filter_empty_drops_images_without_objects(toy, golden_json):
    """filter_empty drops images with no annotation or with crowds only; without it all stay."""
    kept = get_detection_dataset_dicts(toy("train"))
    assert [d["image_id"] for d in kept] == golden_json["data/filtered"]
    everything = get_detection_dataset_dicts(toy("val"), filter_empty=False)
    assert [d["image_id"] for d in everything] == golden_json["data/unfiltered_val"]


def test_datasets_are_concatenated(toy):
    """Several names are one dataset, in that order."""
    both = get_detection_dataset_dicts([toy("val"), toy("train")], filter_empty=False)
    assert [d["image_id"] for d in both] == [*range(21, 31), *range(1, 21)]


def test_datasets_with_other_classes_cannot_be_joined(toy, coco_file):
    """The class names have to agree."""
    name = "test_datasets_other_classes"
    register_coco_instances(name, {}, coco_file([annotation()]), "")
    with pytest.raises((ValueError, AssertionError)):
        get_detection_dataset_dicts([toy("train"), name])


def test_histogram_counts_instances_but_no_crowds(caplog):
    """The table holds every class and the total."""
    dicts = [
        dict(file_name="a", annotations=[dict(category_id=1)] * 3),
        dict(file_name="b", annotations=[dict(category_id=0), dict(category_id=0, iscrowd=1)]),
    ]
    with caplog.at_level(logging.INFO):
        print_instances_class_histogram(dicts, ["cat", "dog"])
    cells = [cell.strip() for cell in caplog.text.split("|")]
    assert cells[cells.index("cat") + 1] == "1"
    assert cells[cells.index("dog") + 1] == "3"
    assert cells[cells.index("total") + 1] == "4"


# ---------------------------------------------------------------- images


@pytest.fixture()
def rgb_file(tmp_path) -> tuple[str, np.ndarray]:
    pixels = np.random.RandomState(0).randint(0, 256, (4, 6, 3), dtype=np.uint8)
    path = str(tmp_path / "rgb.png")
    Image.fromarray(pixels).save(path)
    return path, pixels


def test_read_image_formats(rgb_file):
    """Format "BGR" reverses the channels, "L" has one, None keeps the mode of the file."""
    path, pixels = rgb_file
    np.testing.assert_array_equal(utils.read_image(path, "RGB"), pixels)
    np.testing.assert_array_equal(utils.read_image(path, "BGR"), pixels[:, :, ::-1])
    np.testing.assert_array_equal(utils.read_image(path), pixels)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(utils.read_image(path, "L"), grey[:, :, None])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_turns_by_exif_orientation(orientation, tmp_path):
    """The picture is stored turned, and comes out upright."""
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255
    undo = {  # how orientation k is stored
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 3),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = str(tmp_path / "turned.png")
    Image.fromarray(np.ascontiguousarray(undo[orientation](upright))).save(path, exif=exif)
    np.testing.assert_array_equal(utils.read_image(path, "RGB"), upright)


def test_image_of_another_size_raises(rgb_file):
    """Annotations of another size would be silently misplaced."""
    path, pixels = rgb_file
    record = dict(file_name=path, width=7, height=4)
    with pytest.raises(utils.SizeMismatchError, match="rgb.png"):
        utils.check_image_size(record, pixels)
    record = dict(file_name=path)
    utils.check_image_size(record, pixels)
    assert (record["width"], record["height"]) == (6, 4)


@pytest.mark.lite_only
def test_unreadable_images_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.png"):
        utils.read_image(str(tmp_path / "absent.png"), "RGB")
    path = tmp_path / "text.png"
    path.write_text("no image")
    with pytest.raises(ValueError, match="text.png: cannot be read as an image"):
        utils.read_image(str(path), "RGB")


# ---------------------------------------------------------------- annotations


def test_boxes_are_transformed_by_corners_and_clipped():
    """All four corners are mapped; the result is XYXY within the image."""
    anno = dict(bbox=[-2.0, 4.0, 10.0, 20.0], bbox_mode=BoxMode.XYWH_ABS, category_id=0)
    utils.transform_instance_annotations(anno, [T.HFlipTransform(20)], (15, 20))
    np.testing.assert_array_equal(anno["bbox"], [12, 4, 20, 15])
    assert anno["bbox_mode"] == BoxMode.XYXY_ABS


def test_integer_annotations_are_cut_off():
    """Boxes and polygons of integers alone stay integers at each resize."""
    anno = dict(bbox=[1, 1, 5, 5], bbox_mode=BoxMode.XYXY_ABS, category_id=0)
    anno["segmentation"] = [[1, 1, 5, 1, 5, 5]]
    utils.transform_instance_annotations(anno, [T.ResizeTransform(10, 10, 15, 15)], (15, 15))
    np.testing.assert_array_equal(anno["bbox"], [1, 1, 7, 7])
    np.testing.assert_array_equal(anno["segmentation"][0], [1, 1, 7, 1, 7, 7])


def test_rle_masks_become_bitmasks_of_the_new_size():
    """An RLE is decoded and resized by nearest neighbour; mask_format="bitmask" takes it."""
    mask = np.zeros((8, 10), np.uint8, order="F")
    mask[2:6, 4:8] = 1
    anno = dict(bbox=[4, 2, 8, 6], bbox_mode=BoxMode.XYXY_ABS, category_id=3)
    anno["segmentation"] = mask_util.encode(mask)
    utils.transform_instance_annotations(anno, [T.ResizeTransform(8, 10, 16, 20)], (16, 20))
    target = utils.annotations_to_instances([anno], (16, 20), mask_format="bitmask")
    expected = torch.zeros(1, 16, 20, dtype=torch.bool)
    expected[:, 4:12, 8:16] = True
    torch.testing.assert_close(target.gt_masks.tensor, expected)
    torch.testing.assert_close(target.gt_boxes.tensor, torch.tensor([[8.0, 4, 16, 12]]))
    torch.testing.assert_close(target.gt_classes, torch.tensor([3]))
    with pytest.raises(ValueError, match="mask_format"):
        utils.annotations_to_instances([anno], (16, 20), mask_format="polygon")


def test_no_annotations_give_empty_instances():
    """Boxes (0, 4) and classes (0,), no masks."""
    target = utils.annotations_to_instances([], (8, 10))
    assert target.gt_boxes.tensor.shape == (0, 4) and len(target) == 0
    assert target.gt_classes.dtype == torch.int64
    assert not target.has("gt_masks")


def test_empty_instances_are_filtered():
    """An instance needs box sides above 1e-5 and a mask that is not empty."""
    annos = [
        dict(bbox=box, bbox_mode=BoxMode.XYXY_ABS, category_id=i, segmentation=[polygon])
        for i, (box, polygon) in enumerate(
            [
                ([0, 0, 4, 4], np.array([0.0, 0, 4, 0, 4, 4])),
                ([0, 0, 0, 4], np.array([0.0, 0, 4, 0, 4, 4])),
                ([0, 0, 1e-5, 4], np.array([0.0, 0, 4, 0, 4, 4])),
                ([0, 0, 2e-5, 4], np.array([0.0, 0, 4, 0, 4, 4])),
            ]
        )
    ]
    target = utils.annotations_to_instances(annos, (8, 10))
    kept, mask = utils.filter_empty_instances(target, return_mask=True)
    assert kept.gt_classes.tolist() == [0, 3]
    assert mask.tolist() == [True, False, False, True]
    target = utils.annotations_to_instances(annos[:1], (8, 10), "bitmask")
    target.gt_masks.tensor[:] = False
    assert len(utils.filter_empty_instances(target)) == 0
    assert len(utils.filter_empty_instances(target, by_mask=False)) == 1


# ---------------------------------------------------------------- mapper


def lsj_mapper(**changes) -> DatasetMapper:
    augmentations = [
        T.RandomFlip(),
        T.ResizeScale(0.1, 2.0, 128, 128),
        T.FixedSizeCrop((128, 128), pad=False),
    ]
    options = dict(image_format="RGB", use_instance_mask=True, recompute_boxes=True)
    return DatasetMapper(True, augmentations=augmentations, **{**options, **changes})


def test_mapper_with_large_scale_jitter(toy, golden, golden_json):
    """Crowds are skipped; boxes are recomputed as the tight boxes of the cropped polygons;
    instances that left the image are dropped; height and width stay those of the file."""
    dicts = get_detection_dataset_dicts(toy("train"))
    mapper = lsj_mapper()
    np.random.seed(77)
    for i in range(6):
        out = mapper(dicts[i])
        instances = out["instances"]
        shape, height, width, dtype, keys, fields = golden_json[f"data/lsj/{i}/info"]
        assert list(out["image"].shape) == shape and str(out["image"].dtype) == dtype
        assert (out["height"], out["width"]) == (height, width)
        assert sorted(out) == sorted([*keys, "instances"])
        assert sorted(instances.get_fields()) == fields
        np.testing.assert_allclose(
            out["image"].numpy()[:, ::8, ::8].astype(int),
            golden[f"data/lsj/{i}/image"].astype(int),
            atol=1,
        )
        np.testing.assert_allclose(
            instances.gt_boxes.tensor, golden[f"data/lsj/{i}/boxes"], atol=1e-4, rtol=1e-4
        )
        np.testing.assert_array_equal(instances.gt_classes, golden[f"data/lsj/{i}/classes"])
        pixels = [
            polygons_to_bitmask(p, *out["image"].shape[1:]).sum()
            for p in instances.gt_masks.polygons
        ]
        if pixels:
            np.testing.assert_allclose(pixels, golden[f"data/lsj/{i}/masks"], atol=2)


def test_mapper_with_bitmasks(toy, golden):
    """The standard recipe: shortest edge by choice, then flip; BGR; boxes of the annotations."""
    dicts = get_detection_dataset_dicts(toy("train"))
    mapper = DatasetMapper(
        True,
        augmentations=[T.ResizeShortestEdge((96, 112), 160, "choice"), T.RandomFlip()],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    np.random.seed(78)
    out = mapper(dicts[1])
    instances = out["instances"]
    np.testing.assert_allclose(
        instances.gt_boxes.tensor, golden["data/std/boxes"], atol=1e-4, rtol=1e-4
    )
    packed = np.packbits(instances.gt_masks.tensor.numpy().astype(np.uint8))
    np.testing.assert_array_equal(packed, golden["data/std/masks"])
    np.testing.assert_allclose(
        out["image"].numpy()[:, ::8, ::8].astype(int), golden["data/std/image"].astype(int), atol=1
    )


def test_mapper_for_inference(toy, golden_json):
    """is_train=False leaves out the annotations."""
    mapper = DatasetMapper(
        False, augmentations=[T.ResizeShortestEdge(100, 100)], image_format="RGB"
    )
    out = mapper(DatasetCatalog.get(toy("val"))[0])
    assert [list(out["image"].shape), sorted(out)] == golden_json["data/test"]


def test_mapper_does_not_change_its_input(toy):
    """The dict of the dataset is copied."""
    record = get_detection_dataset_dicts(toy("train"))[0]
    before = copy.deepcopy(record)
    lsj_mapper()(record)
    assert record == before


def test_mapper_without_masks_has_transformed_boxes(toy):
    """use_instance_mask=False: boxes are the transformed ones, and there are no masks."""
    record = DatasetCatalog.get(toy("train"))[0]
    mapper = DatasetMapper(
        True, augmentations=[T.ResizeTransform(256, 256, 128, 128)], image_format="RGB"
    )
    instances = mapper(record)["instances"]
    assert not instances.has("gt_masks")
    expected = [
        BoxMode.convert(a["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        for a in record["annotations"]
        if not a["iscrowd"]
    ]
    torch.testing.assert_close(
        instances.gt_boxes.tensor, torch.tensor(expected) / 2, atol=1e-4, rtol=0
    )


@pytest.mark.lite_only
def test_mapper_takes_images_without_objects(toy):
    """recompute_boxes has no masks to look at, where all annotations are crowds or none exist."""
    for record in (DatasetCatalog.get(toy("train"))[i] for i in (4, 8)):
        assert len(lsj_mapper()(record)["instances"]) == 0


@pytest.mark.lite_only
def test_mapper_names_the_image_of_a_bad_annotation(toy):
    """An RLE object cannot be a polygon; the message says which image and which option."""
    record = copy.deepcopy(DatasetCatalog.get(toy("train"))[2])
    record["annotations"][-1]["iscrowd"] = 0  # an RLE
    with pytest.raises(ValueError, match="0003.png: .*instance_mask_format='bitmask'"):
        lsj_mapper()(record)
    for anno in record["annotations"]:
        del anno["segmentation"]
    with pytest.raises(ValueError, match="0003.png: recompute_boxes=True, but no instance"):
        lsj_mapper()(record)


# ---------------------------------------------------------------- real images


@pytest.mark.parametrize(("split", "num_annotations"), [("train", 705), ("val", 815)])
def test_real_coco_loads_and_maps(split, num_annotations, coco_tiny):
    """Every image of a real sample goes through the mapper; boxes lie within the images and
    enclose their masks."""
    name = coco_tiny(split)
    dicts = DatasetCatalog.get(name)
    assert sum(len(d["annotations"]) for d in dicts) == num_annotations
    coco_classes = MetadataCatalog.get("coco_2017_val").thing_classes
    assert MetadataCatalog.get(name).thing_classes == coco_classes
    mapper = lsj_mapper()
    np.random.seed(0)
    for record in get_detection_dataset_dicts(name)[::8]:
        out = mapper(record)
        boxes = out["instances"].gt_boxes.tensor
        height, width = out["image"].shape[1:]
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height] * 2) + 1e-3).all()
        hulls = out["instances"].gt_masks.get_bounding_boxes().tensor
        torch.testing.assert_close(boxes, hulls)
