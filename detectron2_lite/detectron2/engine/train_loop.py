"""The training loop and the points where hooks act."""

import logging
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn
from torch.optim import Optimizer

__all__ = ["HookBase", "TrainerBase", "SimpleTrainer"]


class HookBase:
    """Something that acts at points of the loop, in this order::

        hook.before_train()
        for iter in range(start_iter, max_iter):
            hook.before_step()
            trainer.run_step()  # calls hook.after_backward() before the optimizer's step
            hook.after_step()
        hook.after_train()  # also after an exception; then trainer.iter < trainer.max_iter

    ``self.trainer`` is the trainer that the hook is registered with.
    """

    trainer: "TrainerBase" = None

    def before_train(self) -> None:
        pass

    def after_train(self) -> None:
        pass

    def before_step(self) -> None:
        pass

    def after_backward(self) -> None:
        pass

    def after_step(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of this hook; one that returns something has to have
        ``load_state_dict``."""
        return {}


class TrainerBase:
    """A loop of ``run_step`` with hooks.

    Attributes:
        iter: current iteration, ``start_iter <= iter < max_iter``; ``max_iter`` after a whole run.
        storage: EventStorage, open while training.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = 0
        self.start_iter = 0
        self.max_iter = 0
        self.storage: EventStorage | None = None

    def register_hooks(self, hooks: list[HookBase | None]) -> None:
        """Add hooks, to be called in this order. None among them is skipped."""
        for hook in hooks:
            if hook is None:
                continue
            assert isinstance(hook, HookBase), f"{hook!r} is not a HookBase"
            # Weak: hooks and trainer would keep each other, and GPU memory, alive.
            hook.trainer = weakref.proxy(self)
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations ``start_iter`` to ``max_iter - 1``."""
        logger = logging.getLogger(__name__)
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter = max_iter
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        # After the step of the previous iteration: its metrics belong to that one.
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Iteration, and under ``hooks`` the state of each hook that has any, by class name."""
        states = {type(hook).__qualname__: hook.state_dict() for hook in reversed(self._hooks)}
        states = {name: state for name, state in states.items() if state}
        return {"iteration": self.iter} | ({"hooks": states} if states else {})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore; a state whose hook is not registered is ignored with a warning."""
        self.iter = state_dict["iteration"]
        hooks = {type(hook).__qualname__: hook for hook in reversed(self._hooks)}
        for name, state in state_dict.get("hooks", {}).items():
            if name in hooks:
                hooks[name].load_state_dict(state)
            else:
                logging.getLogger(__name__).warning(
                    "The state of hook %s is ignored: no such hook is registered", name
                )


class SimpleTrainer(TrainerBase):
    """Forward, backward, optimizer step, for a model that returns its losses."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        """Args:
        model: batch to a dict of scalar losses, or to one scalar loss. Put in training mode.
        data_loader: endless iterable of batches.
        optimizer: steps once per iteration.
        gather_metric_period: gather the losses of all processes every so many iterations;
            losses of iterations between are not recorded.
        zero_grad_before_forward: zero gradients before the forward pass; by default between
            forward and backward.
        async_write_metrics: not supported.
        """
        super().__init__()
        if async_write_metrics:
            raise NotImplementedError(
                "async_write_metrics is not in detectron2_lite; install Detectron2"
            )
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self._batches: Iterator[Any] | None = None

    @property
    def _data_loader_iter(self) -> Iterator[Any]:
        # On first use: worker processes then start after everything else is set up.
        if self._batches is None:
            self._batches = iter(self.data_loader)
        return self._batches

    def run_step(self) -> None:
        assert self.model.training, "The model is in eval mode: call model.train()"
        data, data_time = self._next_batch()
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses, loss_dict = self._forward(data)
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses.backward()
        self.after_backward()
        self._write_metrics(loss_dict, data_time)
        self.optimizer.step()

    def _next_batch(self) -> tuple[Any, float]:
        """Next batch, and the seconds waited for it."""
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        return data, time.perf_counter() - start

    def _forward(self, data: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Sum of the losses, and the losses by name."""
        losses = self.model(data)
        if isinstance(losses, torch.Tensor):
            return losses, {"total_loss": losses}
        return sum(losses.values()), losses

    def _write_metrics(
        self,
        loss_dict: Mapping[str, torch.Tensor],
        data_time: float,
        prefix: str = "",
        iter: int | None = None,  # noqa: A002
    ) -> None:
        current = self.iter if iter is None else iter
        if (current + 1) % self.gather_metric_period == 0:
            self.write_metrics(loss_dict, data_time, current, prefix)

    @staticmethod
    def write_metrics(
        loss_dict: Mapping[str, torch.Tensor], data_time: float, cur_iter: int, prefix: str = ""
    ) -> None:
        """Put losses, averaged over processes, and their sum ``total_loss`` into the storage.

        Every process has to call it; rank 0 puts.

        Args:
            loss_dict: scalar losses of this process.
            data_time: seconds waited for data; the slowest process counts.
            cur_iter: iteration to file them under.
            prefix: of the names.

        Raises:
            FloatingPointError: the sum is infinite or not a number.
        """
        metrics = {name: loss.detach().cpu().item() for name, loss in loss_dict.items()}
        gathered = comm.gather({**metrics, "data_time": data_time})
        if not comm.is_main_process():
            return
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        slowest = max(each.pop("data_time") for each in gathered)
        storage.put_scalar("data_time", slowest, cur_iter=cur_iter)
        means = {name: sum(each[name] for each in gathered) / len(gathered) for name in metrics}
        total = sum(means.values())
        if not torch.isfinite(torch.tensor(total)):
            raise FloatingPointError(
                f"The loss is {total} at iteration={cur_iter}; its parts are {means}"
            )
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(means) > 1:
            storage.put_scalars(cur_iter=cur_iter, **means)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
