"""Hiera, the hierarchical vision transformer, for any input size.

Ryali et al., "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles"
(arXiv 2306.00989), with the position embedding of Bolya et al., "Window Attention is Bugged"
(arXiv 2311.05613) and the windows of SAM 2's image encoder (arXiv 2408.00714, appendix C.1).

One class serves classification at 224 px, masked pretraining on visible tokens and detection at
any resolution. `units` has the layout of its tokens and the letters of the shapes, `positions` its
tables. Beyond the official code: any input size, windows, absolute-win positions, 4-D attention
throughout (the official 5-D call misses the fused kernels). Parameter names are the official ones.
"""

import logging
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .positions import POS_EMBEDS, absolute_units, absolute_win_units
from .units import (
    PATCH_STRIDE,
    UNIT_PIXELS,
    UNIT_SIZE,
    Extent,
    Grid,
    block_extents,
    check_keep_mask,
    pool_tokens,
    regroup,
    units_order,
    units_to_map,
)

__all__ = ["Hiera", "HieraBlock", "MaskUnitAttention"]

logger = logging.getLogger(__name__)


class DropPath(nn.Module):
    """Stochastic depth: drops the residual branch of whole samples, rescales the others."""

    def __init__(self, drop_prob: float = 0.0):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1.0 - self.drop_prob
        mask = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:.3f}"


