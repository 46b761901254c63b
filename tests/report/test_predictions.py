"""The grid of ground truth beside predictions."""

import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from hiera_det.report.predictions import CAPTION, GAP, draw_predictions

NAME, SIDE = "test_pictures", 120
HEIGHT, WIDTH = 40, 60


@pytest.fixture
def dicts(tmp_path):
    """Three grey images with an object each in their left half."""
    annotation = {
        "bbox": [5, 5, 25, 35],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 1,
        "segmentation": [[5, 5, 25, 5, 25, 35, 5, 35]],
        "iscrowd": 0,
    }
    records = []
    for k in range(3):
        path = tmp_path / f"{k}.png"
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 128, np.uint8))
        records.append(
            {
                "file_name": str(path),
                "image_id": k,
                "height": HEIGHT,
                "width": WIDTH,
                "annotations": [annotation],
            }
        )
    MetadataCatalog.get(NAME).set(
        thing_classes=["fig", "plum"], thing_colors=[[255, 0, 0], [0, 0, 255]]
    )
    yield records
    MetadataCatalog.remove(NAME)


def prediction(score: float, size: tuple[int, int] = (HEIGHT, WIDTH)) -> dict:
    """One object in the right half."""
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor([[35.0, 5.0, 55.0, 35.0]]))
    instances.scores = torch.tensor([score])
    instances.pred_classes = torch.tensor([1])
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[:, 5:35, 35:55] = True
    instances.pred_masks = mask
    return {"instances": instances}


def is_colored(pixels: np.ndarray) -> bool:
    """Whether a region of a grey image was drawn on."""
    return bool((np.ptp(pixels.astype(int), axis=-1) > 40).mean() > 0.5)


def test_truth_is_drawn_left_and_prediction_right(dicts, tmp_path):
    before = copy.deepcopy(dicts)
    outputs = [prediction(0.9), prediction(0.2), prediction(0.9)["instances"]]
    png = draw_predictions(NAME, dicts, outputs, tmp_path / "new" / "p.png", side=SIDE)
    assert dicts == before
    grid = cv2.imread(str(png))
    pair_height, pair_width = CAPTION + SIDE * HEIGHT // WIDTH + GAP, 2 * (SIDE + GAP)
    assert grid.shape == (2 * pair_height, 2 * pair_width, 3)  # 3 pairs in 2 columns
    scale = SIDE // WIDTH
    for k, has_prediction in enumerate((True, False, True)):
        top = k // 2 * pair_height + CAPTION
        left = k % 2 * pair_width + GAP // 2
        rows = slice(top + 12 * scale, top + 30 * scale)
        left_half = slice(left + 8 * scale, left + 22 * scale)
        right_half = slice(left + 38 * scale, left + 52 * scale)
        assert is_colored(grid[rows, left_half]) and not is_colored(grid[rows, right_half])
        shift = SIDE + GAP
        left_half = slice(left_half.start + shift, left_half.stop + shift)
        right_half = slice(right_half.start + shift, right_half.stop + shift)
        assert not is_colored(grid[rows, left_half])
        assert is_colored(grid[rows, right_half]) == has_prediction
    assert (grid[pair_height:, pair_width:] == 255).all()


def test_max_images_and_images_without_objects(dicts, tmp_path):
    dicts[0] = {**dicts[0], "annotations": []}
    outputs = [prediction(0.1)] * 3
    kwargs = dict(max_images=1, side=SIDE, score_threshold=0.5)
    grid = cv2.imread(str(draw_predictions(NAME, dicts, outputs, tmp_path / "p.png", **kwargs)))
    assert grid.shape[1] == 2 * (SIDE + GAP)
    assert not is_colored(grid)


def test_bad_input_raises(dicts, tmp_path):
    png = tmp_path / "p.png"
    with pytest.raises(ValueError, match="1 predictions for 3 images"):
        draw_predictions(NAME, dicts, [prediction(0.9)], png)
    with pytest.raises(ValueError, match="0 predictions for 0 images"):
        draw_predictions(NAME, [], [], png)
    with pytest.raises(ValueError, match="postprocess predictions to the size of the file"):
        draw_predictions(NAME, dicts[:1], [prediction(0.9, (80, 120))], png)
    assert not Path(png).exists()


def test_dicts_of_a_registered_set_can_be_drawn(tmp_path):
    from hiera_det.data import shapes

    shapes.make_shapes(tmp_path, num_train=1, num_val=13, image_size=64)
    shapes.register_shapes(tmp_path)
    try:
        records = DatasetCatalog.get("shapes_val")[7:13:5]  # one with a crowd, one without objects
        outputs = []
        for record in records:
            instances = Instances((record["height"], record["width"]))
            instances.pred_boxes = Boxes(torch.zeros(0, 4))
            instances.scores = torch.zeros(0)
            instances.pred_classes = torch.zeros(0, dtype=torch.long)
            instances.pred_masks = torch.zeros(0, 64, 64, dtype=torch.bool)
            outputs.append(instances)
        assert draw_predictions("shapes_val", records, outputs, tmp_path / "p.png").is_file()
    finally:
        shapes.register_shapes()
