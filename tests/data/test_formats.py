"""Datasets of other formats as COCO JSON: pixels and boxes are those of the source, all is told."""

import json
import re
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data.detection_utils import check_image_size
from PIL import Image

from hiera_det.cli import main
from hiera_det.data.coco_check import check_coco_json
from hiera_det.data.formats import FORMATS, read_dataset
from hiera_det.data.images import read_image
from hiera_det.data.rle import labels_to_rles
from hiera_det.data.splits import split_content

WIDTH, HEIGHT = 60, 40
EXIF_ORIENTATION = 0x0112


def save_image(path: Path, mode: str = "RGB", orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    Image.fromarray(noise).convert(mode).save(path, exif=exif)
    return path


def disc(x: float, y: float, radius: float, hole: float = 0) -> np.ndarray:
    """bool (HEIGHT, WIDTH)"""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(columns - x, rows - y)
    return (distance <= radius) & (distance >= hole)


MASKS = [
    disc(15, 15, 10, hole=4),
    disc(22, 18, 9),
    disc(59, 39, 5),
]  # a ring, overlapping, a corner


def convert(capsys, *args) -> str:
    assert main(["convert-data", *map(str, args)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def load(path: Path, root: Path, *, boxes_only: bool = False) -> dict:
    report = check_coco_json(path, root, need_masks=not boxes_only)
    assert not report.errors, str(report)
    return json.loads(path.read_text())


def masks_of(content: dict) -> list[np.ndarray]:
    return [mask_util.decode(a["segmentation"]).astype(bool) for a in content["annotations"]]


# -------------------------------------------------------------------------------------------- RLE
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (40, 60)])
def test_label_maps_are_encoded_as_pycocotools_does(shape):
    labels = np.random.default_rng(0).integers(0, 4, shape) * 1000
    found = labels_to_rles(labels)
    assert list(found) == [v for v in np.unique(labels).tolist() if v]
    for value, rle in found.items():
        expected = mask_util.encode(np.asfortranarray((labels == value).astype(np.uint8)))
        assert rle == {"size": list(shape), "counts": expected["counts"].decode()}
    assert labels_to_rles(np.zeros(shape, int)) == {}
    assert mask_util.area(labels_to_rles(np.full(shape, 7))[7]) == np.prod(shape)


# ------------------------------------------------------------------------------------------ masks
NAMES = ["a.png", "b c.jpg", "größe 名.png", "e.f.png"]


@pytest.fixture(params=["images and masks", "science bowl"])
def mask_folder(request, tmp_path) -> Path:
    root = tmp_path / "in put ü"
    for name in NAMES:
        stem = Path(name).stem
        if request.param == "science bowl":
            image, folder = root / "train" / stem / "images" / name, root / "train" / stem / "masks"
        else:
            image, folder = root / "images" / "sub" / name, root / "masks" / "sub" / stem
        save_image(image)
        folder.mkdir(parents=True)
        for k, mask in enumerate(MASKS):
            Image.fromarray(mask.astype(np.uint8) * (255, 1, 200)[k]).save(folder / f"{k}.png")
    return root


def test_mask_images_become_exact_masks(mask_folder, tmp_path, capsys):
    out = tmp_path / "out.json"
    text = convert(capsys, mask_folder, out, "--class-name", "nucleus")
    root = Path(re.search("images from (.*)\n", text)[1])
    content = load(out, root)
    assert [c["name"] for c in content["categories"]] == ["nucleus"]
    assert sorted(Path(i["file_name"]).name for i in content["images"]) == sorted(NAMES)
    assert f"{len(NAMES)} images (0 without objects), {3 * len(NAMES)} objects" in text
    assert "nothing was left out" in text
    for image in content["images"]:
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert isinstance(own[0]["segmentation"]["counts"], str)
        for annotation, expected in zip(own, MASKS, strict=True):  # overlap and hole are kept
            mask = mask_util.decode(annotation["segmentation"]).astype(bool)
            np.testing.assert_array_equal(mask, expected)
            rows, columns = np.nonzero(expected)
            x, y = columns.min(), rows.min()
            size = [columns.max() + 1 - x, rows.max() + 1 - y]
            assert annotation["bbox"] == [x, y, *size] and annotation["area"] == expected.sum()


def test_bad_masks_are_left_out_and_told(tmp_path, capsys):
    save_image(tmp_path / "in/images/a.png")
    save_image(tmp_path / "in/images/empty.png")
    (tmp_path / "in/images/broken.png").write_bytes(b"no image")
    folder = tmp_path / "in/masks/a"
    folder.mkdir(parents=True)
    Image.fromarray(MASKS[0]).save(folder / "0.png")  # of one bit
    soft = Image.fromarray(MASKS[1].astype(np.uint8) * 255).convert("RGBA")
    soft.save(folder / "1.png")
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "2.png")
    Image.new("L", (WIDTH + 1, HEIGHT), 255).save(folder / "3.png")
    (folder / "4.png").write_bytes(b"no image")
    text = convert(capsys, tmp_path / "in", tmp_path / "out.json")
    content = load(tmp_path / "out.json", tmp_path / "in/images")
    assert len(content["images"]) == 2
    for mask, expected in zip(masks_of(content), MASKS[:2], strict=True):
        np.testing.assert_array_equal(mask, expected)
    for line in (
        "1 x mask without a pixel: left out",
        "1 x mask of another size than its image: left out",
        "1 x mask that cannot be read: left out",
        "1 x image that cannot be read: left out",
        "1 images have no masks and are taken for empty",
    ):
        assert line in text, text


