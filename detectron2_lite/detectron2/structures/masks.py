"""Instance masks: as bitmaps, as polygons, and relative to boxes."""

from collections.abc import Iterator, Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.layers.roi_align import ROIAlign
from detectron2.utils.memory import retry_if_cuda_oom
from torch import Tensor

from .boxes import Boxes

__all__ = [
    "BitMasks",
    "PolygonMasks",
    "ROIMasks",
    "polygons_to_bitmask",
    "rasterize_polygons_within_box",
]


def polygons_to_bitmask(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Union of polygons as a bool array (height, width), by COCO's rasteriser.

    Args:
        polygons: flat arrays x0, y0, x1, y1, … in pixels, at least 3 points each.
    """
    if len(polygons) == 0:
        return np.zeros((height, width), dtype=bool)
    rles = mask_util.frPyObjects(list(polygons), height, width)
    return mask_util.decode(mask_util.merge(rles)).astype(bool)


def rasterize_polygons_within_box(
    polygons: Sequence[np.ndarray], box: np.ndarray, mask_size: int
) -> Tensor:
    """Union of polygons seen through a box, as a bool tensor (mask_size, mask_size).

    Args:
        polygons: flat arrays x0, y0, x1, y1, … in pixels.
        box: (4,) x0, y0, x1, y1. Its sides count as 0.1 pixels at least.
    """
    x0, y0, x1, y1 = box
    scale = np.array([mask_size / max(x1 - x0, 0.1), mask_size / max(y1 - y0, 0.1)])
    # (2P,) -> (P, 2) points -> (2P,)
    scaled = [((np.asarray(p).reshape(-1, 2) - box[:2]) * scale).reshape(-1) for p in polygons]
    return torch.from_numpy(polygons_to_bitmask(scaled, mask_size, mask_size))


class BitMasks:
    """Bool tensor (N, H, W) of masks at the size of the image."""

    def __init__(self, tensor: Tensor | np.ndarray):
        tensor = torch.as_tensor(tensor).to(torch.bool)
        if tensor.dim() != 3:
            raise ValueError(f"BitMasks have shape (N, H, W), got {tuple(tensor.shape)}")
        self.image_size = tuple(tensor.shape[1:])
        self.tensor = tensor

    def to(self, *args, **kwargs) -> "BitMasks":
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __getitem__(self, item: int | slice | Tensor) -> "BitMasks":
        selected = self.tensor[item]
        return BitMasks(selected[None] if isinstance(item, int) else selected)

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.tensor

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"BitMasks(num_instances={len(self)})"

    def nonempty(self) -> Tensor:
        """(N,) bool: the mask has a pixel."""
        return self.tensor.flatten(1).any(dim=1)  # (N, H, W) -> (N, H * W) -> (N,)

    @staticmethod
    def from_polygon_masks(
        polygon_masks: "PolygonMasks | Sequence[Sequence[np.ndarray]]", height: int, width: int
    ) -> "BitMasks":
        """Rasterise the polygons of each instance at (height, width)."""
        polygons = getattr(polygon_masks, "polygons", polygon_masks)
        if len(polygons) == 0:
            return BitMasks(torch.zeros(0, height, width, dtype=torch.bool))
        return BitMasks(np.stack([polygons_to_bitmask(p, height, width) for p in polygons]))

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Mask i seen through box i, by RoIAlign and a threshold of 0.5.

        Args:
            boxes: (N, 4), one per mask.

        Returns:
            bool (N, mask_size, mask_size)
        """
        if len(boxes) != len(self):
            raise ValueError(f"{len(self)} masks but {len(boxes)} boxes")
        index = torch.arange(len(boxes), dtype=boxes.dtype, device=boxes.device)
        rois = torch.cat([index[:, None], boxes], dim=1).to(self.device)  # (N, 5)
        align = ROIAlign((mask_size, mask_size), 1.0, sampling_ratio=0, aligned=True)
        return align(self.tensor[:, None].float(), rois)[:, 0] >= 0.5

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes; x1 and y1 lie behind the last pixel. Zeros for an empty mask."""
        boxes = torch.zeros(len(self), 4, dtype=torch.float32)
        columns, rows = self.tensor.any(dim=1).cpu(), self.tensor.any(dim=2).cpu()
        for box, in_column, in_row in zip(boxes, columns, rows, strict=True):
            x, y = in_column.nonzero()[:, 0], in_row.nonzero()[:, 0]
            if len(x) > 0:
                box[:] = torch.stack([x[0], y[0], x[-1] + 1, y[-1] + 1])
        return Boxes(boxes)

    @staticmethod
    def cat(bitmasks_list: Sequence["BitMasks"]) -> "BitMasks":
        if not bitmasks_list:
            raise ValueError("BitMasks.cat of an empty list")
        return BitMasks(torch.cat([m.tensor for m in bitmasks_list], dim=0))


class PolygonMasks:
    """Masks as polygons, always on the CPU.

    Args:
        polygons: for each instance a list of polygons, whose union is the mask; a polygon is a
            flat array x0, y0, x1, y1, … in pixels of at least 3 points. Kept as float64.

    Raises:
        ValueError: if the nesting is another, or a polygon has not got 3 whole points.
    """

    def __init__(self, polygons: list[list[Tensor | np.ndarray]]):
        if not isinstance(polygons, list):
            raise ValueError(
                f"PolygonMasks take a list of lists of polygons, got {type(polygons).__name__}"
            )
        self.polygons = [self._read_instance(p) for p in polygons]

    @staticmethod
    def _read_instance(polygons: list[Tensor | np.ndarray]) -> list[np.ndarray]:
        if not isinstance(polygons, list):
            raise ValueError(f"each instance is a list of polygons, got {type(polygons).__name__}")
        arrays = []
        for polygon in polygons:
            if isinstance(polygon, Tensor):
                polygon = polygon.cpu().numpy()
            array = np.asarray(polygon, dtype=np.float64)
            if array.ndim != 1 or len(array) < 6 or len(array) % 2:
                raise ValueError(
                    "a polygon is a flat array x0, y0, x1, y1, … of at least 3 points, got shape "
                    f"{array.shape}"
                )
            arrays.append(array)
        return arrays

    @classmethod
    def _of_valid(cls, polygons: list[list[np.ndarray]]) -> "PolygonMasks":
        """From polygons that were checked before: sampling proposals copies masks by hundreds."""
        masks = cls.__new__(cls)
        masks.polygons = polygons
        return masks

    def to(self, *args, **kwargs) -> "PolygonMasks":
        return self

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def __getitem__(self, item: int | slice | Sequence[int] | Tensor) -> "PolygonMasks":
        if isinstance(item, int):
            return self._of_valid([self.polygons[item]])
        if isinstance(item, slice):
            return self._of_valid(self.polygons[item])
        if isinstance(item, Tensor):
            if item.dtype == torch.bool:
                item = item.nonzero()[:, 0]
            item = item.tolist()
        return self._of_valid([self.polygons[i] for i in item])

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return iter(self.polygons)

    def __len__(self) -> int:
        return len(self.polygons)

    def __repr__(self) -> str:
        return f"PolygonMasks(num_instances={len(self)})"

    def nonempty(self) -> Tensor:
        """(N,) bool: the instance has a polygon."""
        return torch.tensor([len(p) > 0 for p in self.polygons], dtype=torch.bool)

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes; an instance without polygons has (inf, inf, 0, 0)."""
        boxes = torch.zeros(len(self), 4, dtype=torch.float32)
        boxes[:, :2] = torch.inf
        for box, polygons in zip(boxes, self.polygons, strict=True):
            if polygons:
                points = torch.from_numpy(np.concatenate(polygons).reshape(-1, 2)).float()
                box[:2] = points.amin(dim=0)
                box[2:] = points.amax(dim=0).clamp(min=0)
        return Boxes(boxes)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Mask i seen through box i, rasterised at (mask_size, mask_size).

        Args:
            boxes: (N, 4), one per instance, on any device.

        Returns:
            bool (N, mask_size, mask_size) on the device of ``boxes``.
        """
        if len(boxes) != len(self):
            raise ValueError(f"{len(self)} masks but {len(boxes)} boxes")
        if len(boxes) == 0:
            return torch.empty(0, mask_size, mask_size, dtype=torch.bool, device=boxes.device)
        masks = [
            rasterize_polygons_within_box(polygons, box, mask_size)
            for polygons, box in zip(self.polygons, boxes.cpu().numpy(), strict=True)
        ]
        return torch.stack(masks).to(boxes.device)

    @staticmethod
    def cat(polymasks_list: Sequence["PolygonMasks"]) -> "PolygonMasks":
        if not polymasks_list:
            raise ValueError("PolygonMasks.cat of an empty list")
        return PolygonMasks._of_valid([p for masks in polymasks_list for p in masks.polygons])


class ROIMasks:
    """Tensor (N, M, M) of mask probabilities that each span a box of its instance."""

    def __init__(self, tensor: Tensor):
        if tensor.dim() != 3:
            raise ValueError(f"ROIMasks have shape (N, M, M), got {tuple(tensor.shape)}")
        self.tensor = tensor

    def to(self, device: torch.device | str) -> "ROIMasks":
        return ROIMasks(self.tensor.to(device))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, item: slice | Tensor) -> "ROIMasks":
        return ROIMasks(self.tensor[item])

    def __repr__(self) -> str:
        return f"ROIMasks(num_instances={len(self)})"

    def to_bitmasks(
        self, boxes: Tensor | Boxes, height: int, width: int, threshold: float = 0.5
    ) -> BitMasks:
        """Paste the masks at their boxes into an image; see ``paste_masks_in_image``."""
        paste = retry_if_cuda_oom(paste_masks_in_image)
        return BitMasks(paste(self.tensor, boxes, (height, width), threshold=threshold))
