"""Hiera as a Detectron2 backbone: features `scale2`..`scale5` at strides 4, 8, 16, 32."""

import math
from collections.abc import Sequence

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

from .hiera import Hiera
from .pixels import IMAGENET_MEAN, IMAGENET_STD
from .units import UNIT_PIXELS
from .variants import build_detection_hiera

__all__ = [
    "HieraBackbone",
    "add_hiera_config",
    "build_hiera_backbone",
    "build_hiera_fpn_backbone",
]


class HieraBackbone(Backbone):
    """Wraps the trunk in Detectron2's contract: a dict of named maps, their channels and strides.

    Names encode the stride, stride = 2 ** level, as Detectron2's MViT does. Each output has a
    LayerNorm of its own: the blocks are pre-norm, so the raw maps grow with depth and reach FPN's
    lateral convolutions at unequal scales. It is an `nn.LayerNorm`, which Detectron2's optimizer
    groups recognise as a norm (its own channel LayerNorm they do not).
    """

    def __init__(
        self,
        trunk: Hiera,
        out_features: Sequence[str] = ("scale2", "scale3", "scale4", "scale5"),
        norm: str = "LN",
        freeze_at: int = 0,
    ):
        """
        Args:
            trunk: the network. Stages after the last of `out_features` are removed from it: they
                would cost time, and DDP would wait for their gradients.
            out_features: names of the maps to return.
            norm: "LN" for a LayerNorm per output map, "" for none.
            freeze_at: freezes the patch and position embeddings and the blocks of that many
                stages: no gradient, no optimizer state, drop path off. 0 freezes nothing.

        Raises:
            ValueError: a name that the trunk does not produce, an unknown norm, a trunk whose
                stages do not all halve the resolution (`q_pool` of MAE pretraining).
        """
        super().__init__()
        levels = [int(math.log2(stride)) for stride in trunk.strides]
        if len(set(levels)) != len(levels):
            raise ValueError(
                f"the trunk's stages have strides {trunk.strides} (q_pool={trunk.q_pool}); "
                f"detection needs q_pool={len(levels) - 1}, also with weights of MAE pretraining"
            )
        names = [f"scale{level}" for level in levels]
        unknown = [name for name in out_features if name not in names]
        if unknown or not out_features:
            raise ValueError(f"out_features={list(out_features)}: choose among {names}")
        if norm not in ("LN", ""):
            raise ValueError(f'norm={norm!r}: "LN" or "" (none)')
        names = names[: 1 + max(names.index(name) for name in out_features)]
        trunk.keep_stages(len(names))
        if not 0 <= freeze_at <= len(names):
            raise ValueError(f"freeze_at={freeze_at}: 0 to {len(names)} stages")
        self.trunk = trunk
        self.freeze_at = freeze_at
        self._out_features = list(out_features)
        self._out_feature_strides = dict(zip(names, trunk.strides, strict=True))
        self._out_feature_channels = dict(zip(names, trunk.embed_dims, strict=True))
        self.out_norms = nn.ModuleDict(
            {
                name: nn.LayerNorm(self._out_feature_channels[name], eps=1e-6)
                for name in self._out_features
                if norm
            }
        )
        for module in self._frozen():
            module.requires_grad_(False)

    def _frozen(self) -> list[nn.Module | nn.Parameter]:
        if self.freeze_at == 0:
            return []
        last = self.trunk.stage_ends[self.freeze_at - 1]
        tables = [getattr(self.trunk, name) for name in sorted(self.trunk.no_weight_decay())]
        return [self.trunk.patch_embed, *tables, *self.trunk.blocks[: last + 1]]

    def train(self, mode: bool = True) -> "HieraBackbone":
        super().train(mode)
        for module in self._frozen():
            if isinstance(module, nn.Module):
                module.eval()
        return self

    @property
    def size_divisibility(self) -> int:
        """32: one mask unit. Any size works, but a multiple wastes no computation."""
        return UNIT_PIXELS

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self.size_divisibility}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W), normalised, to {name: (B, C, ceil(H / stride), ceil(W / stride))}."""
        outputs = {}
        for name, x in zip(self._out_feature_strides, self.trunk(images), strict=True):
            if name not in self._out_features:
                continue
            if name in self.out_norms:
                x = self.out_norms[name](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # as NHWC
            outputs[name] = x
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }


# ------------------------------------------------------- for yacs users of the real Detectron2
def add_hiera_config(cfg) -> None:
    """Adds MODEL.HIERA to a yacs config (`detectron2.config.get_cfg()`), in place.

    Then MODEL.BACKBONE.NAME may be "build_hiera_backbone" or "build_hiera_fpn_backbone"; set
    MODEL.FPN.IN_FEATURES to the OUT_FEATURES below. PIXEL_MEAN and PIXEL_STD are the RGB values of
    the pretraining, so INPUT.FORMAT becomes "RGB". What is None (or a size of []) is the variant's.
    """
    node = type(cfg)()
    node.VARIANT = "hiera_b"
    node.WINDOW_SIZE = None
    node.GLOBAL_ATTN_BLOCKS = None  # [] for none
    node.POS_EMBED = "absolute_win"
    node.POS_EMBED_SIZE = None
    node.DROP_PATH_RATE = None
    node.ACT_CHECKPOINT = False
    node.NORM = "LN"
    node.FREEZE_AT = 0
    node.OUT_FEATURES = ["scale2", "scale3", "scale4", "scale5"]
    node.SQUARE_PAD = 0
    cfg.MODEL.HIERA = node
    cfg.MODEL.PIXEL_MEAN = [*IMAGENET_MEAN]
    cfg.MODEL.PIXEL_STD = [*IMAGENET_STD]
    cfg.INPUT.FORMAT = "RGB"


@BACKBONE_REGISTRY.register()
def build_hiera_backbone(cfg, input_shape: ShapeSpec) -> HieraBackbone:
    """From a yacs config with `add_hiera_config`."""
    node = cfg.MODEL.HIERA
    trunk = build_detection_hiera(
        node.VARIANT,
        window_size=node.WINDOW_SIZE or None,
        global_attn_blocks=node.GLOBAL_ATTN_BLOCKS,
        pos_embed=node.POS_EMBED,
        pos_embed_size=node.POS_EMBED_SIZE or None,
        drop_path_rate=node.DROP_PATH_RATE,
        act_checkpoint=node.ACT_CHECKPOINT,
        in_chans=input_shape.channels,
    )
    return HieraBackbone(trunk, node.OUT_FEATURES, norm=node.NORM, freeze_at=node.FREEZE_AT)


@BACKBONE_REGISTRY.register()
def build_hiera_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """FPN over `build_hiera_backbone`, with P6 by max-pooling."""
    return FPN(
        bottom_up=build_hiera_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
        square_pad=cfg.MODEL.HIERA.SQUARE_PAD,
    )
