"""Videos: frames as other programs read them, and files that browsers play."""

import csv
import json
import logging
import struct
import weakref
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_utils

from hiera_det.cli import _report as report  # what people read when an error ends a verb

av = pytest.importorskip("av", reason="PyAV is in the extra `video`")
pytest.importorskip("scipy", reason="SciPy is in the extra `video`")

from hiera_det.data.video_files import VideoReader, VideoWriter  # noqa: E402
from hiera_det.predict.video import predict_video  # noqa: E402

COLORS = {"red": (230, 30, 30), "blue": (30, 30, 230)}


class ColorDetector:
    """Finds the red and the blue areas of an image, one instance each connected area."""

    class_names = list(COLORS)
    class_colors = list(COLORS.values())

    def __init__(self, with_masks: bool = True):
        self.with_masks = with_masks
        self.batches: list[int] = []
        self.most_alive = 0
        self._seen: list[weakref.ref] = []

    def predict_images(self, images: list[np.ndarray]) -> list[Instances]:
        self.batches.append(len(images))
        self.most_alive = max(self.most_alive, sum(ref() is not None for ref in self._seen))
        self._seen += [weakref.ref(image) for image in images]
        return [self._predict(image) for image in images]

    def _predict(self, image: np.ndarray) -> Instances:
        masks, classes = [], []
        for k, color in enumerate(self.class_colors):
            near = (np.abs(image.astype(int) - color).max(axis=2) < 60).astype(np.uint8)
            count, labels = cv2.connectedComponents(near)
            for label in range(1, count):
                if (labels == label).sum() > 20:
                    masks.append(labels == label)
                    classes.append(k)
        tensor = torch.tensor(np.array(masks, dtype=bool).reshape(-1, *image.shape[:2]))
        boxes = [cv2.boundingRect(mask.astype(np.uint8)) for mask in masks]
        result = Instances(image.shape[:2])
        result.pred_boxes = Boxes(
            torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]).float().reshape(-1, 4)
        )
        result.scores = torch.full((len(masks),), 0.9)
        result.pred_classes = torch.tensor(classes, dtype=torch.int64)
        if self.with_masks:
            result.pred_masks = tensor
        return result


def scene(k: int, height: int = 90, width: int = 121) -> np.ndarray:
    """Frame k: a red square moves right, from frame 10 on a second one left below; a blue one."""
    image = np.full((height, width, 3), 200, np.uint8)
    image[10:30, 5 + 2 * k : 25 + 2 * k] = COLORS["red"]
    if k >= 10:
        image[50:70, 90 - 2 * (k - 10) : 110 - 2 * (k - 10)] = COLORS["red"]
    if k % 7:  # missed in some frames
        image[70:84, 6:30] = COLORS["blue"]
    return image


