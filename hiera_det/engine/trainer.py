"""The training step, for any model, device and number of processes."""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["NonFiniteError", "Stopped", "Trainer", "model_losses", "to_device"]

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
MAX_SKIPPED = 20  # steps in a row that fp16's loss scaling may skip: it halves the scale at each


class NonFiniteError(FloatingPointError):
    """A loss or gradient that is not finite; the weights have not changed.

    All processes raise it together; `is_mine` is False in those that leave the word to another.
    """

    is_mine = True


class Stopped(SystemExit):
    """The run was told to stop by a signal; the exit status is 128 + its number."""

    code: int


def model_losses(model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
    """The losses that a model returns for a batch, as Detectron2's detectors do."""
    return model(batch)


def to_device(batch: Any, device: torch.device) -> Any:
    """A sequence of tensors on `device`; Detectron2's lists of dicts are left to the model."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, list | tuple) and all(isinstance(x, Tensor) for x in batch):
        return [x.to(device, non_blocking=True) for x in batch]
    return batch


def _total(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of the losses, of which there is one at least."""
    first, *others = losses.values()
    return sum(others, first)


def _file_names(batch: Any) -> list[str]:
    """The images of a batch of Detectron2's dicts; none of other batches."""
    records = batch if isinstance(batch, list) else []
    return [str(x["file_name"]) for x in records if isinstance(x, dict) and "file_name" in x]


class Trainer(SimpleTrainer):
    """Detectron2's SimpleTrainer with accumulation, autocast, loss scaling and clipping.

    An iteration is one optimizer step over `num_steps` batches, so schedule, checkpoints and logs
    do not depend on it; the gradient is that of the whole batch where the loss is a mean over
    samples. Before the weights change, all processes agree that loss and gradient norm are finite,
    or raise together. Checkpoints have the layout of Detectron2's AMPTrainer (`grad_scaler` only
    with fp16), so a run moves between the two.

    Attributes:
        stop_wish: exit status with which this process wants to stop; 0 goes on. The processes
            exchange their wishes with every step, so that all stop after the same one.
        stop_code: what they agreed on.
        step_done: whether the step of iteration `iter` is behind, so that a checkpoint may say so.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader,
        optimizer: torch.optim.Optimizer,
        *,
        loss: Callable[[nn.Module, Any], Tensor | Mapping[str, Tensor]] = model_losses,
        num_steps: int = 1,
        images_per_iteration: int = 0,
        precision: str | None = None,
        clip_grad_norm: float = 0.0,
    ):
        """
        Args:
            model, data_loader, optimizer: as SimpleTrainer.
            loss: (model, batch on the device) to a scalar, or to scalars by name that are added up.
            num_steps: batches of an iteration.
            images_per_iteration: over all processes, for the record `images_per_second`.
            precision: "bf16", "fp16" (CUDA only; scales the loss) or None for float32.
            clip_grad_norm: L2 norm that all gradients together are clipped to; 0 does not clip. The
                norm is recorded as `grad_norm` in any case.

        Raises:
            ValueError: an unknown precision, or fp16 without CUDA.
        """
        super().__init__(model, data_loader, optimizer)
        self.device = next(model.parameters()).device
        if precision is not None and precision not in PRECISIONS:
            raise ValueError(f"train.amp.precision={precision!r} is none of {list(PRECISIONS)}")
        if precision == "fp16" and self.device.type != "cuda":
            raise ValueError(
                f"train.amp.precision=fp16 needs a GPU; on {self.device.type} use bf16"
            )
        self.loss = loss
        self.num_steps = num_steps
        self.images_per_iteration = images_per_iteration
        self.dtype = None if precision is None else PRECISIONS[precision]
        self.clip_grad_norm = clip_grad_norm
        self.grad_scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.num_skipped = 0  # steps in a row
        self.stop_wish = self.stop_code = 0
        self.step_done = False
        self.batch_names: list[str] = []  # files of the current iteration, where batches name them

    def train(self, start_iter: int, max_iter: int) -> None:
        """Iterations `start_iter` to `max_iter` - 1, or fewer where a hook lowers `max_iter`.

        As TrainerBase's, but an error is left to the caller to report, and one that hooks raise
        while they close does not hide the one that ended the run.
        """
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < self.max_iter:
                    self.step_done = False
                    self.before_step()
                    self.run_step()
                    self.step_done = True
                    self.after_step()
                    self.iter += 1
            except BaseException:
                with contextlib.suppress(Exception):
                    self.after_train()
                raise
            self.after_train()

    def run_step(self) -> None:
        """One optimizer step.

        Raises:
            NonFiniteError: in all processes, before the weights change.
        """
        begin = time.perf_counter()
        self.optimizer.zero_grad()
        totals: dict[str, Tensor] = {}
        data_time = 0.0
        self.batch_names = []
        for step in range(self.num_steps):
            batch, waited = self.next_batch()
            data_time += waited
            self.batch_names += _file_names(batch)
            # DDP averages the gradients over the processes once, in the last backward pass
            waits = isinstance(self.model, DistributedDataParallel) and step + 1 < self.num_steps
            with self.model.no_sync() if waits else contextlib.nullcontext():
                losses = self._forward_backward(to_device(batch, self.device))
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value.detach()
        self.after_backward()
        norm = self._gradient_norm()
        if self._may_step(_total(totals), norm):
            self._write_metrics(totals, data_time)
            self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        self.storage.put_scalar("grad_norm", norm.item())
        if self.images_per_iteration:
            pace = self.images_per_iteration / (time.perf_counter() - begin)
            self.storage.put_scalar("images_per_second", pace)

    def next_batch(self) -> tuple[Any, float]:
        """A batch of the loader, and the seconds that were spent waiting for it."""
        start = time.perf_counter()
        # A loader draws random numbers when it begins, which is another iteration after a resume.
        try:
            with torch.random.fork_rng(devices=[]):
                batch = next(self._data_loader_iter)
        except Exception as error:
            # A signal may have ended the loader's workers too, and then it comes to this process
            # before long; what a loader raises of workers that are gone is of many kinds.
            if getattr(self.data_loader, "num_workers", 1):
                time.sleep(0.5)
            if not self.stop_wish:
                raise
            raise Stopped(self.stop_wish) from error
        return batch, time.perf_counter() - start

    def _forward_backward(self, batch: Any) -> dict[str, Tensor]:
        """The losses of one batch as its share of the iteration, after their backward pass."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            losses = self.loss(self.model, batch)
        if isinstance(losses, Tensor):
            losses = {"loss": losses}
        losses = {name: value / self.num_steps for name, value in losses.items()}
        self.grad_scaler.scale(_total(losses)).backward()
        return losses

    def _gradient_norm(self) -> Tensor:
        """The L2 norm of all gradients, which are clipped to `clip_grad_norm` if it is above 0."""
        self.grad_scaler.unscale_(self.optimizer)
        limit = self.clip_grad_norm if self.clip_grad_norm > 0 else float("inf")
        return nn.utils.clip_grad_norm_(self.model.parameters(), limit)

    def _may_step(self, loss: Tensor, norm: Tensor) -> bool:
        """Whether the step can be taken; False where loss scaling skips it.

        All processes come to the same answer: one that fails alone would leave the others waiting.
        """
        rank, world_size = comm.get_rank(), comm.get_world_size()
        bad_loss = (~loss.isfinite()).float()
        state = torch.stack(
            [
                torch.maximum(bad_loss, (~norm.isfinite()).float()),
                bad_loss * (world_size - rank),  # the first whose own loss it is speaks for all
                bad_loss.new_tensor(float(self.stop_wish)),
            ]
        )
        if world_size > 1:
            dist.all_reduce(state, op=dist.ReduceOp.MAX)
        bad, speaker, self.stop_code = (int(x) for x in state.tolist())
        self.num_skipped = self.num_skipped + 1 if bad else 0
        if not bad:
            return True
        if self.grad_scaler.is_enabled() and self.num_skipped <= MAX_SKIPPED:
            return False
        skipped = f", for {self.num_skipped} steps in a row" if self.num_skipped > 1 else ""
        error = NonFiniteError(
            f"iteration {self.iter}: the loss is {float(loss):g} and the norm of the gradients "
            f"{float(norm):g}{skipped}"
        )
        error.is_mine = rank == (world_size - speaker if speaker else 0)
        raise error

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
