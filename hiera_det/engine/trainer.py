"""One training step for any device: autocast, loss scaling, gradient clipping."""

import time
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import nn

__all__ = ["Trainer"]

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer(SimpleTrainer):
    """Detectron2's SimpleTrainer with what its AMPTrainer asks a GPU for.

    Checkpoints have the layout of AMPTrainer (`grad_scaler` only with fp16), so a run moves between
    the two.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader,
        optimizer: torch.optim.Optimizer,
        *,
        precision: str | None = None,
        clip_grad_norm: float = 0.0,
    ):
        """
        Args:
            model, data_loader, optimizer: as SimpleTrainer.
            precision: "bf16", "fp16" (CUDA only; scales the loss) or None for float32.
            clip_grad_norm: L2 norm that all gradients together are clipped to; 0 does not clip.

        Raises:
            ValueError: an unknown precision, or fp16 without CUDA.
        """
        super().__init__(model, data_loader, optimizer)
        self.device_type = next(model.parameters()).device.type
        if precision is not None and precision not in PRECISIONS:
            raise ValueError(f"train.amp.precision={precision!r} is none of {list(PRECISIONS)}")
        if precision == "fp16" and self.device_type != "cuda":
            raise ValueError(
                f"train.amp.precision=fp16 needs a GPU; on {self.device_type} use bf16"
            )
        self.dtype = PRECISIONS.get(precision)
        self.clip_grad_norm = clip_grad_norm
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=precision == "fp16")

    def run_step(self) -> None:
        batch, data_time = self.next_batch()
        with torch.autocast(self.device_type, self.dtype, enabled=self.dtype is not None):
            losses = self.model(batch)
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        self.after_backward()
        self._write_metrics(losses, data_time)  # a loss that is not finite stops the run here
        self.optimizer_step()

    def next_batch(self) -> tuple[Any, float]:
        """A batch of the loader, and the seconds that were spent waiting for it."""
        start = time.perf_counter()
        # A loader draws random numbers when it begins, which is another iteration after a resume.
        with torch.random.fork_rng(devices=[]):
            batch = next(self._data_loader_iter)
        return batch, time.perf_counter() - start

    def optimizer_step(self) -> None:
        """Clips the gradients, which may be scaled, and changes the weights."""
        if self.clip_grad_norm > 0:
            self.grad_scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)
            self.storage.put_scalar("grad_norm", norm.item())
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