def test_folders_called_train_and_val_are_a_split(tmp_path, capsys):
    for split, count in (("train", 3), ("val", 2)):
        for k in range(count):
            save_image(tmp_path / f"in/images/{split}/{k}.png")
            folder = tmp_path / f"in/masks/{split}/{k}"
            folder.mkdir(parents=True)
            Image.fromarray(MASKS[k]).save(folder / "0.png")
    convert(capsys, tmp_path / "in", tmp_path / "out.json")
    for split, count in (("train", 3), ("val", 2)):
        content = load(tmp_path / f"out_{split}.json", tmp_path / "in/images")
        assert {i["file_name"] for i in content["images"]} == {
            f"{split}/{k}.png" for k in range(count)
        }
    # A new split of all images, if one is asked for, and that is told.
    text = convert(capsys, tmp_path / "in", tmp_path / "new.json", "--split", "0.4")
    assert "its own split (train, val) was given up" in text
    assert len(load(tmp_path / "new_val.json", tmp_path / "in/images")["images"]) == 2


# ------------------------------------------------------------------------------------- label maps
def label_map() -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    for value, mask in zip((7, 300, 65535), MASKS, strict=True):
        labels[mask] = value
    return labels


def save_map(kind: str, folder: Path) -> np.ndarray:
    """Saves a map of one kind; what it says, with values of its own."""
    labels = label_map()
    small = np.searchsorted([0, 7, 300, 65535], labels).astype(np.uint8)
    image = Image.fromarray({"16-bit": labels, "32-bit": labels.astype(np.int32)}.get(kind, small))
    if kind == "palette":
        small[:2] = 255  # Pascal VOC's border
        image = Image.fromarray(small, "P")
        image.putpalette([(value * 67) % 256 for value in range(768)])
        small = np.where(small == 255, 0, small)
    elif kind == "colours":
        image = Image.fromarray(
            np.array([[0, 0, 0], [0, 0, 1], [255, 0, 0], [0, 9, 0]], np.uint8)[small]
        )
        small = np.array([0, 1, 3, 2])[small]  # in the order of red, green, blue
    elif kind == "float":
        image = Image.fromarray(small.astype(np.float32))
    suffix = "tif" if kind in ("float", "32-bit") else "png"
    folder.mkdir(parents=True)
    image.save(folder / f"a.{suffix}")
    return small


