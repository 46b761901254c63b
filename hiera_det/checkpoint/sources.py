"""The key tables: how each public Hiera names its tensors.

In a row, `{i}` is a block of the whole network, `{s}` a stage, `{l}` a block of that stage and
`{p}` is weight or bias. The right side is the official name, which is ours. A name on the right
that ends in `.gamma` is a LayerScale, which folds into the linear layer before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = ["FOREIGN", "SOURCES", "LeftOut", "Source"]

_OFFICIAL = {
    "pos_embed": "pos_embed",
    "pos_embed_window": "pos_embed_window",
    "patch_embed.proj.{p}": "patch_embed.proj.{p}",
    "blocks.{i}.norm1.{p}": "blocks.{i}.norm1.{p}",
    "blocks.{i}.attn.qkv.{p}": "blocks.{i}.attn.qkv.{p}",
    "blocks.{i}.attn.proj.{p}": "blocks.{i}.attn.proj.{p}",
    "blocks.{i}.proj.{p}": "blocks.{i}.proj.{p}",
    "blocks.{i}.norm2.{p}": "blocks.{i}.norm2.{p}",
    "blocks.{i}.mlp.fc1.{p}": "blocks.{i}.mlp.fc1.{p}",
    "blocks.{i}.mlp.fc2.{p}": "blocks.{i}.mlp.fc2.{p}",
}
_SAM2 = {
    "pos_embed": "pos_embed",
    "pos_embed_window": "pos_embed_window",
    "patch_embed.proj.{p}": "patch_embed.proj.{p}",
    "blocks.{i}.norm1.{p}": "blocks.{i}.norm1.{p}",
    "blocks.{i}.attn.qkv.{p}": "blocks.{i}.attn.qkv.{p}",
    "blocks.{i}.attn.proj.{p}": "blocks.{i}.attn.proj.{p}",
    "blocks.{i}.proj.{p}": "blocks.{i}.proj.{p}",
    "blocks.{i}.norm2.{p}": "blocks.{i}.norm2.{p}",
    "blocks.{i}.mlp.layers.0.{p}": "blocks.{i}.mlp.fc1.{p}",
    "blocks.{i}.mlp.layers.1.{p}": "blocks.{i}.mlp.fc2.{p}",
}
# timm interpolates this background with antialias=True, which is another cubic kernel (a = -0.5;
# here and in SAM 2 -0.75): features are equal where it is not resized, and close elsewhere.
_TIMM_ABSWIN = {
    "pos_embed": "pos_embed",
    "pos_embed_win": "pos_embed_window",
    "patch_embed.proj.{p}": "patch_embed.proj.{p}",
    "blocks.{i}.norm1.{p}": "blocks.{i}.norm1.{p}",
    "blocks.{i}.attn.qkv.{p}": "blocks.{i}.attn.qkv.{p}",
    "blocks.{i}.attn.proj.{p}": "blocks.{i}.attn.proj.{p}",
    "blocks.{i}.ls1.gamma": "blocks.{i}.attn.proj.gamma",
    "blocks.{i}.proj.{p}": "blocks.{i}.proj.{p}",
    "blocks.{i}.norm2.{p}": "blocks.{i}.norm2.{p}",
    "blocks.{i}.mlp.fc1.{p}": "blocks.{i}.mlp.fc1.{p}",
    "blocks.{i}.mlp.fc2.{p}": "blocks.{i}.mlp.fc2.{p}",
    "blocks.{i}.ls2.gamma": "blocks.{i}.mlp.fc2.gamma",
}
_HF_HIERA = {
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.{p}": "patch_embed.proj.{p}",
    "encoder.stages.{s}.layers.{l}.layernorm_before.{p}": "blocks.{i}.norm1.{p}",
    "encoder.stages.{s}.layers.{l}.attn.qkv.{p}": "blocks.{i}.attn.qkv.{p}",
    "encoder.stages.{s}.layers.{l}.attn.proj.{p}": "blocks.{i}.attn.proj.{p}",
    "encoder.stages.{s}.layers.{l}.proj.{p}": "blocks.{i}.proj.{p}",
    "encoder.stages.{s}.layers.{l}.layernorm_after.{p}": "blocks.{i}.norm2.{p}",
    "encoder.stages.{s}.layers.{l}.mlp.fc1.{p}": "blocks.{i}.mlp.fc1.{p}",
    "encoder.stages.{s}.layers.{l}.mlp.fc2.{p}": "blocks.{i}.mlp.fc2.{p}",
}
_HF_SAM2 = {
    "pos_embed": "pos_embed",
    "pos_embed_window": "pos_embed_window",
    "patch_embed.projection.{p}": "patch_embed.proj.{p}",
    "blocks.{i}.layer_norm1.{p}": "blocks.{i}.norm1.{p}",
    "blocks.{i}.attn.qkv.{p}": "blocks.{i}.attn.qkv.{p}",
    "blocks.{i}.attn.proj.{p}": "blocks.{i}.attn.proj.{p}",
    "blocks.{i}.proj.{p}": "blocks.{i}.proj.{p}",
    "blocks.{i}.layer_norm2.{p}": "blocks.{i}.norm2.{p}",
    "blocks.{i}.mlp.proj_in.{p}": "blocks.{i}.mlp.fc1.{p}",
    "blocks.{i}.mlp.proj_out.{p}": "blocks.{i}.mlp.fc2.{p}",
}
_BIRDER = {  # counts stages from 1
    "pos_embed": "pos_embed",
    "pos_embed_win": "pos_embed_window",
    "stem.proj.{p}": "patch_embed.proj.{p}",
    "body.stage{s}.{l}.norm1.{p}": "blocks.{i}.norm1.{p}",
    "body.stage{s}.{l}.attn.qkv.{p}": "blocks.{i}.attn.qkv.{p}",
    "body.stage{s}.{l}.attn.proj.{p}": "blocks.{i}.attn.proj.{p}",
    "body.stage{s}.{l}.proj.{p}": "blocks.{i}.proj.{p}",
    "body.stage{s}.{l}.norm2.{p}": "blocks.{i}.norm2.{p}",
    "body.stage{s}.{l}.mlp.0.{p}": "blocks.{i}.mlp.fc1.{p}",
    "body.stage{s}.{l}.mlp.3.{p}": "blocks.{i}.mlp.fc2.{p}",
}


@dataclass(frozen=True)
class LeftOut:
    """Tensors that detection has no use for; patterns are fnmatch's, over whole keys."""

    group: str
    patterns: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Source:
    """Where a state dict comes from: it is the first of SOURCES whose `marks` it all has."""

    name: str
    marks: tuple[str, ...]
    table: Mapping[str, str]
    prefix: str = ""  # of the trunk's keys
    left_out: tuple[LeftOut, ...] = ()
    sam2: bool = False  # trained with SAM 2's windows and global blocks
    antialias: bool = False  # interpolates its background by another kernel, to 4 tokens a cell
    detector: bool = False  # a whole model of this project


