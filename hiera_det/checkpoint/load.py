"""Loading of weights into a model: all fit, or one error names the tensors and the fix.

Detectron2 matches what it can and warns about the rest; a detector then trains from random weights
with healthy losses. Here the verdict is one line, and what the file should have filled but did not
is an error.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..modeling.hiera import Hiera
from ..modeling.positions import fit_positions
from ..modeling.variants import VARIANTS, build_hiera, find_trunk, variant_names
from .convert import Converted, convert_state, listed, trunk_size
from .files import CheckpointFile, read_checkpoint

__all__ = ["load_full", "load_init_checkpoint"]

logger = logging.getLogger(__name__)


def load_init_checkpoint(
    model: nn.Module,
    path: str,
    *,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> str:
    """Starts a model from any public Hiera, or from a checkpoint of this project.

    A file with a trunk alone must fill the model's trunk, with position tables converted to the
    kind and size that it has; everything outside the trunk is new. A file with a whole detector
    must fill the model.

    Args:
        model: a detector with one Hiera in it, or a trunk.
        path: local, or http(s)://.
        allow_missing: fnmatch patterns of the model's tensors that may stay as initialised
            because the file lacks them or has them in another shape.
        allow_unexpected: fnmatch patterns of the file's tensors that may have no place. Tensors
            of a trunk go by their official names whatever the source: "blocks.21.*".

    Returns:
        The verdict, which is also logged.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read or is no Hiera; another size; SAM 2's weights for other
            windows; tensors missing, left over or of other shapes. Then nothing is loaded.
    """
    model = _unwrap(model)
    prefix, trunk = find_trunk(model)
    _check_patterns(model, allow_missing)
    file = read_checkpoint(path)
    try:
        converted = convert_state(
            file.state, variant=file.meta.get("variant"), ignore=allow_unexpected
        )
        if not converted.source.detector:
            converted = _drop_blocks(trunk, converted, allow_unexpected)
        _check_same_network(trunk, converted)
        tables, note = converted.state, ""
        if "pos_embed" in tables:
            tables, note = fit_positions(tables, trunk.pos_embed_kind, trunk.pos_embed_size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if converted.source.detector and prefix.startswith("backbone."):
        source_prefix = converted.source.prefix
        rest = {k: v for k, v in file.state.items() if not k.startswith(source_prefix)}
        state = rest | {source_prefix + k: v for k, v in tables.items()}
        loaded, allowed = _load(model, state, "", path, allow_missing, allow_unexpected)
        parts = [f"model {len(loaded)}/{len(model.state_dict())} tensors from {path}"]
    else:
        state = {prefix + k: v for k, v in tables.items()}
        loaded, allowed = _load(model, state, prefix, path, allow_missing, allow_unexpected)
        total = sum(key.startswith(prefix) for key in model.state_dict())
        origin = file.meta.get("source", converted.source.name)
        parts = [f"backbone {len(loaded)}/{total} tensors from {converted.size} ({origin})"]
        allowed = {group: len(keys) for group, (_, keys) in converted.left_out.items()} | allowed
    if note:
        parts.append(note)
    other_pixels = _other_pixels(model, file)
    if other_pixels:
        logger.warning("%s: %s", path, other_pixels)
        parts.append(f"NOTE: {other_pixels}")
    new = _new_parts(model.state_dict(), loaded)
    if new:
        parts.append(f"new: {', '.join(new)}")
    if allowed:
        parts.append("left out: " + ", ".join(f"{name} ({n})" for name, n in allowed.items()))
    verdict = "; ".join(parts)
    logger.info(verdict)
    return verdict


def load_full(model: nn.Module, file: str | CheckpointFile) -> str:
    """Loads a checkpoint of the whole model, for evaluation: every tensor, and no other.

    Args:
        model: on any device.
        file: its path, or what `read_checkpoint` returned for it.

    Returns:
        The verdict, which is also logged.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is pretraining or a backbone alone; tensors missing, left over or of
            other shapes. Then nothing is loaded.
    """
    model = _unwrap(model)
    file = file if isinstance(file, CheckpointFile) else read_checkpoint(file)
    own, path = model.state_dict(), file.path
    rest = [key for key in own if ".trunk." not in key]
    if rest and not any(key in file.state for key in rest):
        raise ValueError(
            f"{path} holds {_what(file)} and nothing of {', '.join(_groups(rest))}: there is no "
            "trained model in it to evaluate. To train from it, give it as train.init_checkpoint "
            "without --eval-only"
        )
    loaded, _ = _load(model, file.state, "", path, partial=False)
    verdict = f"model {len(loaded)}/{len(own)} tensors from {path}"
    logger.info(verdict)
    return verdict


# ------------------------------------------------------------------------------------ the model
def _unwrap(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


def _check_patterns(model: nn.Module, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(key, pattern) for key in model.state_dict()):
            raise ValueError(
                f"allow_missing: {pattern!r} matches no tensor of the model, whose parts are "
                f"{', '.join(_groups(model.state_dict()))}"
            )


def _drop_blocks(trunk: Hiera, converted: Converted, patterns: Sequence[str]) -> Converted:
    """Leaves out blocks that the trunk has not: of stages that no map is taken of, or by leave of
    `patterns`."""
    own = trunk.state_dict()
    blocks = [k for k in converted.state if k.startswith("blocks.") and k not in own]
    whole = trunk_size(converted.state) == (trunk.embed_dims[0], trunk.full_depth)
    removed = range(trunk.depth, trunk.full_depth) if whole else ()
    dropped = [k for k in blocks if _block(k) in removed or _matches(k, patterns)]
    if not dropped:
        return converted
    numbers = [_block(k) for k in dropped]
    group = f"blocks {min(numbers)} to {max(numbers)}"
    return replace(
        converted,
        state={k: v for k, v in converted.state.items() if k not in dropped},
        left_out=converted.left_out | {group: ("not in the model", dropped)},
    )


def _block(key: str) -> int:
    return int(key.split(".")[1])


def _check_same_network(trunk: Hiera, converted: Converted) -> None:
    """The file is of the trunk's size and, if of SAM 2, was trained with its attention windows."""
    own = (trunk.embed_dims[0], trunk.depth)
    if trunk_size(converted.state) != own:
        names = variant_names(trunk.embed_dims[0], trunk.full_depth)
        config = "the config of that size"
        if converted.variant:
            config = f"configs/COCO/mask_rcnn_{converted.variant}.py"
        raise ValueError(
            f"this is {converted.size}; the model's trunk has embed_dim {own[0]} and {own[1]} "
            f"blocks ({', '.join(names) or 'no named size'}). Take {config}, or weights of "
            "the model's size"
        )
    variant = converted.variant or ""
    if not variant.startswith("sam2_"):
        return
    with torch.device("meta"):
        reference = build_hiera(variant)
    windows = [b.window for b in reference.blocks][: trunk.depth]
    if [b.window for b in trunk.blocks] != windows:
        v = VARIANTS[variant]
        raise ValueError(
            f"these are weights of {variant}, trained with window_size={list(v['window_size'])} "
            f"and global_attn_blocks={list(v['global_attn_blocks'])}; the model's trunk attends "
            "in other windows, where they give other features. Use "
            f"configs/COCO/mask_rcnn_{variant}.py, or set both on the trunk"
        )