@pytest.mark.parametrize("kind", ["8-bit", "16-bit", "32-bit", "palette", "colours", "float"])
def test_every_value_of_a_label_map_is_an_instance(kind, tmp_path, capsys):
    save_image(tmp_path / "in/images/a.jpg")
    expected = save_map(kind, tmp_path / "in/labels")
    text = convert(capsys, tmp_path / "in", tmp_path / "out.json")
    masks = masks_of(load(tmp_path / "out.json", tmp_path / "in/images"))
    assert len(masks) == 3
    for value, mask in enumerate(masks, 1):
        np.testing.assert_array_equal(mask, expected == value)
    assert ("border: left out" in text) == (kind == "palette")


def test_label_maps_beside_their_images(tmp_path, capsys):
    save_image(tmp_path / "in/x/a.tif")
    Image.fromarray(label_map()).save(tmp_path / "in/x/a_cp_masks.png")
    save_image(tmp_path / "in/x/b.tif")
    text = convert(capsys, tmp_path / "in", tmp_path / "out.json")
    content = load(tmp_path / "out.json", tmp_path / "in/x")
    assert [i["file_name"] for i in content["images"]] == ["a.tif"]
    assert len(content["annotations"]) == 3 and "1 x image without a label map" in text


def test_semantic_maps_are_noticed(tmp_path, capsys):
    for name in "ab":
        save_image(tmp_path / f"in/images/{name}.png")
        (tmp_path / "in/masks").mkdir(exist_ok=True)
        both = (MASKS[0] | MASKS[2]).astype(np.uint8) * 255
        Image.fromarray(both).save(tmp_path / f"in/masks/{name}.png")
    text = convert(capsys, tmp_path / "in", tmp_path / "out.json")
    assert "2 of 2 maps have one value beside 0" in text


# ------------------------------------------------------------------------------------------- YOLO
def make_yolo(root: Path, yaml: str | None, layout: str = "images/{split}") -> None:
    lines = {
        "train": "1 0.5 0.5 0.5 0.25\n0 0.1 0.1 0.5 0.1 0.5 0.6\n",
        "val": "0 0.25 0.5 0.5 0.5\n\n9 nonsense\n0 30 20 10 10\n0 0.5 0.5\n-1 .5 .5 .1 .1\n",
    }
    for split in ("train", "val"):
        folder = layout.format(split=split)
        save_image(root / folder / "a b.jpg")
        save_image(root / folder / "empty.jpg")
        labels = root / folder.replace("images", "labels")
        labels.mkdir(parents=True, exist_ok=True)
        (labels / "a b.txt").write_text(lines[split])
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)


YAMLS = {
    "relative": ("train: images/train\nval: images/val\nnames: [fig, 'no']\n", "images/{split}"),
    "numbered": (
        "path: ../datasets/elsewhere\ntrain: [images/train]\nval: images/val\n"
        "names:\n  0: fig\n  1: 'no'\n",
        "images/{split}",
    ),
    "roboflow": (
        "train: ../train/images\nval: ../val/images\nnc: 2\nnames: ['fig', 'no']\n",
        "{split}/images",
    ),
}


@pytest.mark.parametrize("kind", YAMLS)
def test_yolo_folders(kind, tmp_path, capsys):
    yaml, layout = YAMLS[kind]
    make_yolo(tmp_path / "in", yaml, layout)
    text = convert(capsys, tmp_path / "in", tmp_path / "out.json")
    root = Path(re.search("images from (.*)\n", text)[1])
    train = load(tmp_path / "out_train.json", root, boxes_only=True)
    assert [c["name"] for c in train["categories"]] == ["fig", "no"]
    assert len(train["images"]) == 2
    box, polygon = train["annotations"]
    assert (box["category_id"], box["bbox"]) == (2, [15, 15, 30, 10]) and "segmentation" not in box
    assert polygon["segmentation"] == [[6, 4, 30, 4, 30, 24]]
    assert (polygon["bbox"], polygon["area"]) == ([6, 4, 24, 20], 240)
    val = load(tmp_path / "out_val.json", root, boxes_only=True)
    assert [a["bbox"] for a in val["annotations"]] == [[0, 10, 30, 20]]
    for line in (
        "1 x line that is not numbers",
        "1 x line whose numbers are no shares of 1",
        "2 x line that is neither class and box nor class and polygon",
    ):
        assert line in text, text