class MaskUnitAttention(nn.Module):
    """Multi-head attention inside groups of tokens; queries may be max-pooled 2x2."""

    def __init__(self, dim: int, dim_out: int, num_heads: int, pool: bool = False):
        """
        Args:
            dim, dim_out: channels in and out.
            num_heads: heads of the output.
            pool: max-pool the queries, so that a quarter of the tokens comes out.

        Raises:
            ValueError: `num_heads` does not divide `dim_out`.
        """
        super().__init__()
        if num_heads < 1 or dim_out % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide the {dim_out} channels")
        self.num_heads = num_heads
        self.pool = pool
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor, extent: Extent) -> Tensor:
        """(B, G, N, dim) to (B, G, N or N / 4, dim_out); attends within what `extent` splits."""
        x = extent.split(x)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.pool:
            q = pool_tokens(q)
        # (B, G, N, C) -> (B * G, heads, N, D). 4-D: with a fifth dimension no fused kernel runs.
        q, k, v = (
            t.flatten(0, 1).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        y = y.transpose(1, 2).flatten(2).unflatten(0, x.shape[:2])  # (B, G, N, dim_out)
        return self.proj(extent.join(y))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class HieraBlock(nn.Module):
    """Pre-norm transformer block; where a stage begins it widens the channels and pools 2x2.

    At those blocks the skip connection starts from *norm1(x)*, through a linear layer and the same
    max-pooling as the queries (official code; key `proj`). Elsewhere it is x itself.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        pool: bool = False,
        window: int = 0,
        stage: int = 0,
    ):
        """
        Args:
            dim, dim_out: channels in and out.
            num_heads: heads of the attention; divides dim_out.
            mlp_ratio: hidden width of the MLP over dim_out.
            pool: 2x2 max-pooling of queries and skip.
            window: side of the attention window in mask units, of which a trunk makes the extent
                that `forward` takes; 0 is the whole image.
            stage: that the block's output belongs to, from 0.
        """
        super().__init__()
        self.window = window
        self.stage = stage
        self.pool = pool
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = MaskUnitAttention(dim, dim_out, num_heads, pool)
        self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)
        self.mlp = Mlp(dim_out, int(dim_out * mlp_ratio))
        self.drop_path = DropPath()  # its rate is set by the trunk
        if dim != dim_out:
            self.proj = nn.Linear(dim, dim_out)

    def forward(self, x: Tensor, extent: Extent) -> Tensor:
        """(B, G, N, dim) to (B, G, N or N / 4, dim_out)."""
        y = self.norm1(x)
        skip = self.proj(y) if hasattr(self, "proj") else x
        if self.pool:
            skip = pool_tokens(skip)
        x = skip + self.drop_path(self.attn(y, extent))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Overlapping 7x7 convolution of stride 4: (B, in_chans, H, W) to (B, H / 4, W / 4, C)."""

    def __init__(self, in_chans: int, embed_dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=7, stride=PATCH_STRIDE, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).permute(0, 2, 3, 1)  # (B, C, H/4, W/4) -> (B, H/4, W/4, C)


class Hiera(nn.Module):
    """The Hiera trunk: images to one feature map per stage, at strides 4, 8, 16 and 32."""

    def __init__(
        self,
        embed_dim: int = 96,
        num_heads: int = 1,
        stages: Sequence[int] = (2, 3, 16, 3),
        *,
        window_size: Sequence[int] = (8, 4, 0, 0),
        global_attn_blocks: Sequence[int] = (),
        pos_embed: str = "absolute",
        pos_embed_size: Sequence[int] | None = None,
        q_pool: int = 3,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        in_chans: int = 3,
        act_checkpoint: bool | Sequence[bool] = False,
    ):
        """
        Args:
            embed_dim, num_heads: channels and heads of stage 1; both double with every stage.
            stages: blocks per stage.
            window_size: per stage, the side of the attention window in tokens of that stage, a
                multiple of the unit's side (8, 4, 2, 1); 0 attends over the whole image. The
                default is Hiera at 224 px; SAM 2 has (8, 4, 14, 7) and, for L, (8, 4, 16, 8).
            global_attn_blocks: indices of blocks that attend over the whole image all the same;
                of those that attend at stride 16 or more, so not the first block of stage 3.
            pos_embed: "absolute", a learned table over the pretraining grid, resized for other
                inputs; or "absolute_win", a background, resized to the input, plus an 8x8 window
                table that is tiled, so that every unit sees what it saw in pretraining.
            pos_embed_size: (rows, columns) of the table or background; (56, 56) for "absolute"
                (224 px), (7, 7) for "absolute_win".
            q_pool: stage changes that pool, 3; Hiera's MAE pretraining has 2 (stride 16 last).
            mlp_ratio: hidden width of the MLPs.
            drop_path_rate: stochastic depth of the last block, rising linearly from 0.
            in_chans: channels of the input.
            act_checkpoint: recompute activations in the backward pass, for all or per stage.

        Raises:
            ValueError: an impossible combination, with the values.
        """
        super().__init__()
        num_stages = len(stages)
        if not 0 <= q_pool < num_stages or 2**q_pool > UNIT_SIZE:
            raise ValueError(
                f"q_pool={q_pool}: {num_stages} stages pool 0 to {num_stages - 1} times"
            )
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate={drop_path_rate} must be in [0, 1)")
        if not isinstance(act_checkpoint, bool) and len(act_checkpoint) != num_stages:
            raise ValueError(f"act_checkpoint={act_checkpoint}: one entry per stage of {stages}")
        self.depth = self.full_depth = sum(stages)
        self.stage_ends = [sum(stages[: i + 1]) - 1 for i in range(num_stages)]
        self.q_pool = q_pool
        self.embed_dims = [embed_dim * 2**i for i in range(num_stages)]
        self.strides = [PATCH_STRIDE * 2 ** min(i, q_pool) for i in range(num_stages)]
        self.drop_path_rate = drop_path_rate
        per_stage = [act_checkpoint] * num_stages
        self.act_checkpoint = (
            per_stage if isinstance(act_checkpoint, bool) else list(act_checkpoint)
        )
        windows = self._windows_in_units(tuple(window_size))
        self._check_global_blocks(global_attn_blocks)
        self.patch_embed = PatchEmbed(in_chans, embed_dim)
        self._init_pos_embed(pos_embed, pos_embed_size, embed_dim)
        self.blocks = nn.ModuleList()
        for stage, num_blocks in enumerate(stages):
            for j in range(num_blocks):
                first = j == 0 and stage > 0
                # The one-block lag of the official code and of SAM 2: the first block of a stage
                # attends before it pools, so its channels and its window are of the stage before.
                lag = stage - 1 if first else stage
                self.blocks.append(
                    HieraBlock(
                        dim=self.embed_dims[lag],
                        dim_out=self.embed_dims[stage],
                        num_heads=num_heads * 2**stage,
                        mlp_ratio=mlp_ratio,
                        pool=first and stage <= q_pool,
                        window=0 if len(self.blocks) in global_attn_blocks else windows[lag],
                        stage=stage,
                    )
                )
        self._spread_drop_path()
        self.apply(self._init_weights)

    def _windows_in_units(self, window_size: tuple[int, ...]) -> list[int]:
        """Window sides in mask units, for which the stage no longer matters."""
        if len(window_size) != len(self.strides):
            raise ValueError(
                f"window_size {window_size} needs one entry per stage: {len(self.strides)}"
            )
        sides = [UNIT_PIXELS // stride for stride in self.strides]  # of a unit, in tokens
        if any(w < 0 or w % side for w, side in zip(window_size, sides, strict=True)):
            raise ValueError(
                f"window_size {window_size}: each must be 0 (whole image) or a multiple of the "
                f"mask unit's side, which is {sides} tokens in the stages"
            )
        return [w // side for w, side in zip(window_size, sides, strict=True)]

    def _check_global_blocks(self, blocks: Sequence[int]) -> None:
        """Stages 1 and 2 have 65,536 and 16,384 tokens at 1024 px, so a block that attends there
        over the whole image is a number meant for a trunk of other stages."""
        first = self.stage_ends[1] + 2 if len(self.stage_ends) > 2 else self.depth
        if any(not first <= i < self.depth for i in blocks):
            raise ValueError(
                f"global_attn_blocks={list(blocks)}: stages end with blocks {self.stage_ends}, so "
                f"blocks {first} to {self.depth - 1} may attend over the whole image; the first of "
                "stage 3 may not, for it attends before it pools, among the tokens of stage 2"
            )

    def _spread_drop_path(self) -> None:
        for i, block in enumerate(self.blocks):
            block.drop_path.drop_prob = self.drop_path_rate * i / max(self.depth - 1, 1)  # type: ignore[union-attr]

    def _init_pos_embed(self, kind: str, size: Sequence[int] | None, embed_dim: int) -> None:
        if kind not in POS_EMBEDS:
            raise ValueError(f"pos_embed={kind!r} is none of {tuple(POS_EMBEDS)}")
        self.pos_embed_kind = kind
        rows, cols = (int(side) for side in size or POS_EMBEDS[kind])
        self.pos_embed_size = (rows, cols)
        if kind == "absolute":
            self.pos_embed = nn.Parameter(torch.zeros(1, rows * cols, embed_dim))
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, embed_dim, rows, cols))
            self.pos_embed_window = nn.Parameter(torch.zeros(1, embed_dim, UNIT_SIZE, UNIT_SIZE))
            nn.init.trunc_normal_(self.pos_embed_window, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self._warned_resize = False

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        """As official Hiera: truncated normal; biases of linear layers and norms start at 0.02,
        those of the patch convolution as PyTorch's."""
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Linear | nn.LayerNorm):
            nn.init.constant_(module.bias, 0.02)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that take no weight decay besides norms: the position tables."""
        return {name for name, _ in self.named_parameters(recurse=False) if "pos_embed" in name}

    def keep_stages(self, count: int) -> None:
        """Removes all stages after the first `count`; drop path rises to the last block left."""
        self.stage_ends = self.stage_ends[:count]
        self.embed_dims, self.strides = self.embed_dims[:count], self.strides[:count]
        self.depth = self.stage_ends[-1] + 1
        del self.blocks[self.depth :]
        self._spread_drop_path()

    def position_units(self, grid: Grid) -> Tensor:
        """The position embedding of a grid of units, in unit order: (1, U, 64, C)."""
        if self.pos_embed_kind == "absolute_win":
            return absolute_win_units(self.pos_embed, self.pos_embed_window, grid)
        self._warn_if_resized((grid[0] * UNIT_SIZE, grid[1] * UNIT_SIZE))
        return absolute_units(self.pos_embed, self.pos_embed_size, grid)

    def _warn_if_resized(self, size: tuple[int, int]) -> None:
        if size != self.pos_embed_size and not self._warned_resize:
            self._warned_resize = True
            logger.warning(
                "pos_embed: the %dx%d table is resized to %dx%d tokens. Interpolation blurs the "
                'part that repeats in every window (arXiv 2311.05613); pos_embed="absolute_win" '
                "keeps it.",
                *self.pos_embed_size,
                *size,
            )

    def forward_units(
        self, images: Tensor, keep_mask: Tensor | None = None
    ) -> tuple[list[Tensor], Grid]:
        """Stage outputs as mask units.

        Args:
            images: (B, in_chans, H, W), normalised; zero-padded to multiples of 32 px.
            keep_mask: (B, U) bool over units in raster order, True where visible, with the same
                count in every row. Masked pixels are zeroed before the overlapping patch
                convolution, so that nothing leaks, and masked units are dropped before block 0.

        Returns:
            Per stage (B, U or visible units, n, C), units in raster order, tokens in Z-order; and
            the grid (Uh, Uw).
        """
        height, width = images.shape[-2:]
        grid = (math.ceil(height / UNIT_PIXELS), math.ceil(width / UNIT_PIXELS))
        images = F.pad(
            images, (0, grid[1] * UNIT_PIXELS - width, 0, grid[0] * UNIT_PIXELS - height)
        )
        if keep_mask is not None:
            check_keep_mask(keep_mask, images.shape[0], grid)
            visible = keep_mask.reshape(-1, 1, *grid).to(images.dtype)  # (B, U) -> (B, 1, Uh, Uw)
            images = images * F.interpolate(visible, scale_factor=UNIT_PIXELS, mode="nearest")
        x = units_order(self.patch_embed(images)) + self.position_units(grid)  # (B, U, 64, C)
        if keep_mask is not None:
            x = x[keep_mask].unflatten(0, (x.shape[0], -1))  # (B * K, 64, C) -> (B, K, 64, C)
        return self._run_blocks(x, grid, None if keep_mask is None else x.shape[1]), grid

    def _run_blocks(self, x: Tensor, grid: Grid, num_visible: int | None) -> list[Tensor]:
        outputs = []
        side = 1  # of the groups that x stands in, in units
        extents = block_extents([block.window for block in self.blocks], grid, num_visible)  # type: ignore[misc]
        for i, (block, extent) in enumerate(zip(self.blocks, extents, strict=True)):
            x = regroup(x, grid, side, extent.side)
            side = extent.side
            if self.act_checkpoint[block.stage] and self.training:  # type: ignore[index]
                x = checkpoint(block, x, extent, use_reentrant=False)
            else:
                x = block(x, extent)
            if i in self.stage_ends:
                outputs.append(regroup(x, grid, side, 1))
        return outputs

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images to one feature map per stage.

        Args:
            images: (B, in_chans, H, W), normalised; any H and W. What is no multiple of 32 is
                padded with zeros right and below, and the maps are cropped.

        Returns:
            Per stage a map (B, C, ceil(H / stride), ceil(W / stride)), without a norm.
        """
        height, width = images.shape[-2:]
        outputs, grid = self.forward_units(images)
        return [
            units_to_map(x, grid)[:, :, : math.ceil(height / s), : math.ceil(width / s)]
            for x, s in zip(outputs, self.strides, strict=True)
        ]
