"""Commands and snippets of docs, README and notebook, run one after the other as they stand."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from hiera_det.data.coco_json import read_coco_json

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SHORT = ["train.max_iter=2", "dataloader.image_size=64", "train.device=cpu", "train.num_pictures=0"]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(page: str) -> list[list[str]]:
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("hiera-det ")]


def run_all(page: str, forked, root: Path, log: Path) -> None:
    for words in commands(page):
        short = SHORT if words[0] == "train" else []
        status = forked([*words, *short], root, log)
        assert status == 0, f"{words}: {log.read_text()[-3000:]}"


def write_masks(root: Path, folder: Path) -> None:
    """The generated shapes as images/NAME.png and masks/NAME/*.png, one an instance."""
    content = read_coco_json(str(root / "shapes/annotations/instances_train.json"))
    names = {image["id"]: image["file_name"] for image in content["images"]}
    (folder / "images").mkdir(parents=True)
    for name in names.values():
        shutil.copy(root / "shapes/train" / name, folder / "images")
        (folder / "masks" / Path(name).stem).mkdir(parents=True)
    for annotation in content["annotations"]:
        if isinstance(annotation["segmentation"], dict):
            continue  # a crowd
        name = names[annotation["image_id"]]
        height, width = np.asarray(Image.open(folder / "images" / name)).shape[:2]
        rle = mask_util.merge(mask_util.frPyObjects(annotation["segmentation"], height, width))
        mask = Image.fromarray(255 * mask_util.decode(rle))
        mask.save(folder / "masks" / Path(name).stem / f"{annotation['id']}.png")


def test_own_data(forked, mixed_shapes, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_masks(mixed_shapes, tmp_path / "nuclei")
    shutil.copytree(images, "photos")
    assert [words[0] for words in commands("docs/own_data.md")][:3] == [
        "convert-data",
        "check-data",
        "train",
    ]
    run_all("docs/own_data.md", forked, mixed_shapes, tmp_path / "log")
    assert (tmp_path / "output/auto/report.html").is_file()
    assert len((tmp_path / "found/counts.csv").read_text().splitlines()) == 1 + 3


def test_predict(forked, mixed_shapes, run, images, tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images, "images")
    shutil.copytree(run, "output/mine")
    shutil.copy(run / "model_final.pth", "model_final.pth")
    first = sorted(Path("images").iterdir())[0]
    first.rename("images/first.png")
    with av.open("clip.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(4):
            frame = av.VideoFrame.from_image(Image.open("images/first.png"))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    run_all("docs/predict.md", forked, mixed_shapes, tmp_path / "log")
    for name in ("found/coco_instances_results.json", "tracked/clip.mp4", "model.pt2"):
        assert (tmp_path / name).stat().st_size > 100
    for code in blocks("docs/predict.md", "python"):
        exec(compile(code, "docs/predict.md", "exec"), {})


def test_readme_and_notebook(forked, mixed_shapes, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("datasets").symlink_to(mixed_shapes)
    for name in ("mask_rcnn_hiera_shapes", "notebook"):
        shutil.copytree(run, f"output/{name}")
    for code in blocks("README.md", "python"):
        exec(compile(code, "README.md", "exec"), {})
    names: dict = {"display": lambda image: image.size}  # as Jupyter has it
    for cell in json.loads((ROOT / "examples/predict.ipynb").read_text())["cells"]:
        code = "".join(cell["source"])
        if cell["cell_type"] != "code" or "IPython" in code:
            continue
        if code.startswith("!hiera-det train"):  # the run is there
            continue
        if code.startswith("!"):
            status = forked(shlex.split(code)[1:], mixed_shapes, tmp_path / "log")
            assert status == 0, (tmp_path / "log").read_text()[-3000:]
            continue
        exec(compile(code, "predict.ipynb", "exec"), names)
    assert len(names["found"]) == 3 and Path("output/found/counts.csv").is_file()
