#!/usr/bin/env python
"""Images per second, read, decoded, cropped and flipped on one core: here and in torchvision.

Both read the same files in the same run, in alternation. torchvision's pipeline is the usual one:
Image.open, convert, RandomResizedCrop, RandomHorizontalFlip, PILToTensor.
"""

import argparse
import time

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from pretrain.data import PretrainImages

EXAMPLES = """
Example:
  python benchmarks/loader.py /data/images --num-images 500
"""


def benchmark(dataset: PretrainImages, num_images: int, rounds: int = 5) -> dict[str, float]:
    """Images per second of each, the median of some rounds over the same images."""
    plain = v2.Compose(
        [
            v2.RandomResizedCrop(
                dataset.input_size,
                scale=dataset.crop_scale,
                interpolation=v2.InterpolationMode.BICUBIC,
            ),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
        ]
    )

    def torchvision_sample(index: int) -> torch.Tensor:
        with Image.open(dataset.files.path(index)) as image:
            return plain(image.convert("RGB"))

    pace: dict[str, list[float]] = {"ours": [], "torchvision": []}
    samples = {"ours": lambda k: dataset[(k, k)], "torchvision": torchvision_sample}
    for _ in range(rounds + 1):  # the first one warms up, and fills the disk cache
        for name, sample in samples.items():
            start = time.perf_counter()
            for k in range(num_images):
                sample(k)
            pace[name].append(num_images / (time.perf_counter() - start))
    return {name: float(np.median(values[1:])) for name, values in pace.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", metavar="DIR", help="a folder of images")
    parser.add_argument("--num-images", type=int, default=200)
    parser.add_argument("--input-size", type=int, default=224, help="px")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset = PretrainImages(args.root, (args.input_size, args.input_size))
    pace = benchmark(dataset, min(args.num_images, len(dataset)))
    ratio = pace["ours"] / pace["torchvision"]
    print(
        f"images per second on one core: {pace['ours']:.0f} here, {pace['torchvision']:.0f} with "
        f"torchvision ({ratio:.2f}x)"
    )


if __name__ == "__main__":
    main()
