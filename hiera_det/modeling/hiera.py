"""Hiera, the hierarchical vision transformer, for any input size.

Ryali et al., "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles"
(arXiv 2306.00989), with the position embedding of Bolya et al., "Window Attention is Bugged"
(arXiv 2311.05613) and the windows of SAM 2's image encoder (arXiv 2408.00714, appendix C.1).

One class serves classification at 224 px, masked pretraining on visible tokens and detection at
any resolution. The idea that makes it one:

    Tokens live on the grid of *mask units* (32x32 px, 8x8 tokens of stage 1). A block attends
    inside a group of units: one unit, a window of g x g units, or all of them.

Shape legend, for the whole module:
    B       images                         C, D    channels, channels of one head
    Uh, Uw  grid of units, U = Uh * Uw     n       tokens in a unit: 64, 16, 4, 1 in stages 1..4
    G, N    groups, tokens in a group      g       side of a group, in units

x is (B, G, N, C) with N = g * g * n. The n tokens of a unit stand in Z-order (`units_order`), so
the four tokens that a 2x2 pooling joins are always neighbours in memory and pooling is a maximum
over a dimension of size 4 whatever the group. Three things follow. Attention inside a unit
(stages 1 and 2, most of the tokens) and over the whole image needs no window partition at all.
Windows that divide the grid cost one permutation where the group size changes (`regroup`), not
two copies in every block. Dropping masked units is indexing one axis.

Differences from the official code: any input size, windows, absolute-win positions, 4-D attention
throughout (the official 5-D call misses the fused kernels). Parameter names are the official ones.
"""

import logging
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["Hiera", "HieraBlock", "MaskUnitAttention", "units_to_map"]

logger = logging.getLogger(__name__)

UNIT_SIZE = 8  # tokens of stage 1 on a side of a mask unit
PATCH_STRIDE = 4  # pixels
POS_EMBEDS = ("absolute", "absolute_win")


# ------------------------------------------------------------------------------- token layout
def units_order(x: Tensor) -> Tensor:
    """Raster tokens to mask units in Z-order.

    The 8x8 tokens of a unit are split in halves three times; the coarsest bit pair comes first:

        2x2 unit    4x4 unit         in general, with row = r2 r1 r0 and column = c2 c1 c0 in
        0 1         0  1  4  5       binary, the position is r2 c2 r1 c1 r0 c0.
        2 3         2  3  6  7       Four consecutive tokens are one 2x2 pooling window, and
                    8  9 12 13       after pooling the order is again the Z-order of the
                    10 11 14 15      smaller unit.

    Args:
        x: (B, H, W, C), H and W multiples of 8.

    Returns:
        (B, U, 64, C), units in raster order.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // 8, 2, 2, 2, w // 8, 2, 2, 2, c)  # (B, Uh, r2, r1, r0, Uw, c2, c1, c0, C)
    x = x.permute(0, 1, 5, 2, 6, 3, 7, 4, 8, 9)  # (B, Uh, Uw, r2, c2, r1, c1, r0, c0, C)
    return x.reshape(b, (h // 8) * (w // 8), 64, c)


def units_to_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mask units back to a feature map: the inverse of `units_order`, at any stage.

    Args:
        x: (B, U, n, C) with n in 64, 16, 4, 1, units in raster order, tokens in Z-order.
        grid: (Uh, Uw).

    Returns:
        (B, C, Uh * sqrt(n), Uw * sqrt(n)), in channels-last memory.
    """
    b, _, n, c = x.shape
    uh, uw = grid
    bits = (n.bit_length() - 1) // 2  # halvings of a side
    x = x.reshape(b, uh, uw, *[2] * (2 * bits), c)  # (B, Uh, Uw, r2, c2, r1, c1, r0, c0, C)
    rows, cols = range(3, 3 + 2 * bits, 2), range(4, 4 + 2 * bits, 2)
    x = x.permute(0, 1, *rows, 2, *cols, 3 + 2 * bits)  # (B, Uh, r2, r1, r0, Uw, c2, c1, c0, C)
    x = x.reshape(b, uh * 2**bits, uw * 2**bits, c)
    return x.permute(0, 3, 1, 2)  # (B, C, H, W)


