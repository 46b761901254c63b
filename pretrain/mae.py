"""The masked autoencoder that Hiera is pretrained with (arXiv 2306.00989, section 3).

Most mask units of 32x32 px are dropped before the first block; the trunk sees the others only, so
a step costs a fraction of a full one. A small decoder gets the visible tokens and a mask token for
each hidden one, and predicts the hidden patches of 16x16 px.

    images ── zero masked px ── Hiera on visible units ── stages 1, 2, 4 fused ── decoder ── loss

Two things differ from the trunk that detection runs: the q-pool before stage 4 is taken out, so
that the last stage stands at stride 16 (the parameters are the same), and a fusion head brings
stages 1 and 2 to that stride and width. Stage 3 is used only by stage 4.

Parameter names, order of predictions and initialisation are those of `MaskedAutoencoderHiera` in
`hiera-transformer`, so weights go both ways. Beyond it: any input size, absolute-win positions, the
HOG target, 4-D attention.

Shape legend: B images, U = Uh * Uw mask units, K visible ones, C channels of the last stage, D of
the decoder, N = 4 * U patches of 16x16 px in raster order, P numbers to predict for a patch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiera_det.modeling.hiera import Hiera, HieraBlock
from hiera_det.modeling.pixels import IMAGENET_MEAN, IMAGENET_STD
from hiera_det.modeling.positions import absolute_units
from hiera_det.modeling.units import PATCH_STRIDE, Extent, units_order, units_to_map
from hiera_det.modeling.units import UNIT_PIXELS as UNIT
from hiera_det.modeling.variants import variant_kwargs

from .masking import num_visible_units, random_keep_mask
from .targets import PATCH_SIZE, TARGETS

__all__ = ["MAEOutput", "MaskedAutoencoderHiera", "build_mae", "reconstruction_loss"]

PER_SIDE = UNIT // PATCH_SIZE  # patches on a side of a mask unit
Q_POOL = 2
POS_INITS = ("normal", "sincos")


class MAEOutput(NamedTuple):
    """loss: scalar. predictions, labels: (B, N, P), of all patches. keep_mask: (B, U)."""

    loss: Tensor
    predictions: Tensor
    labels: Tensor
    keep_mask: Tensor


class FusionHead(nn.Conv2d):
    """A convolution over tokens in Z-order whose stride is its kernel: a linear layer.

    The k x k tokens under the kernel are neighbours in a mask unit's order, so no map is made.
    """

    def __init__(self, dim: int, dim_out: int, side: int):
        super().__init__(dim, dim_out, kernel_size=side, stride=side)

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, n, dim) to (B, K, n / side**2, dim_out)."""
        # The kernel, an image of k x k weights for each output, is put in the tokens' order:
        # (O, I, k, k) -> (O, k, k, I) -> one unit in Z-order (O, 1, k * k, I) -> (O, k * k * I)
        w = units_order(self.weight.permute(0, 2, 3, 1), self.stride[0]).flatten(1)
        x = x.unflatten(2, (-1, self.stride[0] ** 2)).flatten(3)  # (B, K, n / side**2, side**2 * I)
        return F.linear(x, w, self.bias)


