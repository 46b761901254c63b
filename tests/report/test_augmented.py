"""Picture of what the model sees: the mapper's own images and objects, the same for a seed."""

import json

import numpy as np
import pytest
from PIL import Image

from hiera_det.cli import main
from hiera_det.data.shapes import make_shapes


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_shapes(
        tmp_path_factory.mktemp("seen"), num_train=4, num_val=2, image_size=96, seed=3
    )


def draw(files, path, *options: str, boxes_only: bool = False) -> np.ndarray:
    json_file = files / "annotations/instances_train.json"
    if boxes_only:
        content = json.loads(json_file.read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        json_file = path.with_suffix(".json")
        json_file.write_text(json.dumps(content))
    argv = ["visualize-data", "--data", str(json_file), str(files / "train"), "--output", str(path)]
    assert main([*argv, *options]) == 0
    return np.asarray(Image.open(path))


def test_rows_of_originals_and_draws(files, tmp_path):
    first = draw(files, tmp_path / "a.png", "--num-images", "2", "--draws", "2")
    again = draw(files, tmp_path / "b.png", "--num-images", "2", "--draws", "2")
    other = draw(files, tmp_path / "c.png", "--num-images", "2", "--draws", "2", "--seed", "1")
    wider = draw(files, tmp_path / "d.png", "--num-images", "2", "--draws", "3")
    np.testing.assert_array_equal(first, again)
    assert other.shape != first.shape or (other != first).any()
    column = first.shape[1] // 3
    assert first.shape[1] == 3 * column and wider.shape[1] == 4 * column
    np.testing.assert_array_equal(first[:, :column], wider[:, :column])  # the originals
    assert (first[:, column : 2 * column] != first[:, 2 * column :]).any()  # draws differ


def test_masks_are_filled_and_boxes_alone_are_not(files, tmp_path):
    masks = draw(files, tmp_path / "a.png", "--num-images", "1", "--draws", "1")
    boxes = draw(files, tmp_path / "b.png", "--num-images", "1", "--draws", "1", boxes_only=True)
    assert masks.shape[1] == boxes.shape[1]
    left = slice(0, masks.shape[1] // 2)
    assert (masks[:, left] != boxes[:, left]).mean() > 0.05


def test_nothing_is_overwritten(files, tmp_path, capsys):
    path = tmp_path / "a.png"
    path.write_text("mine")
    train = str(files / "annotations/instances_train.json")
    argv = ["visualize-data", "--data", train, str(files / "train"), "--output", str(path)]
    assert main(argv) == 2
    assert "is there already" in capsys.readouterr().err and path.read_text() == "mine"