_HEAD = LeftOut(
    "head",
    ("norm.*", "head.*", "classifier.*", "pooler.*", "hiera.pooler.*"),
    "classification: a norm after the mean over all tokens, and the classes",
)
_BIRDER_HEAD = LeftOut(
    "head",
    ("features.*", "classifier.*", "encoder.features.*", "encoder.classifier.*"),
    "classification: pooling of all tokens, a norm, and the classes",
)
_ENCODER_NORM = LeftOut(
    "encoder_norm",
    ("encoder_norm.*",),
    "follows the fused sum of the stages, not stage 4: no norm of a stage",
)
_FUSION = LeftOut(
    "fusion", ("multi_scale_fusion_heads.*", "multiscale_fusion.*"), "feeds the MAE decoder"
)
_DECODER = LeftOut(
    "decoder", ("decoder.*", "decoder_*", "mask_token"), "reconstructs pixels in MAE pretraining"
)
_STAGE_NORMS = LeftOut(
    "stage norms", ("hidden_states_norms.*",), "HieraBackbone's; the output norms here start anew"
)
_SAM2_NECK = LeftOut(
    "neck", ("image_encoder.neck.*", "vision_encoder.neck.*", "neck.*"), "SAM 2's FPN"
)
_SAM2_REST = LeftOut(
    "prompts and memory",
    (
        "sam_*",
        "prompt_encoder.*",
        "mask_decoder.*",
        "memory_*",
        "maskmem_*",
        "mask_downsample.*",
        "obj_ptr_*",
        "object_pointer_*",
        "no_*",
        "occlusion_*",
        "temporal_*",
        "shared_image_embedding.*",
    ),
    "SAM 2's promptable segmentation and tracking",
)
_DETECTOR_PARTS = (
    LeftOut("out norms", ("*out_norms.*",), "of the detector"),
    LeftOut("fpn", ("backbone.fpn_*", "backbone.simfp_*"), "of the detector"),
    LeftOut("rpn", ("proposal_generator.*",), "of the detector"),
    LeftOut("roi_heads", ("roi_heads.*",), "of the detector"),
    LeftOut("other parts", ("*",), "of the detector"),
)

