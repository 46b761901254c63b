"""A video of generated shapes that move, to try a detector of shapes on.

python -m hiera_det.data.shapes_video shapes.mp4
"""

import argparse
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .shapes_draw import (
    CLASS_NAMES,
    LARGE,
    SMALL,
    Window,
    _color,
    _fine_mask,
    _outline,
    _texture,
    coverage,
)
from .video_files import VideoWriter

__all__ = ["MovingFrame", "draw_moving_scene", "make_shapes_video"]

FPS = 25


class MovingFrame(NamedTuple):
    """image: uint8 RGB (size, size, 3). owners: int32 (size, size), the number of the front-most
    object of each pixel, from 1; 0 is background. categories: by number - 1, into CLASS_NAMES."""

    image: np.ndarray
    owners: np.ndarray
    categories: list[int]


class _Mover:
    """An object that flies and turns, and bounces off an invisible wall around the frame."""

    def __init__(self, rng: np.random.Generator, size: int, colors: list[np.ndarray]):
        self.category = int(rng.integers(len(CLASS_NAMES)))
        self.side = float(np.exp(rng.uniform(np.log(SMALL * 0.75), np.log(LARGE * 0.75))))
        self.points = _outline(rng, self.category, self.side)  # (num_points, 2), around 0
        colors.append(_color(rng, colors, self.category))
        self.reach = int(np.abs(self.points).max() * 1.5) + 2
        self.texture = _texture(rng, colors[-1], 2 * self.reach, 2 * self.reach)
        self.size = size
        self.centre = rng.uniform(0, size, 2)
        heading = rng.uniform(0, 2 * np.pi)
        speed = rng.uniform(0.3, 1.2) * size / (2 * FPS)  # px per frame
        self.velocity = speed * np.array([np.cos(heading), np.sin(heading)])
        self.turn = rng.uniform(-0.04, 0.04)  # rad per frame

    def move(self) -> None:
        self.centre = self.centre + self.velocity
        low, high = -0.7 * self.side, self.size + 0.7 * self.side  # out of sight and back
        beyond = (self.centre < low) | (self.centre > high)
        self.velocity = np.where(beyond, -self.velocity, self.velocity)
        self.centre = self.centre.clip(low, high)
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        self.points = self.points @ np.array([[cos, sin], [-sin, cos]])

    def paint(self, image: np.ndarray, owners: np.ndarray, number: int) -> None:
        """In front of what is there; image float32 (size, size, 3), owners (size, size)."""
        outline = self.points + self.centre
        if (outline.max(axis=0) < 0).any() or (outline.min(axis=0) > self.size).any():
            return
        window = Window.around(outline, self.size)
        share = coverage(_fine_mask(outline, window))  # (h, w)
        x, y = (np.round(self.centre).astype(int) - self.reach).tolist()
        texture = self.texture[window.y - y :, window.x - x :][: window.height, : window.width]
        view = image[window.slices()]
        view += (texture - view) * share[..., None]
        owners[window.slices()][share >= 0.5] = number


def draw_moving_scene(
    seed: int = 0, size: int = 240, num_objects: int = 6, num_frames: int = 150
) -> Iterator[MovingFrame]:
    """Frames of shapes that move, pass in front of each other, leave the frame and return.

    Args:
        seed: the same number gives the same frames.
        size: side of a frame in px.
        num_objects: that there are, seen or not.
        num_frames: at 25 per second.
    """
    rng = np.random.default_rng(seed)
    colors = [_color(rng, [])]
    background = _texture(rng, colors[0], size, size)
    movers = [_Mover(rng, size, colors) for _ in range(num_objects)]
    movers.sort(key=lambda mover: -mover.side)  # larger ones lie further back, as in the images
    categories = [mover.category for mover in movers]
    for _ in range(num_frames):
        image, owners = background.copy(), np.zeros((size, size), np.int32)
        for number, mover in enumerate(movers, start=1):
            mover.paint(image, owners, number)
            mover.move()
        yield MovingFrame(image.round().clip(0, 255).astype(np.uint8), owners, categories)


def make_shapes_video(path: str | os.PathLike, *, seed: int = 0, num_frames: int = 150) -> None:
    """Writes `draw_moving_scene` as an MP4 file of 25 frames per second.

    Raises:
        FileExistsError: the file is there already.
        ImportError: PyAV is missing.
    """
    with VideoWriter(path, FPS) as writer:
        for frame in draw_moving_scene(seed, num_frames=num_frames):
            writer.write(frame.image)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", help="file to write, .mp4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=150, help="at 25 per second (150)")
    arguments = parser.parse_args()
    make_shapes_video(arguments.output, seed=arguments.seed, num_frames=arguments.frames)
