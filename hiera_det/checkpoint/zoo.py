"""Published weights by name: addresses, sizes, hashes and licences.

Sources of the facts: README of facebookresearch/hiera (addresses, LICENSE.models); README of
facebookresearch/sam2 (addresses, licence), with sha256 and bytes as independent public repositories
record them of the same files, Hugging Face's among them; the registry of birder 0.8.4 and its model
cards (addresses, sha256, sizes, licence). Meta publishes neither size nor hash of Hiera's files:
their megabytes are their parameters at 4 bytes.
"""

import difflib
import os
from dataclasses import dataclass

__all__ = ["PUBLISHED", "PublishedFile", "is_published", "nearest_names"]

BY_NC = "CC BY-NC 4.0: not for commercial use"
APACHE = "Apache-2.0"


@dataclass(frozen=True)
class PublishedFile:
    """One file of weights that its authors publish."""

    name: str
    url: str
    source: str
    what: str  # training
    licence: str
    megabytes: int  # of 10^6 bytes, rounded
    sha256: str | None = None  # None: not published
    bytes: int | None = None  # None: not published exactly
    variant: str | None = None  # where the tensors leave it open
    is_video: bool = False


def _hiera() -> list[PublishedFile]:
    sizes = {  # megabytes of hiera_* and mae_hiera_*
        "tiny_224": (112, 220),
        "small_224": (140, 248),
        "base_224": (206, 315),
        "base_plus_224": (280, 390),
        "large_224": (855, 972),
        "huge_224": (2691, 2840),
        "base_16x224": (204, 317),
        "base_plus_16x224": (278, 393),
        "large_16x224": (852, 974),
        "huge_16x224": (2687, 2843),
    }
    files = []
    for size, megabytes in sizes.items():
        data = "Kinetics-400" if "16x" in size else "ImageNet-1K"
        for prefix, what, number in (
            ("mae_hiera", f"MAE on {data}", megabytes[1]),
            ("hiera", f"MAE and classes of {data}", megabytes[0]),
        ):
            name = f"{prefix}_{size}"
            url = f"https://dl.fbaipublicfiles.com/hiera/{name}.pth"
            is_video = "16x" in size
            files.append(
                PublishedFile(name, url, "official", what, BY_NC, number, is_video=is_video)
            )
    return files


def _sam2() -> list[PublishedFile]:
    folder = "https://dl.fbaipublicfiles.com/segment_anything_2/092824"
    rows = (
        (
            "tiny",
            156008466,
            "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
        ),
        (
            "small",
            184416285,
            "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
        ),
        (
            "base_plus",
            323606802,
            "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
        ),
        (
            "large",
            898083611,
            "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
        ),
    )
    return [
        PublishedFile(
            name=f"sam2.1_hiera_{size}",
            url=f"{folder}/sam2.1_hiera_{size}.pt",
            source="SAM 2.1",
            what="MAE, then masks and videos of SA-1B and SA-V",
            licence=APACHE,
            megabytes=round(length / 1e6),
            sha256=sha256,
            bytes=length,
        )
        for size, length, sha256 in rows
    ]


def _birder() -> list[PublishedFile]:
    rows = (  # name; repository if not the name; training; MiB as published; sha256; variant
        (
            "hiera_abswin_base_mim",
            None,
            "MAE on 12 M images, absolute win",
            192.7,
            "7133b4f857cca69d320173808d5c9921c1f05c129a76d58310a22bfafcd6deb1",
            None,
        ),
        (
            "mae_hiera_hiera_abswin_base",
            None,
            "the same with its decoder",
            328.1,
            "fddafce6ce190982ba77af3100bc46d0fbdf65d96eda7e76a51883af4f95227f",
            None,
        ),
        (
            "hiera_abswin_base_mim-intermediate-eu-common",
            None,
            "the same and bird species, 384 px",
            194.9,
            "ce44e29c36b083c9e1d0eed9693a3f9c5bc39c03cf03efce3d453bfa328c7b9c",
            None,
        ),
        (
            "hieradet_d_small_dino-v2",
            None,
            "DINOv2",
            129.6,
            "eb41b8a35445e7f350797094d5e365306b29351e64edd4a316420c23d1e17073",
            None,
        ),
        (
            "hieradet_d_small_dino-v2-imagenet12k",
            None,
            "DINOv2 and classes of ImageNet-12K",
            164.8,
            "b89dd6c13d061fe8a09d051bb3d76e632e650067ca71578e37b02033107c9963",
            None,
        ),
        (
            "hieradet_d_small_dino-v2-inat21",
            None,
            "DINOv2 and species of iNaturalist 2021, 384 px",
            159.8,
            "271fa9ed6a9aa1f4d1fc8bbb4c4cac9d15b264f2ac544efb5cd971412691880d",
            None,
        ),
        (
            "hieradet_d_small_dino-v2-inat21-256px",
            "hieradet_d_small_dino-v2-inat21",
            "DINOv2 and species of iNaturalist 2021, 256 px",
            159.8,
            "e1bdeba97eae816ec3ab9b3238d97decf2c34d29b70f9291116ce962b9a4f9df",
            None,
        ),
        (
            "hieradet_small_sam2_1",
            None,
            "SAM 2.1's trunk",
            129.6,
            "2ede3a78389ca74ed37d82dbc1c3410549f1fdafb5a7a94ac02968aa6d3dec80",
            "sam2_hiera_s",
        ),
    )
    return [
        PublishedFile(
            name=name,
            url=f"https://huggingface.co/birder-project/{folder or name}/resolve/main/{name}.pt",
            source="birder",
            what=what,
            licence=APACHE,
            megabytes=round(mebibytes * 2**20 / 1e6),
            sha256=sha256,
            variant=variant,
        )
        for name, folder, what, mebibytes, sha256, variant in rows
    ]


PUBLISHED: dict[str, PublishedFile] = {
    file.name: file for file in (*_hiera(), *_sam2(), *_birder())
}


def is_published(path: str) -> bool:
    """Whether a path is the name of a published file, and of no file in the current folder."""
    return path in PUBLISHED and not os.path.isfile(path)


def nearest_names(name: str, most: int = 3) -> list[str]:
    """The published names most like `name`, with or without the suffix of a file."""
    for suffix in (".pth", ".pt"):
        name = name.removesuffix(suffix)
    return difflib.get_close_matches(name, PUBLISHED, n=most, cutoff=0.7)
