"""Curves from a metrics.json as runs really leave it."""

import json
from pathlib import Path

import cv2
import pytest

from hiera_det.cli import main
from hiera_det.report.curves import plot_metrics, read_metrics


def line(iteration: int, **values) -> str:
    return json.dumps({"iteration": iteration, **values}) + "\n"


@pytest.fixture
def metrics_file(tmp_path) -> Path:
    """A run that was stopped at 60, resumed from 39, and is being written to right now."""
    path = tmp_path / "metrics.json"
    with path.open("w") as file:
        for k in range(19, 61, 20):
            file.write(line(k, total_loss=3.0 - k / 50, loss_cls=1.0 - k / 90, lr=1e-4, time=0.2))
        for k in range(59, 121, 20):
            file.write(line(k, total_loss=2.0 - k / 90, loss_cls=0.8 - k / 200, lr=1e-5, time=0.2))
            file.write(line(k, **{"bbox/AP": k / 3, "bbox/AP50": k / 2, "bbox/APl": float("nan")}))
        file.write(line(139, total_loss=0.5)[:-9])
    return path


def test_resumed_iterations_count_once_and_the_last_value_stands(metrics_file):
    curves = read_metrics(metrics_file)
    assert curves["lr"] == ([19, 39, 59, 79, 99, 119], [1e-4, 1e-4, 1e-5, 1e-5, 1e-5, 1e-5])
    assert curves["total_loss"][0][-1] == 119  # the line cut short is left out
    assert curves["total_loss"][1][2] == 2.0 - 59 / 90
    assert curves["bbox/AP"] == ([59, 79, 99, 119], [59 / 3, 79 / 3, 99 / 3, 119 / 3])


def test_plot_is_a_png(metrics_file, tmp_path):
    png = plot_metrics(metrics_file, tmp_path / "new" / "curves.png")
    picture = cv2.imread(str(png))
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert picture.shape[0] > 500 and picture.shape[1] > 1000  # two rows of panels
    assert picture.std() > 5  # something is drawn


def test_plot_of_a_long_run_keeps_its_ends(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("".join(line(k, total_loss=1.0 + k, loss_mask=0.0) for k in range(5000)))
    assert len(read_metrics(path)["total_loss"][0]) == 5000
    plot_metrics(path, tmp_path / "curves.png")  # with a loss of 0, which no log axis shows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no metrics"),
        ('{"iteration": 1, "x": 2', "holds no metrics"),
        ('nonsense\n{"iteration": 1, "lr": 2}\n', "line 1: 'nonsense'"),
        ('{"lr": 2}\n{"iteration": 1, "lr": 2}\n', "line 1: .* is not an object with"),
        ('[1]\n{"iteration": 1, "lr": 2}\n', "line 1"),
    ],
)
def test_what_is_no_metrics_file_raises(tmp_path, text, message):
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_metrics(path)


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the metrics.json"):
        plot_metrics(tmp_path / "metrics.json", tmp_path / "curves.png")


@pytest.mark.parametrize("by_folder", [True, False])
def test_command_takes_the_file_or_its_folder(metrics_file, capsys, by_folder):
    run = metrics_file.parent if by_folder else metrics_file
    assert main(["plot", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(metrics_file.with_suffix(".png"))
    assert metrics_file.with_suffix(".png").is_file()