def test_a_yolo_list_of_files_and_no_yaml_at_all(tmp_path, capsys):
    make_yolo(tmp_path / "in", "train: train.txt\nval: images/val\nnames: {0: fig, 1: no}\n")
    (tmp_path / "in/train.txt").write_text("./images/train/a b.jpg\n\n/gone.jpg\n")
    text = convert(capsys, tmp_path / "in/data.yaml", tmp_path / "out.json")
    assert "1 x listed image that is not there" in text
    train = load(tmp_path / "out_train.json", tmp_path / "in/images", boxes_only=True)
    assert len(train["images"]) == 1
    assert [c["name"] for c in train["categories"]] == ["fig", "False"]  # YAML's no, unquoted
    (tmp_path / "in/data.yaml").unlink()
    text = convert(capsys, tmp_path / "in", tmp_path / "bare.json")
    assert "class without a name" in text
    bare = load(tmp_path / "bare.json", tmp_path / "in/images", boxes_only=True)
    assert [c["name"] for c in bare["categories"]] == ["class 0", "class 1"]
    assert len(bare["images"]) == 4


# -------------------------------------------------------------------------------------------- VOC
def voc_xml(name: str, *objects: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    width, height = size
    return (
        f"<annotation><folder>x</folder><filename>{name}</filename>"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        f"{''.join(objects)}</annotation>"
    )


def voc_object(name: str, *corners: float, difficult: int = 0) -> str:
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, corners, strict=True))
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox>"
        "<part><name>hand</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>"
        "</bndbox></part></object>"
    )


def test_voc_folders(tmp_path, capsys):
    root = tmp_path / "in"
    (root / "Annotations").mkdir(parents=True)
    files = {
        "a": voc_xml("a.jpg", voc_object("sheep", 1, 1, 60, 40), voc_object("cow", 11, 6, 20, 15)),
        "b": voc_xml(
            "b.jpg", voc_object("cow", 50, 30, 99, 50), voc_object("cow", 5, 5, 9, 9, difficult=1)
        ),
        "c": voc_xml("c.jpg", voc_object("cow", 1, 1, 9, 9), size=(9, 9)),
        "d": voc_xml("gone.jpg", voc_object("cow", 1, 1, 9, 9)),
    }
    for stem, text in files.items():
        (root / f"Annotations/{stem}.xml").write_text(text)
    (root / "Annotations/broken.xml").write_text("<annotation>")
    for stem in "abc":
        save_image(root / f"JPEGImages/{stem}.jpg")
    text = convert(capsys, root, tmp_path / "out.json")
    content = load(tmp_path / "out.json", root / "JPEGImages", boxes_only=True)
    assert [c["name"] for c in content["categories"]] == ["cow", "sheep"]
    found = [
        (a["image_id"], a["category_id"], a["bbox"], a["iscrowd"]) for a in content["annotations"]
    ]
    assert found == [
        (1, 2, [0, 0, 60, 40], 0),  # 1 to 60 is all of the image
        (1, 1, [10, 5, 10, 10], 0),
        (2, 1, [49, 29, 11, 11], 0),
        (2, 1, [4, 4, 5, 5], 1),
    ]
    for line in (
        "1 x XML file that is no annotation of VOC",
        "1 x XML file without its image",
        "1 x XML file of another size than its image",
        "1 x object marked difficult",
        "1 x box outside the image: clipped",
    ):
        assert line in text, text


def test_voc_lists_are_a_split(tmp_path, capsys):
    root = tmp_path / "in"
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets/Main").mkdir(parents=True)
    for stem in "abc":
        save_image(root / f"JPEGImages/{stem}.jpg")
        (root / f"Annotations/{stem}.xml").write_text(voc_xml("", voc_object("cow", 3, 3, 9, 9)))
    (root / "ImageSets/Main/train.txt").write_text("a\n")
    (root / "ImageSets/Main/val.txt").write_text("b\n")
    text = convert(capsys, root, tmp_path / "out.json")
    assert "1 x image that no list in ImageSets names" in text
    for split, name in (("train", "a"), ("val", "b")):
        content = load(tmp_path / f"out_{split}.json", root / "JPEGImages", boxes_only=True)
        assert [i["file_name"] for i in content["images"]] == [f"{name}.jpg"]


