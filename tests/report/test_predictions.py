"""The grid of ground truth beside predictions."""

import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from hiera_det.report.predictions import (
    CAPTION,
    GAP,
    class_colors,
    class_labels,
    draw_instances,
    draw_predictions,
)

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


RED, BLUE = (200, 0, 0), (0, 0, 200)


def grey(height: int = 100, width: int = 160) -> np.ndarray:
    return np.full((height, width, 3), 100, np.uint8)


def box_mask(box: list[int], height: int = 100, width: int = 160) -> torch.Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def test_masks_are_half_transparent_with_a_darker_edge():
    """The values follow from the grey and the colour; outside of the box nothing changes."""
    image, box = grey(), [40, 30, 120, 90]
    drawn = draw_instances(image, [[30, 20, 140, 95]], ["fig"], [RED], box_mask(box)[None])
    assert drawn.dtype == np.uint8 and drawn.shape == image.shape
    assert (image == 100).all(), "the image given was drawn on"
    assert drawn[60, 80].tolist() == [150, 50, 50]  # half 100, half the colour
    assert drawn[60, 40].tolist() == drawn[89, 80].tolist() == [140, 0, 0]  # 0.7 of the colour
    assert drawn[60, 39].tolist() == [100, 100, 100]
    assert drawn[60, 30].tolist() == drawn[20, 100].tolist() == [200, 0, 0]  # the box
    outside = np.ones(image.shape[:2], bool)
    outside[20:96, 30:141] = False
    assert (drawn[outside] == 100).all()


def test_crowds_are_outlined_and_small_instances_lie_above_large_ones():
    small, large = [60, 40, 100, 70], [20, 10, 150, 95]
    masks = torch.stack([box_mask(small), box_mask(large)])
    drawn = draw_instances(grey(), [small, large], ["", ""], [RED, BLUE], masks)
    assert drawn[55, 80].tolist() == [125, 25, 75]  # red on blue on grey, half each
    crowd = draw_instances(
        grey(), [small, large], ["", ""], [RED, BLUE], masks, outlined=[False, True]
    )
    assert crowd[55, 80].tolist() == [150, 50, 50]
    assert crowd[85, 30].tolist() == [100, 100, 100]  # inside of the crowd
    assert crowd[80, 21].tolist() == [0, 0, 200]  # its outline


def test_labels_are_written_with_their_scores():
    """In a corner of the box, inside of the picture, and wider with a score than without."""

    def dark_columns(left: float, scores: list[float] | None) -> np.ndarray:
        box = [left, 150, 260, 190]
        drawn = draw_instances(grey(200, 200), [box], ["fig"], [RED], None, scores)
        return np.flatnonzero((drawn.max(axis=-1) < 40).any(axis=0))

    name, name_and_score = dark_columns(100, None), dark_columns(100, [0.87])
    assert 100 <= name[0] <= 102 and len(name_and_score) > len(name) > 10
    moved = dark_columns(190, [0.87])
    assert moved[-1] == 199 and abs(len(moved) - len(name_and_score)) <= 2


def test_nothing_and_odd_boxes_are_drawn():
    empty = torch.zeros(0, 100, 160, dtype=torch.bool)
    np.testing.assert_array_equal(
        draw_instances(grey(), torch.zeros(0, 4), [], [], empty, []), grey()
    )
    odd = [[-20, -20, 500, 500], [50, 50, 50, 50], [-30, -30, -10, -10]]
    drawn = draw_instances(grey(), odd, ["a"] * 3, [RED] * 3, torch.zeros(3, 100, 160))
    assert drawn.shape == (100, 160, 3)


def test_instances_that_do_not_fit_raise():
    box = [[1, 1, 5, 5]]
    with pytest.raises(ValueError, match=r"1 boxes, but \{'colors': 2\}"):
        draw_instances(grey(), box, ["a"], [RED, RED])
    with pytest.raises(ValueError, match=r"masks of \(height, width\) \(5, 5\) on an image of"):
        draw_instances(grey(), box, ["a"], [RED], torch.zeros(1, 5, 5))


def test_class_colors_are_those_of_the_dataset_or_all_different():
    metadata = MetadataCatalog.get("test_colors")
    try:
        assert len(set(class_colors(metadata, 80))) == 80
        metadata.set(thing_colors=[[255, 0, 0], [0, 0, 255]])
        assert class_colors(metadata, 2) == [(255, 0, 0), (0, 0, 255)]
        assert len(set(class_colors(metadata, 5))) == 5
    finally:
        MetadataCatalog.remove("test_colors")


def test_predictions_and_truth_without_masks(dicts, tmp_path):
    """Boxes alone: their inside stays grey, on both sides."""
    record = {**dicts[0], "annotations": [dict(dicts[0]["annotations"][0])]}
    del record["annotations"][0]["segmentation"]
    output = prediction(0.9)["instances"]
    output.remove("pred_masks")
    grid = cv2.imread(str(draw_predictions(NAME, [record], [output], tmp_path / "p.png")))
    scale = 480 / WIDTH
    for x, left in ((5, GAP // 2), (35, 480 + GAP + GAP // 2)):
        inside = grid[CAPTION + round(20 * scale), left + round((x + 10) * scale)]
        side = grid[CAPTION + round(30 * scale), left + round(x * scale)]
        assert np.ptp(inside.astype(int)) == 0 and np.ptp(side.astype(int)) > 200


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


def test_objects_of_the_only_class_carry_no_text():
    image = np.full((60, 80, 3), 90, np.uint8)
    boxes, colors = [[10, 20, 50, 50]], [(250, 20, 20)]
    plain = draw_instances(image, boxes, class_labels([0], ["nucleus"]), colors)
    assert np.array_equal(
        draw_instances(image, boxes, class_labels([0], ["nucleus"]), colors, scores=[0.9]), plain
    )
    named = draw_instances(image, boxes, class_labels([0], ["nucleus", "cell"]), colors)
    assert not np.array_equal(named, plain)
    assert class_labels([1, 2], ["nucleus", "cell"]) == ["cell", "class 2"]
