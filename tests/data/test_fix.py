"""Repair of COCO files: each fault, what becomes of it, and that it is told."""

import copy
import json
import random

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from hiera_det.cli import main
from hiera_det.data.coco_fix import fix_coco_content
from hiera_det.data.polygons import clip_polygon, polygon_area, polygons_box

WIDTH, HEIGHT = 60, 40
SQUARE = [10, 10, 20, 10, 20, 20, 10, 20]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("fix")
    for name in "ab":
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / f"{name}.png")
    (root / "broken.png").write_bytes(b"no image")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "turned.jpg", exif=exif)
    return root


def content() -> dict:
    annotations = [
        {
            "id": k,
            "image_id": 1 + k % 2,
            "category_id": 5,
            "bbox": [10, 10, 10, 10],
            "area": 100.0,
            "iscrowd": 0,
            "segmentation": [list(SQUARE)],
        }
        for k in range(1, 5)
    ]
    images = [
        {"id": k, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT}
        for k, name in enumerate("ab", 1)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "fig"}]}


def fix(changed: dict, folder, **options) -> tuple[dict, dict[str, int]]:
    fixed, changes = fix_coco_content(changed, folder, **options)
    return fixed, changes.counts()


RLE = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * 10 + 10, 10, HEIGHT * WIDTH - HEIGHT * 10 - 20]}
FAULTS = [  # of the first annotation: its keys, the fault, what the keys become (None: it is gone)
    (
        dict(bbox=[50, 30, 20, 20], segmentation=RLE),
        "box outside the image",
        dict(bbox=[50, 30, 10, 10]),
    ),
    (dict(bbox=[-5, -5, 20, 20]), "box outside the image", dict(bbox=[0, 0, 15, 15])),
    (dict(bbox=[10, 10, 0, 5]), "box of no size", dict(bbox=[10, 10, 10, 10])),
    (dict(bbox=[10, 10, 0, 5], segmentation=[]), "box of no size", None),
    (dict(bbox="1 2 3 4"), "bad 'bbox'", dict(bbox=[10, 10, 10, 10])),
    (dict(bbox=[40, 30, 5, 5]), "box and mask do not meet", dict(bbox=[10, 10, 10, 10])),
    (dict(area=None), "annotation without 'area'", dict(area=100.0)),
    (dict(iscrowd=None), "bad 'iscrowd'", dict(iscrowd=0)),
    (dict(ignore=1), "'ignore', which Detectron2 does not know", dict(iscrowd=1)),
    (dict(keypoints="x"), "bad 'keypoints'", {}),
    (dict(image_id=77), "annotation of no image", None),
    (dict(image_id="2"), "image_id that is text", dict(image_id=2)),
    (dict(category_id="5"), "category_id that is text", dict(category_id=5)),
    (dict(category_id=6), "category_id of no category", None),
    (dict(segmentation=None), "object without a mask", None),
    (
        dict(segmentation=[[1, 2], [*SQUARE]]),
        "polygon that is no 3 points or more",
        dict(segmentation=[SQUARE]),
    ),
    (dict(segmentation=[[1, 2, 3, 4]]), "polygon that is no 3 points or more", None),
    (
        dict(segmentation=[*SQUARE]),
        "polygon that is no list of polygons",
        dict(segmentation=[SQUARE]),
    ),
    (dict(segmentation=[[10, 10, 20, 10, 15, 10]]), "polygon of no size", None),
    (
        dict(segmentation=[[-10, 10, 20, 10, 20, 20, -10, 20]], bbox=[0, 10, 20, 10]),
        "polygon outside the image",
        dict(bbox=[0, 10, 20, 10], area=200.0),
    ),
    (
        dict(segmentation={"size": [9, 9], "counts": [81]}),
        "RLE of another size than its image",
        None,
    ),
    (dict(segmentation={"size": [HEIGHT, WIDTH], "counts": [2400]}), "mask of no size", None),
    (dict(segmentation={"size": [HEIGHT, WIDTH], "counts": "?"}), "bad RLE", None),
    (dict(segmentation="x"), "bad 'segmentation'", None),
]


