"""Variants: the one table, its lookups, and what a variant brings into a detector."""

import pytest
import torch
from torch import nn

from hiera_det.modeling.classifier import build_classifier
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.variants import (
    DETECTION,
    VARIANTS,
    build_detection_hiera,
    build_hiera,
    find_trunk,
    variant_names,
)

BUILDERS = [build_hiera, build_classifier, build_detection_hiera]
# The COCO leaves of 0.2.0: global blocks and drop path.
LEAVES = {
    "hiera_t": ((5, 7, 9), 0.1),
    "hiera_s": ((7, 10, 13), 0.1),
    "hiera_b": ((12, 16, 20), 0.2),
    "hiera_bplus": ((12, 16, 20), 0.2),
    "hiera_l": ((23, 33, 43), 0.4),
    "hiera_h": ((23, 33, 43), 0.5),
    "sam2_hiera_t": ((5, 7, 9), 0.1),
    "sam2_hiera_s": ((7, 10, 13), 0.1),
    "sam2_hiera_bplus": ((12, 16, 20), 0.2),
    "sam2_hiera_l": ((23, 33, 43), 0.3),
}


def facts(trunk: Hiera) -> tuple:
    """All that tells the networks of two variants apart."""
    return (
        trunk.embed_dims,
        [block.window for block in trunk.blocks],
        [block.drop_path.drop_prob for block in trunk.blocks],
        (trunk.pos_embed_kind, trunk.pos_embed_size),
    )


def meta(build, *args, **kwargs) -> Hiera:
    with torch.device("meta"):
        return build(*args, **kwargs)


# ------------------------------------------------------------------------------------- lookups
@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("name", ["hiera_x", None])
def test_an_unknown_name_lists_the_known(build, name):
    with pytest.raises(ValueError, match=f"variant={name!r} is none of hiera_t.*sam2_hiera_l"):
        build(name)


def test_pretraining_knows_the_same_names():
    from pretrain.mae import build_mae

    with pytest.raises(ValueError, match="variant='x' is none of hiera_t.*sam2_hiera_l"):
        build_mae("x")


def test_names_of_a_size():
    assert variant_names(96, 12) == ["hiera_t", "sam2_hiera_t"]
    assert variant_names(256, 48) == ["hiera_h"]
    assert variant_names(96, 13) == []
    sizes = {(row["embed_dim"], sum(row["stages"])) for row in VARIANTS.values()}
    assert sorted(n for size in sizes for n in variant_names(*size)) == sorted(VARIANTS)


def test_the_trunk_of_a_model():
    trunk = Hiera(embed_dim=8, stages=(1, 1, 1, 1))
    assert find_trunk(trunk) == ("", trunk)
    assert find_trunk(nn.ModuleDict(dict(a=nn.ModuleList([trunk])))) == ("a.0.", trunk)
    with pytest.raises(ValueError, match=r"has 0 Hiera trunks, not one: \[\]"):
        find_trunk(nn.Linear(1, 1))


# ---------------------------------------------------------------------------------- in detectors
def test_every_variant_has_a_row_for_detection():
    assert set(DETECTION) == set(VARIANTS) == set(LEAVES)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_variant_brings(variant):
    """Windows, global blocks, background and drop path, of the leaves as they were."""
    blocks, rate = LEAVES[variant]
    sam2 = variant.startswith("sam2")
    expected = dict(
        window_size=(8, 4, 14, 7) if sam2 and variant != "sam2_hiera_l" else (8, 4, 16, 8),
        global_attn_blocks=blocks,
        pos_embed="absolute_win",
        pos_embed_size=(14, 14) if variant == "sam2_hiera_bplus" else (7, 7),
        drop_path_rate=rate,
    )
    got = facts(meta(build_detection_hiera, variant))
    assert got == facts(meta(build_hiera, variant, **expected))


def test_what_is_given_overrides_the_variant():
    given = dict(
        window_size=[8, 4, 0, 0],
        global_attn_blocks=[],
        pos_embed="absolute_win",
        pos_embed_size=[9, 9],
        drop_path_rate=0.0,
        stages=(1, 1, 2, 1),
        embed_dim=16,
    )
    expected = facts(meta(build_hiera, "hiera_b", **given))
    assert facts(meta(build_detection_hiera, "hiera_b", **given)) == expected


@pytest.mark.parametrize("variant", ["hiera_b", "sam2_hiera_bplus"])
def test_an_absolute_table_is_not_of_the_size_of_a_background(variant):
    trunk = meta(build_detection_hiera, variant, pos_embed="absolute")
    assert trunk.pos_embed_size == (56, 56)
    trunk = meta(build_detection_hiera, variant, pos_embed="absolute", pos_embed_size=(8, 8))
    assert trunk.pos_embed_size == (8, 8)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variant_alone_makes_one_config_of_another(variant):
    from detectron2.config import instantiate

    from hiera_det.config import load_config

    key = "model.backbone.bottom_up.trunk"
    changed = load_config("COCO/mask_rcnn_hiera_b", [f"{key}.variant={variant}"])
    leaf = load_config(f"COCO/mask_rcnn_{variant}")
    trunks = [meta(instantiate, cfg.model.backbone.bottom_up.trunk) for cfg in (changed, leaf)]
    assert facts(trunks[0]) == facts(trunks[1]) == facts(meta(build_detection_hiera, variant))
    with pytest.raises(ValueError, match="variant=null must be one of"):
        empty = load_config("COCO/mask_rcnn_hiera_b", [f"{key}.variant=null"])
        instantiate(empty.model.backbone.bottom_up.trunk)