def write_video(path, frames, rate=24, pts=None, time_base=None, **options):
    """By PyAV alone, so that the reader is not tested against our writer."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10"})
        height, width = frames[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if time_base:
            stream.codec_context.time_base = time_base
        for k, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = k if pts is None else pts[k]
            frame.time_base = time_base or Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """40 frames of 91 x 121 px, written by our writer as yuv420p asks for even sizes."""
    folder = tmp_path_factory.mktemp("video")
    source = folder / "zwei Quadrate ü.mp4"
    with VideoWriter(source, 24) as writer:
        for k in range(40):
            writer.write(scene(k))
    detector = ColorDetector()
    return source, detector, predict_video(detector, source, folder / "out", batch_size=4)


def test_the_video_is_what_browsers_play(predicted):
    source, _, result = predicted
    assert result.video.name == source.name and result.video.parent != source.parent
    with av.open(str(result.video)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (codec.width, codec.height) == (122, 90)  # 121 is odd
        assert float(stream.average_rate) == 24 and stream.frames == 40
        assert not container.streams.audio
    content = result.video.read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")
    reader = cv2.VideoCapture(str(result.video))  # another program's account
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == 40 and reader.get(cv2.CAP_PROP_FPS) == 24


def test_overlays_are_drawn_on_the_frames_they_belong_to(predicted):
    for k, frame in enumerate(VideoReader(predicted[2].video)):
        image = frame.image[:, :121].astype(int)
        far = np.abs(image - scene(k)).max(axis=2) > 60
        assert far.sum() > 100 and not far[40:48].any()  # labels and edges; nothing between objects
        # Below the label, at the right edge of the first square: red within, background beyond.
        edge = 25 + 2 * k
        red, _, blue = image[26:28, edge - 4].mean(axis=0)
        assert red - blue > 80, k
        assert np.abs(image[26:28, edge + 4] - 200).max() < 40, k


def test_ids_are_constant_along_tracks_in_both_tables(predicted):
    _, _, result = predicted
    rows, content = read_table(result.csv), json.loads(result.json.read_text(encoding="utf-8"))
    assert (content["height"], content["width"], content["fps"]) == (90, 122, 24)
    assert content["num_frames"] == result.num_frames == 40
    assert len(rows) == len(content["detections"]) == result.num_detections
    moving = {}
    for row, record in zip(rows, content["detections"], strict=True):
        frame = int(row["frame"])
        assert float(row["time"]) == pytest.approx(frame / 24, abs=1e-4) == record["time"]
        box = [float(row[name]) for name in ("x", "y", "width", "height")]
        assert box == record["bbox"] and row["class"] == record["class"]
        assert int(row["id"]) == record["id"] and float(row["area"]) == record["area"]
        name = row["class"] if row["class"] == "blue" else "first" if box[1] < 40 else "second"
        moving.setdefault(name, []).append((frame, record["id"]))
        mask = mask_utils.decode(record["segmentation"])
        assert mask.shape == (90, 122) and mask.sum() == record["area"]
        if name == "first":
            truth = np.zeros((90, 122), bool)
            truth[10:30, 5 + 2 * frame : 25 + 2 * frame] = True
            assert (mask & truth).sum() / (mask | truth).sum() > 0.85
    assert {name: {k for _, k in track} for name, track in moving.items()} == {
        "first": {1},
        "blue": {2},
        "second": {3},
    }
    assert [frame for frame, _ in moving["first"]] == list(range(40))
    assert [frame for frame, _ in moving["second"]] == list(range(10, 40))
    assert [frame for frame, _ in moving["blue"]] == [k for k in range(40) if k % 7]
    assert result.num_tracks == 3


def test_frames_are_read_in_batches_and_let_go(predicted):
    detector = predicted[1]
    assert detector.batches == [4] * 10
    assert detector.most_alive <= 8  # of two batches: what is being drawn, and what comes next


def test_score_classes_and_boxes_alone(predicted, tmp_path):
    result = predict_video(ColorDetector(False), predicted[0], tmp_path / "a", classes=["blue"])
    assert {row["class"] for row in read_table(result.csv)} == {"blue"}
    record = json.loads(result.json.read_text())["detections"][0]
    assert "segmentation" not in record
    assert record["area"] == pytest.approx(record["bbox"][2] * record["bbox"][3])
    result = predict_video(ColorDetector(), predicted[0], tmp_path / "b", score=0.95)
    assert result.num_detections == 0 and result.num_frames == 40
    assert json.loads(result.json.read_text())["detections"] == []
    with pytest.raises(ValueError, match="no class is called 'green'; there are red, blue"):
        predict_video(ColorDetector(), predicted[0], tmp_path / "c", classes=["green"])


def test_nothing_is_overwritten(predicted, tmp_path):
    source, detector, result = predicted
    before = [path.read_bytes() for path in (source, *result[:3])]
    with pytest.raises(FileExistsError, match="zwei Quadrate ü.mp4 is there already"):
        predict_video(detector, source, source.parent)  # onto the source itself
    with pytest.raises(FileExistsError, match="is there already"):
        predict_video(detector, source, result.video.parent)
    (tmp_path / f"{source.stem}_tracks.json").write_text("mine")
    with pytest.raises(FileExistsError, match="_tracks.json is there already"):
        predict_video(detector, source, tmp_path)
    assert [path.read_bytes() for path in (source, *result[:3])] == before
    assert len(list(tmp_path.iterdir())) == 1


def test_what_was_done_before_an_error_can_be_played(predicted, tmp_path):
    class Failing(ColorDetector):
        def predict_images(self, images):
            if len(self.batches) == 3:
                raise RuntimeError("out of memory")
            return super().predict_images(images)

    with pytest.raises(RuntimeError, match="out of memory"):
        predict_video(Failing(), predicted[0], tmp_path, batch_size=4)
    (video,) = tmp_path.glob("*.mp4")
    assert len(list(VideoReader(video))) == 8  # two of three batches; one was being drawn
    (tracks,) = tmp_path.glob("*.json")
    content = json.loads(tracks.read_text(encoding="utf-8"))
    assert content["num_frames"] == 8 and content["detections"][-1]["frame"] == 7


# ------------------------------------------------------------------------------- what is read
TURNS = {  # of the display matrix (a, b, c, d): what is to be seen
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),  # clockwise
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, -1, 1, 0): lambda image: np.rot90(image),
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (0, 1, 1, 0): lambda image: image.transpose(1, 0, 2),
}


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_frames_are_upright(turn, tmp_path):
    image = np.zeros((64, 96, 3), np.uint8)
    image[:32, :48], image[:32, 48:], image[32:, :48] = (220, 20, 20), (20, 220, 20), (20, 20, 220)
    path = write_video(tmp_path / "turned.mp4", [image] * 3)
    content = bytearray(path.read_bytes())
    matrix = content.find(b"tkhd") + 4 + 4 + 20 + 16  # version 0: times and ids, then layer, volume
    a, b, c, d = (value << 16 for value in turn)
    content[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    frames = [frame.image for frame in VideoReader(path)]
    assert len(frames) == 3
    expected = TURNS[turn](image)
    assert frames[0].shape == expected.shape and frames[0].flags["C_CONTIGUOUS"]
    assert np.abs(frames[0].astype(int) - expected)[8:-8, 8:-8].mean() < 6
    is_mirrored = a * d - b * c < 0
    if not is_mirrored:  # which OpenCV takes for turns
        other = cv2.VideoCapture(str(path)).read()[1][:, :, ::-1]
        assert other.shape == expected.shape and np.abs(other - expected.astype(int)).mean() < 12


def test_times_of_a_variable_frame_rate_are_kept(tmp_path):
    # 30 frames per second, then 10; the first one is shown late.
    pts = [500 + 33 * k for k in range(10)] + [830 + 100 * k for k in range(10)]
    frames = [scene(k, 90, 120) for k in range(20)]
    path = write_video(tmp_path / "phone.mkv", frames, 30, pts, Fraction(1, 1000))
    expected = [(value - 500) / 1000 for value in pts]
    assert [frame.time for frame in VideoReader(path)] == pytest.approx(expected, abs=1e-6)
    result = predict_video(ColorDetector(), path, tmp_path / "out")
    assert result.video.name == "phone.mp4"
    with av.open(str(result.video)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx(expected, abs=1e-6)
    first = [float(row["time"]) for row in read_table(result.csv) if row["id"] == "1"]
    assert first == pytest.approx(expected, abs=1e-6)


def test_colours_come_through(tmp_path):
    image = np.zeros((64, 128, 3), np.uint8)
    colors = np.array([(230, 30, 30), (30, 230, 30), (30, 30, 230), (250, 250, 250)], np.uint8)
    for k, color in enumerate(colors):
        image[:, 32 * k : 32 * k + 32] = color
    with VideoWriter(tmp_path / "colours.mp4", 10) as writer:
        for _ in range(3):
            writer.write(image)
    for frame in VideoReader(tmp_path / "colours.mp4"):
        assert np.abs(frame.image[32, 16::32].astype(int) - colors).max() <= 6
    with av.open(str(tmp_path / "colours.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.colorspace, codec.color_primaries, codec.color_range) == (1, 1, 1)  # BT.709


def test_a_video_that_was_cut_off(tmp_path, caplog):
    frames = [np.random.default_rng(k).integers(0, 255, (64, 96, 3), np.uint8) for k in range(30)]
    path = write_video(tmp_path / "cut.mp4", frames, movflags="+faststart")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        result = predict_video(ColorDetector(), path, tmp_path / "out")
    assert 5 < result.num_frames < 25
    assert len(list(VideoReader(result.video))) == result.num_frames
    (message,) = [record.getMessage() for record in caplog.records]
    assert "cut.mp4" in message and str(result.num_frames) in message


def test_a_video_with_a_damaged_part(tmp_path, caplog):
    frames = [np.random.default_rng(k).integers(0, 255, (64, 96, 3), np.uint8) for k in range(30)]
    path = write_video(tmp_path / "damaged.mp4", frames, movflags="+faststart")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20000] = np.random.default_rng(0).bytes(20000)
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        result = predict_video(ColorDetector(), path, tmp_path / "out")
    assert 10 < result.num_frames < 30
    (message,) = [record.getMessage() for record in caplog.records]
    assert "damaged.mp4 is damaged" in message and str(result.num_frames) in message
    times = [frame.time for frame in VideoReader(result.video)]
    assert times == sorted(set(times)) and times[-1] > 1.0  # the second half is there, in time


def test_files_that_are_no_video(tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("no video\n" * 1000)
    (tmp_path / "empty.mp4").write_bytes(b"")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path = write_video(tmp_path / "no_index.mp4", [scene(k, 90, 120) for k in range(9)])
    path.write_bytes(path.read_bytes()[:2000])  # the index came last
    for name, text in {
        "text.mp4": "as a video",
        "empty.mp4": "as a video",
        "no_index.mp4": "as a video",
        "sound.mp4": "holds no video",
        "missing.mp4": "there is no video",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=text) as caught:
            predict_video(ColorDetector(), tmp_path / name, tmp_path / "out")
        assert report(caught.value, False) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and name in line
    assert not (tmp_path / "out").exists()


def test_the_writer_refuses_what_would_spoil_a_file(tmp_path):
    with VideoWriter(tmp_path / "a.mp4") as writer:
        with pytest.raises(ValueError, match="no uint8"):
            writer.write(np.zeros((4, 4, 3), np.float32))
        writer.write(np.zeros((32, 32, 3), np.uint8))
        with pytest.raises(ValueError, match=r"\(32, 48\) after \(32, 32\)"):
            writer.write(np.zeros((32, 48, 3), np.uint8))
    with pytest.raises(FileExistsError):
        VideoWriter(tmp_path / "a.mp4")
    with VideoWriter(tmp_path / "b.mp4"):
        pass
    assert not (tmp_path / "b.mp4").exists()
