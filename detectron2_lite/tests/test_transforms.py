"""Conventions of the augmentations and transforms."""

import sys

import detectron2.data.transforms as T
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image


@pytest.fixture()
def image() -> np.ndarray:
    """60 x 84, every channel another ramp."""
    y, x = np.mgrid[0:60, 0:84]
    return np.stack([x * 3 % 256, y * 4 % 256, x * y // 7 % 256], axis=2).astype(np.uint8)


BOXES = np.array([[5.0, 6, 40, 50], [60, 20, 90, 70]])
QUADRANGLE = np.array([[10.0, 10], [70, 12], [75, 55], [12, 50]])

# name -> (augmentation, seed of np.random)
RECORDED = {
    "rse_test": (T.ResizeShortestEdge(48, 60), 1),
    "rse_choice": (T.ResizeShortestEdge((30, 40, 50), 70, "choice"), 2),
    "rse_range": (T.ResizeShortestEdge((30, 90), 100, "range"), 3),
    "scale_a": (T.ResizeScale(0.1, 2.0, 64, 64), 4),
    "scale_b": (T.ResizeScale(0.1, 2.0, 64, 64), 5),
    "crop_nopad": (T.FixedSizeCrop((40, 48), pad=False), 6),
    "crop_pad": (T.FixedSizeCrop((80, 70), pad=True), 7),
    "flip_a": (T.RandomFlip(), 8),
    "flip_b": (T.RandomFlip(), 10),
}


def area_and_hull(polygon: np.ndarray) -> list[float]:
    x, y = polygon.T
    area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
    return [area, *polygon.min(axis=0), *polygon.max(axis=0)]


@pytest.mark.parametrize("name", RECORDED)
def test_augmentation_gives_the_recorded_values(name, image, golden, golden_json):
    """A seed of np.random fixes what is drawn. uint8 images are resized by Pillow (antialiased),
    coordinates are continuous, boxes are not clipped, cropped polygons are cut at the border."""
    augmentation, seed = RECORDED[name]
    np.random.seed(seed)
    aug_input = T.AugInput(image, boxes=BOXES.copy())
    transform = augmentation(aug_input)

    shape, text = golden_json[f"aug/{name}/size_repr"]
    assert list(aug_input.image.shape) == shape
    assert repr(augmentation) == text
    # one grey level: Pillow versions round differently
    difference = aug_input.image[::3, ::3].astype(int) - golden[f"aug/{name}/image"].astype(int)
    assert np.abs(difference).max() <= 1
    np.testing.assert_allclose(aug_input.boxes, golden[f"aug/{name}/boxes"], atol=1e-6)
    corners = np.array([[0.0, 0], [84, 60], [10.5, 20.25]])
    np.testing.assert_allclose(
        transform.apply_coords(corners), golden[f"aug/{name}/coords"], atol=1e-6
    )
    polygons = transform.apply_polygons([QUADRANGLE.copy()])
    np.testing.assert_allclose(
        np.array([area_and_hull(p) for p in polygons]).reshape(-1, 5),
        golden[f"aug/{name}/poly_area"],
        atol=1e-5,
        rtol=1e-5,
    )


def test_large_scale_jitter_draws_in_the_recorded_order(image, golden):
    """LSJ draws per image: the flip, the scale, the place of the crop; each always."""
    lsj = T.AugmentationList(
        [
            T.RandomFlip(),
            T.ResizeScale(0.1, 2.0, 64, 64),
            T.FixedSizeCrop((64, 64), pad=False),
        ]
    )
    np.random.seed(12)
    rows = []
    for _ in range(8):
        aug_input = T.AugInput(image)
        transform = lsj(aug_input)
        corners = transform.apply_coords(np.array([[0.0, 0.0], [84.0, 60.0]]))
        rows.append([*aug_input.image.shape[:2], *corners.reshape(-1)])
    np.testing.assert_allclose(np.array(rows), golden["aug/lsj"], atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- flips


def test_flip_maps_x_to_width_minus_x(image):
    """Coordinates are continuous: a horizontal flip maps x to W - x, not to W - 1 - x."""
    aug_input = T.AugInput(image, boxes=np.array([[10.0, 5, 30, 20]]))
    transform = T.RandomFlip(prob=1.0)(aug_input)
    np.testing.assert_array_equal(aug_input.image, image[:, ::-1])
    np.testing.assert_array_equal(aug_input.boxes, [[84 - 30, 5, 84 - 10, 20]])
    np.testing.assert_array_equal(transform.apply_coords(np.array([[0.0, 7.0]])), [[84, 7]])


def test_vertical_flip(image):
    """vertical=True needs horizontal=False and maps y to H - y."""
    aug_input = T.AugInput(image, boxes=np.array([[10.0, 5, 30, 20]]))
    T.RandomFlip(prob=1.0, horizontal=False, vertical=True)(aug_input)
    np.testing.assert_array_equal(aug_input.image, image[::-1])
    np.testing.assert_array_equal(aug_input.boxes, [[10, 60 - 20, 30, 60 - 5]])


@pytest.mark.parametrize("prob", [0.0, 0.5, 1.0])
def test_flip_always_draws_one_number(prob, image):
    """np.random advances by one number whatever the probability."""
    np.random.seed(3)
    T.RandomFlip(prob)(T.AugInput(image))
    after_flip = np.random.uniform()
    np.random.seed(3)
    np.random.uniform()
    assert after_flip == np.random.uniform()


# ---------------------------------------------------------------- resizing


def test_shortest_edge_output_shapes(golden_json):
    """The short side becomes exactly the length, the long side int(x + 0.5), then both shrink if
    the long side exceeds the maximum."""
    sizes = [
        (480, 640, 800, 1333),
        (427, 640, 800, 1333),
        (640, 427, 1024, 1024),
        (333, 500, 600, 1000),
        (100, 1000, 800, 1333),
        (1, 500, 800, 1333),
    ]
    shapes = [list(T.ResizeShortestEdge.get_output_shape(*s)) for s in sizes]
    assert shapes == golden_json["aug/rse_shapes"]
    assert T.ResizeShortestEdge.get_output_shape(10, 25, 5, sys.maxsize) == (5, 13)  # 12.5 -> 13


def test_shortest_edge_range_includes_both_ends(image):
    """sample_style="range" draws randint(low, high + 1)."""
    np.random.seed(0)
    augmentation = T.ResizeShortestEdge((30, 32), sample_style="range")
    heights = {augmentation.get_transform(image).new_h for _ in range(50)}
    assert heights == {30, 31, 32}


def test_shortest_edge_choice_takes_listed_lengths_only(image):
    """sample_style="choice" draws np.random.choice over the lengths."""
    np.random.seed(0)
    augmentation = T.ResizeShortestEdge((30, 50), sample_style="choice")
    heights = [augmentation.get_transform(image).new_h for _ in range(20)]
    np.random.seed(0)
    assert heights == [np.random.choice((30, 50)) for _ in range(20)]


def test_resize_scale_rounds_half_to_even():
    """ResizeScale rounds both sides by np.round: 2.5 becomes 2, 3.5 becomes 4."""
    augmentation = T.ResizeScale(0.5, 0.5, 5, 7)
    transform = augmentation.get_transform(np.zeros((5, 7, 3), np.uint8))
    assert (transform.new_h, transform.new_w) == (2, 4)


def test_resize_scale_fits_inside_the_target():
    """The scaled target rectangle bounds the image; the aspect ratio stays."""
    augmentation = T.ResizeScale(2.0, 2.0, 100, 100)
    transform = augmentation.get_transform(np.zeros((50, 100, 3), np.uint8))
    assert (transform.new_h, transform.new_w) == (100, 200)


def test_resize_of_images_is_pillows_bilinear(image):
    """uint8 images are resized by Pillow, which antialiases when it shrinks."""
    resized = T.ResizeTransform(60, 84, 15, 21).apply_image(image)
    expected = np.asarray(Image.fromarray(image).resize((21, 15), Image.BILINEAR))
    np.testing.assert_array_equal(resized, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(60, 84), (60, 84, 1), (60, 84, 3)])
def test_resize_keeps_dtype_and_number_of_dimensions(dtype, shape):
    """Images may be (H, W) or (H, W, C), of any dtype."""
    constant = np.full(shape, 7, dtype=dtype)
    resized = T.ResizeTransform(60, 84, 30, 21).apply_image(constant)
    np.testing.assert_array_equal(resized, np.full((30, 21, *shape[2:]), 7, dtype=dtype))
    assert resized.dtype == dtype


def test_resize_of_float_images_takes_flipped_views(image):
    """A flipped image is a view with negative strides."""
    flipped = image.astype(np.float32)[:, ::-1]
    transform = T.ResizeTransform(60, 84, 30, 42)
    np.testing.assert_array_equal(
        transform.apply_image(flipped), transform.apply_image(flipped.copy())
    )


def test_resize_of_segmentations_is_nearest():
    """Labels are not mixed."""
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 20:] = 200
    resized = T.ResizeTransform(40, 40, 13, 13).apply_segmentation(labels)
    assert set(np.unique(resized)) == {0, 200}


def test_resize_scales_coordinates_and_inverts():
    """Coordinates are multiplied by new / old; the inverse brings them back."""
    transform = T.ResizeTransform(60, 84, 30, 21)
    points = np.array([[84.0, 60.0], [8.0, 10.0]])
    scaled = transform.apply_coords(points.copy())
    np.testing.assert_allclose(scaled, [[21, 30], [2, 5]])
    np.testing.assert_allclose(transform.inverse().apply_coords(scaled), points)


def test_resize_cuts_off_integer_coordinates():
    """Points keep their dtype: integers lose up to a pixel."""
    transform = T.ResizeTransform(10, 10, 15, 15)
    np.testing.assert_array_equal(transform.apply_coords(np.array([[1, 3]])), [[1, 4]])


@pytest.mark.lite_only
def test_resize_of_another_size_raises(image):
    with pytest.raises(ValueError, match="made for images of 61 x 84"):
        T.ResizeTransform(61, 84, 10, 10).apply_image(image)


# ---------------------------------------------------------------- cropping


def test_crop_shares_one_number_between_the_axes(image):
    """One uniform number places the window on both axes, rounded half to even."""
    np.random.seed(4)
    fraction = np.random.uniform(0.0, 1.0)
    y0, x0 = np.round(np.multiply((60 - 40, 84 - 48), fraction)).astype(int)
    np.random.seed(4)
    aug_input = T.AugInput(image)
    T.FixedSizeCrop((40, 48), pad=False)(aug_input)
    np.testing.assert_array_equal(aug_input.image, image[y0 : y0 + 40, x0 : x0 + 48])


def test_crop_draws_even_where_nothing_is_cropped(image):
    """np.random advances by one number for an image smaller than the window, too."""
    np.random.seed(5)
    T.FixedSizeCrop((100, 100), pad=False)(T.AugInput(image))
    after_crop = np.random.uniform()
    np.random.seed(5)
    np.random.uniform()
    assert after_crop == np.random.uniform()


def test_crop_without_padding_leaves_small_images(image):
    """pad=False: the model pads the batch, after normalising."""
    aug_input = T.AugInput(image)
    T.FixedSizeCrop((100, 100), pad=False)(aug_input)
    np.testing.assert_array_equal(aug_input.image, image)


def test_crop_pads_right_and_bottom_with_128(image):
    """pad=True: grey 128 (labels: 255) at the right and at the bottom."""
    labels = np.zeros(image.shape[:2], np.uint8)
    aug_input = T.AugInput(image, sem_seg=labels)
    T.FixedSizeCrop((100, 50), pad=True)(aug_input)
    assert aug_input.image.shape == (100, 50, 3)
    assert (aug_input.image[60:] == 128).all()
    assert (aug_input.sem_seg[60:] == 255).all() and (aug_input.sem_seg[:60] == 0).all()


# ---------------------------------------------------------------- lists, inputs


def test_list_takes_transforms_and_lists(image):
    """A list may hold augmentations, transforms and lists; the result replays all of them."""
    inner = T.AugmentationList([T.HFlipTransform(84), T.ResizeTransform(60, 84, 30, 42)])
    aug_input = T.AugInput(image, boxes=np.array([[10.0, 5, 30, 20]]))
    transforms = T.AugmentationList([inner, T.VFlipTransform(30)])(aug_input)
    np.testing.assert_allclose(aug_input.boxes, [[27, 20, 37, 27.5]])
    np.testing.assert_array_equal(transforms.apply_image(image), aug_input.image)


def test_augmentation_asks_the_input_by_parameter_name(image):
    """The parameters of get_transform name the attributes of the input that it gets."""

    class CropToFirstBox(T.Augmentation):
        def get_transform(self, image, boxes):
            x0, y0, x1, y1 = boxes[0].astype(int)
            return T.CropTransform(x0, y0, x1 - x0, y1 - y0)

    aug_input = T.AugInput(image, boxes=BOXES.copy())
    CropToFirstBox()(aug_input)
    np.testing.assert_array_equal(aug_input.image, image[6:50, 5:40])


def test_augmentation_that_asks_for_too_much_raises(image):
    """An attribute that the input has not got is named."""

    class ByDepth(T.Augmentation):
        def get_transform(self, image, depth):
            return T.NoOpTransform()

    with pytest.raises(AttributeError, match="depth"):
        ByDepth()(T.AugInput(image))


def test_augmentations_take_omegaconf_lists(image):
    """A LazyConfig hands over its lists as ListConfig."""
    sizes = OmegaConf.create([40, 48])
    for augmentation in (
        T.ResizeShortestEdge(sizes, 100, "choice"),
        T.ResizeShortestEdge(sizes, 100, "range"),
        T.FixedSizeCrop(sizes),
    ):
        aug_input = T.AugInput(image)
        augmentation(aug_input)
        assert 40 <= aug_input.image.shape[0] <= 48


@pytest.mark.lite_only
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: T.RandomFlip(horizontal=True, vertical=True), "use two RandomFlip"),
        (lambda: T.ResizeShortestEdge((1, 2, 3)), "sample_style='choice'"),
        (lambda: T.ResizeShortestEdge(8, sample_style="x"), "'range' or 'choice', got 'x'"),
        (lambda: T.AugInput([[0]]), "needs a numpy image"),
    ],
)
def test_wrong_arguments_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.lite_only
def test_absent_augmentation_names_detectron2():
    with pytest.raises(AttributeError, match="not in detectron2_lite; install Detectron2"):
        T.RandomRotation  # noqa: B018