# ------------------------------------------------------------------------------------------- COCO
def test_roboflow_folders_are_merged_by_class_names(tmp_path, capsys):
    for split, names in (("train", ["pots", "a", "b"]), ("valid", ["pots", "b", "a"])):
        folder = tmp_path / "in" / split
        save_image(folder / "x.jpg")
        rle = {"size": [HEIGHT, WIDTH], "counts": [130, 4, 2266]}
        content = {
            "images": [{"id": 0, "file_name": "x.jpg", "width": WIDTH, "height": HEIGHT}],
            "categories": [
                {"id": k, "name": n, "supercategory": "pots" if k else "none"}
                for k, n in enumerate(names)
            ],
            "annotations": [
                {"image_id": 0, "category_id": 1, "bbox": [3, 10, 1, 4], "segmentation": rle},
                {
                    "image_id": 0,
                    "category_id": 2,
                    "bbox": [-5, 10, 20, 10],
                    "iscrowd": 0,
                    "area": 9,
                },
            ],
        }
        (folder / "_annotations.coco.json").write_text(json.dumps(content))
    text = convert(capsys, tmp_path / "in", tmp_path / "out.json")
    assert "1 x category that only stands above others" in text
    assert "2 x box outside the image: clipped" in text
    for split, folder, order in (("train", "train", [2, 3]), ("val", "valid", [3, 2])):
        content = load(tmp_path / f"out_{split}.json", tmp_path / "in", boxes_only=True)
        assert [c["name"] for c in content["categories"]] == ["a", "b"]
        assert [i["file_name"] for i in content["images"]] == [f"{folder}/x.jpg"]
        first, second = content["annotations"]
        assert [first["category_id"], second["category_id"]] == order
        assert isinstance(first["segmentation"]["counts"], str) and first["area"] == 4
        assert mask_util.toBbox(first["segmentation"]).tolist() == [3, 10, 1, 4]
        assert second["bbox"] == [0, 10, 15, 10] and second["area"] == 150


def test_a_coco_file_finds_its_images(tmp_path, capsys, generated_coco):
    file = generated_coco / "annotations/instances_val2017.json"
    text = convert(capsys, file, tmp_path / "out.json")
    assert f"images from {(generated_coco / 'val2017').resolve()}" in text
    before, after = (
        json.loads(file.read_text()),
        load(tmp_path / "out.json", generated_coco / "val2017"),
    )
    assert len(after["annotations"]) == len(before["annotations"])
    assert [c["name"] for c in after["categories"]] == [c["name"] for c in before["categories"]]
    moved = tmp_path / "moved.json"
    moved.write_bytes(file.read_bytes())
    assert main(["convert-data", str(moved), str(tmp_path / "b.json")]) == 2
    assert "name the folder that its file names start from (--images" in capsys.readouterr().err
    convert(capsys, moved, tmp_path / "b.json", "--images", generated_coco / "val2017")


# ------------------------------------------------------------------------------- images as they are
def test_sizes_are_those_in_which_images_are_read(tmp_path):
    """EXIF-turned, grey, palette and CMYK images: what Detectron2 compares agrees."""
    root = tmp_path / "in"
    for name, mode, orientation in (
        ("turned.jpg", "RGB", 6),
        ("grey.png", "L", 1),
        ("palette.png", "P", 8),
        ("cmyk.jpg", "CMYK", 3),
        ("turned.tif", "RGB", 5),
    ):
        file = save_image(root / "images" / name, mode, orientation)
        height, width, _ = read_image(file).shape
        folder = root / "masks" / Path(name).stem
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (width, height), 255).save(folder / "0.png")
    source = read_dataset(root)
    assert len(source.content["annotations"]) == 5 and not source.changes
    for image in source.content["images"]:
        pixels = read_image(source.image_root / image["file_name"])
        check_image_size(dict(image), pixels)


