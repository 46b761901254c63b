"""`hiera-det predict` on folders: the JSON of evaluation, and files as people have them."""

import csv
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from torch.testing import assert_close

from hiera_det.cli import main
from hiera_det.data.images import read_image
from hiera_det.data.shapes_draw import CLASS_NAMES
from hiera_det.predict import Predictor, find_inputs, predict_files
from hiera_det.predict.inputs import InputFile


def predict(run: Path, *args: object, weights: str = "model_final.pth") -> int:
    return main(["predict", "--weights", str(run / weights), *map(str, args)])


def results(folder: Path) -> list[dict]:
    return json.loads((folder / "coco_instances_results.json").read_text())


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "counts.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def odd(images, tmp_path) -> Path:
    """Images with odd names, of odd kinds, in sub-folders, and files that are none."""
    root = tmp_path / "my images"
    (root / "süb dir").mkdir(parents=True)
    first, wide, tall = (cv2.imread(str(path)) for path in sorted(images.iterdir()))
    cv2.imwrite(str(root / "a b.png"), first)
    shutil.copy(sorted(images.iterdir())[1], root / "süb dir" / "größe [1] 漢字.JPG")
    deep = tall[:, :, 1].astype(np.uint16) * 200
    cv2.imwrite(str(root / "süb dir" / "deep.tif"), deep)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(wide[:, :, ::-1]).save(root / "turned.png", exif=exif)
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.jpg").write_bytes(b"")
    return root


# ------------------------------------------------------------------------------------ evaluation
@pytest.fixture(scope="module")
def evaluated(run, forked, mixed_shapes, tmp_path_factory) -> Path:
    """coco_instances_results.json of `hiera-det eval` on the same weights."""
    root = tmp_path_factory.mktemp("eval")
    argv = ["eval", "--config-file", str(run / "config.yaml"), "--weights"]
    argv += [str(run / "model_final.pth"), f"train.output_dir={root}"]
    assert forked(argv, mixed_shapes, root / "log") == 0, (root / "log").read_text()[-3000:]
    return next(root.rglob("coco_instances_results.json"))


def test_json_is_that_of_evaluation_to_the_byte(run, images, annotations, evaluated, tmp_path):
    out = tmp_path / "out"
    args = ("--input", images, "--output", out, "--json", annotations)
    assert predict(run, *args, "--batch-size", 1, "--num-workers", 3) == 0
    assert len(results(out)) > 20
    assert (out / evaluated.name).read_bytes() == evaluated.read_bytes()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_gives_the_numbers_of_evaluation(
    run, images, annotations, evaluated, tmp_path, workers
):
    out = tmp_path / "out"
    args = ("--input", images, "--output", out, "--json", annotations)
    assert predict(run, *args, "--batch-size", 8, "--num-workers", workers) == 0
    assert_equal(results(out), json.loads(evaluated.read_text()))


