"""Video files, read frame by frame and written for a browser, by PyAV (extra `video`)."""

import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

__all__ = ["VideoFrame", "VideoReader", "VideoWriter"]

UNKNOWN_FPS = Fraction(25)  # where a file does not say
QUALITY = {"crf": "20", "preset": "veryfast"}  # of libx264: looks like the source, in little time
BT709 = 1  # ITU-R BT.709, in the numbers of H.264: matrix, primaries and transfer
LIMITED_RANGE = 1  # 16 to 235


class VideoFrame(NamedTuple):
    """A decoded frame.

    image: uint8 (H, W, 3), RGB, upright. pts: when it is shown, in time bases of the video, from 0
    and rising. time: the same in seconds.
    """

    image: np.ndarray
    pts: int
    time: float


class VideoReader:
    """The frames of a video file, decoded one after the other as they are asked for.

    Damaged parts are passed over and counted; a file that was cut off ends early. Only `for` over
    the reader decodes, and only once.

    Attributes:
        fps: nominal frames per second, a Fraction; 25 where the file does not say.
        time_base: seconds of one step of `pts`, a Fraction.
        expected_frames: how many the file claims to hold; 0 if it does not say.
        has_audio: whether there is a sound track.
        num_damaged: packets that could not be decoded, so far.
    """

    def __init__(self, path: str | os.PathLike):
        """
        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds no video, or is damaged from the start.
            ImportError: PyAV is missing.
        """
        av = _import_av()
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no video {self.path}")
        try:
            self._container = av.open(str(self.path))
        except av.error.FFmpegError as error:
            raise ValueError(
                f"cannot read {self.path} as a video: {error.strerror}. If other programs play it, "
                "convert it to MP4"
            ) from error
        if not self._container.streams.video:
            self._container.close()
            raise ValueError(f"{self.path} holds no video, only sound or other data")
        stream = self._stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
        self.fps = next((_fraction(rate) for rate in rates if rate), UNKNOWN_FPS)
        self.time_base = _fraction(stream.time_base) if stream.time_base else 1 / self.fps
        self.has_audio = bool(self._container.streams.audio)
        self.expected_frames = stream.frames or self._frames_by_duration()
        self.num_damaged = 0

    def _frames_by_duration(self) -> int:
        duration = self._stream.duration
        if duration:
            return round(duration * self.time_base * self.fps)
        duration = self._container.duration  # in microseconds
        return round(duration * self.fps / 1_000_000) if duration else 0

    def __iter__(self) -> Iterator[VideoFrame]:
        first: int | None = None
        size: tuple[int, int] | None = None
        step = max(1, round(1 / (self.fps * self.time_base)))
        last = -step
        for frame in self._decoded():
            # A stream may change its size on the way; a video has one.
            size = size or (frame.width, frame.height)
            # PyAV before 17 converts from BT.709 only if it is named, and not for both sides.
            is_709 = frame.colorspace == BT709
            space = {"src_colorspace": "ITU709", "dst_colorspace": "ITU601"} if is_709 else {}
            image = frame.reformat(*size, format="rgb24", **space).to_ndarray()
            pts = last + step if frame.pts is None else frame.pts - (first or 0)
            if first is None:
                first, pts = frame.pts or 0, 0
            last = max(pts, last + 1)
            yield VideoFrame(_upright(image, frame), last, float(last * self.time_base))

    def _decoded(self) -> Iterator[Any]:
        """PyAV's frames; what does not decode is counted."""
        av = _import_av()
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                frames = packet.decode()
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                self.num_damaged += 1
                # A demuxer that fails cannot go on: its generator has ended, and so do we.
                continue
            yield from frames

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


class VideoWriter:
    """An MP4 file that plays in a browser: H.264, yuv420p, its index in front of the frames.

    Closing it, which `with` does in any event, makes the file whole: what was written until an
    error or Ctrl-C can be played.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        fps: Fraction | int = UNKNOWN_FPS,
        time_base: Fraction | None = None,
    ):
        """
        Args:
            path: a new file, `.mp4`; its folder exists.
            fps: nominal frames per second.
            time_base: seconds of one step of `pts`; None is that of one frame.

        Raises:
            FileExistsError: the file is there already.
            ImportError: PyAV is missing.
        """
        av = _import_av()
        self.path = Path(path)
        if self.path.exists():
            raise FileExistsError(f"{self.path} is there already; move it, or write elsewhere")
        self.fps = Fraction(fps)
        self.time_base = time_base or 1 / self.fps
        self.num_frames = 0
        self._next = 0  # pts of a frame that is given none
        self._size: tuple[int, int] | None = None
        options = {"movflags": "+faststart"}
        self._container = av.open(str(self.path), "w", format="mp4", options=options)
        self._stream = self._container.add_stream("libx264", rate=self.fps, options=dict(QUALITY))
        self._stream.pix_fmt = "yuv420p"
        codec = self._stream.codec_context
        codec.time_base = self.time_base
        # Players take untagged colours for BT.601 or BT.709 by the size of the picture.
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED_RANGE

    def write(self, image: np.ndarray, pts: int | None = None) -> None:
        """Appends a frame.

        Args:
            image: uint8 (H, W, 3), RGB. All have the same size; an odd side is made even by
                repeating the last row or column, as yuv420p asks for.
            pts: when it is shown, in time bases from 0, later than the one before; None is one
                frame later.

        Raises:
            ValueError: it is no such image, or of another size than the first.
        """
        av = _import_av()
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"{image.dtype} of shape {image.shape} is no uint8 (H, W, 3)")
        height, width = image.shape[:2]
        if self._size is None:
            self._size = (height, width)
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
        if self._size != (height, width):
            raise ValueError(f"a frame of (height, width) {(height, width)} after {self._size}")
        padded = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(padded, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.pts = self._next if pts is None else pts
        frame.time_base = self.time_base
        self._next = frame.pts + max(1, round(1 / (self.fps * self.time_base)))
        self._container.mux(self._stream.encode(frame))
        self.num_frames += 1

    def close(self) -> None:
        if self.num_frames:
            self._container.mux(self._stream.encode(None))  # what the encoder still holds
        self._container.close()
        if not self.num_frames:
            self.path.unlink(missing_ok=True)  # no video of nothing

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError('videos need PyAV: pip install "hiera_det[video]"') from error
    return av


def _fraction(ratio: Any) -> Fraction:
    """Of PyAV's ratio, whose type depends on its version."""
    return Fraction(int(ratio.numerator), int(ratio.denominator))


def _upright(image: np.ndarray, frame: Any) -> np.ndarray:
    """The image turned and mirrored as the file's display matrix says; by quarters of a turn.

    The matrix (a, b, u, c, d, v, x, y, w) of ISO 14496-12 shows a pixel (x, y) at (a x + c y,
    b x + d y); a to d are in 1/65536.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return image
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, flip_x, flip_y = image.transpose(1, 0, 2), c < 0, b < 0  # (H, W, 3) -> (W, H, 3)
    else:
        flip_x, flip_y = a < 0, d < 0
    if flip_x:
        image = image[:, ::-1]
    if flip_y:
        image = image[::-1]
    return np.ascontiguousarray(image)
