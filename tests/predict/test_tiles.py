"""Tiles: every object of a large image once, whatever tiles cut it."""

import resource

import cv2
import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances

from hiera_det.predict.cropped_masks import CroppedMasks, MaskCrop
from hiera_det.predict.tiles import predict_tiled

NUM_CLASSES = 3
BACKGROUND = np.array([128, 128, 128])


class Scene:
    """Labels of a generated image, 0 or the number of an object, which has a colour of its own."""

    def __init__(self, height: int, width: int):
        self.labels = np.zeros((height, width), np.int32)
        self.classes: list[int] = []

    def add(self, category: int, outline: str, x: float, y: float, w: float, h: float) -> None:
        """A disc or a square of centre (x, y) and sides (w, h) in px, above what was there."""
        self.classes.append(category)
        number = len(self.classes)
        if outline == "disc":
            box = ((x, y), (w, h), 0)
            cv2.ellipse(self.labels, box, number, cv2.FILLED)
        else:
            left, top = round(x - w / 2), round(y - h / 2)
            self.labels[top : top + round(h), left : left + round(w)] = number

    def scatter(self, count: int, sides: tuple[float, float], seed: int) -> None:
        """Objects that touch no other, of all classes."""
        rng = np.random.default_rng(seed)
        height, width = self.labels.shape
        wanted = len(self.classes) + count
        while len(self.classes) < wanted:
            w, h = np.exp(rng.uniform(*np.log(sides), 2))
            x, y = rng.uniform(w / 2, width - w / 2), rng.uniform(h / 2, height - h / 2)
            x0, y0 = max(0, int(x - w / 2) - 3), max(0, int(y - h / 2) - 3)
            if not self.labels[y0 : int(y + h / 2) + 4, x0 : int(x + w / 2) + 4].any():
                outline = ("disc", "square")[len(self.classes) % 2]
                self.add(int(rng.integers(NUM_CLASSES)), outline, x, y, w, h)

    @property
    def palette(self) -> np.ndarray:
        """Colours by label, uint8 (1 + N, 3)."""
        numbers = np.arange(1, len(self.classes) + 1)
        colors = np.stack([numbers % 256, 255 - numbers % 251, 40 * (numbers // 200)], axis=1)
        return np.concatenate([BACKGROUND[None], colors]).astype(np.uint8)

    @property
    def image(self) -> np.ndarray:
        return self.palette[self.labels]


class TruthDetector:
    """Sees in an image exactly those parts of the scene's objects that are in it."""

    class_names = ["a", "b", "c"]
    class_colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]

    def __init__(self, scene: Scene, with_masks: bool = True):
        self.scene, self.with_masks = scene, with_masks
        codes = self.scene.palette.astype(np.int64) @ [65536, 256, 1]
        self.numbers = {int(code): k for k, code in enumerate(codes)}
        self.shapes: list[tuple[int, ...]] = []
        self.batches: list[int] = []

    def predict_images(self, images: list[np.ndarray]) -> list[Instances]:
        self.batches.append(len(images))
        self.shapes += [image.shape for image in images]
        return [self._predict(image) for image in images]

    def labels_of(self, image: np.ndarray) -> np.ndarray:
        codes, inverse = np.unique(image.astype(np.int64) @ [65536, 256, 1], return_inverse=True)
        known = np.array([self.numbers.get(int(code), -1) for code in codes])
        labels = known[inverse].reshape(image.shape[:2])
        if (labels < 0).any():  # a smaller image: colours are mixed where objects end
            sure = cv2.inRange(labels.astype(np.int32), -1, -1)
            _, nearest = cv2.distanceTransformWithLabels(
                sure, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
            )
            table = np.zeros(nearest.max() + 1, np.int64)
            table[nearest[sure == 0]] = labels[sure == 0]
            labels = table[nearest]
        return labels

    def see(self, mask: np.ndarray, category: int) -> tuple[np.ndarray, int, float]:
        return mask, category, 0.9

    def _predict(self, image: np.ndarray) -> Instances:
        labels = self.labels_of(image)
        masks, boxes, classes, scores = [], [], [], []
        for number in np.unique(labels[labels > 0]):
            category = self.scene.classes[number - 1]
            mask, category, score = self.see(labels == number, category)
            if not mask.any():
                continue
            x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
            masks.append(mask)
            boxes.append([x, y, x + w, y + h])
            classes.append(category)
            scores.append(score)
        result = Instances(image.shape[:2])
        result.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4).float())
        result.pred_classes, result.scores = torch.tensor(classes).long(), torch.tensor(scores)
        if self.with_masks:
            masks_array = np.array(masks, dtype=bool).reshape(-1, *image.shape[:2])
            result.pred_masks = torch.from_numpy(masks_array)
        return result


