"""report.html: its numbers, what is escaped, what may be missing, and what it does in a browser."""

import copy
import html.parser
import json
import logging
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image

import hiera_det.report.page.build as build
import hiera_det.report.page.gallery as gallery
from hiera_det.cli import main
from hiera_det.config import load_config, save_config
from hiera_det.data.cocoeval import hotcoco_dataset
from hiera_det.report.page import write_report, write_report_of_run
from hiera_det.report.page.charts import line_chart
from hiera_det.report.page.detections import IGNORED, NOTHING, match, read_detections, read_truth
from hiera_det.report.page.markup import data_element, element
from hiera_det.report.page.run_folder import Run
from hiera_det.report.page.scores import best_threshold, confusion, score

NAMES = ["<script>alert(1)</script>", 'a & "b"', "é\u2028<!--"]
FILES = ["plain.png", 'it\'s "quoted" &.png', "</script>.png", "ünï côdé/40 %?#x.png"]
SIZE = (64, 48)  # width, height


def box(x: int, y: int, width: int = 16, height: int = 12) -> dict:
    """Box and mask of a rectangle."""
    return {
        "bbox": [x, y, width, height],
        "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
        "area": width * height,
        "iscrowd": 0,
    }


def detection(image: int, category: int, score: float, x: int, y: int, *size: int) -> dict:
    import pycocotools.mask as mask_util

    shape = box(x, y, *size)
    (rle,) = mask_util.frPyObjects(shape["segmentation"], SIZE[1], SIZE[0])
    return {
        "image_id": image,
        "category_id": category,
        "score": score,
        "bbox": [float(v) for v in shape["bbox"]],
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
    }