def _other_pixels(model: nn.Module, file: CheckpointFile) -> str:
    """Where the model normalises images otherwise than the file says its pretraining did, or ""."""
    differences = []
    for key in ("pixel_mean", "pixel_std"):
        own, stated = getattr(model, key, None), file.meta.get(key)
        if own is None or not isinstance(stated, str):
            continue
        was, now = stated.split(), [f"{x:g}" for x in own.flatten().tolist()]
        if was != now:  # "123.675 116.28 103.53": written so by pretraining
            differences.append(f"{key} was {' '.join(was)} in pretraining, here {' '.join(now)}")
    if not differences:
        return ""
    return f"{'; '.join(differences)}: the encoder sees other values than it learned from"


def _what(file: CheckpointFile) -> str:
    try:
        converted = convert_state(file.state, variant=file.meta.get("variant"), ignore=("*",))
    except ValueError:
        return f"other tensors ({listed(file.state, 2)})"
    return f"a backbone ({converted.size}, {file.meta.get('source', converted.source.name)})"


# ------------------------------------------------------------------------------------ loading
def _load(
    model: nn.Module,
    state: Mapping[str, Tensor],
    prefix: str,
    path: str,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    partial: bool = True,
) -> tuple[set[str], dict[str, int]]:
    """Loads `state` if it fills all of the model under `prefix`.

    Args:
        partial: an error may propose to allow what does not fit.

    Returns:
        The keys loaded, and the tensors of `state` left out by leave of `allow_*`, by part.
    """
    own = {k: v for k, v in model.state_dict().items() if k.startswith(prefix)}
    missing = [k for k in own if k not in state and not _matches(k, allow_missing)]
    unexpected = [k for k in state if k not in own]
    misshapen = [k for k in own if k in state and state[k].shape != own[k].shape]
    refused = [k for k in misshapen if not _matches(k, allow_missing)]
    left_over = [k for k in unexpected if not _matches(k, allow_unexpected)]
    if missing or refused or left_over:
        lines = [f"{path} does not fit the model, nothing was loaded."]
        if missing:
            shapes = [f"{k} {tuple(own[k].shape)}" for k in missing]
            lines.append(f"Missing from the file ({len(missing)}): {listed(shapes)}.")
        if refused:
            shapes = [f"{k} {tuple(state[k].shape)} and {tuple(own[k].shape)}" for k in refused]
            lines.append(f"Other shapes, file and model ({len(refused)}): {listed(shapes)}.")
        if left_over:
            lines.append(f"Without a place in the model ({len(left_over)}): {listed(left_over)}.")
        lines.append(_fix(missing, refused, left_over, partial))
        raise ValueError("\n  ".join(lines))
    loaded = {k: v for k, v in state.items() if k in own and k not in misshapen}
    model.load_state_dict(loaded, strict=False)
    return set(loaded), dict(Counter(_group(key) for key in [*unexpected, *misshapen]))


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _fix(
    missing: Sequence[str], misshapen: Sequence[str], left_over: Sequence[str], partial: bool
) -> str:
    options = ["take the config that the file was made for, or a file made for this one"]
    if any("predictor" in key for key in misshapen):
        options.append("give the model as many classes as the file has")
    if partial and any(".trunk." in key for key in left_over):
        options.append("take the file's trunk alone, by tools/convert_weights.py")
    if partial and (missing or misshapen):
        options.append(f'start anew: "train.allow_missing={_patterns([*missing, *misshapen])}"')
    if partial and left_over:
        options.append(f'leave out: "train.allow_unexpected={_patterns(left_over)}"')
    return "Fix: " + "; or ".join(options) + "."


