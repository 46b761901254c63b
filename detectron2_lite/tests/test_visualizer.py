"""What the visualizer draws, by pixels whose value follows from the input."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances
from detectron2.utils.colormap import colormap, random_color, random_colors
from detectron2.utils.visualizer import ColorMode, VisImage, Visualizer
from PIL import Image

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


@pytest.fixture()
def image() -> np.ndarray:
    """120 x 160, greenish with a ramp."""
    image = np.full((120, 160, 3), (40, 120, 60), np.uint8)
    image[:, :, 0] += np.arange(160, dtype=np.uint8) // 4
    return image


@pytest.fixture()
def metadata():
    yield MetadataCatalog.get("test_visualizer").set(
        thing_classes=["cat", "dog"], thing_colors=[(250, 0, 0), (0, 0, 250)]
    )
    MetadataCatalog.remove("test_visualizer")


def square_mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((120, 160), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def as_int(picture: VisImage) -> np.ndarray:
    return picture.get_image().astype(int)


def test_nothing_drawn_is_the_image(image):
    """get_image gives uint8 RGB of the image's size; the input is not changed."""
    before = image.copy()
    visualizer = Visualizer(image)
    visualizer.overlay_instances(boxes=Boxes(torch.tensor([[20.0, 20, 60, 60]])))
    np.testing.assert_array_equal(image, before)
    picture = Visualizer(image).get_output().get_image()
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, image)


def test_mask_is_blended_by_alpha(image):
    """Inside: (1 - alpha) * image + alpha * colour. Outside of the mask and its outline: as
    before."""
    mask = square_mask(40, 30, 100, 90)
    visualizer = Visualizer(image)
    visualizer.overlay_instances(masks=[mask], assigned_colors=[RED], alpha=0.5)
    picture = as_int(visualizer.get_output())
    inner = np.s_[45:75, 55:85]
    expected = image[inner] * 0.5 + np.array([255, 0, 0]) * 0.5
    np.testing.assert_allclose(picture[inner], expected, atol=2)
    outside = ~square_mask(35, 25, 105, 95)
    np.testing.assert_array_equal(picture[outside], image[outside])


@pytest.mark.parametrize("kind", ["polygons", "rle", "BitMasks", "tensor"])
def test_masks_of_every_kind_are_the_same(kind, image):
    """Lists of polygons, RLE dicts, BitMasks and tensors."""
    mask = square_mask(40, 30, 100, 90)
    masks = {
        "polygons": [[np.array([40.0, 30, 100, 30, 100, 90, 40, 90])]],
        "rle": [{"size": [120, 160], "counts": _counts(mask)}],
        "BitMasks": BitMasks(torch.from_numpy(mask[None])),
        "tensor": torch.from_numpy(mask[None]),
    }[kind]
    drawn = Visualizer(image).overlay_instances(masks=masks, assigned_colors=[BLUE])
    expected = Visualizer(image).overlay_instances(masks=[mask], assigned_colors=[BLUE])
    inner = np.s_[35:85, 45:95]
    np.testing.assert_allclose(as_int(drawn)[inner], as_int(expected)[inner], atol=2)


def _counts(mask: np.ndarray) -> list[int]:
    """Uncompressed RLE, by columns, zeros first."""
    flat = mask.reshape(-1, order="F")  # (H, W) -> (H * W,)
    edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
    return np.diff([0, *edges, flat.size]).tolist()


def test_box_is_an_outline(image):
    """A box changes pixels along its edges only."""
    picture = as_int(
        Visualizer(image).overlay_instances(
            boxes=np.array([[40.0, 30, 100, 90]]), assigned_colors=[RED]
        )
    )
    changed = (picture != image).any(axis=2)
    top, bottom = changed[29:32, 45:95], changed[88:92, 45:95]
    left, right = changed[35:85, 39:42], changed[35:85, 98:102]
    assert top.any() and bottom.any() and left.any() and right.any()
    assert not changed[36:84, 46:94].any()
    assert not changed[:25].any() and not changed[:, 105:].any()


