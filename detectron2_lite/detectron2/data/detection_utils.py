"""Steps of a dataset mapper: reading images, transforming annotations, making ``Instances``."""

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2 import absent_message
from detectron2.data.catalog import MetadataCatalog
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    Instances,
    PolygonMasks,
    polygons_to_bitmask,
)
from detectron2.utils.file_io import PathManager
from fvcore.transforms.transform import Transform, TransformList
from PIL import Image, ImageOps

__all__ = [
    "SizeMismatchError",
    "annotations_to_instances",
    "check_image_size",
    "check_metadata_consistency",
    "filter_empty_instances",
    "read_image",
    "transform_instance_annotations",
]


class SizeMismatchError(ValueError):
    """An image has not the size that its annotations were made for."""


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image and turn it upright as its EXIF orientation says.

    Args:
        file_name: a path that ``PathManager`` opens.
        format: a Pillow mode ("RGB", "L", ...), "BGR", or None for the mode of the file.

    Returns:
        uint8 array in 0..255 of (H, W, C); (H, W, 1) for "L".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, or it is damaged.
    """
    if format == "YUV-BT.601":
        raise NotImplementedError(absent_message("image format 'YUV-BT.601'"))
    with PathManager.open(file_name, "rb") as f:
        try:
            image = ImageOps.exif_transpose(Image.open(f))
            if format is not None:
                image = image.convert("RGB" if format == "BGR" else format)
            array = np.array(image)  # a copy: Pillow's own memory is read-only
        except (OSError, SyntaxError) as e:  # what Pillow raises on damaged files
            raise ValueError(f"{file_name}: cannot be read as an image ({e})") from e
    if format == "BGR":
        return array[:, :, ::-1]
    return array[:, :, None] if format == "L" else array


def check_image_size(dataset_dict: dict, image: np.ndarray) -> None:
    """Compare the image with the size in its dict; where the dict has none, put it there.

    Raises:
        SizeMismatchError: they differ, so the annotations do not fit the image.
    """
    h, w = image.shape[:2]
    expected = (dataset_dict.get("width", w), dataset_dict.get("height", h))
    if expected != (w, h):
        raise SizeMismatchError(
            f"{dataset_dict.get('file_name', 'image')}: the image is {w} x {h} (width x height), "
            f"its annotations say {expected[0]} x {expected[1]}; correct the annotation file"
        )
    dataset_dict["width"], dataset_dict["height"] = w, h


def check_metadata_consistency(key: str, dataset_names: Sequence[str]) -> None:
    """
    Raises:
        ValueError: the datasets have different values of metadata ``key``.
    """
    first, *others = dataset_names
    expected = MetadataCatalog.get(first).get(key)
    for name in others:
        value = MetadataCatalog.get(name).get(key)
        if value != expected:
            raise ValueError(
                f"datasets {first!r} and {name!r} cannot be used together, their {key} differ: "
                f"{expected!r} and {value!r}"
            )


def transform_instance_annotations(
    annotation: dict,
    transforms: Transform | Sequence[Transform],
    image_size: tuple[int, int],
    *,
    keypoint_hflip_indices: np.ndarray | None = None,
) -> dict:
    """Transform the box and the segmentation of one instance, in place.

    Args:
        annotation: as ``load_coco_json`` makes it. A polygon segmentation stays a list of
            flat arrays; an RLE becomes a bool-like uint8 mask of ``image_size``.
        transforms: what was applied to the image.
        image_size: (height, width) after the transforms.

    Returns:
        the same dict, its ``bbox`` in ``BoxMode.XYXY_ABS`` and clipped to the image.
    """
    if "keypoints" in annotation or keypoint_hflip_indices is not None:
        raise NotImplementedError(absent_message("transforming keypoints"))
    if isinstance(transforms, (tuple, list)):
        transforms = TransformList(transforms)
    h, w = image_size

    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    # Integers stay integers, cut off at each resize, as in Detectron2: the targets are the same.
    box = transforms.apply_box(np.array([box]))[0].clip(min=0)
    annotation["bbox"] = np.minimum(box, [w, h, w, h])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS

    if "segmentation" in annotation:
        segm = annotation["segmentation"]
        if isinstance(segm, list):
            polygons = [
                np.array(p).reshape(-1, 2)  # (2P,) -> (P, 2)
                for p in segm
            ]
            annotation["segmentation"] = [
                p.reshape(-1)  # (P, 2) -> (2P,)
                for p in transforms.apply_polygons(polygons)
            ]
        elif isinstance(segm, dict):
            mask = transforms.apply_segmentation(mask_util.decode(segm))
            if tuple(mask.shape[:2]) != (h, w):
                raise ValueError(
                    f"the RLE of size {segm['size']} became a mask of {mask.shape[:2]} in an "
                    f"image of {(h, w)}; its size must be that of the image"
                )
            annotation["segmentation"] = mask
        else:
            raise ValueError(
                f"a segmentation is a list of polygons or an RLE dict, got {type(segm).__name__}"
            )
    return annotation


def annotations_to_instances(
    annos: Sequence[dict], image_size: tuple[int, int], mask_format: str = "polygon"
) -> Instances:
    """Transformed annotations of one image -> ground truth for a model.

    Args:
        annos: as ``transform_instance_annotations`` returns them.
        image_size: (height, width).
        mask_format: "polygon" gives ``PolygonMasks``, "bitmask" gives ``BitMasks``.

    Returns:
        ``Instances`` with ``gt_boxes``, ``gt_classes`` (int64) and, if the annotations have
        segmentations, ``gt_masks``.

    Raises:
        ValueError: a segmentation does not fit ``mask_format``.
    """
    if mask_format not in ("polygon", "bitmask"):
        raise ValueError(f"mask_format is 'polygon' or 'bitmask', got {mask_format!r}")
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annos]
    target = Instances(image_size)
    target.gt_boxes = Boxes(np.stack(boxes) if boxes else np.zeros((0, 4)))
    target.gt_classes = torch.tensor([int(a["category_id"]) for a in annos], dtype=torch.int64)

    if not annos or "segmentation" not in annos[0]:
        return target
    segms = [a["segmentation"] for a in annos]
    if mask_format == "bitmask":
        masks = [_to_bitmask(s, image_size) for s in segms]
        target.gt_masks = BitMasks(torch.stack(masks))
    elif all(isinstance(s, list) for s in segms):
        target.gt_masks = PolygonMasks(segms)
    else:
        raise ValueError(
            "an instance has an RLE mask, which mask_format='polygon' cannot hold; set "
            "instance_mask_format='bitmask' in the mapper"
        )
    return target


def _to_bitmask(
    segm: list[np.ndarray] | dict | np.ndarray, image_size: tuple[int, int]
) -> torch.Tensor:
    """Polygons, RLE or a mask of ``image_size`` -> bool (H, W)."""
    if isinstance(segm, list):
        mask = polygons_to_bitmask(segm, *image_size)
    elif isinstance(segm, dict):
        mask = mask_util.decode(segm)
    else:
        mask = segm
    return torch.from_numpy(np.ascontiguousarray(mask).astype(bool))


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> Instances | tuple[Instances, torch.Tensor]:
    """Drop instances whose box has a side of ``box_threshold`` pixels or less, or an empty mask.

    Returns:
        the instances that are left, and with ``return_mask`` which ones they are, bool (N,).
    """
    if not by_box and not by_mask:
        raise ValueError("filter_empty_instances: choose by_box, by_mask or both")
    keep = torch.ones(len(instances), dtype=torch.bool)
    if by_box:
        keep &= instances.gt_boxes.nonempty(threshold=box_threshold)
    if by_mask and instances.has("gt_masks"):
        keep &= instances.gt_masks.nonempty()
    return (instances[keep], keep) if return_mask else instances[keep]