@pytest.mark.parametrize("keys, fault, expected", FAULTS)
def test_each_fault_of_an_annotation(folder, keys, fault, expected):
    changed = content()
    changed["annotations"][0] |= copy.deepcopy(keys)
    fixed, counts = fix(changed, folder)
    assert counts.pop(fault) == 1
    assert sum(counts.values()) <= 1, counts  # the object that this leaves without a mask
    untouched = content()["annotations"]
    assert fixed["annotations"][-3:] == untouched[1:]
    assert len(fixed["annotations"]) == (3 if expected is None else 4)
    if expected is not None:
        first = fixed["annotations"][0]
        assert {key: first[key] for key in expected} == expected
        assert "ignore" not in first and "keypoints" not in first


def test_missing_keys_and_ids(folder):
    changed = content()
    for annotation in changed["annotations"]:
        for key in ("id", "area", "iscrowd"):
            del annotation[key]
    fixed, counts = fix(changed, folder)
    assert fixed["annotations"] == content()["annotations"]
    assert counts["annotation without 'iscrowd'"] == counts["annotation without 'area'"] == 4
    changed = content()
    changed["annotations"][1]["id"] = 1
    assert [a["id"] for a in fix(changed, folder)[0]["annotations"]] == [1, 2, 3, 4]


def image(number, name: str, width: int = WIDTH, height: int = HEIGHT) -> dict:
    return {"id": number, "file_name": name, "width": width, "height": height}


@pytest.mark.parametrize(
    "extra, fault",
    [
        (image(9, "gone.png"), "image file missing"),
        (image(9, "broken.png"), "image file that cannot be read"),
        (image(9, ""), "image without a file name"),
        (image(9, "turned.jpg"), "image size that disagrees with the file"),
        (image(None, "a.png"), "image without a usable id"),
    ],
)
def test_images_that_cannot_be_used_go_with_their_annotations(folder, extra, fault):
    changed = content()
    changed["images"].append(extra)
    changed["annotations"].append(content()["annotations"][0] | {"id": 9, "image_id": extra["id"]})
    fixed, counts = fix(changed, folder)
    assert fixed == content()
    assert counts == {fault: 1, "annotation of no image": 1}


def test_one_image_listed_for_each_of_its_objects_becomes_one(folder):
    changed = content()
    changed["images"] = [image(k, "a.png") for k in (1, 2)]
    fixed, counts = fix(changed, folder)
    assert fixed["images"] == [image(1, "a.png")] and len(fixed["annotations"]) == 4
    assert {a["image_id"] for a in fixed["annotations"]} == {1}
    assert counts == {"file name that stands twice": 1}


def test_images_that_share_an_id_are_left_out(folder):
    changed = content()
    changed["images"].append(image(1, "turned.jpg", HEIGHT, WIDTH))
    fixed, counts = fix(changed, folder)
    assert [i["id"] for i in fixed["images"]] == [2] and len(fixed["annotations"]) == 2
    assert counts["images that share an id"] == 2


def test_sizes_and_ids_of_images_are_made_right(folder):
    changed = content()
    del changed["images"][0]["width"]
    changed["images"][1]["id"] = "x"
    for annotation in changed["annotations"]:
        annotation["image_id"] = {1: 1, 2: "x"}[annotation["image_id"]]
    fixed, counts = fix(changed, folder)
    assert fixed["images"] == content()["images"]
    assert [a["image_id"] for a in fixed["annotations"]] == [2, 1, 2, 1]
    assert counts["bad image size"] == 1 and counts["image ids of several types"] == 2


