"""What a machine has for the doctor: GPUs, attention kernels, threads, memory, disk, datasets."""

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

from .doctor import BROKEN, NOTE, OK, Check, Line, torch_works

__all__ = ["machine_checks"]

GB = 1e9
# (groups, heads, tokens, channels of a head) of Hiera-B: windows of stage 1, and a global block of
# stage 3, which at 1024 px has 4096 tokens. What decides on a kernel is the channels.
SHAPES = {"window": (16, 1, 64, 96), "global": (1, 4, 196, 96)}
KERNELS = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
COCO_SPLITS = {"train2017": 118287, "val2017": 5000}  # images
SMALL_FILE = 20_000_000  # bytes of a JSON that is read whole


def machine_checks(output: str | os.PathLike) -> dict[str, Check]:
    """The checks by name; `output` is the folder that runs are written to."""
    return {
        "GPU": _gpu,
        "attention": _attention,
        "CPU": _cpu,
        "shared memory": _shared_memory,
        "disk": lambda: _disk(Path(output)),
        "datasets": _datasets,
    }


def _gpu() -> Iterator[Line]:
    if not torch_works():
        return
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _one_gpu(index)
    elif Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists():
        if torch.version.cuda:
            fix = "a driver that is new enough for this CUDA, or a torch of an older CUDA"
        else:
            fix = "this torch is built for the CPU alone: https://pytorch.org/get-started"
        yield Line(BROKEN, "GPU", "there is one that torch cannot use", fix)
    else:
        yield Line(NOTE, "GPU", "none: runs are on the CPU (train.device=cpu)")


def _one_gpu(index: int) -> Line:
    import torch

    name = f"GPU {index}"
    facts = torch.cuda.get_device_properties(index)
    bf16 = "bf16" if facts.major >= 8 else "no bf16"
    text = (
        f"{facts.name}, capability {facts.major}.{facts.minor}, "
        f"{facts.total_memory / GB:.0f} GB, {bf16}"
    )
    try:
        x = torch.ones(8, 8, device=f"cuda:{index}")
        works = bool((x @ x == 8).all())
    except Exception as error:  # no kernel image for this capability, say
        first = str(error).strip().splitlines()[0]
        fix = "a torch that is built for this GPU: https://pytorch.org/get-started"
        return Line(BROKEN, name, f"{text}; a product fails: {first:.120}", fix)
    return Line(OK if works else BROKEN, name, text)


def _attention() -> Iterator[Line]:
    """Which kernels of scaled_dot_product_attention run forward and backward on our shapes."""
    if not torch_works():
        return
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    for dtype in ("float32", "bfloat16"):
        kernels = {
            name: [k for k in KERNELS if _kernel_runs(k, shape, device, dtype)]
            for name, shape in SHAPES.items()
        }
        found = list(dict.fromkeys(k for names in kernels.values() for k in names))
        text = ", ".join(k.removesuffix("_ATTENTION").lower() for k in found) or "none"
        partial = [name for name, names in kernels.items() if names != found]
        text += f"; not all of them on {', '.join(partial)} shapes" if partial else ""
        name = f"SDPA {device} {dtype}"
        if any(not names for names in kernels.values()):
            yield Line(BROKEN, name, text, "another version of torch")
        elif any(names == ["MATH"] for names in kernels.values()):
            yield Line(NOTE, name, text, "no fused kernel: attention takes more time and memory")
        else:
            yield Line(OK, name, text)


def _kernel_runs(kernel: str, shape: tuple[int, ...], device: str, dtype: str) -> bool:
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backend = getattr(SDPBackend, kernel, None)
    if backend is None:
        return False
    q = torch.ones(shape, device=device, dtype=getattr(torch, dtype), requires_grad=True)
    try:
        with sdpa_kernel([backend]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of why a kernel cannot run
            F.scaled_dot_product_attention(q, q, q).sum().backward()
    except RuntimeError:
        return False
    return True


def _cpu() -> Iterator[Line]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = _cpu_flags()
    text = f"{cores} cores for this process"
    threads = 0
    if torch_works():
        import torch

        threads = torch.get_num_threads()
        text += f", {threads} threads of torch, {torch.backends.cpu.get_cpu_capability()}"
    if cores and threads > cores:
        fix = f"OMP_NUM_THREADS={cores}: threads that share a core hinder each other"
        yield Line(NOTE, "CPU", text, fix)
    else:
        yield Line(OK, "CPU", text)
    if flags & {"amx_bf16", "avx512_bf16"}:
        yield Line(OK, "CPU bf16", ", ".join(sorted(flags & {"amx_bf16", "avx512_bf16"})))
    elif flags:
        fix = "on the CPU leave bf16 off: without instructions for it, it is slower than float32"
        yield Line(NOTE, "CPU bf16", "no instructions", fix)


def _cpu_flags() -> set[str]:
    try:
        rows = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(row.split(":", 1)[1].split()) for row in rows if row[:5] == "flags"), set())


