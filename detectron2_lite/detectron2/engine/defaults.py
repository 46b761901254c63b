"""What most training scripts start with."""

import argparse
import logging
import os
from typing import Any

import torch
from detectron2.config import LazyConfig
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["create_ddp_model", "default_setup"]


def create_ddp_model(
    model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any
) -> nn.Module:
    """Wrap a model in DistributedDataParallel; with one process, return it as it is.

    Args:
        model: module on its device.
        fp16_compression: send gradients as float16.
        kwargs: for DistributedDataParallel. ``device_ids`` is chosen here unless given.
    """
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).is_cuda
    kwargs.setdefault("device_ids", [comm.get_local_rank()] if on_gpu else None)
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

        ddp.register_comm_hook(state=None, hook=fp16_compress_hook)
    return ddp


def default_setup(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Set up logs, seeds and torch flags; log the environment; save the config.

    Args:
        cfg: with ``train.output_dir``, and optionally ``train.seed`` (each rank adds its number;
            negative is random), ``train.cudnn_benchmark`` and ``train.float32_precision``.
        args: of the command line; ``config_file`` and ``eval_only`` are used, if there.
    """
    output_dir = OmegaConf.select(cfg, "train.output_dir")
    if comm.is_main_process() and output_dir:
        PathManager.mkdirs(output_dir)
    rank = comm.get_rank()
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", args)
    if getattr(args, "config_file", ""):
        with PathManager.open(args.config_file) as file:
            logger.info("Contents of %s:\n%s", args.config_file, file.read())

    if comm.is_main_process() and output_dir:
        path = os.path.join(output_dir, "config.yaml")
        LazyConfig.save(cfg, path)
        logger.info("Full config saved to %s", path)

    seed = OmegaConf.select(cfg, "train.seed")
    seed_all_rng(None if seed is None or seed < 0 else seed + rank)
    if not getattr(args, "eval_only", False):
        # It tries kernels for every new input size, which evaluation has plenty of.
        benchmark = OmegaConf.select(cfg, "train.cudnn_benchmark", default=False)
        torch.backends.cudnn.benchmark = benchmark
    precision = OmegaConf.select(cfg, "train.float32_precision", default="")
    if precision:
        logging.getLogger(__name__).info("float32 matmul precision: %s", precision)
        torch.set_float32_matmul_precision(precision)