_PATCH = "patch_embed.proj.weight"
_QKV = "blocks.0.attn.qkv.weight"
_OFFICIAL_MARKS = (_PATCH, _QKV, "pos_embed")
_PLAIN = Source("trunk", _OFFICIAL_MARKS, _OFFICIAL)
_HF = Source(
    "Hugging Face Hiera",
    ("embeddings.patch_embeddings.projection.weight", "embeddings.position_embeddings"),
    _HF_HIERA,
    left_out=(_HEAD, _STAGE_NORMS),
)
_HF_IN_HEAD = replace(_HF, marks=tuple(f"hiera.{mark}" for mark in _HF.marks), prefix="hiera.")
_HF_DET = Source(
    "Hugging Face SAM 2",
    ("patch_embed.projection.weight", "blocks.0.layer_norm1.weight"),
    _HF_SAM2,
    left_out=(_SAM2_NECK, _SAM2_REST),
    sam2=True,
)
# birder has no mark of SAM 2's windows: hieradet_* has them, hieradet_d_* has Hiera's.
_BIRDER_MARKS = ("stem.proj.weight", "body.stage1.0.attn.qkv.weight", "pos_embed")
_BIRDER_HIERA = Source(
    "birder Hiera", _BIRDER_MARKS, _BIRDER, left_out=(_BIRDER_HEAD,), antialias=True
)


def _under(source: Source, prefix: str) -> Source:
    return replace(source, marks=tuple(prefix + m for m in source.marks), prefix=prefix)


_DETECTOR = replace(_PLAIN, name="detector", left_out=_DETECTOR_PARTS, detector=True)

SOURCES: tuple[Source, ...] = (
    _under(_DETECTOR, "backbone.bottom_up.trunk."),
    _under(_DETECTOR, "backbone.net.trunk."),
    _under(_DETECTOR, "backbone.trunk."),
    _under(replace(_DETECTOR, name="backbone"), "trunk."),
    Source(
        "SAM 2",
        ("image_encoder.trunk." + _PATCH,),
        _SAM2,
        prefix="image_encoder.trunk.",
        left_out=(_SAM2_NECK, _SAM2_REST),
        sam2=True,
    ),
    _under(_HF_DET, "vision_encoder.backbone."),
    _under(_HF_DET, "backbone."),
    _HF_DET,
    replace(
        _HF_IN_HEAD,
        name="Hugging Face MAE",
        marks=(*_HF_IN_HEAD.marks, "decoder.decoder_pred.weight"),
        left_out=(_ENCODER_NORM, _FUSION, _DECODER, _HEAD),
    ),
    _HF_IN_HEAD,
    _HF,
    replace(
        _PLAIN,
        name="official MAE",
        marks=(*_OFFICIAL_MARKS, "decoder_pred.weight"),
        left_out=(_ENCODER_NORM, _FUSION, _DECODER),
    ),
    replace(  # its norm comes before the pooling
        _BIRDER_HIERA,
        name="birder HieraDet",
        marks=(*_BIRDER_MARKS, "features.0.weight"),
        antialias=False,
    ),
    _BIRDER_HIERA,
    replace(
        _under(_BIRDER_HIERA, "encoder."),
        name="birder MAE",
        left_out=(_ENCODER_NORM, _FUSION, _DECODER, _BIRDER_HEAD),
    ),
    Source("timm abswin", (_PATCH, _QKV, "pos_embed_win"), _TIMM_ABSWIN, left_out=(_HEAD,)),
    replace(  # without the head, only the user can tell it from a trunk of this project
        _PLAIN,
        name="timm SAM 2",
        marks=(*_OFFICIAL_MARKS, "pos_embed_window", "head.norm.weight"),
        left_out=(_HEAD,),
        sam2=True,
    ),
    replace(_PLAIN, name="timm", marks=(*_OFFICIAL_MARKS, "head.norm.weight"), left_out=(_HEAD,)),
    replace(
        _PLAIN,
        name="official ImageNet",
        marks=(*_OFFICIAL_MARKS, "head.projection.weight"),
        left_out=(_HEAD,),
    ),
    _PLAIN,
)

# Other networks, by a pattern that some key of theirs matches and none of a Hiera's.
FOREIGN: tuple[tuple[str, str], ...] = (
    ("a ResNet", r"(^|\.)(layer1\.0\.conv1|res2\.0\.conv1|stages\.0\.0\.conv1)\.weight$"),
    ("a Swin Transformer", r"relative_position_bias_table$"),
    ("an MViT", r"blocks\.\d+\.attn\.(pool_[qkv]|norm_q)"),
    ("a ConvNeXt", r"(stages\.\d+\.\d+\.|stages\.\d+\.blocks\.\d+\.)(dwconv|conv_dw)\."),
    ("a video Hiera (16 frames)", r"(^|\.)pos_embed_(spatial|temporal)$"),
    ("a plain vision transformer", r"(^|\.)cls_token$"),
)