# ------------------------------------------------------------------------------- splits, mistakes
def content_of(count: int, folders: int) -> dict:
    images = [{"id": k, "file_name": f"{k % folders}/p{k % folders}_{k}.png"} for k in range(count)]
    return {
        "images": images,
        "annotations": [{"image_id": k} for k in range(count)],
        "categories": [],
    }


@pytest.mark.parametrize("group", [None, "folder", r"p(\d+)_", r"p\d+_"])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_splits(group, share):
    content = content_of(60, 12)
    train, val = split_content(content, share, seed=3, group=group)
    assert split_content(content, share, seed=3, group=group) == (train, val)
    ids = [{i["id"] for i in part["images"]} for part in (train, val)]
    assert ids[0] and ids[1] and ids[0] | ids[1] == set(range(60)) and not ids[0] & ids[1]
    for part, members in zip((train, val), ids, strict=True):
        assert {a["image_id"] for a in part["annotations"]} == members
    size = 1 if group is None else 5
    assert abs(len(ids[1]) - share * 60) <= max(size, 1)
    if group is not None:
        assert not {k % 12 for k in ids[0]} & {k % 12 for k in ids[1]}
    others = [split_content(content, share, seed=seed, group=group) for seed in range(4, 9)]
    assert any(other != (train, val) for other in others)


@pytest.mark.parametrize(
    "share, group, text",
    [
        (0, None, "between 0 and 1"),
        (1.5, None, "between 0 and 1"),
        (0.2, "png", "they cannot be split"),
        (0.2, "(", "no regular expression"),
    ],
)
def test_bad_splits_are_refused(share, group, text):
    with pytest.raises(ValueError, match=text):
        split_content(content_of(6, 2), share, group=group)


def test_nothing_is_overwritten_and_mistakes_are_one_line(mask_folder, tmp_path, capsys):
    def refused(*args) -> str:
        assert main(["convert-data", *map(str, args)]) == 2
        return capsys.readouterr().err

    (tmp_path / "out_val.json").write_text("mine")
    assert "is there already" in refused(mask_folder, tmp_path / "out.json", "--split", "0.5")
    assert (tmp_path / "out_val.json").read_text() == "mine"
    assert not (tmp_path / "out_train.json").exists()
    assert "ends in .json" in refused(mask_folder, tmp_path / "out")
    assert "no such file or folder" in refused(tmp_path / "gone", tmp_path / "o.json")
    (tmp_path / "nothing").mkdir()
    assert "is none of the datasets that are known" in refused(
        tmp_path / "nothing", tmp_path / "o.json"
    )
    assert "needs --split" in refused(mask_folder, tmp_path / "o.json", "--group", "folder")
    assert "no image" in refused(tmp_path / "nothing", tmp_path / "o.json", "--format", "voc")
    assert not list(tmp_path.glob("*o.json*"))


def test_every_format_can_be_asked_for(capsys):
    with pytest.raises(SystemExit):
        main(["convert-data", "--help"])
    assert f"{{{','.join(FORMATS)}}}" in capsys.readouterr().out


@pytest.mark.slow
def test_nuclei_as_mask_images_are_the_nuclei_again(nuclei, tmp_path, capsys):
    content = json.loads((nuclei / "annotations/instances_val.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"][:20]}
    expected = []
    for name in names.values():
        (tmp_path / "in/images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in/images" / name).symlink_to(nuclei / "val" / name)
    for annotation in content["annotations"]:
        if annotation["image_id"] not in names:
            continue
        name = names[annotation["image_id"]]
        folder = tmp_path / "in/masks" / Path(name).stem
        folder.mkdir(parents=True, exist_ok=True)
        mask = mask_util.decode(annotation["segmentation"])
        Image.fromarray(mask * 255).save(folder / f"{annotation['id']:06d}.png")
        expected.append((name, annotation["segmentation"]["counts"], annotation["bbox"]))
    convert(capsys, tmp_path / "in", tmp_path / "out.json")
    found = load(tmp_path / "out.json", tmp_path / "in/images")
    names = {image["id"]: image["file_name"] for image in found["images"]}
    again = [
        (names[a["image_id"]], a["segmentation"]["counts"], a["bbox"]) for a in found["annotations"]
    ]
    assert sorted(again) == sorted(expected)
