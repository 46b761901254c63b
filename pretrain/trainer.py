"""The training step with gradient accumulation, and the hooks of pretraining."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hiera_det.engine import Trainer

from .pictures import draw_reconstructions, write_png

__all__ = ["AccumulatingTrainer", "ReconstructionHook", "RunFacts", "mae_loss"]


def mae_loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    """The loss of a batch (images, keep_mask)."""
    return model(*batch).loss


class AccumulatingTrainer(Trainer):
    """`hiera_det.engine.Trainer` whose step adds up the gradients of several batches.

    An iteration is an optimizer step, so schedule, checkpoints and logs do not depend on
    `num_steps`. The gradient is that of the whole batch where the loss is a mean over samples.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader,
        optimizer: torch.optim.Optimizer,
        *,
        loss: Callable[[nn.Module, Any], Tensor] = mae_loss,
        num_steps: int = 1,
        images_per_iteration: int = 0,
        precision: str | None = None,
        clip_grad_norm: float = 0.0,
    ):
        """
        Args:
            model, data_loader, optimizer, precision, clip_grad_norm: as `Trainer`. Batches are
                sequences of tensors.
            loss: (model, batch on the device) to a scalar, the mean over the batch.
            num_steps: batches of an iteration.
            images_per_iteration: over all processes, for the record `images_per_second`.
        """
        super().__init__(
            model, data_loader, optimizer, precision=precision, clip_grad_norm=clip_grad_norm
        )
        self.loss = loss
        self.num_steps = num_steps
        self.images_per_iteration = images_per_iteration
        self.device = next(model.parameters()).device

    def run_step(self) -> None:
        """Raises FloatingPointError, before the weights change, if the loss is not finite."""
        begin = time.perf_counter()
        self.optimizer.zero_grad()
        total, data_time = 0.0, 0.0
        for step in range(self.num_steps):
            batch, waited = self.next_batch()
            data_time += waited
            batch = [x.to(self.device, non_blocking=True) for x in batch]
            # DDP averages the gradients over the processes once, in the last backward pass
            waits = isinstance(self.model, DistributedDataParallel) and step + 1 < self.num_steps
            with self.model.no_sync() if waits else contextlib.nullcontext():
                with torch.autocast(self.device_type, self.dtype, enabled=self.dtype is not None):
                    loss = self.loss(self.model, batch) / self.num_steps
                self.grad_scaler.scale(loss).backward()
            total = total + loss.detach()
        self.after_backward()
        self._write_metrics({"loss": total}, data_time)
        self.optimizer_step()
        pace = self.images_per_iteration / (time.perf_counter() - begin)
        self.storage.put_scalar("images_per_second", pace)


class RunFacts:
    """Numbers and strings that a checkpoint carries under "hiera_det", and that a resumed run has
    to agree with."""

    def __init__(self, facts: dict[str, str | int | float]):
        self.facts = facts

    def state_dict(self) -> dict[str, str | int | float]:
        return self.facts

    def load_state_dict(self, state: dict[str, str | int | float]) -> None:
        """Raises ValueError where the checkpoint says otherwise."""
        other = {k: (state.get(k), v) for k, v in self.facts.items() if state.get(k) != v}
        if other:
            text = ", ".join(f"{k} was {old} and is {new}" for k, (old, new) in other.items())
            raise ValueError(
                f"the checkpoint is of another run: {text}. Resume with the values of that run, or "
                "start one with train.init_checkpoint and another train.output_dir"
            )


class ReconstructionHook(HookBase):
    """Draws reconstructions of the same images and masks as the run goes on.

    They go to TensorBoard as `reconstruction`, and to reconstructions.png in the output folder.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, keep_mask: Tensor, period: int, folder: str
    ):
        """
        Args:
            model: the autoencoder, not wrapped.
            images: (B, 3, H, W), uint8.
            keep_mask: (B, U).
            period: iterations; the last one is drawn in any case, and with 0 it alone.
            folder: of the PNG.
        """
        self.model, self.images, self.keep_mask = model, images, keep_mask
        self.period = period
        self.path = Path(folder) / "reconstructions.png"

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done != self.trainer.max_iter and (self.period <= 0 or done % self.period):
            return
        if not comm.is_main_process():
            return
        picture = draw_reconstructions(self.model, self.images, self.keep_mask)
        self.trainer.storage.put_image("reconstruction", picture)
        write_png(picture, self.path)
