"""Random state of the process."""

import logging
import os
import random

import numpy as np
import torch

__all__ = ["seed_all_rng"]


def seed_all_rng(seed: int | None = None) -> None:
    """Seed ``random``, numpy and torch (every device) alike.

    Args:
        seed: below 2**32, numpy's bound. None draws one from the operating system and logs it.
    """
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big")
        logging.getLogger(__name__).info("Random seed, drawn: %d", seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    random.seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)  # read by the processes started from here