@pytest.fixture(scope="module")
def content() -> dict:
    """4 images; ids are neither from 0 nor in order. The second image is empty."""
    objects = [(30, 7, box(2, 2)), (30, 7, box(30, 20)), (30, 5, box(2, 30)), (10, 9, box(4, 4))]
    objects += [(20, 7, box(0, 0, 40, 40) | {"iscrowd": 1}), (20, 5, box(44, 4))]
    return {
        "images": [
            {"id": k, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
            for k, name in zip((30, 40, 20, 10), FILES, strict=True)
        ],
        "categories": [{"id": k, "name": n} for k, n in zip((5, 7, 9), NAMES, strict=True)],
        "annotations": [
            {"id": k, "image_id": image, "category_id": category, **shape}
            for k, (image, category, shape) in enumerate(objects, 1)
        ],
    }


@pytest.fixture(scope="module")
def results() -> list[dict]:
    """On the first image one object found (twice), one called by another class, one missed; on the
    third a detection on the crowd; a detection on nothing."""
    return [
        detection(30, 7, 0.95, 2, 2),
        detection(30, 7, 0.60, 3, 2),
        detection(30, 5, 0.90, 30, 21),
        detection(20, 7, 0.85, 4, 4),
        detection(20, 5, 0.70, 44, 4),
        detection(10, 9, 0.30, 40, 30),
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, content, results) -> Path:
    """A finished run: config, curves, log, detections, and a file with an odd name."""
    root = tmp_path_factory.mktemp("page")
    images = root / "images"
    for k, name in enumerate(FILES):
        path = images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    json_file = root / "data.json"
    json_file.write_text(json.dumps(content))
    folder = root / "a <run> & more"
    (folder / "inference").mkdir(parents=True)
    data = [f"dataloader.{split}_json={json_file}" for split in ("train", "val")]
    data += [f"dataloader.{split}_images={images}" for split in ("train", "val")]
    save_config(load_config("custom/coco_json.py", data), folder / "config.yaml")
    (folder / "inference/coco_instances_results.json").write_text(json.dumps(results))
    lines = [
        {"iteration": k, "total_loss": 2.0 / (k + 1), "loss_cls": 1.0 / (k + 1), "lr": 1e-4}
        for k in range(0, 100, 20)
    ]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    (folder / "log.txt").write_text(
        "[11/25 10:00:00] detectron2 INFO: Environment info:\n"
        "------------  ----------\n"
        "Python        3.11 <b>\n"
        "CUDA of torch  13.0\n"
        "------------  ----------\n"
        "[11/25 10:00:01] detectron2 INFO: Command line arguments: Namespace(config_file="
        "'custom/coco_json.py', resume=False, eval_only=False, opts=['train.epochs=3', "
        "'optimizer.lr=1e-4'], dry_run=False)\n"
        "[11/25 10:09:00] d2.engine.hooks INFO: Total training time: 0:08:00 (0:00:11 on hooks)\n"
    )
    for name in ("<img src=x onerror=alert(2)>'\".txt", "javascript:alert(3)", "a%41 ?b#c.txt"):
        (folder / name).write_text("x")
    write_report(folder)
    return folder


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A copy without the page, to take things from."""
    copied = tmp_path / "run"
    shutil.copytree(whole, copied)
    (copied / "report.html").unlink()
    return copied


class Page(html.parser.HTMLParser):
    """Elements, links and visible text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.scripts: list[dict] = []
        self.addresses: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._hidden = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        if tag == "script":
            self.scripts.append(values)
        self.handlers += [name for name in values if name.startswith("on")]
        self.addresses += [values[k] for k in ("src", "srcset", "poster", "action") if k in values]
        if tag == "a":
            self.links.append(values["href"])
        elif "href" in values:
            self.addresses.append(values["href"])
        self._hidden = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self._hidden = ""

    def handle_data(self, data):
        if not self._hidden:
            self.text += data + " "


# ------------------------------------------------------------------------------ what it holds
def test_page_of_a_finished_run(whole):
    page = Page(whole / "report.html")
    for part in (
        "a <run> & more",
        "hiera-det train --config-file custom/coco_json.py train.epochs=3 optimizer.lr=1e-4",
        "11/25 10:00:00 to 11/25 10:09:00",
        "0:08:00 of training",
        "81 of",
        "CUDA of torch",
        "3.11 <b>",
        "mask AP by class",
        "box AP by class",
        "4 of 4 validation images",
        "most frequent",
        f"{NAMES[1]} → {NAMES[0]}",
        "objects by class",
        *NAMES,
        *FILES,
    ):
        assert part in page.text, part
    ids = re.findall(r'<section id="(\w+)"', page.source)
    assert ids == ["run", "curves", "gallery", "ap", "pr", "lost", "confusion", "data", "files"]
    assert "cannot be" not in page.text and "not there" not in page.text


def test_nothing_leaves_the_page(whole):
    page = Page(whole / "report.html")
    assert all(address.startswith("data:") for address in page.addresses)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", page.source)
    assert "default-src 'none'" in page.source


def test_texts_are_escaped(whole):
    page = Page(whole / "report.html")
    assert len(page.scripts) == 3  # two of data, and the page's
    assert [s.get("type") for s in page.scripts] == ["application/json"] * 2 + [None]
    assert page.handlers == [] and "img" not in page.tags
    assert (
        "\u2028" not in re.findall(r'<script type="application/json".*?</script>', page.source)[0]
    )
    data = json.loads(re.search(r'id="gallery-data">(.*?)</script>', page.source)[1])
    assert data["names"] == NAMES
    assert {card["name"] for card in data["cards"]} == set(FILES)


def test_every_file_is_linked(whole, run, tmp_path):
    elsewhere = tmp_path / "other" / "shapes.html"
    write_report(run, elsewhere)
    for file, folder in ((whole / "report.html", whole), (elsewhere, run)):
        links = [link for link in Page(file).links if not link.startswith("#")]
        assert not any(re.match(r"\w+:|/", link) for link in links)
        linked = {(file.parent / unquote(urlsplit(link).path)).resolve() for link in links}
        there = {p.resolve() for p in folder.rglob("*") if p.is_file()} - {file.resolve()}
        assert linked == there


def test_data_cannot_end_its_script():
    text = data_element("x", ["</script><!-- & \u2028", {"<": 1}])
    inside = text.removeprefix('<script type="application/json" id="x">').removesuffix("</script>")
    assert not set("<>&\u2028") & set(inside)
    assert json.loads(inside) == ["</script><!-- & \u2028", {"<": 1}]


def test_elements_escape_children_and_values():
    made = element("p", "<b>", element("i", "&"), title='"x"', class_="k", hidden=True, lang=None)
    assert made == '<p title="&quot;x&quot;" class="k" hidden>&lt;b&gt;<i>&amp;</i></p>'


def test_chart_of_values_that_cannot_be_drawn():
    svg = line_chart("t", {"a": ([0, 1], [float("nan"), 2.0]), "b": ([], [])}, is_log=True)
    assert svg.count('class="curve') == 2 and "nan" not in svg


# ------------------------------------------------------------------------------ its numbers
@pytest.fixture
def parts(whole):
    truth = read_truth(Run.read(whole).cfg)
    found, lost = read_detections(whole / "inference/coco_instances_results.json", truth)
    assert lost == 0
    return truth, found


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_what_found_what(parts, task):
    truth, found = parts
    first, empty, crowd, last = match(truth, found, task, 100)
    # by falling score: the object, the one of another class, the same object again
    assert first.same_class.tolist() == [0, NOTHING, NOTHING]
    assert first.any_class.tolist() == [0, 1, NOTHING]
    assert (len(empty.detections), len(empty.objects)) == (0, 0)
    assert crowd.same_class.tolist() == [IGNORED, 1]
    assert last.same_class.tolist() == [NOTHING]


def test_confusion_by_hand(parts):
    truth, found = parts
    matches = list(match(truth, found, "segm", 100))
    # rows: objects of classes 0, 1, 2, and none; columns: detected as 0, 1, 2, and missed
    expected = [[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0]]
    assert confusion(matches, 3, 0.0).counts.tolist() == expected
    expected = [[0, 0, 0, 2], [1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert confusion(matches, 3, 0.9).counts.tolist() == expected


def test_score_of_the_best_f1(parts):
    truth, found = parts
    matches = list(match(truth, found, "segm", 100))
    # 5 objects. From 0.95: 2 * 1 / (1 + 5); from 0.9: 2 / 7; from 0.7: 2 * 2 / (3 + 5), the best
    assert best_threshold(matches) == pytest.approx((0.7, 0.5))
    assert best_threshold([]) == (0.5, 0.0)


def test_worst_images_first(parts):
    truth, found = parts
    matches = list(match(truth, found, "segm", 100))
    ranked = gallery.rank(matches, 0.7)
    assert [(r.index, r.right, r.wrong, r.missed) for r in ranked] == [
        (3, 0, 0, 1),
        (0, 1, 1, 2),
        (1, 0, 0, 0),
        (2, 1, 0, 0),
    ]


def test_numbers_are_those_of_coco(generated_coco):
    """On generated images, with ids that are strings in the file."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from hiera_det.data.coco_json import register_coco_json

    json_file = generated_coco / "annotations/instances_val2017.json"
    original = COCO(str(json_file))
    original.dataset.setdefault("info", {})
    rng = np.random.default_rng(0)
    found = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "score": round(float(rng.random()), 2),
            "bbox": [float(v) for v in np.array(a["bbox"]) + rng.normal(0, 2, 4)],
        }
        for a in original.dataset["annotations"]
        for _ in range(2)
    ]
    expected = COCOeval(original, original.loadRes(copy.deepcopy(found)), "bbox")
    expected.evaluate()
    expected.accumulate()
    expected.summarize()

    renamed = generated_coco.parent / "strings.json"
    content = json.loads(json_file.read_text())
    for image in content["images"]:
        image["id"] = f"image {image['id']}"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"image {annotation['image_id']}"
    renamed.write_text(json.dumps(content))
    register_coco_json("page_strings", renamed, generated_coco / "val2017")
    from omegaconf import OmegaConf

    cfg = OmegaConf.create({"dataloader": {"test": {"dataset": {"names": "page_strings"}}}})
    truth = read_truth(cfg)
    results = generated_coco.parent / "results.json"
    results.write_text(json.dumps([d | {"image_id": f"image {d['image_id']}"} for d in found]))
    read, lost = read_detections(results, truth)
    assert lost == 0 and len(read) == len(found)
    scores = score(truth, read, "bbox", 100)
    numbers = [scores.ap(), scores.ap(0), scores.ap(5), *(scores.ap(size=k) for k in (1, 2, 3))]
    known = [100 * v if v > -1 else float("nan") for v in expected.stats[:6]]
    assert numbers == pytest.approx(known, abs=1e-7, nan_ok=True)
    assert scores.ar() == pytest.approx(100 * expected.stats[8], abs=1e-7)
    assert 10 < scores.ap() < 90
    # which detections count as right at an IoU of 0.5
    right = sum(int((m.same_class >= 0).sum()) for m in match(truth, read, "bbox", 100))
    everywhere = [e for e in expected.evalImgs if e and e["aRng"] == [0, 1e10]]
    assert right == sum(int((e["dtMatches"][0] > 0).sum()) for e in everywhere)


def test_confusion_is_that_of_hotcoco(whole, content, results):
    hotcoco = pytest.importorskip("hotcoco")
    truth = read_truth(Run.read(whole).cfg)
    truth.content["annotations"] = [a for a in truth.content["annotations"] if not a["iscrowd"]]
    truth.coco.createIndex()
    found, _ = read_detections(whole / "inference/coco_instances_results.json", truth)
    both = hotcoco_dataset(truth.content), hotcoco_dataset(truth.coco.loadRes(found).dataset)
    for threshold in (0.05, 0.65, 0.9):
        expected = hotcoco.COCOeval(*both, "bbox").confusion_matrix(min_score=threshold)["matrix"]
        matches = list(match(truth, found, "bbox", 100))
        assert confusion(matches, 3, threshold).counts.tolist() == expected.tolist()


HALF = 100 * 51 / 101  # AP of 101 recalls, half of them reached without a mistake
TIDE = {
    # objects and detections as (class, score, x): 10 px wide, 10 high; the second object is at 50
    "Loc": ([(1, 0.9, 0), (1, 0.8, 55)], 2, 100 - HALF),  # IoU 1/3
    "Dupe": ([(1, 0.9, 0), (1, 0.8, 1), (1, 0.7, 50)], 2, 100 * 50 / 101 / 3),
    "Bkg": ([(1, 0.9, 80), (1, 0.8, 0)], 1, 50.0),
    "Miss": ([(1, 0.9, 0)], 2, 100 - HALF),
    "Cls": ([(2, 0.9, 0)], 1, 100.0),
    "Both": ([(2, 0.9, 5), (1, 0.8, 0)], 1, 0.0),  # of a class without objects: costs nothing
}


@pytest.mark.parametrize("kind", TIDE)
def test_where_ap_is_lost_by_hand(tmp_path, kind):
    """One mistake alone: its repair gives what is missing, and others have nothing to repair."""
    pytest.importorskip("hotcoco")
    from omegaconf import OmegaConf

    from hiera_det.data.coco_json import register_coco_json

    detections, num_objects, gain = TIDE[kind]
    json_file = tmp_path / "data.json"
    objects = [(1, x) for x in (0, 50)[:num_objects]]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 10}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": c, "bbox": [x, 0, 10, 10], "area": 100}
            for k, (c, x) in enumerate(objects, 1)
        ],
    }
    json_file.write_text(json.dumps(content))
    register_coco_json(f"tide_{tmp_path.name}", json_file, tmp_path)
    names = {"dataset": {"names": f"tide_{tmp_path.name}"}}
    truth = read_truth(OmegaConf.create({"dataloader": {"test": names}}))
    found = [
        {"image_id": 1, "category_id": c, "score": s, "bbox": [x, 0, 10, 10]}
        for c, s, x in detections
    ]
    tide = score(truth, found, "bbox", 100).tide
    assert tide is not None
    assert tide[kind] == pytest.approx(gain, abs=1e-9)
    others = {name: value for name, value in tide.items() if name != kind}
    assert others == pytest.approx(dict.fromkeys(others, 0.0), abs=1e-9)


def test_without_hotcoco_a_line_says_how(run, monkeypatch):
    monkeypatch.setattr("hiera_det.data.cocoeval._is_installed", lambda module: False)
    page = Page(write_report(run))
    assert 'This needs hotcoco:  pip install "hiera_det[fast]"' in page.text


# ------------------------------------------------------------------------------ what is missing
def drop(*names: str):
    def change(run: Path) -> None:
        for name in names:
            (run / name).unlink()

    return change


def write(name: str, text: str):
    return lambda run: (run / name).write_text(text)


RESULTS = "inference/coco_instances_results.json"
LACKS = {
    "metrics": (drop("metrics.json"), "metrics.json is not there"),
    "broken metrics": (write("metrics.json", "x\n{}\n"), "No curves:"),
    "log": (drop("log.txt"), "log.txt is not there"),
    "config": (drop("config.yaml"), "config.yaml is not there"),
    "broken config": (write("config.yaml", "a: ["), "config.yaml cannot be loaded"),
    "detections": (drop(RESULTS), "the run has not been evaluated yet"),
    "cut detections": (write(RESULTS, '[{"image_id": 30,'), "No AP and no images"),
    "no detections": (write(RESULTS, "[]"), "There is not one detection"),
    "other data": (
        write(RESULTS, json.dumps([detection(30, 7, 0.9, 2, 2), detection(31, 7, 0.9, 2, 2)])),
        "1 of 2 detections are left out",
    ),
}


@pytest.mark.parametrize("what", LACKS)
def test_page_of_a_run_that_lacks(run, what):
    change, line = LACKS[what]
    change(run)
    page = Page(write_report(run))
    assert line in page.text
    assert 'id="files"' in page.source
    has_images = what in ("metrics", "broken metrics", "log", "no detections", "other data")
    assert ('id="gallery"' in page.source) == has_images


def test_page_without_the_data(whole, tmp_path, content):
    """The file of the annotations is gone, then an image."""
    moved = tmp_path / "all"
    shutil.copytree(whole.parent, moved)
    run = moved / whole.name
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(whole.parent), str(moved)))
    (moved / "images" / FILES[0]).unlink()
    page = Page(write_report(run))
    assert "1 images of the gallery cannot be read" in page.text and 'id="gallery"' in page.source
    (moved / "data.json").unlink()
    text = Page(write_report(run)).text
    assert "data.json" in text and "mask AP" not in text


def test_data_whose_name_cannot_be_worked_out_are_told(run):
    config = run / "config.yaml"
    cfg = load_config(config)
    cfg.dataloader.test.dataset.names = "${register_coco_json:nowhere.json,nowhere}"
    save_config(cfg, config)
    text = Page(write_report(run)).text
    assert "validation data cannot be read" in text and "nowhere.json" in text


def test_boxes_alone(run, results):
    boxes = [{k: v for k, v in d.items() if k != "segmentation"} for d in results]
    (run / RESULTS).write_text(json.dumps(boxes))
    page = Page(write_report(run))
    assert "box AP by class" in page.text and "mask AP" not in page.text
    data = json.loads(re.search(r'id="gallery-data">(.*?)</script>', page.source)[1])
    outlines = [d[3] for card in data["cards"] for d in card["detections"]]
    assert len(outlines) == 6 and all(len(o) == 1 and len(o[0]) == 8 for o in outlines)


def test_gallery_stays_small(run, monkeypatch):
    monkeypatch.setattr(gallery, "MAX_BYTES", 3000)
    page = Page(write_report(run))
    assert "The gallery stops after 1 of 4 images" in page.text


def test_choice_among_thousands():
    ranked = [gallery.Ranked(k, 1, 5000 - k, 0) for k in range(5000)]
    chosen = gallery.choose(ranked)
    groups = [r.group for r in chosen]
    assert len(chosen) == 60 and groups == ["worst"] * 36 + ["random"] * 15 + ["best"] * 9
    assert [r.index for r in chosen[:36]] == list(range(36))
    assert [r.index for r in chosen[-9:]] == list(range(4999, 4990, -1))
    assert len({r.index for r in chosen}) == 60


def test_outlines_follow_masks(parts):
    """A square is its corners; a ring has a hole; an object of one pixel is not lost."""
    import pycocotools.mask as mask_util

    def outline(mask: np.ndarray, scale: float):
        return gallery._mask_outline(mask_util.encode(np.asfortranarray(mask)), scale)

    mask = np.zeros((48, 64), np.uint8)
    assert outline(mask, 7.5) == []
    mask[10:20, 30:50] = 1
    (polygon,) = outline(mask, 1.0)
    assert sorted(zip(polygon[::2], polygon[1::2], strict=True)) == [
        (30, 10),
        (30, 19),
        (49, 10),
        (49, 19),
    ]
    mask[13:17, 35:45] = 0
    assert len(outline(mask, 7.5)) == 2
    speck = np.zeros((4000, 4000), np.uint8)
    speck[2000, 1000] = 1
    ((x, y, *_),) = outline(speck, 0.12)
    assert (x, y) == (120, 240)


# ------------------------------------------------------------------------------ the file
def test_nothing_of_a_user_is_replaced(run, capsys):
    mine = run / "mine.html"
    mine.write_text("<p>mine</p>")
    assert main(["report", str(run), "--output", str(mine)]) != 0
    assert "mine.html exists and is no report" in capsys.readouterr().err
    assert mine.read_text() == "<p>mine</p>"
    assert main(["report", str(run)]) == 0
    first = (run / "report.html").read_text()
    assert main(["report", str(run)]) == 0  # its own may be replaced
    assert capsys.readouterr().out.splitlines()[-1] == str(run / "report.html")
    assert len((run / "report.html").read_text()) == len(first)
    assert not list(run.glob("*.partial"))


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_that_is_no_run(tmp_path, name, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / name)]) != 0
    error = capsys.readouterr().err
    assert name in error and "output_dir of a run" in error and "Traceback" not in error


def test_a_report_that_fails_stops_no_run(run, monkeypatch, caplog):
    from omegaconf import OmegaConf

    cfg = OmegaConf.create({"train": {"output_dir": str(run)}})
    write_report_of_run(cfg)
    assert "gallery-data" in (run / "report.html").read_text()
    old = (run / "report.html").read_text()

    def fail(*args):
        raise MemoryError("no more")

    monkeypatch.setattr(build.sections, "files_section", fail)
    caplog.set_level(logging.WARNING, logger="hiera_det")
    write_report_of_run(cfg)
    assert f"No report: MemoryError: no more; hiera-det report {run} tries again" in caplog.text
    assert (run / "report.html").read_text() == old


# ------------------------------------------------------------------------------ in a browser
CANVASES = "[...document.querySelectorAll('.card canvas')].map(c => c.toDataURL()).join()"
COUNTS = "document.getElementById('gallery-counts').textContent"
SETTLED = "new Promise(done => setTimeout(done, 300))"


def click(browser, identifier: str) -> None:
    browser.run(f"document.getElementById('{identifier}').click()")
    browser.run(SETTLED)


def wait_until_drawn(browser) -> None:
    browser.run("document.getElementById('gallery').scrollIntoView({behavior: 'instant'})")
    browser.run(
        "new Promise(done => { const look = () => "
        "document.querySelector('.card canvas').dataset.drawn === undefined "
        "? setTimeout(look, 50) : done(); look(); })"
    )
    browser.run(SETTLED)


@pytest.fixture
def opened(browser, whole):
    browser.open(whole / "report.html")
    wait_until_drawn(browser)
    return browser


def test_opens_from_disk_without_a_word(opened, whole):
    assert opened.complaints() == []
    assert opened.requests() == [(whole / "report.html").resolve().as_uri()]
    assert not any(e["method"] == "Page.javascriptDialogOpening" for e in opened.events)
    names = opened.run("[...document.querySelectorAll('#ap tbody th')].map(t => t.textContent)")
    assert NAMES[0] in names  # as a text
    assert opened.run("document.querySelectorAll('script').length") == 3
    assert opened.run("document.title") == "a <run> & more: report"


def test_slider_changes_what_is_drawn(opened):
    assert opened.run(COUNTS) == "In these images: 2 right, 1 wrong, 3 missed."
    seen = {opened.run(CANVASES)}
    opened.run("document.getElementById('score').focus()")
    opened.key("End")
    opened.run(SETTLED)
    assert opened.run("document.getElementById('score-value').textContent") == "1.00"
    assert opened.run(COUNTS) == "In these images: 0 right, 0 wrong, 5 missed."
    seen.add(opened.run(CANVASES))
    opened.key("Home")
    opened.run(SETTLED)
    assert opened.run(COUNTS) == "In these images: 2 right, 3 wrong, 3 missed."
    seen.add(opened.run(CANVASES))
    click(opened, "show-truth")
    seen.add(opened.run(CANVASES))
    click(opened, "show-predictions")
    bare = opened.run(CANVASES)
    seen.add(bare)
    assert len(seen) == 5
    opened.key("End")  # neither is shown: the images alone
    opened.run(SETTLED)
    assert opened.run(CANVASES) == bare
    assert opened.complaints() == []


def test_images_are_enlarged(opened):
    first = "document.getElementById('enlarged-name').textContent"
    opened.run("document.querySelector('.card button').focus()")
    opened.key("Enter")
    opened.run(SETTLED)
    assert opened.run("document.getElementById('enlarged').open")
    assert opened.run("document.getElementById('enlarged-canvas').width") == 960
    name = opened.run(first)
    opened.key("ArrowRight")
    assert opened.run(first) != name
    opened.key("ArrowLeft")
    assert opened.run(first) == name
    opened.key("Escape")
    opened.run(SETTLED)
    assert not opened.run("document.getElementById('enlarged').open")
    assert opened.complaints() == []


def test_curves_of_a_class(opened):
    path = "document.querySelector('#curves-segm path.curve').getAttribute('d')"
    text = "document.querySelector('#curves-segm ~ .legend b').textContent"
    before = opened.run(path), opened.run(text)
    opened.run(
        "{ const s = document.getElementById('curves-class'); s.value = '3'; "
        "s.dispatchEvent(new Event('change')); }"
    )
    assert opened.run(path) != before[0]
    assert opened.run(text) == "AP 0.0" != before[1]  # the class of which nothing was found
    opened.run(
        "{ const s = document.getElementById('curves-class'); s.value = '0'; "
        "s.dispatchEvent(new Event('change')); }"
    )
    assert (opened.run(path).count("L"), opened.run(text)) == (50, before[1])


@pytest.mark.parametrize("width", [400, 1280])
def test_fits_the_screen(browser, whole, width):
    browser.open(whole / "report.html", width=width, dark=width == 400)
    assert browser.run("document.documentElement.scrollWidth") <= width
    color = browser.run("getComputedStyle(document.body).backgroundColor")
    assert color == ("rgb(20, 24, 27)" if width == 400 else "rgb(246, 246, 243)")