def regroup(x: Tensor, grid: tuple[int, int], old: int, new: int) -> Tensor:
    """Changes the group from old x old to new x new units: one permutation, or none.

    Args:
        x: (B, G, old * old * n, C).
        grid: (Uh, Uw), multiples of `old` and `new`.

    Returns:
        (B, G', new * new * n, C); groups, and units in a group, in raster order.
    """
    if old == new:
        return x
    b, _, tokens, c = x.shape
    n = tokens // old**2
    uh, uw = grid
    if old > 1:
        x = x.reshape(b, uh // old, uw // old, old, old, n, c)
        x = x.transpose(2, 3)  # (B, Uh/g, g, Uw/g, g, n, C): units in raster order
    if new > 1:
        x = x.reshape(b, uh // new, new, uw // new, new, n, c).transpose(2, 3)
    return x.reshape(b, uh * uw // new**2, new**2 * n, c)


def window_partition(x: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Windows of size x size units that need not divide the grid; the rest is padded with zeros.

    Args:
        x: (B, U, n, C), units in raster order.

    Returns:
        (B, windows, size * size * n, C).
    """
    b, _, n, c = x.shape
    uh, uw = grid
    padded = (math.ceil(uh / size) * size, math.ceil(uw / size) * size)
    x = x.reshape(b, uh, uw, n * c)
    x = F.pad(x, (0, 0, 0, padded[1] - uw, 0, padded[0] - uh))  # zeros right and below
    return regroup(x.reshape(b, padded[0] * padded[1], n, c), padded, 1, size)


def window_unpartition(x: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """The inverse of `window_partition`; the padding is dropped."""
    b, _, tokens, c = x.shape
    uh, uw = grid
    padded = (math.ceil(uh / size) * size, math.ceil(uw / size) * size)
    n = tokens // size**2
    x = regroup(x, padded, size, 1).reshape(b, *padded, n * c)  # (B, Uh', Uw', n * C)
    return x[:, :uh, :uw].reshape(b, uh * uw, n, c)


def pool_tokens(x: Tensor) -> Tensor:
    """2x2 max-pooling of tokens in Z-order: (B, G, N, C) to (B, G, N / 4, C)."""
    b, groups, tokens, c = x.shape
    return x.reshape(b, groups, tokens // 4, 4, c).amax(dim=3)


# --------------------------------------------------------------------------------- modules
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
    """Multi-head attention inside groups of mask units; queries may be max-pooled 2x2."""

    def __init__(self, dim: int, dim_out: int, num_heads: int, pool: bool = False):
        """
        Args:
            dim, dim_out: channels in and out.
            num_heads: heads of the output; divides dim_out.
            pool: max-pool the queries, so that a quarter of the tokens comes out.
        """
        super().__init__()
        self.num_heads = num_heads
        self.pool = pool
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor, grid: tuple[int, int], window: int | None = None) -> Tensor:
        """
        Args:
            x: (B, G, N, C).
            grid: (Uh, Uw); read only where `window` pads.
            window: None attends inside each of the G groups; 0 over all tokens of an image; w > 0
                in windows of w x w units, which must come as one unit a group (G = U).

        Returns:
            (B, G, N, dim_out), or N / 4 tokens a group with `pool`.
        """
        b, groups, _, _ = x.shape
        if window == 0:
            x = x.flatten(1, 2).unsqueeze(1)  # (B, 1, G * N, C)
        elif window is not None:
            x = window_partition(x, grid, window)  # (B, windows, w * w * n, C)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.pool:
            q = pool_tokens(q)
        # (B, G, N, C) -> (B * G, heads, N, D). 4-D: with a fifth dimension no fused kernel runs.
        q, k, v = (
            t.flatten(0, 1).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v)
        )
        x = F.scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).flatten(2).unflatten(0, (b, -1))  # (B, G, N, dim_out)
        if window == 0:
            x = x.reshape(b, groups, -1, x.shape[-1])
        elif window is not None:
            x = window_unpartition(x, grid, window)
        return self.proj(x)


class Mlp(nn.Module):
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
        drop_path: float = 0.0,
        pool: bool = False,
        window: int = 0,
    ):
        """
        Args:
            dim, dim_out: channels in and out.
            num_heads: heads of the attention.
            mlp_ratio: hidden width of the MLP over dim_out.
            drop_path: probability of dropping a residual branch.
            pool: 2x2 max-pooling of queries and skip.
            window: side of the attention window in mask units; 0 is the whole image.
        """
        super().__init__()
        self.window = window
        self.pool = pool
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = MaskUnitAttention(dim, dim_out, num_heads, pool)
        self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)
        self.mlp = Mlp(dim_out, int(dim_out * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        if dim != dim_out:
            self.proj = nn.Linear(dim, dim_out)

    def forward(self, x: Tensor, grid: tuple[int, int], window: int | None = None) -> Tensor:
        """x: (B, G, N, dim) to (B, G, N or N / 4, dim_out). For `window` see MaskUnitAttention."""
        y = self.norm1(x)
        if hasattr(self, "proj"):
            x = self.proj(y)
        if self.pool:
            x = pool_tokens(x)
        x = x + self.drop_path(self.attn(y, grid, window))
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
                **The first block of a stage attends before it pools, so it uses the window of the
                stage before**: the one-block lag of the official code and of SAM 2.
            global_attn_blocks: indices of blocks that attend over the whole image all the same.
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
        window_size = tuple(window_size)
        depth = sum(stages)
        if len(window_size) != num_stages:
            raise ValueError(f"window_size {window_size} needs one entry per stage of {stages}")
        if not 0 <= q_pool < num_stages or 2**q_pool > UNIT_SIZE:
            raise ValueError(
                f"q_pool={q_pool}: {num_stages} stages pool 0 to {num_stages - 1} times"
            )
        if any(not 0 <= i < depth for i in global_attn_blocks):
            raise ValueError(
                f"global_attn_blocks={list(global_attn_blocks)} name blocks that stages="
                f"{list(stages)} has not: there are blocks 0 to {depth - 1}"
            )
        if pos_embed not in POS_EMBEDS:
            raise ValueError(f"pos_embed={pos_embed!r} is none of {POS_EMBEDS}")

        self.depth = depth
        self.stage_ends = [sum(stages[: i + 1]) - 1 for i in range(num_stages)]
        self.q_pool = q_pool
        self.embed_dims = [embed_dim * 2**i for i in range(num_stages)]
        self.strides = [PATCH_STRIDE * 2 ** min(i, q_pool) for i in range(num_stages)]
        self.act_checkpoint = (
            [act_checkpoint] * num_stages
            if isinstance(act_checkpoint, bool)
            else list(act_checkpoint)
        )
        if len(self.act_checkpoint) != num_stages:
            raise ValueError(f"act_checkpoint={act_checkpoint}: one entry per stage of {stages}")
        self.patch_embed = PatchEmbed(in_chans, embed_dim)
        self._init_pos_embed(pos_embed, pos_embed_size, embed_dim)
        windows = self._windows_in_units(window_size)
        drop_path = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList()
        for stage, num_blocks in enumerate(stages):
            for j in range(num_blocks):
                i = len(self.blocks)
                first = j == 0 and stage > 0
                lag = stage - 1 if first else stage
                self.blocks.append(
                    HieraBlock(
                        dim=self.embed_dims[lag],
                        dim_out=self.embed_dims[stage],
                        num_heads=num_heads * 2**stage,
                        mlp_ratio=mlp_ratio,
                        drop_path=drop_path[i],
                        pool=first and stage <= q_pool,
                        window=0 if i in global_attn_blocks else windows[lag],
                    )
                )
        self.apply(self._init_weights)

    def _windows_in_units(self, window_size: tuple[int, ...]) -> list[int]:
        """Window sides in mask units, for which the stage no longer matters."""
        sides = [UNIT_SIZE // 2 ** min(i, self.q_pool) for i in range(len(window_size))]
        if any(w < 0 or w % side for w, side in zip(window_size, sides, strict=True)):
            raise ValueError(
                f"window_size {window_size}: each must be 0 (whole image) or a multiple of the "
                f"mask unit's side, which is {sides} tokens in the stages"
            )
        return [w // side for w, side in zip(window_size, sides, strict=True)]

    def _init_pos_embed(self, kind: str, size: Sequence[int] | None, embed_dim: int) -> None:
        self.pos_embed_kind = kind
        if size is None:
            size = (56, 56) if kind == "absolute" else (7, 7)
        self.pos_embed_size = (int(size[0]), int(size[1]))
        rows, cols = self.pos_embed_size
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
        """As official Hiera: truncated normal; every bias, of LayerNorms too, starts at 0.02."""
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.constant_(module.bias, 0.02)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.constant_(module.bias, 0.02)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that take no weight decay besides norms: the position tables."""
        return {name for name, _ in self.named_parameters(recurse=False) if "pos_embed" in name}

    def position_units(self, grid: tuple[int, int]) -> Tensor:
        """The position embedding of a grid of units, in unit order: (1, U, 64, C)."""
        h, w = grid[0] * UNIT_SIZE, grid[1] * UNIT_SIZE
        rows, cols = self.pos_embed_size
        pos = self.pos_embed
        if self.pos_embed_kind == "absolute":
            pos = pos.reshape(1, rows, cols, -1)  # (1, N, C) -> (1, rows, cols, C)
            if (h, w) == (rows, cols):
                return units_order(pos)
            self._warn_resize(h, w)
            pos = pos.permute(0, 3, 1, 2)  # (1, C, rows, cols)
        pos = F.interpolate(pos, size=(h, w), mode="bicubic", align_corners=False)
        pos = units_order(pos.permute(0, 2, 3, 1))  # (1, C, H, W) -> (1, H, W, C) -> (1, U, 64, C)
        if self.pos_embed_kind == "absolute_win":
            pos = pos + units_order(self.pos_embed_window.permute(0, 2, 3, 1))  # (1, 1, 64, C)
        return pos

    def _warn_resize(self, h: int, w: int) -> None:
        if not self._warned_resize:
            self._warned_resize = True
            logger.warning(
                "pos_embed: the %dx%d table is resized to %dx%d tokens. Interpolation blurs the "
                'part that repeats in every window (arXiv 2311.05613); pos_embed="absolute_win" '
                "keeps it.",
                *self.pos_embed_size,
                h,
                w,
            )

    def forward_units(
        self, images: Tensor, keep_mask: Tensor | None = None
    ) -> tuple[list[Tensor], tuple[int, int]]:
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
        unit = UNIT_SIZE * PATCH_STRIDE
        grid = (math.ceil(height / unit), math.ceil(width / unit))
        images = F.pad(images, (0, grid[1] * unit - width, 0, grid[0] * unit - height))
        num_units = grid[0] * grid[1]
        if keep_mask is not None:
            self._check_keep_mask(keep_mask, images.shape[0], num_units, grid)
            visible = keep_mask.reshape(-1, 1, *grid).to(images.dtype)  # (B, U) -> (B, 1, Uh, Uw)
            images = images * F.interpolate(visible, scale_factor=unit, mode="nearest")
        x = units_order(self.patch_embed(images)) + self.position_units(grid)  # (B, U, 64, C)
        if keep_mask is not None:
            x = x[keep_mask].unflatten(0, (x.shape[0], -1))  # (B * K, 64, C) -> (B, K, 64, C)
        return self._run_blocks(x, grid, keep_mask is not None), grid

    def _run_blocks(self, x: Tensor, grid: tuple[int, int], masked: bool) -> list[Tensor]:
        outputs = []
        side = 1  # side of the groups that x stands in, in units
        for i, block in enumerate(self.blocks):
            window: int | None = block.window
            if window == 0 or grid == (window, window):
                window = 0  # all tokens, in whatever order they stand
            elif masked and window > 1:
                raise ValueError(
                    f"keep_mask needs blocks that attend in one mask unit or over the whole image; "
                    f"block {i} attends in windows of {window}x{window} units on a grid of {grid}"
                )
            else:
                divides = grid[0] % window == 0 and grid[1] % window == 0
                new = window if divides else 1
                x, side = regroup(x, grid, side, new), new
                window = None if divides else window
            stage = sum(i > end for end in self.stage_ends)
            if self.act_checkpoint[stage] and self.training:
                x = checkpoint(block, x, grid, window, use_reentrant=False)
            else:
                x = block(x, grid, window)
            if i in self.stage_ends:
                outputs.append(regroup(x, grid, side, 1))
        return outputs

    @staticmethod
    def _check_keep_mask(
        keep_mask: Tensor, batch: int, num_units: int, grid: tuple[int, int]
    ) -> None:
        if keep_mask.dtype != torch.bool or keep_mask.shape != (batch, num_units):
            raise ValueError(
                f"keep_mask must be bool of shape {(batch, num_units)} (images, mask units of the "
                f"{grid[0]}x{grid[1]} grid), got {keep_mask.dtype} {tuple(keep_mask.shape)}"
            )
        counts = keep_mask.sum(dim=1)
        if not bool((counts == counts[0]).all()) or int(counts[0]) == 0:
            raise ValueError(
                "keep_mask must keep the same number of units, at least 1, in every row: "
                f"{counts.tolist()}"
            )

    def forward(self, images: Tensor) -> list[Tensor]:
        """
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