def test_a_whole_file_in_shares_becomes_px(folder):
    changed = content()
    for annotation in changed["annotations"]:
        annotation["bbox"] = [10 / WIDTH, 10 / HEIGHT, 10 / WIDTH, 10 / HEIGHT]
        annotation["segmentation"] = [
            [v / (HEIGHT if k % 2 else WIDTH) for k, v in enumerate(SQUARE)]
        ]
    fixed, counts = fix(changed, folder)
    for annotation in fixed["annotations"]:
        np.testing.assert_allclose(annotation["bbox"], [10, 10, 10, 10])
        np.testing.assert_allclose(annotation["segmentation"], [SQUARE])
        np.testing.assert_allclose(annotation["area"], 100)
    assert counts["box in shares of 1"] == counts["polygons in shares of 1"] == 4


def test_what_only_the_author_can_know_is_refused(folder):
    changed = content()
    changed["categories"].append({"id": 5, "name": "plum"})
    with pytest.raises(ValueError, match="have one id, 5"):
        fix(changed, folder)
    changed = content()
    changed["annotations"] = [
        content()["annotations"][0] | {"id": k, "bbox": [30, 20, 50, 30]} for k in range(1, 12)
    ]
    with pytest.raises(ValueError, match="were corners"):
        fix(changed, folder)
    changed = content()
    for annotation in changed["annotations"]:
        del annotation["segmentation"]
    with pytest.raises(ValueError, match="--boxes-only keeps"):
        fix(changed, folder)
    assert len(fix(changed, folder, need_masks=False)[0]["annotations"]) == 4


@pytest.mark.parametrize("seed", range(20))
def test_clipped_polygons_cover_what_lies_inside(seed):
    """Against pixels: a polygon drawn on a large canvas, of which the image is a part."""
    rng = random.Random(seed)
    angles = sorted(rng.uniform(0, 6.283) for _ in range(rng.randrange(3, 9)))
    polygon = []
    for angle in angles:
        radius = rng.uniform(20, 70)
        polygon += [30 + radius * np.cos(angle), 20 + radius * np.sin(angle)]
    pad = 100

    def pixels(flat: list[float]) -> np.ndarray:
        moved = [value + pad for value in flat]
        rle = mask_util.frPyObjects([moved], HEIGHT + 2 * pad, WIDTH + 2 * pad)
        return mask_util.decode(rle)[pad : pad + HEIGHT, pad : pad + WIDTH, 0]

    clipped = clip_polygon(polygon, WIDTH, HEIGHT)
    if not clipped:
        assert not pixels(polygon).any()
        return
    x, y, width, height = polygons_box([clipped])
    assert min(x, y) >= 0 and x + width <= WIDTH and y + height <= HEIGHT
    expected, found = pixels(polygon), pixels(clipped)
    assert (expected != found).sum() <= 3 * (WIDTH + HEIGHT) // 20  # of edges that fall otherwise
    assert abs(polygon_area(clipped) - expected.sum()) < 0.03 * WIDTH * HEIGHT


def test_the_verb_writes_what_passes_and_overwrites_nothing(folder, tmp_path, capsys):
    changed = content()
    changed["annotations"][0]["bbox"] = [-5, 10, 20, 10]
    changed["annotations"][1]["image_id"] = 77
    source, output = tmp_path / "in.json", tmp_path / "out.json"
    source.write_text(json.dumps(changed))
    assert main(["check-data", str(source), str(folder)]) == 1
    assert main(["check-data", str(source), str(folder), "--fix", str(output)]) == 0
    text = capsys.readouterr().out
    assert "1 x box outside the image: clipped" in text
    assert "1 x annotation of no image: left out" in text
    assert f"{output}: 2 of 2 images, 3 of 4 annotations, 1 of 1 categories" in text
    assert main(["check-data", str(output), str(folder)]) == 0
    assert json.loads(source.read_text()) == changed
    assert main(["check-data", str(source), str(folder), "--fix", str(output)]) == 2
    assert main(["check-data", str(source), str(folder), "--fix", str(source)]) == 2
    assert "is there already" in capsys.readouterr().err