def test_small_instances_are_drawn_over_large_ones(image):
    """The order of drawing is by descending area, whatever the order of the input."""
    masks = [square_mask(60, 50, 80, 70), square_mask(20, 20, 120, 100)]
    boxes = np.array([[60, 50, 80, 70], [20, 20, 120, 100]], dtype=float)
    picture = as_int(
        Visualizer(image).overlay_instances(
            masks=masks, boxes=boxes, assigned_colors=[RED, BLUE], alpha=1.0
        )
    )
    np.testing.assert_allclose(picture[60, 70], [255, 0, 0], atol=2)
    np.testing.assert_allclose(picture[90, 40], [0, 0, 255], atol=2)


def make_predictions() -> Instances:
    instances = Instances((120, 160))
    instances.pred_boxes = Boxes(torch.tensor([[20.0, 20, 60, 60], [90, 40, 150, 110]]))
    instances.scores = torch.tensor([0.97, 0.5])
    instances.pred_classes = torch.tensor([0, 1])
    masks = [square_mask(20, 20, 60, 60), square_mask(90, 40, 150, 110)]
    instances.pred_masks = torch.from_numpy(np.stack(masks))
    return instances


def test_predictions_are_drawn(image, metadata):
    """Every mask changes; what is far from all instances does not."""
    visualizer = Visualizer(image, metadata)
    picture = as_int(visualizer.draw_instance_predictions(make_predictions()))
    changed = (picture != image).any(axis=2)
    assert changed[45:55, 30:50].all() and changed[80:100, 100:140].all()
    assert not changed[115:, :80].any()


def test_predictions_without_masks_or_without_anything(image, metadata):
    """Only what is there is drawn."""
    predictions = make_predictions()
    predictions.remove("pred_masks")
    picture = as_int(Visualizer(image, metadata).draw_instance_predictions(predictions))
    np.testing.assert_array_equal(picture[85:100, 100:140], image[85:100, 100:140])
    picture = as_int(Visualizer(image, metadata).draw_instance_predictions(predictions[:0]))
    np.testing.assert_array_equal(picture, image)


def test_segmentation_mode_colours_by_class(image, metadata):
    """ColorMode.SEGMENTATION takes thing_colors; jittering=False takes them exactly."""
    visualizer = Visualizer(image, metadata, instance_mode=ColorMode.SEGMENTATION)
    picture = as_int(visualizer.draw_instance_predictions(make_predictions(), jittering=False))
    for (y, x), color in (((50, 40), (250, 0, 0)), ((95, 120), (0, 0, 250))):
        expected = image[y, x] * 0.2 + np.array(color) * 0.8
        np.testing.assert_allclose(picture[y, x], expected, atol=3)


def test_bw_mode_is_grey_outside_of_the_masks(image, metadata):
    """ColorMode.IMAGE_BW keeps colour within masks only."""
    visualizer = Visualizer(image, metadata, instance_mode=ColorMode.IMAGE_BW)
    picture = as_int(visualizer.draw_instance_predictions(make_predictions()))
    far = picture[113:, :80]
    np.testing.assert_array_equal(far[..., 0], far[..., 1])
    np.testing.assert_array_equal(far[..., 1], far[..., 2])
    assert (picture[50, 40, 0] != picture[50, 40, 1:]).any()


@pytest.mark.lite_only
def test_bw_mode_keeps_the_colours_within_masks(image, metadata):
    """Within the masks the picture is that of ColorMode.IMAGE."""
    coloured, grey = (
        as_int(
            Visualizer(image, metadata, instance_mode=mode).draw_instance_predictions(
                make_predictions()
            )
        )
        for mode in (ColorMode.IMAGE, ColorMode.IMAGE_BW)
    )
    within = np.s_[45:55, 30:50]
    np.testing.assert_array_equal(coloured[within], grey[within])
    assert (coloured[115:] != grey[115:]).any()