def check_all_found_once(scene: Scene, found: Instances, min_iou: float = 0.99) -> None:
    """Every object has one detection of its class and of that mask or box; and none is left."""
    numbers = np.unique(scene.labels[scene.labels > 0])
    assert len(found) == len(numbers)
    truth = {n: MaskCrop.of(scene.labels == n).box() for n in numbers}
    left = set(range(len(found)))
    boxes = found.pred_boxes.tensor.numpy()
    centres = boxes.reshape(-1, 2, 2).mean(axis=1)
    for number, box in truth.items():
        centre = np.array(box).reshape(2, 2).mean(axis=0)
        k = min(left, key=lambda k: np.abs(centres[k] - centre).sum())
        left.remove(k)
        assert int(found.pred_classes[k]) == scene.classes[number - 1]
        side = max(box[2] - box[0], box[3] - box[1])
        assert np.abs(boxes[k] - box).max() <= (1 - min_iou) * side + 1e-3, (box, boxes[k])
        if found.has("pred_masks"):
            mask, true = found.pred_masks[k].numpy(), scene.labels == number
            iou = (mask & true).sum() / (mask | true).sum()
            assert iou >= min_iou, (number, box, iou)


@pytest.fixture(scope="module")
def scene() -> Scene:
    """700 x 900 px for tiles of 256: objects in all the places that are hard."""
    scene = Scene(700, 900)
    scene.add(0, "disc", 640, 420, 340, 400)  # larger than a tile
    scene.add(1, "square", 230, 120, 90, 40)  # over the border of two tiles
    scene.add(2, "square", 215, 230, 120, 130)  # in four tiles, and whole in none
    scene.add(0, "disc", 60, 480, 110, 110)
    scene.add(1, "square", 300, 600, 400, 24)  # long and thin
    for k in range(4):  # touching neighbours of one class, over borders
        scene.add(2, "square", 340 + 40 * k, 60, 40, 60)
    scene.add(1, "square", 60, 300, 50, 110)
    scene.add(1, "square", 60, 385, 50, 60)
    scene.scatter(40, (6, 60), seed=0)
    return scene


@pytest.mark.parametrize("overlap", [0.1, 0.2, 0.5])
def test_every_object_is_found_once(scene, overlap):
    detector = TruthDetector(scene)
    found = predict_tiled(detector, scene.image, tile=256, overlap=overlap, batch_size=3)
    check_all_found_once(scene, found)
    assert isinstance(found.pred_masks, CroppedMasks) and found.image_size == (700, 900)
    assert max(detector.batches) == 3
    *tiles, small = detector.shapes
    assert set(tiles) == {(256, 256, 3)} and max(small) == 256


@pytest.mark.parametrize("tile", [120, 200, 333, 512, 899])
def test_the_size_of_tiles_does_not_matter(scene, tile):
    found = predict_tiled(TruthDetector(scene), scene.image, tile=tile)
    check_all_found_once(scene, found, min_iou=0.99 if tile >= 256 else 0.97)


def test_boxes_are_merged_likewise(scene):
    detector = TruthDetector(scene, with_masks=False)
    found = predict_tiled(detector, scene.image, tile=256)
    assert not found.has("pred_masks")
    check_all_found_once(scene, found)


def test_large_neighbours_that_touch_stay_apart():
    scene = Scene(600, 800)
    for k in range(4):  # each larger than the overlap, none whole in a tile
        scene.add(0, "square", 130 + 180 * k, 300, 180, 420)
    check_all_found_once(scene, predict_tiled(TruthDetector(scene), scene.image, tile=256))


