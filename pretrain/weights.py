"""Loading of weights into the autoencoder, and the facts that its own checkpoints hold."""

import logging
from collections.abc import Mapping

from torch import Tensor

from hiera_det.checkpoint import convert_state, read_checkpoint
from hiera_det.modeling.positions import fit_positions
from hiera_det.modeling.variants import variant_names

from .mae import MaskedAutoencoderHiera

__all__ = ["has_decoder", "load_mae_checkpoint", "run_facts"]

logger = logging.getLogger(__name__)

ENCODER = ("pos_embed", "patch_embed.", "blocks.")


def has_decoder(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has a decoder of this autoencoder, which is the official one.

    birder's is another: it starts at stride 32 and orders the pixels of its patches otherwise.
    """
    return "decoder_pred.weight" in state and "encoder.stem.proj.weight" not in state


def load_mae_checkpoint(model: MaskedAutoencoderHiera, path: str) -> str:
    """Starts pretraining from an autoencoder, official or of this project, or from any Hiera.

    The encoder must be whole; position tables are converted to the model's kind and size. The
    decoder is taken if the file has one, which must then fit too; else it is new.

    Args:
        model: the autoencoder.
        path: as `read_checkpoint`'s.

    Returns:
        The verdict, which is also logged.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no Hiera, one of another size, or with another decoder. Nothing is loaded then.
    """
    file = read_checkpoint(path)
    own = model.state_dict()
    try:
        converted = convert_state(file.state, variant=file.meta.get("variant"))
        state, note = fit_positions(converted.state, model.pos_embed_kind, model.pos_embed_size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    whole = has_decoder(file.state)
    if whole:
        state |= {k: v for k, v in file.state.items() if k in own and not k.startswith(ENCODER)}
        needed = set(own)
    else:
        needed = {key for key in own if key.startswith(ENCODER)}
    wrong = sorted(needed ^ set(state)) + sorted(
        f"{key} {tuple(value.shape)}, here {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    )
    if wrong:
        raise ValueError(
            f"{path} ({converted.size}, {converted.source.name}) does not fit the model: "
            f"{', '.join(wrong[:4])}{', …' if len(wrong) > 4 else ''}. Take the config of that "
            "size, target and decoder, or the encoder alone (`hiera-det convert`)"
        )
    model.load_state_dict(state, strict=False)
    parts = [f"{len(state)}/{len(own)} tensors from {converted.size} ({converted.source.name})"]
    parts += [note] if note else []
    parts += [] if whole else ["decoder and fusion are new"]
    verdict = f"autoencoder {'; '.join(parts)}"
    logger.info(verdict)
    return verdict


def run_facts(model: MaskedAutoencoderHiera) -> dict[str, str | int | float]:
    """What a checkpoint says about itself, in numbers and strings."""
    names = variant_names(model.embed_dims[0], model.full_depth)
    return {
        "source": "MAE pretraining",
        **({"variant": names[0]} if names else {}),
        "pos_embed": model.pos_embed_kind,
        "input_size": "x".join(map(str, model.input_size)),
        "mask_ratio": model.mask_ratio,
        "target": model.target,
        "pixel_mean": " ".join(f"{x:g}" for x in model.pixel_mean.flatten().tolist()),
        "pixel_std": " ".join(f"{x:g}" for x in model.pixel_std.flatten().tolist()),
    }