class MaskedAutoencoderHiera(Hiera):
    """Images to the loss of reconstructing what is masked."""

    pixel_mean: Tensor  # (in_chans, 1, 1), as pixel_std
    pixel_std: Tensor

    def __init__(
        self,
        *,
        mask_ratio: float = 0.6,
        target: str = "pixels",
        input_size: Sequence[int] = (224, 224),
        pos_embed: str = "absolute",
        pos_embed_size: Sequence[int] | None = None,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        decoder_pos_init: str = "normal",
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
        **kwargs: Any,
    ):
        """
        Args:
            mask_ratio: share of the mask units that is hidden.
            target: "pixels", normalised in each patch, or "hog", histograms of gradients.
            input_size: (H, W) in px, multiples of 32: the size of the position tables ("absolute"
                and of the decoder). Images of other sizes have them interpolated.
            pos_embed: "absolute" or "absolute_win", as of `Hiera`.
            pos_embed_size: as of `Hiera`; that of "absolute" is the tokens of `input_size`.
            decoder_embed_dim, decoder_depth, decoder_num_heads: of the decoder.
            decoder_pos_init: what the decoder's position table, which is learned, starts as:
                "normal", as in the official model, or "sincos". From small random numbers it takes
                long to tell positions apart; a run of minutes needs "sincos".
            pixel_mean, pixel_std: of uint8 images, per channel.
            kwargs: of `Hiera`, without `q_pool`, which is 2.

        Raises:
            ValueError: an impossible value, here or in `Hiera`.
        """
        height, width = _check_size(input_size)
        if target not in TARGETS:
            raise ValueError(f"target={target!r} is none of {', '.join(TARGETS)}")
        if decoder_pos_init not in POS_INITS:
            raise ValueError(
                f"decoder_pos_init={decoder_pos_init!r} is none of {', '.join(POS_INITS)}"
            )
        num_visible_units(height * width // UNIT**2, mask_ratio)  # raises if it masks all or none
        if pos_embed == "absolute":
            if height != width:
                raise ValueError(
                    f'input_size={(height, width)} with pos_embed="absolute": that table must be '
                    'square to be loaded anywhere else; use pos_embed="absolute_win"'
                )
            pos_embed_size = pos_embed_size or (height // PATCH_STRIDE, width // PATCH_STRIDE)
        super().__init__(
            q_pool=Q_POOL, pos_embed=pos_embed, pos_embed_size=pos_embed_size, **kwargs
        )
        self.mask_ratio = mask_ratio
        self.target = target
        self.input_size = (height, width)
        dim, in_chans = self.embed_dims[-1], self.patch_embed.proj.in_channels
        if len(pixel_mean) != in_chans or len(pixel_std) != in_chans:
            raise ValueError(
                f"pixel_mean={list(pixel_mean)} and pixel_std={list(pixel_std)}: one value for "
                f"each of in_chans={in_chans} channels"
            )
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            table = torch.tensor(list(values)).reshape(-1, 1, 1)  # (in_chans, 1, 1)
            self.register_buffer(name, table, persistent=False)

        self.multi_scale_fusion_heads = nn.ModuleList(
            FusionHead(self.embed_dims[i], dim, 2 ** (Q_POOL - i)) for i in range(Q_POOL)
        )
        self.encoder_norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_embed = nn.Linear(dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        num_patches = height * width // PATCH_SIZE**2
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, num_patches, decoder_embed_dim))
        self.decoder_blocks = nn.ModuleList(
            HieraBlock(decoder_embed_dim, decoder_embed_dim, decoder_num_heads)
            for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_embed_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_embed_dim, TARGETS[target][1] * in_chans)
        self._init_mae_weights(decoder_pos_init)

    def _init_mae_weights(self, decoder_pos_init: str) -> None:
        """As official MAE-Hiera: Xavier, biases 0; convolutions keep PyTorch's biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.Conv2d):
                module.reset_parameters()
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))  # a view: (C, 3 * 7 * 7)
        for parameter in (self.mask_token, self.decoder_pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        if decoder_pos_init == "sincos":
            height, width = (side // PATCH_SIZE for side in self.input_size)
            table = sincos_table(height, width, self.decoder_pos_embed.shape[-1])
            self.decoder_pos_embed.data.copy_(table.flatten(0, 1))  # (1, N, D)

    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | {"mask_token"}

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 images (B, C, H, W) normalised; float ones, which are so already, as they are."""
        if images.dtype == torch.uint8:
            return (images - self.pixel_mean) / self.pixel_std
        return images

    def forward_encoder(self, images: Tensor, keep_mask: Tensor) -> Tensor:
        """The fused, normed tokens of the visible units: (B, K, 4, C).

        Args:
            images: (B, C, H, W), normalised.
            keep_mask: (B, U) bool over units in raster order, True where visible.
        """
        outputs, _ = self.forward_units(images, keep_mask)
        fused = outputs[-1]
        for head, x in zip(self.multi_scale_fusion_heads, outputs, strict=False):
            fused = fused + head(x)
        return self.encoder_norm(fused)

    def forward_decoder(self, x: Tensor, keep_mask: Tensor, grid: tuple[int, int]) -> Tensor:
        """Visible tokens (B, K, 4, C) to predictions for all patches (B, N, P)."""
        x = self.decoder_embed(x)
        tokens = self.mask_token.to(x.dtype).unsqueeze(0)  # (1, 1, 1, D)
        tokens = tokens.expand(*keep_mask.shape, PER_SIDE**2, -1).clone()  # (B, U, 4, D)
        tokens[keep_mask] = x.flatten(0, 1)  # (B * K, 4, D): rows of keep_mask are equally long
        x = (tokens + self._decoder_positions(grid)).flatten(1, 2).unsqueeze(1)  # (B, 1, U * 4, D)
        for block in self.decoder_blocks:
            x = block(x, Extent())  # all tokens are in the one group
        x = self.decoder_pred(self.decoder_norm(x))
        x = x.squeeze(1).unflatten(1, (-1, PER_SIDE**2))  # (B, U, 4, P)
        return units_to_map(x, grid).flatten(2).transpose(1, 2)  # (B, P, h, w) -> (B, N, P)

    def _decoder_positions(self, grid: tuple[int, int]) -> Tensor:
        """The decoder's table in unit order: (1, U, 4, D)."""
        size = (self.input_size[0] // PATCH_SIZE, self.input_size[1] // PATCH_SIZE)
        return absolute_units(self.decoder_pos_embed, size, grid, PER_SIDE)

    def forward(  # type: ignore[override]  # not the trunk's maps
        self, images: Tensor, keep_mask: Tensor | None = None
    ) -> MAEOutput:
        """Images to the loss of their hidden patches, and all predictions.

        Args:
            images: (B, C, H, W), H and W multiples of 32: uint8, or float and normalised.
            keep_mask: (B, U) bool over units in raster order, True where visible, the same count
                in each row; random if not given.

        Raises:
            ValueError: a size that is no multiple of 32, a mask that does not fit.
        """
        height, width = _check_size(images.shape[-2:])
        grid = (height // UNIT, width // UNIT)
        images = self.preprocess(images)
        if keep_mask is None:
            keep_mask = random_keep_mask(
                len(images), grid[0] * grid[1], self.mask_ratio, device=images.device
            )
        visible = self.forward_encoder(images, keep_mask)
        predictions = self.forward_decoder(visible, keep_mask, grid)
        labels = TARGETS[self.target][0](images)
        predictions = predictions.to(labels.dtype)  # the loss of half precision in float32
        loss = reconstruction_loss(predictions, labels, keep_patches(keep_mask, grid))
        return MAEOutput(loss, predictions, labels, keep_mask)


def sincos_table(height: int, width: int, dim: int) -> Tensor:
    """Sines and cosines of rows and columns: (height, width, dim), dim a multiple of 4.

    The table that MAE on ViT keeps fixed (arXiv 2111.06377, appendix A.1), wavelengths from 2 pi to
    nearly 20,000 pi. Channels: sines of the row, of the column, then the cosines.
    """
    if dim % 4:
        raise ValueError(f"decoder_pos_init='sincos' needs a width in multiples of 4, not {dim}")
    bands = 10_000 ** (-torch.arange(dim // 4) / (dim // 4))
    rows = (torch.arange(height)[:, None] * bands).unsqueeze(1).expand(-1, width, -1)
    cols = (torch.arange(width)[:, None] * bands).unsqueeze(0).expand(height, -1, -1)
    angles = torch.cat([rows, cols], dim=-1)  # (height, width, dim / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def keep_patches(keep_mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """A mask over units (B, U) as one over patches (B, N), both in raster order."""
    units = keep_mask.unflatten(1, grid)  # (B, Uh, Uw)
    return units.repeat_interleave(PER_SIDE, 1).repeat_interleave(PER_SIDE, 2).flatten(1)


def reconstruction_loss(predictions: Tensor, labels: Tensor, keep: Tensor) -> Tensor:
    """Mean squared error over the hidden patches.

    Args:
        predictions, labels: (B, N, P).
        keep: (B, N) bool, True where visible.
    """
    error = F.mse_loss(predictions, labels, reduction="none").mean(dim=2)
    return error.masked_fill(keep, 0).sum() / (~keep).sum()


def build_mae(variant: str, **kwargs: Any) -> MaskedAutoencoderHiera:
    """The autoencoder of a named size of `VARIANTS`; keyword arguments override the table.

    Raises:
        ValueError: the name is not in the table.
    """
    return MaskedAutoencoderHiera(**(variant_kwargs(variant) | kwargs))


def _check_size(size: Sequence[int]) -> tuple[int, int]:
    height, width = (int(side) for side in size)
    if height % UNIT or width % UNIT or min(height, width) < UNIT:
        near = [max(UNIT, round(side / UNIT) * UNIT) for side in (height, width)]
        raise ValueError(
            f"images of {height}x{width} px: pretraining masks units of {UNIT}x{UNIT} px, so both "
            f"sides must be multiples of {UNIT}; nearest: {near[0]}x{near[1]}"
        )
    return height, width