def _shared_memory() -> Iterator[Line]:
    """What loaders' workers hand images over in; containers often have 64 MB."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return
    usage = shutil.disk_usage(folder)
    text = f"{usage.free / GB:.2f} of {usage.total / GB:.2f} GB free in {folder}"
    fix = (
        "workers of a loader die with a bus error: docker run --shm-size=8g (or --ipc=host); "
        "until then dataloader.train.num_workers=0 dataloader.test.num_workers=0"
    )
    if usage.free < 0.25 * GB:
        yield Line(BROKEN, "shared memory", text, fix)
    elif usage.free < 2 * GB:
        yield Line(NOTE, "shared memory", text, f"little for four workers at 1024 px; where {fix}")
    else:
        yield Line(OK, "shared memory", text)


def _disk(output: Path) -> Iterator[Line]:
    folders = {"disk, runs": output}
    if torch_works():
        from hiera_det.checkpoint.download import cache_folder

        folders["disk, weights"] = cache_folder()
    for name, folder in folders.items():
        place = folder.absolute()
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free / GB
        text = f"{free:.1f} GB free for {folder}"
        if not os.access(place, os.W_OK):
            yield Line(BROKEN, name, f"{place} may not be written", "choose another folder")
        elif free < 1:
            fix = "make room: a checkpoint of Hiera-B with its optimizer takes 1 GB"
            yield Line(BROKEN, name, text, fix)
        elif free < 10:
            yield Line(NOTE, name, text, "a run of Hiera-L keeps some checkpoints of 3 GB each")
        else:
            yield Line(OK, name, text)


def _datasets() -> Iterator[Line]:
    root = Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
    yield from _shapes(root)
    folder = root / "coco"
    if not folder.is_dir():
        fix = f"for COCO's configs: annotations, train2017 and val2017 in {folder}"
        yield Line(NOTE, "COCO", f"{folder} is not there", fix)
        return
    for split, full in COCO_SPLITS.items():
        yield _coco_split(folder, split, full)


def _coco_split(folder: Path, split: str, full: int) -> Line:
    name, page = f"COCO {split}", folder / "annotations" / f"instances_{split}.json"
    images = folder / split
    for needed in (page, images):
        if not needed.exists():
            return Line(NOTE, name, f"{needed} is missing", "https://cocodataset.org/#download")
    names = {entry.name for entry in os.scandir(images)}
    if page.stat().st_size > SMALL_FILE:  # COCO's own: what it lists is known
        if len(names) < full:
            fix = f"{full - len(names)} are missing: https://cocodataset.org/#download"
            return Line(BROKEN, name, f"{len(names)} images in {images}", fix)
        return Line(OK, name, f"{len(names)} images in {images}")
    listed = {image["file_name"] for image in json.loads(page.read_text())["images"]}
    missing = sorted(listed - names)
    if missing:
        text = f"{len(missing)} of {len(listed)} images are not in {images}, such as {missing[0]}"
        return Line(BROKEN, name, text, "https://cocodataset.org/#download")
    return Line(NOTE, name, f"{len(listed)} images in {images}: a part of COCO's {full}")


def _shapes(root: Path) -> Iterator[Line]:
    folder = root / "shapes"
    if not folder.is_dir():
        yield Line(OK, "shapes", f"made at first use in {folder}")
        return
    fix = f"delete {folder}: it is made anew at first use"
    try:
        meta = json.loads((folder / "meta.json").read_text())
        expected = {split: meta[f"num_{split}"] for split in ("train", "val")}
        found = {split: len(os.listdir(folder / split)) for split in expected}
    except (OSError, ValueError, KeyError) as error:
        yield Line(BROKEN, "shapes", f"{folder} is no whole set: {error}", fix)
        return
    text = f"{found['train']} + {found['val']} images in {folder}"
    if found != expected:
        yield Line(BROKEN, "shapes", f"{text}, not {tuple(expected.values())}", fix)
    else:
        yield Line(OK, "shapes", text)
