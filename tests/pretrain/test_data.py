"""Folders of images, odd ones among them, and the stream that is made of them."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.testing import assert_close
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from hiera_det.data.images import ImageFiles, center_crop, random_crop
from pretrain.data import PretrainImages, build_pretrain_loader


def noise(height: int = 40, width: int = 60, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def colours(height: int, width: int) -> Image.Image:
    """Smooth, so that two ways to resize it agree."""
    y, x = np.mgrid[:height, :width]
    bands = [255 * x / width, 255 * y / height, 255 * (1 - x / width)]
    return Image.fromarray(np.stack(bands, axis=2).astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    for k in range(6):
        Image.fromarray(noise() // (k + 1)).save(tmp_path / f"{k}.png")
    return tmp_path


def make(folder, **kwargs) -> PretrainImages:
    return PretrainImages(str(folder), **(dict(input_size=(64, 96)) | kwargs))


# ------------------------------------------------------------------------------------- folders
def test_flat_nested_and_class_folders_are_found(tmp_path):
    names = ["a.jpg", "n01440764/b.JPEG", "n01443537/c.png", "deep/er/d.webp"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        colours(8, 8).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.jpg").write_text("no image")
    files = ImageFiles(str(tmp_path))
    assert [files.path(k) for k in range(len(files))] == sorted(str(tmp_path / n) for n in names)


def test_empty_folder_raises(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        make(tmp_path)


def test_missing_folder_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        make(tmp_path / "nowhere")


def test_root_of_train_and_val_raises(folder):
    for split in ("train", "val"):
        (folder / split).mkdir()
    with pytest.raises(ValueError, match="/train, or validation"):
        make(folder)


# ------------------------------------------------------------------------------------- odd images
def test_unreadable_images_are_reported_once_and_replaced(folder, caplog):
    (folder / "1.png").write_text("this is text")
    data = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(data[: len(data) // 2])
    dataset = make(folder, max_unreadable=2)
    replaced, _ = dataset[(0, 1)]
    assert_close(replaced, dataset[(0, 3)][0])
    assert [str(folder / name) in caplog.text for name in ("1.png", "2.png")] == [True, True]
    caplog.clear()
    assert_close(dataset[(0, 1)][0], replaced)
    assert caplog.text == ""


def test_too_many_unreadable_images_stop(folder):
    for k in range(3):
        (folder / f"{k}.png").write_text("this is text")
    dataset = make(folder, max_unreadable=2)
    with pytest.raises(
        ValueError, match="2.png.*number 3 of the 6 images that cannot be read; max_unreadable=2"
    ):
        dataset[(0, 0)]


def test_all_unreadable_stops_whatever_the_limit(tmp_path):
    (tmp_path / "a.jpg").write_text("this is text")
    dataset = make(tmp_path)
    with pytest.raises(ValueError, match="none of the 1 images"):
        dataset[(0, 0)]


def test_workers_share_the_account_of_unreadable_images(folder):
    (folder / "1.png").write_text("this is text")
    dataset = make(folder)
    loader = build_pretrain_loader(dataset, total_batch_size=6, num_workers=1)
    next(iter(loader))
    assert dataset.files.unreadable.tolist() == [False, True, False, False, False, False]


@pytest.mark.parametrize(
    "name, image",
    [
        ("grey.jpg", Image.fromarray(noise(channels=1))),
        ("grey_alpha.png", Image.fromarray(noise(channels=1)).convert("LA")),
        ("cmyk.jpg", Image.fromarray(noise()).convert("CMYK")),
        ("palette.png", Image.fromarray(noise()).convert("P")),
        ("bits.png", Image.fromarray(noise(channels=1)).convert("1")),
        ("pixel.png", Image.fromarray(noise(1, 1))),
        ("line.png", Image.fromarray(noise(1, 500))),
        ("wide.jpg", colours(8, 20_000)),
    ],
)
def test_odd_images_give_a_crop(tmp_path, name, image):
    image.save(tmp_path / name)
    dataset = make(tmp_path)
    crop, keep_mask = dataset[(0, 0)]
    assert crop.shape == dataset.view(0).shape == (3, 64, 96)
    assert crop.dtype == torch.uint8 and keep_mask.sum() == 2
    assert not dataset.files.unreadable.any()


def test_grey_image_is_grey_and_cmyk_keeps_its_colours(tmp_path):
    Image.new("L", (50, 50), 77).save(tmp_path / "a.png")
    Image.new("RGB", (50, 50), (200, 30, 60)).convert("CMYK").save(tmp_path / "b.jpg", quality=95)
    dataset = make(tmp_path)
    assert dataset.view(0).unique().tolist() == [77]
    red, green, blue = dataset.view(1).float().mean(dim=(1, 2)).tolist()
    assert abs(red - 200) < 12 and abs(green - 30) < 12 and abs(blue - 60) < 12


def test_stated_range_of_sixteen_bits(tmp_path):
    Image.fromarray(np.full((50, 50), 128 * 256, np.uint16)).save(tmp_path / "a.png")
    dataset = make(tmp_path, intensity_range=[0, 65535])
    assert dataset.view(0).unique().tolist() == [128]
    assert dataset[(0, 0)][0].unique().tolist() == [128]


def test_image_beyond_pillows_limit_is_reported(folder, caplog):
    Image.new("1", (20_000, 20_000)).save(folder / "0.png")
    dataset = make(folder)
    assert_close(dataset[(0, 0)][0], dataset[(0, 1)][0])
    assert f"cannot read {folder / '0.png'}" in caplog.text and "pixels" in caplog.text


def test_rotated_photo_is_upright(tmp_path):
    upright = colours(80, 120)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned a quarter to the left
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "a.png", exif=exif)
    upright.save(tmp_path / "b.png")
    dataset = make(tmp_path)
    assert_close(dataset.view(0), dataset.view(1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_pillow(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    colours(64, 96).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        expected = center_crop(ImageOps.exif_transpose(image), (64, 96))
    assert_close(make(tmp_path).view(0), pil_to_tensor(expected))


def test_damaged_metadata_leaves_the_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    colours(64, 96).save(tmp_path / "a.jpg", exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    start = data.index(b"Exif") + 6
    rng = np.random.default_rng(0)
    for k in range(60):
        damaged = bytearray(data)
        for at in rng.integers(start, start + 26, 3):
            damaged[at] = rng.integers(256)
        (tmp_path / "a.jpg").write_bytes(damaged)
        assert make(tmp_path).view(0).shape == (3, 64, 96), k


def test_sample_is_the_same_whether_an_unreadable_file_was_known(folder):
    path = folder / "0.jpg"
    colours(64, 96).save(path)
    path.write_bytes(path.read_bytes()[:-200])  # opens, and fails while it is decoded
    index = sorted(p.name for p in folder.iterdir()).index("0.jpg")
    dataset = make(folder)
    first = dataset[(5, index)]
    assert dataset.files.unreadable[index]
    assert_close(dataset[(5, index)], first)


def test_link_to_a_parent_folder_ends_the_walk(folder):
    count = len(make(folder))
    (folder / "self").symlink_to(folder, target_is_directory=True)
    assert len(make(folder)) == count


# ------------------------------------------------------------------------------------- pixels
@pytest.mark.parametrize("seed", range(4))
def test_random_crop_follows_torchvision(tmp_path, seed):
    colours(300, 400).save(tmp_path / "a.png")
    torch.manual_seed(seed)
    with Image.open(tmp_path / "a.png") as image:
        ours = random_crop(image, (64, 64), (0.2, 1.0), flip=False)
    torch.manual_seed(seed)
    reference = v2.RandomResizedCrop(
        64, scale=(0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC
    )
    theirs = reference(Image.open(tmp_path / "a.png"))
    difference = np.asarray(ours, np.int16) - np.asarray(theirs, np.int16)
    assert np.abs(difference).max() <= 3  # they cut first, and see nothing beyond the border


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_decoded_at_a_fraction_shows_the_same(tmp_path, mode):
    image = colours(800, 1200).convert(mode)
    image.save(tmp_path / "a.jpg", quality=95)
    image.save(tmp_path / "a.tif")
    found = []
    for name in ("a.jpg", "a.tif"):
        torch.manual_seed(0)
        with Image.open(tmp_path / name) as opened:
            found.append(np.asarray(random_crop(opened, (64, 96), (0.5, 1.0)), np.int16))
    assert np.abs(found[0] - found[1]).max() <= 6
    assert np.ptp(found[0]) > 100


def test_flip_mirrors_about_half():
    image = colours(64, 64)
    torch.manual_seed(0)
    crops = [np.asarray(random_crop(image, (32, 32), (1.0, 1.0)), np.int16) for _ in range(100)]
    mirrored = sum(bool(c[16, 0, 0] > c[16, -1, 0]) for c in crops)
    assert 35 < mirrored < 65


def test_center_crop_is_the_middle_at_its_aspect():
    crop = np.asarray(center_crop(colours(256, 512), (112, 112), share=0.5), np.int16)
    # the middle 128 px of 512 and of 256
    assert abs(crop[56, 0, 0] - 255 * 192 / 512) <= 3 and abs(crop[56, -1, 0] - 255 * 5 / 8) <= 3
    assert abs(crop[0, 56, 1] - 255 * 64 / 256) <= 3 and abs(crop[-1, 56, 1] - 255 * 3 / 4) <= 3


# ------------------------------------------------------------------------------------- stream
def test_sample_depends_on_its_seed_alone(folder):
    dataset = make(folder)
    torch.manual_seed(1)
    first = dataset[(5, 2)]
    torch.rand(7)
    state = torch.get_rng_state()
    assert_close(dataset[(5, 2)], first)
    assert_close(torch.get_rng_state(), state)
    assert not torch.equal(dataset[(6, 2)][0], first[0])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_stream_is_the_same_for_any_number_of_workers_and_resumes(folder, num_workers):
    def batches(start: int, workers: int, count: int):
        loader = build_pretrain_loader(
            make(folder), 4, num_workers=workers, batch_size=4, seed=3, start=4 * start
        )
        iterator = iter(loader)
        return [next(iterator) for _ in range(count)]

    whole = batches(0, 0, 5)
    assert_close(batches(3, num_workers, 2), whole[3:])


def test_accumulated_stream_has_the_samples_of_the_whole_batch(folder):
    def images(at_once: int, count: int) -> torch.Tensor:
        iterator = iter(build_pretrain_loader(make(folder), 4, 0, batch_size=at_once))
        return torch.cat([next(iterator)[0] for _ in range(count)])

    assert_close(images(1, 8), images(4, 2))