def assert_equal(found: list[dict], expected: list[dict]) -> None:
    """Equal to 1e-4."""
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        for key in ("image_id", "category_id", "segmentation"):
            assert one[key] == two[key]
        assert_close(one["bbox"], two["bbox"], rtol=0, atol=1e-4)
        assert_close(one["score"], two["score"], rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------------ files
def test_odd_files_are_found_read_and_named(run, odd, tmp_path, capsys):
    out = tmp_path / "out put"
    assert predict(run, "--input", odd, "--output", out, "--score", 0) == 0
    assert "skipped, no images: " in (text := capsys.readouterr().out) and "notes.txt" in text
    names = ["a b.png", "süb dir/deep.tif", "süb dir/größe [1] 漢字.JPG", "turned.png"]
    assert [row["file"] for row in table(out)] == names
    overlays = [p.relative_to(out / "overlays").as_posix() for p in out.rglob("overlays/**/*.*")]
    assert sorted(overlays) == [name.replace(".tif", ".tif.png") for name in names]
    content = json.loads((out / "images.json").read_text())
    assert [image["file_name"] for image in content["images"]] == names
    for image in content["images"]:
        size = (image["height"], image["width"])
        assert size == read_image(odd / image["file_name"]).shape[:2]
        suffix = ".png" if image["file_name"].endswith(".tif") else ""
        assert size == read_image(out / "overlays" / (image["file_name"] + suffix)).shape[:2]
    assert {r["image_id"] for r in results(out)} == {1, 2, 3, 4}


def test_tables_count_what_is_shown_and_the_json_has_all(run, images, tmp_path):
    out = tmp_path / "out"
    score = sorted(r["score"] for r in find(run, images, tmp_path / "all"))[-15]
    args = ("--input", images, "--output", out, "--score", score)
    assert predict(run, *args, "--classes", "disc,star") == 0
    found = results(out)
    assert found == find(run, images, tmp_path / "again")
    shown = [r for r in found if r["score"] >= score and r["category_id"] in (1, 4)]
    assert 0 < len(shown) < len(found)
    for k, row in enumerate(table(out), 1):
        mine = [r for r in shown if r["image_id"] == k]
        assert int(row["disc"]) == sum(r["category_id"] == 1 for r in mine)
        assert int(row["star"]) == sum(r["category_id"] == 4 for r in mine)
        assert int(row["total"]) == len(mine) and row["square"] == "0"
        areas = [area(r) for r in mine]
        assert int(row["total_area_px"]) == sum(areas)
        mean = float(row["mean_area_px"]) if mine else 0.0
        assert mean == pytest.approx(np.mean(areas) if mine else 0.0, abs=0.06)


def find(run: Path, images: Path, out: Path) -> list[dict]:
    assert predict(run, "--input", images, "--output", out) == 0
    return results(out)


def area(record: dict) -> int:
    import pycocotools.mask as mask_util

    return int(mask_util.area(record["segmentation"]))


def test_nothing_shown_leaves_the_image_as_it_is(run, images, tmp_path):
    source = tmp_path / "in" / "a.png"
    source.parent.mkdir()
    Image.open(sorted(images.iterdir())[0]).save(source)
    for score, same in ((1, True), (0, False)):
        out = tmp_path / f"out{score}"
        assert predict(run, "--input", source, "--output", out, "--score", score) == 0
        drawn = read_image(out / "overlays" / "a.png")
        assert np.array_equal(drawn, read_image(source)) == same


def test_broken_images_are_named_skipped_and_change_the_exit_status(run, odd, tmp_path, capsys):
    (odd / "cut.jpg").write_bytes((odd / "süb dir" / "größe [1] 漢字.JPG").read_bytes()[:300])
    (odd / "empty.png").write_bytes(b"")
    out = tmp_path / "out"
    assert predict(run, "--input", odd, "--output", out, "--batch-size", 4) == 1
    assert "could not be read, 2 files: cut.jpg, empty.png" in capsys.readouterr().out
    assert len(table(out)) == 4
    ids = [image["id"] for image in json.loads((out / "images.json").read_text())["images"]]
    assert ids == [1, 4, 5, 6]  # their places among the files, the broken ones too


def test_all_broken_writes_empty_tables(run, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    out = tmp_path / "out"
    assert predict(run, "--input", tmp_path, "--output", out) == 1
    assert results(out) == [] and table(out) == []


def test_mistakes_are_one_line_and_write_nothing(run, images, annotations, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("")
    out = tmp_path / "out"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.doc").write_text("years")
    other = tmp_path / "other.png"
    shutil.copy(sorted(images.iterdir())[0], other)
    for args, text in (
        (("--input", tmp_path / "empty"), "no image or video in"),
        (("--input", tmp_path / "texts"), "(1 files of other kinds)"),
        (("--input", tmp_path / "imagse"), "imagse: no such file or folder"),
        (("--input", tmp_path / "empty" / "*.png"), "no file matches"),
        (("--input", images, "--classes", "disk"), "no class is called 'disk'; did you mean disc?"),
        (("--input", images, "--score", "2"), "must be a number from 0 to 1"),
        (("--input", images, "--tile", "64", "--tta"), "--tile and --tta"),
        (("--input", other, "--json", annotations), "has no image called other.png"),
        (("--input", images, "--weights", tmp_path / "no.pth"), "no.pth does not exist"),
        (("--input", images, "--output", mine), "mine holds files, which are kept"),
        (("--input", images, "--output", other), "other.png holds files, which are kept"),
    ):
        argv = ["predict", "--weights", run / "model_final.pth", "--output", out, *args]
        try:
            status = main([str(word) for word in argv])
        except SystemExit as stop:
            status = stop.code
        error = capsys.readouterr().err
        assert status == 2 and text in error and error.count("\n") == 1, (args, error)
        assert not out.exists()
    assert [p.name for p in mine.iterdir()] == ["thesis.doc"]


# ------------------------------------------------------------------------------------ inputs
def test_inputs_are_files_folders_and_patterns_each_file_once(odd, tmp_path):
    def names(*given: object) -> list[str]:
        return [name for _, name in find_inputs([str(item) for item in given]).images]

    assert names(odd / "a b.png") == ["a b.png"]
    assert names(odd / "a b.png", odd / "*.png") == ["a b.png", "turned.png"]
    assert names(odd / "**" / "*.tif") == ["süb dir/deep.tif"]
    assert names(odd / "süb dir" / "größe [1] 漢字.JPG") == ["größe [1] 漢字.JPG"]
    assert names(odd / "notes.txt") == ["notes.txt"]  # which is tried, and named if it cannot be
    os.symlink(odd, odd / "süb dir" / "loop")
    assert len(names(odd)) == 4
    (odd / "clip.MP4").write_bytes(b"")
    found = find_inputs([odd])
    assert [name for _, name in found.videos] == ["clip.MP4"]
    assert [path.name for path in found.skipped] == ["notes.txt"]


def test_files_of_one_name_are_told_apart(run, images, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        shutil.copy(sorted(images.iterdir())[0], tmp_path / folder / "a.jpg")
    out = tmp_path / "out"
    assert predict(run, "--input", tmp_path / "one", tmp_path / "two", "--output", out) == 0
    assert [row["file"] for row in table(out)] == ["a.jpg", "two/a.jpg"]
    assert (out / "overlays" / "two" / "a.jpg").is_file()


def test_the_contact_sheet_has_the_first_overlays(run, images, tmp_path):
    files = [InputFile(path, f"{k}/{path.name}") for k in range(4) for path in images.iterdir()]
    predictor = Predictor.from_run(run)
    out = predict_files(predictor, files, tmp_path / "out", max_thumbnails=7).output
    sheet = read_image(out / "contact_sheet.png")
    assert sheet.shape[1] == 6 * 248 + 8 and 500 < sheet.shape[0] < 560
    assert not (sheet[-200:, :248] == 255).all() and (sheet[-200:, 256:] == 255).all()


def test_class_names_are_the_columns(run, images, tmp_path):
    find(run, images, tmp_path / "out")
    columns = ["file", *CLASS_NAMES, "total", "mean_area_px", "total_area_px"]
    assert list(table(tmp_path / "out")[0]) == columns


# ------------------------------------------------------------------------------------ real images
@pytest.mark.slow
def test_ten_real_images_as_in_evaluation(run, forked, coco_tiny, tmp_path):
    """Photographs of many sizes and aspect ratios, with the ids of their file."""
    content = json.loads((coco_tiny / "annotations/instances_val2017.json").read_text())
    images, classes = content["images"][:10], content["categories"][:6]
    assert [c["id"] for c in classes] == [1, 2, 3, 4, 5, 6]  # as many as the model has
    ids, folder = {image["id"] for image in images}, tmp_path / "images"
    folder.mkdir()
    for image in images:
        os.symlink(coco_tiny / "val2017" / image["file_name"], folder / image["file_name"])
    kept = [a for a in content["annotations"] if a["image_id"] in ids and a["category_id"] <= 6]
    annotations = tmp_path / "val.json"
    annotations.write_text(
        json.dumps({"images": images, "annotations": kept, "categories": classes})
    )
    weights = str(run / "model_final.pth")
    argv = ["eval", "--config-file", str(run / "config.yaml"), "--weights", weights]
    argv.append(f"dataloader.test.dataset.names=${{register_coco_json:{annotations},{folder}}}")
    argv.append(f"train.output_dir={tmp_path / 'eval'}")
    assert forked(argv, tmp_path, tmp_path / "log") == 0, (tmp_path / "log").read_text()[-3000:]
    expected = next((tmp_path / "eval").rglob("coco_instances_results.json"))
    args = ("--input", folder, "--json", annotations)
    assert predict(run, *args, "--output", tmp_path / "one", "--batch-size", 1) == 0
    assert (tmp_path / "one" / expected.name).read_bytes() == expected.read_bytes()
    assert predict(run, *args, "--output", tmp_path / "eight", "--batch-size", 8) == 0
    assert_equal(results(tmp_path / "eight"), json.loads(expected.read_text()))