def test_detectors_that_differ_from_tile_to_tile(scene):
    class Unsteady(TruthDetector):
        rng = np.random.default_rng(0)

        def see(self, mask, category):
            grow = self.rng.integers(-1, 2)
            kernel = np.ones((3, 3), np.uint8)
            seen = mask.astype(np.uint8)
            seen = (
                cv2.dilate(seen, kernel)
                if grow > 0
                else cv2.erode(seen, kernel, seen, (1, 1), int(grow < 0))
            )
            return seen.astype(bool), category, float(self.rng.uniform(0.5, 1))

    scene_of_larger = Scene(700, 900)
    for k in range(9):
        scene_of_larger.add(k % 2, "disc", 100 + 300 * (k % 3), 100 + 240 * (k // 3), 120, 150)
    detector = Unsteady(scene_of_larger)
    check_all_found_once(
        scene_of_larger, predict_tiled(detector, scene_of_larger.image, tile=256), min_iou=0.9
    )


def test_parts_of_a_large_object_are_not_objects_of_other_classes():
    scene = Scene(600, 800)
    scene.add(0, "disc", 400, 300, 500, 500)

    class Fooled(TruthDetector):
        def see(self, mask, category):
            is_whole = not (mask[0].any() or mask[-1].any())
            return mask, category if is_whole else 1, 0.9

    found = predict_tiled(Fooled(scene), scene.image, tile=256)
    check_all_found_once(scene, found)


def test_a_piece_scores_as_the_best_of_its_object():
    scene = Scene(300, 600)
    scene.add(0, "square", 300, 150, 300, 100)

    class Rising(TruthDetector):
        count = 0

        def see(self, mask, category):
            self.count += 1
            return mask, category, 0.1 * self.count

    detector = Rising(scene)
    found = predict_tiled(detector, scene.image, tile=256)
    assert detector.count > 2
    assert found.scores.tolist() == pytest.approx([0.1 * detector.count])


def test_an_image_no_larger_than_a_tile_is_left_to_the_predictor(scene):
    detector = TruthDetector(scene)
    expected = detector.predict_images([scene.image])[0]
    found = predict_tiled(detector, scene.image, tile=900)
    assert detector.shapes == [(700, 900, 3)] * 2
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.pred_masks, expected.pred_masks)


def test_one_side_shorter_than_a_tile_and_an_empty_image():
    scene = Scene(100, 900)
    scene.scatter(12, (10, 80), seed=1)
    detector = TruthDetector(scene)
    check_all_found_once(scene, predict_tiled(detector, scene.image, tile=256))
    assert set(detector.shapes[:-1]) == {(100, 256, 3)}
    empty = Scene(300, 400)
    found = predict_tiled(TruthDetector(empty), empty.image, tile=128)
    assert len(found) == 0 and found.pred_masks.tensor().shape == (0, 300, 400)
    assert found.pred_boxes.tensor.shape == (0, 4)


@pytest.mark.parametrize(
    "wrong", [{"tile": 8}, {"tile": 256, "overlap": 0.0}, {"tile": 256, "overlap": 1.0}]
)
def test_values_out_of_range(scene, wrong):
    with pytest.raises(ValueError, match=list(wrong)[-1]):
        predict_tiled(TruthDetector(scene), scene.image, **wrong)


@pytest.mark.slow
def test_300_objects_on_4096_px_take_little_memory():
    scene = Scene(4096, 4096)
    scene.scatter(300, (20, 150), seed=0)
    detector, image = TruthDetector(scene), scene.image
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = predict_tiled(detector, image, tile=1024)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert len(found) == 300 and found.pred_masks.shape == (300, 4096, 4096)
    assert used < 1_000_000  # as a bool tensor they are 5 GB
    assert sum(crop.pixels.nbytes for crop in found.pred_masks.crops) < 20_000_000
    areas = np.bincount(scene.labels.ravel())[1:]
    assert sorted(found.pred_masks.areas().tolist()) == sorted(areas.tolist())


def test_cropped_masks_are_used_as_a_tensor_is():
    rng = np.random.default_rng(0)
    dense = torch.zeros(5, 40, 60, dtype=torch.bool)
    for k in range(4):  # the last one is empty
        y, x = rng.integers(0, 20, 2)
        dense[k, y : y + 15, x : x + 30] = torch.from_numpy(rng.random((15, 30)) < 0.5)
    masks = CroppedMasks([MaskCrop.of(mask.numpy()) for mask in dense], (40, 60))
    assert torch.equal(masks.tensor(), dense) and masks.shape == dense.shape
    flags = torch.tensor([True, False, True, False, True])
    for item in (slice(1, 4), flags, torch.tensor([3, 1]), [2, 2], np.array([0, 4])):
        assert torch.equal(masks[item].tensor(), dense[item])
    assert torch.equal(masks[2], dense[2]) and torch.equal(masks[torch.tensor(-1)], dense[-1])
    assert torch.equal(torch.stack(list(masks)), dense)
    assert torch.equal(masks.areas(), dense.flatten(1).sum(dim=1))
    records = []
    for each in (masks, dense):
        instances = Instances((40, 60), scores=torch.arange(5.0), pred_classes=torch.arange(5))
        instances.pred_boxes, instances.pred_masks = Boxes(torch.zeros(5, 4)), each
        records.append(instances_to_coco_json(instances[flags].to("cpu"), 7))
    assert records[0] == records[1] and len(records[0]) == 3


def test_two_classes_at_one_place_stay_two():
    scene = Scene(300, 500)
    scene.add(0, "square", 250, 150, 260, 90)

    class Unsure(TruthDetector):
        def _predict(self, image):
            once = super()._predict(image)
            twice = Instances.cat([once, once])
            twice.pred_classes[len(once) :] = 1
            return twice

    for with_masks in (True, False):
        found = predict_tiled(Unsure(scene, with_masks), scene.image, tile=200)
        assert sorted(found.pred_classes.tolist()) == [0, 1]