def _patterns(keys: Sequence[str]) -> str:
    """A list for the command line: the keys if they are few, else their parts."""
    if len(keys) > 2:
        depth = {"backbone": 2}  # backbone.bottom_up.*, roi_heads.*
        names = [key.split(".") for key in keys]
        keys = sorted({".".join([*n[: depth.get(n[0], 1)], "*"]) for n in names})
    return "[" + ",".join(f"'{key}'" for key in keys) + "]"


def _group(key: str) -> str:
    """The part of a detector that a tensor belongs to, as users name it."""
    names = {
        "proposal_generator": "rpn",
        "backbone.fpn_": "fpn",
        "backbone.simfp_": "fpn",
        "backbone.bottom_up.out_norms": "out norms",
        "backbone.net.out_norms": "out norms",
        "out_norms": "out norms",
    }
    return next((v for k, v in names.items() if key.startswith(k)), key.split(".")[0])


def _groups(keys: Iterable[str]) -> list[str]:
    order = ["backbone", "fpn", "rpn", "roi_heads", "out norms"]
    found = {_group(key) for key in keys}
    return sorted(found, key=lambda g: (order.index(g) if g in order else len(order), g))


def _new_parts(own: Mapping[str, Tensor], loaded: set[str]) -> list[str]:
    """The parts of the model with tensors that were not loaded; "6/24" if some of them were."""
    total = Counter(_group(key) for key in own)
    new = Counter(_group(key) for key in own if key not in loaded)
    parts = [group for group in _groups(own) if group in new]
    return [g if new[g] == total[g] else f"{g} {new[g]}/{total[g]}" for g in parts]
