import pytest

from hiera_det.config import load_config
from hiera_det.data.shapes import make_shapes


@pytest.fixture(scope="session")
def load(tmp_path_factory):
    """`load_config`, which for configs/custom names the files that it asks for."""
    folder = make_shapes(
        tmp_path_factory.mktemp("custom"), num_train=8, num_val=4, image_size=96, seed=1
    )
    files = [
        f"dataloader.{split}_{key}={folder / path}"
        for split in ("train", "val")
        for key, path in (("json", f"annotations/instances_{split}.json"), ("images", split))
    ]

    def load(name: str, *overrides: str):
        device = ["train.device=cpu"] if "auto" in name else []  # its recipe depends on it
        return load_config(name, [*(files if "custom" in name else ()), *device, *overrides])

    return load
