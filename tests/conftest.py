"""Says which Detectron2 answers, and where the real images for tests are."""

import json
import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("HIERA_DET_TEST_DATA", Path(__file__).resolve().parents[2] / "shared"))


def pytest_report_header() -> str:
    import detectron2

    return f"detectron2 {detectron2.__version__} from {Path(detectron2.__file__).parent}"


def _shared(name: str, what: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(
            f"{folder} is not there: put {what} there, or set HIERA_DET_TEST_DATA to the folder "
            f"that holds {name}/. The same is tested on generated images"
        )
    return folder


@pytest.fixture(scope="session")
def coco_tiny() -> Path:
    """160 real COCO images in Detectron2's layout; not part of the repository."""
    return _shared("coco_tiny", "a part of COCO (annotations/, train2017/, val2017/)")


@pytest.fixture(scope="session")
def nuclei() -> Path:
    """334 microscopy images with RLE masks in COCO's format; not part of the repository."""
    return _shared("nuclei", "COCO-format nuclei of BBBC038 (annotations/, train/, val/)")


@pytest.fixture(scope="session")
def generated_coco(tmp_path_factory) -> Path:
    """Generated images laid out and numbered as COCO's: 80 classes with ids to 90, crowds, 12 + 6
    images of 96 px. For the tests of COCO data on a machine that has none."""
    from detectron2.data import MetadataCatalog

    from hiera_det.data.shapes import make_shapes

    class_names = MetadataCatalog.get("coco_2017_train").thing_classes  # as Detectron2 expects
    root = tmp_path_factory.mktemp("generated") / "coco"
    made = make_shapes(root.parent / "made", num_train=12, num_val=6, image_size=96, seed=5)
    missing = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # the ids that COCO leaves out
    ids = [k for k in range(1, 91) if k not in missing]
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        content = json.loads((made / f"annotations/instances_{split}.json").read_text())
        content["categories"] = [
            {"id": k, "name": name} for k, name in zip(ids, class_names, strict=True)
        ]
        for k, annotation in enumerate(content["annotations"]):
            annotation["category_id"] = ids[k % len(ids)]
        text = json.dumps(content)
        (root / "annotations" / f"instances_{split}2017.json").write_text(text)
        (root / f"{split}2017").symlink_to(made / split)
    return root


@pytest.fixture(scope="session")
def mixed_shapes(tmp_path_factory) -> Path:
    """A dataset root with 12 + 3 shapes images, of which two thirds are wide or tall."""
    import cv2

    from hiera_det.data import shapes

    root = tmp_path_factory.mktemp("mixed")
    shapes.make_shapes(root, num_train=12, num_val=3, image_size=64, seed=3)
    for split in ("train", "val"):
        path = root / f"shapes/annotations/instances_{split}.json"
        content = json.loads(path.read_text())
        for k, image in enumerate(content["images"]):
            right, bottom = ((0, 0), (40, 0), (0, 56))[k % 3]
            file = root / "shapes" / split / image["file_name"]
            pixels = cv2.copyMakeBorder(
                cv2.imread(str(file)), 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(90, 90, 90)
            )
            assert cv2.imwrite(str(file), pixels)
            image["height"], image["width"] = pixels.shape[:2]
        for annotation in content["annotations"]:
            if isinstance(annotation["segmentation"], dict):  # an RLE of the old size
                x, y, w, h = annotation["bbox"]
                annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        path.write_text(json.dumps(content))
    return root
