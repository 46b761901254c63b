"""Says which Detectron2 answers, and where the real COCO images for tests are."""

from pathlib import Path

import pytest

COCO_TINY = Path(__file__).resolve().parents[2] / "shared/coco_tiny"
NUCLEI = Path(__file__).resolve().parents[2] / "shared/nuclei"


def pytest_report_header() -> str:
    import detectron2

    return f"detectron2 {detectron2.__version__} from {Path(detectron2.__file__).parent}"


@pytest.fixture(scope="session")
def coco_tiny() -> Path:
    """160 real COCO images in Detectron2's layout; not part of the repository."""
    if not COCO_TINY.is_dir():
        pytest.skip(f"no {COCO_TINY}")
    return COCO_TINY


@pytest.fixture(scope="session")
def nuclei() -> Path:
    """334 microscopy images with RLE masks; not part of the repository."""
    if not NUCLEI.is_dir():
        pytest.skip(f"no {NUCLEI}")
    return NUCLEI
