"""One reading function: 8 bits as Detectron2 reads them, more bits and floats by their range."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import detection_utils
from numpy.testing import assert_array_equal
from PIL import Image

from hiera_det.data.images import (
    ImageFiles,
    center_crop,
    describe_images,
    open_image,
    random_crop,
    read_image,
)

RNG = np.random.default_rng(0)
TWELVE = RNG.integers(0, 4096, (40, 60, 3), dtype=np.uint16)  # of 12 bits, RGB
EIGHT = (TWELVE >> 4).astype(np.uint8)
GREY = TWELVE[:, :, 0]


def scaled(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """What is expected, (H, W, 3): a linear scale, cut off at its ends."""
    value = (pixels.astype(np.float64) - low) * 255 / (high - low)
    value = np.clip(np.round(value), 0, 255).astype(np.uint8)
    return value if value.ndim == 3 else np.repeat(value[:, :, None], 3, axis=2)


def by_percentiles(pixels: np.ndarray) -> np.ndarray:
    return scaled(pixels, *np.percentile(pixels, [0.1, 99.9]))


def save(path: Path, pixels: np.ndarray) -> Path:
    """By OpenCV, which writes 16-bit colours; a float or signed TIFF as it is."""
    if pixels.ndim == 3:
        pixels = pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]  # RGB or RGBA to BGR or BGRA
    assert cv2.imwrite(str(path), pixels)
    return path


def save_stack(path: Path, count: int = 3) -> Path:
    first, *others = [Image.fromarray(GREY + np.uint16(k)) for k in range(count)]
    first.save(path, save_all=True, append_images=others)
    return path


def save_grey_alpha_16(path: Path, grey: np.ndarray) -> Path:
    """A PNG of 16-bit grey with alpha, which neither Pillow nor OpenCV writes."""
    height, width = grey.shape
    pixels = np.stack([grey, np.full_like(grey, 65535)], axis=2).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # filter 0
    header = struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0)  # colour type 4: grey, alpha
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        data += struct.pack(">I", len(body)) + kind + body + checksum
    path.write_bytes(data)
    return path


# ------------------------------------------------------------------------------------- 8 bits
def odd_images() -> dict[str, tuple[Image.Image, dict]]:
    rgb = Image.fromarray(EIGHT)
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=32)
    alpha = bytes(range(0, 256, 8))
    return {
        "rgb.png": (rgb, {}),
        "rgb.jpg": (rgb, {}),
        "rgb.webp": (rgb, {}),
        "rgb.bmp": (rgb, {}),
        "rgb.tif": (rgb, dict(compression="tiff_lzw")),
        "rgb.ppm": (rgb, {}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "cmyk.tif": (rgb.convert("CMYK"), {}),
        "grey.png": (rgb.convert("L"), {}),
        "grey.jpg": (rgb.convert("L"), {}),
        "grey_alpha.png": (rgb.convert("LA"), {}),
        "rgba.png": (Image.fromarray(np.dstack([EIGHT, EIGHT[:, :, 0]])), {}),
        "palette.png": (palette, {}),
        "palette_transparent.png": (palette, dict(transparency=3)),
        "palette_alpha.png": (palette, dict(transparency=alpha)),
        "palette.gif": (palette, {}),
        "bits.png": (rgb.convert("1"), {}),
    }


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # of Detectron2's reading
@pytest.mark.parametrize("format", ["RGB", "BGR", "L"])
@pytest.mark.parametrize("name", odd_images())
def test_eight_bits_are_those_of_detectron2(tmp_path, name, format):
    image, options = odd_images()[name]
    image.save(tmp_path / name, **options)
    found = read_image(tmp_path / name, format)
    assert found.dtype == np.uint8 and np.ptp(found) > 100
    assert_array_equal(found, detection_utils.read_image(str(tmp_path / name), format))
    # and a stated range leaves them alone
    assert_array_equal(read_image(tmp_path / name, format, (0, 10)), found)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(EIGHT).save(tmp_path / "a.jpg", exif=exif)
    found = read_image(tmp_path / "a.jpg")
    assert found.shape == ((60, 40, 3) if orientation >= 5 else (40, 60, 3))
    assert_array_equal(found, detection_utils.read_image(str(tmp_path / "a.jpg"), "RGB"))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_orientation_holds_for_any_depth_and_format(tmp_path, suffix, depth):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned a quarter to the left
    pixels = EIGHT[:, :, 0] if depth == 8 else GREY
    Image.fromarray(np.rot90(pixels).copy()).save(tmp_path / f"a.{suffix}", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "upright.png")
    expected = read_image(tmp_path / "upright.png")
    assert expected.shape == (40, 60, 3)
    assert_array_equal(read_image(tmp_path / f"a.{suffix}"), expected)
    with open_image(tmp_path / f"a.{suffix}") as image:
        assert_array_equal(np.asarray(center_crop(image, (40, 60), share=1.0)), expected)


def test_the_first_picture_of_a_phones_file_is_the_image(tmp_path):
    first, second = Image.fromarray(EIGHT), Image.new("RGB", (60, 40), (9, 9, 9))
    first.save(tmp_path / "a.mpo", save_all=True, append_images=[second])
    with Image.open(tmp_path / "a.mpo") as image:
        assert image.n_frames == 2
    first.save(tmp_path / "a.jpg")
    assert_array_equal(read_image(tmp_path / "a.mpo"), read_image(tmp_path / "a.jpg"))


# ------------------------------------------------------------------------------------- more bits
DEEP = {
    "grey.png": GREY,
    "grey.tif": GREY,
    "grey.pgm": GREY,
    "signed.tif": GREY.astype(np.int16) - 100,
    "rgb.png": TWELVE,
    "rgb.tif": TWELVE,
    "rgb.ppm": TWELVE,
    "rgba.png": np.dstack([TWELVE, np.full_like(GREY, 65535)]),
    "float.tif": (GREY / 4095).astype(np.float32),
}


@pytest.mark.parametrize("name", DEEP)
def test_percentiles_of_the_image_become_black_and_white(tmp_path, name):
    """12 bits in a 16-bit PNG had a mean of 192 and were cut off, and a float TIFF was black."""
    path = save(tmp_path / name, DEEP[name])
    numbers = DEEP[name][:, :, :3] if name == "rgba.png" else DEEP[name]
    expected = by_percentiles(numbers)
    assert_array_equal(read_image(path), expected)
    assert_array_equal(read_image(path, "BGR"), expected[:, :, ::-1])
    assert abs(expected.mean() - 127) < 6 and np.ptp(expected) == 255


@pytest.mark.parametrize("name", ["grey.png", "rgb.png", "rgb.tif", "float.tif"])
def test_stated_range_is_the_same_for_all_images(tmp_path, name):
    high = 1.0 if name == "float.tif" else 4095
    for factor in (1, 4):  # a bright and a dark image
        pixels = (DEEP[name] / factor).astype(DEEP[name].dtype)
        path = save(tmp_path / name, pixels)
        assert_array_equal(read_image(path, intensity_range=(0, high)), scaled(pixels, 0, high))


def test_grey_with_alpha_of_16_bits(tmp_path):
    path = save_grey_alpha_16(tmp_path / "a.png", GREY)
    decoded = np.repeat(GREY[:, :, None], 3, axis=2)  # OpenCV makes three channels of it
    assert_array_equal(read_image(path), by_percentiles(decoded))


def test_few_bright_pixels_on_a_dark_ground_are_seen(tmp_path):
    pixels = np.full((100, 100), 300, np.uint16)
    pixels[50, 50:52] = 2000, 1140  # two of 10,000: both percentiles are the background
    found = read_image(save(tmp_path / "a.png", pixels))
    assert_array_equal(found, scaled(pixels, 300, 2000))
    assert found[50, 50:52, 0].tolist() == [255, 126]


def test_image_of_one_value_is_black(tmp_path):
    assert not read_image(save(tmp_path / "a.png", np.full((20, 20), 777, np.uint16))).any()


@pytest.mark.parametrize("name", DEEP)
def test_encoder_and_detector_see_the_same_pixels(tmp_path, name):
    path = save(tmp_path / name, DEEP[name])
    for intensity_range in (None, (0, 5000)):
        files = ImageFiles(str(tmp_path), intensity_range=intensity_range)
        crop, _ = files.read(0, center_crop, (40, 60), 1.0)
        detector = read_image(path, intensity_range=intensity_range)
        assert_array_equal(np.asarray(crop), detector)


def test_a_crop_is_scaled_by_the_whole_image(tmp_path):
    pixels = np.zeros((64, 64), np.uint16)
    pixels[:, 32:] = 1000
    path = save(tmp_path / "a.png", pixels)
    torch.manual_seed(0)
    with open_image(path) as image:
        values = {
            int(v) for _ in range(20) for v in np.unique(random_crop(image, (8, 8), (0.1, 0.2)))
        }
    assert {0, 255} <= values


# ------------------------------------------------------------------------------------- refusals
def test_stack_is_refused_or_a_page_chosen(tmp_path):
    path = save_stack(tmp_path / "stack.tif")
    with pytest.raises(ValueError, match=r"stack.tif is a stack of 3 images.*page=0 to 2"):
        read_image(path)
    for page in range(3):
        expected = scaled(GREY + page, 0, 5000)
        assert_array_equal(read_image(path, page=page, intensity_range=(0, 5000)), expected)
    for page in (3, -1):
        with pytest.raises(ValueError, match=f"stack.tif holds 3 images: page={page}"):
            read_image(path, page=page)


def test_page_of_colours_of_16_bits(tmp_path):
    assert cv2.imwritemulti(str(tmp_path / "a.tif"), [TWELVE[..., ::-1] // k for k in (1, 2)])
    found = read_image(tmp_path / "a.tif", page=1, intensity_range=(0, 4095))
    assert_array_equal(found, scaled(TWELVE // 2, 0, 4095))


def test_page_leaves_other_files_alone(tmp_path):
    Image.fromarray(EIGHT).save(tmp_path / "a.png")
    assert_array_equal(read_image(tmp_path / "a.png", page=2), EIGHT)


def test_stack_stops_pretraining_too(tmp_path):
    save_stack(tmp_path / "stack.tif")
    with pytest.raises(ValueError, match="stack.tif is a stack"):
        ImageFiles(str(tmp_path)).read(0, center_crop, (32, 32))
    crop, _ = ImageFiles(str(tmp_path), page=1).read(0, center_crop, (40, 60), 1.0)
    assert_array_equal(np.asarray(crop), by_percentiles(GREY + 1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused(tmp_path, value):
    pixels = (GREY / 4095).astype(np.float32)
    pixels[3, 4:6] = value
    path = save(tmp_path / "a.tif", pixels)
    for intensity_range in (None, (0, 1)):
        with pytest.raises(ValueError, match=r"a.tif: 2 of its 2400 values are NaN or infinite"):
            read_image(path, intensity_range=intensity_range)


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "text.png").write_text("this is text")
    with pytest.raises(ValueError, match=r"cannot read .*text.png: no image that Pillow knows"):
        read_image(tmp_path / "text.png")
    path = save(tmp_path / "colours.tif", (TWELVE / 4095).astype(np.float32))
    with pytest.raises(ValueError, match=r"cannot read .*colours.tif: no image that Pillow knows"):
        read_image(path)
    with pytest.raises(FileNotFoundError, match="absent.png"):
        read_image(tmp_path / "absent.png")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "deep.png", "rgb_deep.png", "deep.tif"])
def test_damaged_files_are_named(tmp_path, name):
    path = tmp_path / name
    if "deep" in name:
        save(path, TWELVE if name.startswith("rgb") else GREY)
    else:
        Image.fromarray(EIGHT).save(path)
    data = path.read_bytes()
    for share in (0.1, 0.5):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ValueError, match=f"cannot read .*{name}"):
            read_image(path)


@pytest.mark.parametrize("bad", [(5, 5), (10, 0), (0,), (0, np.nan), (0, np.inf), ("a", "b"), 7])
def test_bad_range_is_refused(tmp_path, bad):
    Image.fromarray(EIGHT).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="intensity_range=.* is not"):
        read_image(tmp_path / "a.png", intensity_range=bad)
    with pytest.raises(ValueError, match="intensity_range=.* is not"):
        ImageFiles(str(tmp_path), intensity_range=bad)


def test_unknown_channel_order_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'RGBA' is none of RGB, BGR, L"):
        read_image(tmp_path / "a.png", "RGBA")


# ------------------------------------------------------------------------------------- summary
def test_summary_of_what_is_found(tmp_path):
    save(tmp_path / "a.png", TWELVE)
    save(tmp_path / "b.png", GREY // 4)
    save(tmp_path / "c.png", GREY)
    save(tmp_path / "d.tif", np.array([[0.25, 0.5]], np.float32))
    save(tmp_path / "e.tif", np.array([[0.25, np.nan]], np.float32))
    save_stack(tmp_path / "f.tif")
    for k in range(4):
        Image.fromarray(EIGHT).save(tmp_path / f"g{k}.png")
    Image.fromarray(EIGHT[:, :, 0]).save(tmp_path / "h.png")
    (tmp_path / "i.png").write_text("this is text")
    paths = sorted(tmp_path.iterdir())
    found = describe_images(paths)
    assert found == {
        "8-bit RGB": 4,
        f"16-bit grey, values {GREY.min() // 4} to {GREY.max()} (12 bits)": 2,
        f"16-bit RGB, values {TWELVE.min()} to {TWELVE.max()} (12 bits)": 1,
        "float grey, values 0.25 to 0.5": 1,
        "float with NaN or infinity, refused": 1,
        "stack, refused without page": 1,
        "8-bit grey": 1,
        "unreadable": 1,
    }
    assert list(found)[0] == "8-bit RGB"
    assert sum(describe_images(paths, sample=4).values()) == 4
    assert describe_images([]) == {}