def test_annotations_are_drawn(image, metadata):
    """draw_dataset_dict takes boxes in their mode, polygons and crowds."""
    polygon = [40.0, 30, 100, 30, 100, 90, 40, 90]
    anno = dict(bbox=[40, 30, 60, 60], bbox_mode=BoxMode.XYWH_ABS, category_id=1)
    record = dict(annotations=[dict(anno, segmentation=[polygon], iscrowd=0)])
    picture = as_int(Visualizer(image, metadata).draw_dataset_dict(record))
    changed = (picture != image).any(axis=2)
    assert changed[60:85, 45:95].all()
    assert not changed[95:].any()


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_scale_is_that_of_the_picture(scale, image):
    """Coordinates stay those of the image."""
    visualizer = Visualizer(image, scale=scale)
    mask = square_mask(40, 20, 100, 100)
    visualizer.overlay_instances(masks=[mask], assigned_colors=[RED], alpha=1.0)
    picture = as_int(visualizer.get_output())
    assert picture.shape == (120 * scale, 160 * scale, 3)
    at = picture[int(60 * scale), int(70 * scale)]
    np.testing.assert_allclose(at, [255, 0, 0], atol=2)


def test_save_writes_the_picture(image, tmp_path):
    """The suffix says the format."""
    picture = Visualizer(image).overlay_instances(
        masks=[square_mask(40, 30, 100, 90)], assigned_colors=[RED]
    )
    path = str(tmp_path / "picture.png")
    picture.save(path)
    saved = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(saved, picture.get_image())


@pytest.mark.lite_only
def test_same_input_gives_the_same_picture(image, metadata):
    """No random colours: pictures of two runs can be compared."""
    pictures = [
        Visualizer(image, metadata, instance_mode=mode)
        .draw_instance_predictions(make_predictions())
        .get_image()
        for mode in (ColorMode.IMAGE, ColorMode.IMAGE, *[ColorMode.SEGMENTATION] * 2)
    ]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    np.testing.assert_array_equal(pictures[2], pictures[3])


@pytest.mark.lite_only
@pytest.mark.parametrize("position", [(-50, -50), (500, 500), (150, 5)])
def test_text_stays_inside(position, image):
    """Text that would leave the picture is moved inside."""
    picture = as_int(Visualizer(image).draw_text("some text", position, color=RED))
    assert (picture != image).any()


@pytest.mark.lite_only
def test_wrong_input_raises(image, tmp_path):
    with pytest.raises(ValueError, match="instances differ in number: .*'boxes': 1, 'labels': 2"):
        Visualizer(image).overlay_instances(boxes=np.zeros((1, 4)), labels=["a", "b"])
    with pytest.raises(ValueError, match=r"draws on RGB \(H, W, 3\)"):
        Visualizer(image[..., 0])
    with pytest.raises(ValueError, match="no image format"):
        Visualizer(image).get_output().save(str(tmp_path / "picture.txt"))
    with pytest.raises(NotImplementedError, match="install Detectron2"):
        Visualizer(image).overlay_instances(keypoints=np.zeros((1, 17, 3)))


def test_colours():
    """RGB or BGR, up to 255 or 1; random ones are among them."""
    colors = colormap(rgb=True, maximum=1)
    assert colors.shape[1] == 3 and 0 <= colors.min() and colors.max() <= 1
    np.testing.assert_array_equal(colormap(), colormap(rgb=True)[:, ::-1])
    np.testing.assert_allclose(colormap(rgb=True), colors * 255, atol=1)
    assert (colors == random_color(rgb=True, maximum=1)).all(axis=1).any()
    assert len(random_colors(20)) == 20


@pytest.mark.lite_only
def test_random_colours_differ():
    """(Detectron2's palette has the same colour twice.)"""
    assert len({tuple(c) for c in random_colors(80)}) == 80
