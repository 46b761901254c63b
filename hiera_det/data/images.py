"""Image files as pixels: the one reading function of detection and pretraining.

Pixels of 8 bits are kept as they are. Those of more bits, and floating-point numbers, are scaled to
8 bits: by a range that is the same for all images where `intensity_range` states one, else by the
percentiles 0.1 and 99.9 of each image. Both depend on the file and the keys alone, so an encoder
and a detector that are given the same keys see the same pixels. Percentiles suit images of unknown
exposure; they take away differences of brightness between images, and turn an empty image into
noise. Where numbers mean something (a dose, a temperature, a count), state the range.
"""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import cv2
import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageFile, UnidentifiedImageError
from torchvision.transforms import v2

__all__ = [
    "ImageFiles",
    "center_crop",
    "describe_images",
    "eight_bits",
    "open_image",
    "random_crop",
    "image_pixels",
    "read_image",
    "upright",
    "upright_size",
    "valid_range",
]

logger = logging.getLogger(__name__)

STACK = "stack, refused without page"  # a kind of `describe_images`

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
PERCENTILES = (0.1, 99.9)  # of an image of more than 8 bits: what becomes black and white
ORIENTATION = 0x0112  # EXIF tag; 1 is upright
UPRIGHT = {  # by orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Box = tuple[float, float, float, float]  # left, upper, right, lower, in px


class StackError(ValueError):
    """A file of several images, none of which was chosen."""


# ------------------------------------------------------------------------------------- reading
def read_image(
    path: str | os.PathLike,
    format: str = "RGB",
    intensity_range: Sequence[float] | None = None,
    page: int | None = None,
) -> np.ndarray:
    """An image file as pixels, upright as its EXIF orientation says.

    Of 8 bits, they are those of `detectron2.data.detection_utils.read_image`.

    Args:
        path: whatever Pillow opens, through iopath's `PathManager`.
        format: order of the channels, "RGB" or "BGR"; or "L", one channel.
        intensity_range, page: see `open_image`.

    Returns:
        uint8 (H, W, 3), or (H, W, 1) for "L".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image or damaged, or see `open_image`. Names the file.
    """
    if format not in ("RGB", "BGR", "L"):
        raise ValueError(f"image format {format!r} is none of RGB, BGR, L")
    with open_image(path, intensity_range, page) as image:
        try:
            return image_pixels(image, format)
        except Exception as error:  # damaged files make Pillow raise nearly anything
            raise ValueError(f"cannot read {path}: {error}") from error


def image_pixels(
    image: Image.Image, format: str = "RGB", intensity_range: Sequence[float] | None = None
) -> np.ndarray:
    """Pillow's image as pixels, upright as its EXIF orientation says; as `read_image`."""
    image = upright(image)
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(eight_bits(np.asarray(image), intensity_range))
    pixels = np.array(_convert(image, "L" if format == "L" else "RGB"))
    if format == "L":
        return pixels[:, :, None]  # (H, W) -> (H, W, 1)
    return pixels[:, :, ::-1] if format == "BGR" else pixels


@contextmanager
def open_image(
    path: str | os.PathLike,
    intensity_range: Sequence[float] | None = None,
    page: int | None = None,
) -> Iterator[Image.Image]:
    """Pillow's image of a file, with 8 bits per channel.

    One that has them in the file is not decoded yet, so that a JPEG can be decoded at a fraction of
    its size, and may lie as its EXIF orientation says; others are decoded, scaled and upright.

    Args:
        path: whatever Pillow opens.
        intensity_range: (low, high), the values that become 0 and 255 where a file has more than 8
            bits per channel or floating-point numbers; None takes percentiles of each image. Files
            of 8 bits are left as they are.
        page: which image of a TIFF file that holds several, from 0; None refuses those.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image that Pillow can open, or a stack without a `page`, or pixels are
            NaN or infinite, or `intensity_range` is no range. Names the file.
    """
    intensity_range = valid_range(intensity_range)
    with PathManager.open(os.fspath(path), "rb") as file:
        try:
            image = Image.open(file)
            _choose_page(image, path, page)
        except StackError:
            raise
        except UnidentifiedImageError as error:
            raise ValueError(
                f"cannot read {path}: no image that Pillow knows. Save it as PNG, JPEG or TIFF, of "
                "8 or 16 bits, grey or RGB, or as grey TIFF of float32"
            ) from error
        except Exception as error:  # damaged files make Pillow raise nearly anything
            raise ValueError(f"cannot read {path}: {error}") from error
        with image:
            yield _scaled(image, file, path, intensity_range) if _is_deep(image) else image


def upright_size(path: str | os.PathLike, page: int | None = None) -> tuple[int, int]:
    """(width, height) of an image as `read_image` gives it, from the header alone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, or a stack without a `page`. Names the file.
    """
    with PathManager.open(os.fspath(path), "rb") as file:
        try:
            with Image.open(file) as image:
                _choose_page(image, path, page)
                width, height = image.size
                # 5 to 8 swap the sides; of a TIFF Pillow gives the upright size already.
                is_turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
                is_turned &= image.format != "TIFF"
        except StackError:
            raise
        except Exception as error:  # damaged files make Pillow raise nearly anything
            raise ValueError(f"cannot read {path}: {error}") from error
    return (height, width) if is_turned else (width, height)


def valid_range(intensity_range: Sequence[float] | None) -> tuple[float, float] | None:
    """An `intensity_range` as a tuple.

    Raises:
        ValueError: it is not two finite numbers, the lower one first.
    """
    if intensity_range is None:
        return None
    try:
        low, high = (float(value) for value in intensity_range)
    except (TypeError, ValueError):
        low = high = np.nan
    if not -np.inf < low < high < np.inf:
        raise ValueError(
            f"intensity_range={intensity_range} is not (low, high), the values that become "
            "black and white, as dataloader.intensity_range=[0,4095] for 12 bits; null scales each "
            "image by itself"
        )
    return low, high


def _choose_page(image: Image.Image, path: str | os.PathLike, page: int | None) -> None:
    """Raises ValueError where the file holds several images and no `page`, or not that one."""
    # Of a GIF, or of the several JPEGs in a phone's file, the first is the image.
    count = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    if count == 1:
        return
    if page is None:
        raise StackError(
            f"{path} is a stack of {count} images: choose one with page=0 to {count - 1} (in a "
            "config: dataloader.page), or save them as files of their own"
        )
    if not 0 <= page < count:
        raise StackError(f"{path} holds {count} images: page={page} is none of 0 to {count - 1}")
    image.seek(page)


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether the file holds more than 8 bits per channel; before it is decoded."""
    if image.mode.startswith(("I", "F")):
        return True
    # Of colours of 16 bits Pillow keeps the upper 8. The raw mode tells: "RGB;16B", and in a PPM
    # "RGB" with the largest value.
    modes = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in image.tile]
    if image.format in ("PNG", "TIFF"):
        return any(";16" in str(mode[0]) for mode in modes)
    return image.format == "PPM" and any(len(m) > 1 and m[1] > 255 for m in modes)


def _deep_pixels(image: Image.Image, file: IO[bytes]) -> np.ndarray:
    """Numbers as they stand in the file: (H, W), or (H, W, 3) in RGB without alpha."""
    if image.mode.startswith(("I", "F")):
        return np.asarray(image)
    page = image.tell()
    file.seek(0)
    data = np.frombuffer(file.read(), np.uint8)
    if image.format == "TIFF":
        pixels = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED)[1][page]
    else:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError(f"OpenCV cannot decode {image.format} of mode {image.mode} and 16 bits")
    return pixels if pixels.ndim == 2 else pixels[:, :, 2::-1]  # BGR or BGRA


def _scaled(
    image: Image.Image,
    file: IO[bytes],
    path: str | os.PathLike,
    intensity_range: tuple[float, float] | None,
) -> Image.Image:
    """An image of many bits or of floats with 8 bits, upright: mode "L" or "RGB"."""
    # Decoders turn a TIFF upright themselves.
    turn = None if image.format == "TIFF" else _turn(image)
    try:
        pixels = _deep_pixels(image, file)
    except Exception as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    try:
        image = Image.fromarray(eight_bits(pixels, intensity_range))
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    return image if turn is None else image.transpose(turn)


def eight_bits(pixels: np.ndarray, intensity_range: Sequence[float] | None = None) -> np.ndarray:
    """Numbers of any type scaled to 8 bits, as those of a file.

    Args:
        pixels: of any shape.
        intensity_range: see `open_image`.

    Returns:
        uint8, of the same shape.

    Raises:
        ValueError: NaN or infinite numbers, or no range.
    """
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        count = int(np.count_nonzero(~np.isfinite(pixels)))
        raise ValueError(
            f"{count} of its {pixels.size} values are NaN or infinite; replace them by a number, "
            "such as the smallest"
        )
    low, high = valid_range(intensity_range) or np.percentile(pixels, PERCENTILES).tolist()
    if low == high:  # nearly all is background
        low, high = float(pixels.min()), float(pixels.max())
    # An image of one value is black.
    eight = (pixels.astype(np.float64) - low) * 255 / ((high - low) or 1.0)
    return eight.round().clip(0, 255).astype(np.uint8)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged metadata; the pixels may well be intact
        return None


def upright(image: Image.Image) -> Image.Image:
    """An image as its EXIF orientation says."""
    if image.format == "TIFF":
        image.load()  # Pillow turns a TIFF, and then takes the orientation away
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # colours below the transparency; Pillow would warn
    return image.convert(mode)


# ------------------------------------------------------------------------------------- summary
KINDS = {
    "1": "1-bit grey",
    "L": "8-bit grey",
    "LA": "8-bit grey with alpha",
    "P": "8-bit palette",
    "RGBA": "8-bit RGB with alpha",
}


def describe_images(
    paths: Sequence[str | os.PathLike], sample: int = 200, page: int | None = None
) -> dict[str, int]:
    """Kinds of images among some files, for people: {"8-bit RGB": 180, "16-bit grey, ...": 20}.

    Headers are read, and the pixels of images of more than 8 bits: their kind says the smallest and
    largest value among them, and how many bits those need.

    Args:
        paths: image files.
        sample: files that are looked at, evenly spaced among `paths`.
        page: see `open_image`.

    Returns:
        Number of files by kind, the most frequent first. "stack, refused without page" and
        "unreadable" are kinds too.
    """
    counts: Counter[str] = Counter()
    values: dict[str, tuple[float, float]] = {}
    for path in paths[:: max(1, -(-len(paths) // max(1, sample)))]:
        kind, found = _kind(path, page)
        counts[kind] += 1
        if found is not None:
            low, high = values.get(kind, found)
            values[kind] = (min(low, found[0]), max(high, found[1]))
    result = {}
    for kind, count in counts.most_common():
        if kind in values:
            low, high = values[kind]
            kind += f", values {low:g} to {high:g}"
            if not kind.startswith("float") and low >= 0:
                kind += f" ({int(high).bit_length()} bits)"
        result[kind] = count
    return result


def _kind(path: str | os.PathLike, page: int | None) -> tuple[str, tuple[float, float] | None]:
    """What a file is, and the smallest and largest value if it has more than 8 bits."""
    try:
        with PathManager.open(os.fspath(path), "rb") as file, Image.open(file) as image:
            _choose_page(image, path, page)
            if not _is_deep(image):
                return KINDS.get(image.mode, f"8-bit {image.mode}"), None
            pixels = _deep_pixels(image, file)
            is_wide = image.mode == "I" and np.abs(pixels).max() > 65535
    except StackError:
        return STACK, None
    except Exception:  # damaged files make Pillow raise nearly anything
        return "unreadable", None
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        return "float with NaN or infinity, refused", None
    bits = "float" if pixels.dtype.kind == "f" else "32-bit" if is_wide else "16-bit"
    kind = f"{bits} {'grey' if pixels.ndim == 2 else 'RGB'}"
    return kind, (float(pixels.min()), float(pixels.max()))


# ------------------------------------------------------------------------------------- files
class ImageFiles:
    """The images under a folder: flat, nested, or in one sub-folder per class.

    A file that cannot be read is reported once and its neighbour is taken instead; when there are
    too many of them it is an error. The account is shared by the workers of a loader.
    """

    def __init__(
        self,
        root: str,
        max_unreadable: int = 100,
        intensity_range: Sequence[float] | None = None,
        page: int | None = None,
    ):
        """
        Args:
            root: the folder; links to folders are followed.
            max_unreadable: files that may turn out unreadable before the run stops.
            intensity_range, page: see `open_image`.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: no image in it; or it holds both train/ and val/; or a bad range.
        """
        self.intensity_range, self.page = valid_range(intensity_range), page
        self.root = os.path.expanduser(str(root))
        if not os.path.isdir(self.root):
            raise FileNotFoundError(
                f"there is no folder {self.root} of images (in a config: dataset.root)"
            )
        if all(os.path.isdir(os.path.join(self.root, split)) for split in ("train", "val")):
            raise ValueError(
                f"{self.root} holds train/ and val/: give {self.root}/train, or validation images "
                "would be trained on"
            )
        # Bytes in one array: Python strings would be copied into each worker, one by one.
        self.names = np.array(sorted(self._find()), dtype=np.bytes_)
        if not len(self.names):
            raise ValueError(
                f"{self.root} holds no image, nor do its sub-folders ({', '.join(SUFFIXES)})"
            )
        self.max_unreadable = max_unreadable
        self.unreadable = torch.zeros(len(self.names), dtype=torch.bool).share_memory_()

    def _find(self) -> Iterator[bytes]:
        seen = set()
        for folder, subfolders, files in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link back to where the walk has been
                subfolders.clear()
                continue
            seen.add(real)
            relative = os.path.relpath(folder, self.root)
            for name in files:
                if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                    yield os.fsencode(os.path.normpath(os.path.join(relative, name)))

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.names[index]))

    def read(
        self, index: int, crop: Callable[..., Image.Image], *args: Any
    ) -> tuple[Image.Image, int]:
        """`crop(image, *args)` of the image, or of the next one that can be read; and its index.

        `crop` meets the same random numbers however many files were tried before.

        Raises:
            ValueError: more than `max_unreadable` files, or all, cannot be read; or a file is a
                stack and no `page` was chosen.
        """
        random_state = torch.get_rng_state()
        for k in itertools.chain(range(index, len(self)), range(index)):
            if self.unreadable[k]:
                continue
            try:
                with open_image(self.path(k), self.intensity_range, self.page) as image:
                    return crop(image, *args), k
            except StackError:  # no damage, but a choice that is the user's
                raise
            except Exception as error:  # damaged files make Pillow raise nearly anything
                self._report(k, error)
                torch.set_rng_state(random_state)
        raise ValueError(f"none of the {len(self)} images under {self.root} can be read")

    def _report(self, index: int, error: Exception) -> None:
        self.unreadable[index] = True
        count = int(self.unreadable.sum())
        path = self.path(index)
        text = str(error) if path in str(error) else f"cannot read {path}: {error}"
        if count > self.max_unreadable:
            raise ValueError(
                f"{text}. That is number {count} of the {len(self)} images that cannot be read; "
                f"max_unreadable={self.max_unreadable} allows no more"
            ) from error
        logger.warning("%s; skipped, number %d of at most %d", text, count, self.max_unreadable)


# ------------------------------------------------------------------------------------- crops
def random_crop(
    image: Image.Image, size: Sequence[int], scale: Sequence[float], flip: bool = True
) -> Image.Image:
    """torchvision's RandomResizedCrop with bicubic interpolation, and a flip half of the time.

    Args:
        image: as `open_image` gives it, not yet decoded.
        size: (H, W) of the result.
        scale: smallest and largest share of the area.
        flip: whether to mirror it, with a probability of 1/2.

    Returns:
        RGB, of `size`.
    """
    image = upright(image)
    top, left, height, width = v2.RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3])
    image = _resize(image, (left, top, left + width, top + height), size)
    if flip and torch.rand(()) < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


def center_crop(image: Image.Image, size: Sequence[int], share: float = 224 / 256) -> Image.Image:
    """The middle of an image at `size` = (H, W): the largest box of that shape, times `share`."""
    image = upright(image)
    width, height = image.size
    factor = share * min(width / size[1], height / size[0])
    w, h = max(1.0, size[1] * factor), max(1.0, size[0] * factor)
    left, top = (width - w) / 2, (height - h) / 2
    return _resize(image, (left, top, left + w, top + h), size)


def _resize(image: Image.Image, box: Box, size: Sequence[int]) -> Image.Image:
    """The pixels in a box, resized to (H, W), in RGB.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that leaves enough pixels, which saves
    most of the time with photographs.
    """
    width, height = image.size
    shrink = min((box[2] - box[0]) / size[1], (box[3] - box[1]) / size[0])
    if shrink >= 2:
        image.draft(None, (int(width / shrink), int(height / shrink)))
        x, y = image.size[0] / width, image.size[1] / height
        box = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
    return _convert(image, "RGB").resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box)
