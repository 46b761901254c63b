"""RoIAlign as a module."""

from torch import Tensor, nn
from torchvision.ops import roi_align

__all__ = ["ROIAlign"]


class ROIAlign(nn.Module):
    """Average of bilinear samples in each bin of each region.

    Args:
        output_size: int, or (height, width), in bins.
        spatial_scale: factor from box coordinates to the feature map, 1 / stride.
        sampling_ratio: samples per bin and axis; 0 for as many as the bin has pixels.
        aligned: shift by half a pixel so that samples lie at pixel centres (True in "V2").
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = True,
    ):
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool ``rois`` (R, 5) as [batch index, x0, y0, x1, y1] from ``input`` (N, C, H, W).

        Returns:
            (R, C, output height, output width)
        """
        return roi_align(
            input,
            rois.to(dtype=input.dtype),
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )
