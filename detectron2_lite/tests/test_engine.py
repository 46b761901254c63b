"""Training loop, hooks, and what a script sets up."""

import argparse
import json
import logging

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig
from detectron2.engine import (
    HookBase,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    default_setup,
    hooks,
    launch,
)
from detectron2.solver import WarmupParamScheduler
from detectron2.utils.events import (
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from golden_inputs import seeded_model
from omegaconf import OmegaConf
from torch import nn
from torch.testing import assert_close


class Model(nn.Module):
    """Two losses of one linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(2, 1)

    def forward(self, x):
        y = self.linear(x).mean()
        self.seen_dtype = y.dtype
        return {"loss_a": (y - 3) ** 2, "loss_b": (y + 1) ** 2}


class Callback(HookBase):
    """Calls functions with the trainer, each at the moment of its name."""

    def __init__(self, **functions):
        for moment, function in functions.items():
            setattr(self, moment, lambda function=function: function(self.trainer))


class Numbered:
    """Endless batches that depend on their number alone."""

    def __init__(self, start=0):
        self.start = start

    def __iter__(self):
        i = self.start
        while True:
            yield torch.tensor([[float(i % 5), 1.0]])
            i += 1


def _trainer(start=0, cls=SimpleTrainer, model=None, **kwargs):
    model = model or Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return cls(model, Numbered(start), optimizer, **kwargs)


class EmptyTrainer(TrainerBase):
    def run_step(self):
        pass


def _run(*hook_list, max_iter=10, trainer=None):
    trainer = trainer or EmptyTrainer()
    trainer.register_hooks(list(hook_list))
    trainer.train(0, max_iter)
    return trainer


class Recorder(HookBase):
    """Writes down what is called, with the iteration of trainer and storage."""

    def __init__(self):
        self.calls = []

    def _record(self, name):
        self.calls.append((name, self.trainer.iter, self.trainer.storage.iter))

    def before_train(self):
        self._record("before_train")

    def before_step(self):
        self._record("before_step")

    def after_backward(self):
        self._record("after_backward")

    def after_step(self):
        self._record("after_step")

    def after_train(self):
        self._record("after_train")


# ------------------------------------------------------------------ the loop


def test_order_of_calls():
    """Hooks act around each step; after training, trainer and storage stand at ``max_iter``."""
    recorder = Recorder()
    _run(None, recorder, trainer=_trainer(), max_iter=2)
    step = ["before_step", "after_backward", "after_step"]
    assert recorder.calls == [
        ("before_train", 0, 0),
        *[(name, 0, 0) for name in step],
        *[(name, 1, 1) for name in step],
        ("after_train", 2, 2),
    ]


def test_after_train_runs_after_an_exception():
    """``after_train`` is called, with ``iter < max_iter``, and the exception goes on."""
    recorder = Recorder()

    def fail(trainer):
        if trainer.iter == 1:
            raise RuntimeError("in the hook")

    with pytest.raises(RuntimeError, match="in the hook"):
        _run(recorder, Callback(before_step=fail), max_iter=5)
    assert recorder.calls[-1][:2] == ("after_train", 1)


class WithState(HookBase):
    def __init__(self, value=0):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def test_trainer_state():
    """``iteration``, ``optimizer``, and the states of hooks that have one by qualified name."""
    trainer = _run(WithState(7), Recorder(), trainer=_trainer(), max_iter=1)
    state = trainer.state_dict()
    assert sorted(state) == ["hooks", "iteration", "optimizer"]
    assert (state["iteration"], state["hooks"]) == (1, {"WithState": {"value": 7}})

    hook, other = WithState(), _trainer()
    other.register_hooks([hook])
    other.load_state_dict(state)
    assert (other.iter, hook.value) == (1, 7)


def test_state_without_its_hook_is_ignored():
    """A checkpoint of a run with more hooks still loads."""
    trainer = EmptyTrainer()
    trainer.load_state_dict({"iteration": 3, "hooks": {"Gone": {"x": 1}}})
    assert trainer.iter == 3


def test_losses_are_recorded():
    """Each loss and their sum, the seconds waited for data, under the iteration."""
    trainer = _run(trainer=_trainer(), max_iter=1)
    latest = trainer.storage.latest()
    assert {"total_loss", "loss_a", "loss_b", "data_time"} <= set(latest)
    assert latest["total_loss"][0] == pytest.approx(latest["loss_a"][0] + latest["loss_b"][0])
    assert latest["total_loss"][1] == 0


class OneLoss(Model):
    def forward(self, x):
        return super().forward(x)["loss_a"]


def test_a_model_may_return_one_tensor():
    """It is then the ``total_loss``."""
    latest = _run(trainer=_trainer(model=OneLoss()), max_iter=1).storage.latest()
    assert "total_loss" in latest and "loss_a" not in latest


def test_gather_metric_period():
    """Losses of other iterations are not recorded."""
    trainer = _run(trainer=_trainer(gather_metric_period=3), max_iter=7)
    assert [it for _, it in trainer.storage.history("total_loss").values()] == [2, 5]


class BadLoss(Model):
    def forward(self, x):
        return {"loss_a": self.linear(x).sum() * float("nan")}


def test_nan_loss_stops_the_run():
    """FloatingPointError with the iteration and the losses; the weights are not updated."""
    trainer = _trainer(model=BadLoss())
    before = trainer.model.linear.weight.clone()
    with pytest.raises(FloatingPointError, match="iteration=0(.|\n)*loss_a"):
        trainer.train(0, 1)
    assert_close(trainer.model.linear.weight, before, rtol=0, atol=0)


def test_eval_mode_is_an_error():
    trainer = _trainer()
    trainer.model.eval()
    with pytest.raises(AssertionError, match="eval mode"):
        trainer.train(0, 1)


@pytest.mark.parametrize("early", [False, True])
def test_zero_grad_is_called_once_per_step(early):
    """Before the forward pass or after it: gradients do not add up over iterations."""
    trainer = _run(trainer=_trainer(zero_grad_before_forward=early), max_iter=3)
    expected = _run(trainer=_trainer(), max_iter=3)
    assert_close(trainer.model.state_dict(), expected.model.state_dict(), rtol=0, atol=0)


def test_training_trajectory(golden, toy):
    """Six iterations of a real detector through loader, mapper, trainer, schedule.

    Later rows drift with the machine: the first is compared at 1e-4, the others at 2e-2.
    """
    import detectron2.data.transforms as T
    from detectron2.data import (
        DatasetMapper,
        build_detection_train_loader,
        get_detection_dataset_dicts,
    )
    from detectron2.data.samplers import TrainingSampler
    from detectron2.solver import get_default_optimizer_params
    from detectron2.utils.env import seed_all_rng

    model = seeded_model("fpn_ln")
    dicts = get_detection_dataset_dicts(toy("train"))
    seed_all_rng(5)
    size = (256, 256)
    mapper = DatasetMapper(
        True,
        augmentations=[
            T.RandomFlip(),
            T.ResizeScale(0.5, 1.5, *size),
            T.FixedSizeCrop(size, pad=False),
        ],
        image_format="RGB",
        use_instance_mask=True,
        recompute_boxes=True,
    )
    sampler = TrainingSampler(len(dicts), seed=9)
    loader = build_detection_train_loader(
        dicts, mapper=mapper, total_batch_size=2, num_workers=0, sampler=sampler
    )
    groups = get_default_optimizer_params(model, base_lr=1e-3, weight_decay_norm=0.0)
    trainer = SimpleTrainer(model, loader, torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1))
    steps = MultiStepParamScheduler([1.0, 0.1], milestones=[4], num_updates=6)
    scheduler = WarmupParamScheduler(steps, 0.1, 2 / 6)
    _run(hooks.LRScheduler(scheduler=scheduler), trainer=trainer, max_iter=6)
    names = ["total_loss", "loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"]
    columns = [
        [value for value, _ in trainer.storage.history(name).values()] for name in [*names, "lr"]
    ]
    rows = torch.tensor(columns, dtype=torch.float64).T  # (iterations, names)
    expected = torch.from_numpy(golden["traj/losses"])
    assert_close(rows[0], expected[0], rtol=1e-4, atol=1e-4)
    assert_close(rows, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.lite_only
def test_async_metrics_are_absent():
    with pytest.raises(NotImplementedError, match="not in detectron2_lite"):
        _trainer(async_write_metrics=True)


# ------------------------------------------------------------------ resume


def _training(folder, start=0, max_iter=8, period=4):
    folder.mkdir(exist_ok=True)
    trainer = _trainer(start)
    checkpointer = DetectionCheckpointer(trainer.model, str(folder), trainer=trainer)
    schedule = WarmupParamScheduler(CosineParamScheduler(1.0, 0.0), 0.1, 0.25)
    trainer.register_hooks(
        [
            hooks.LRScheduler(scheduler=schedule),
            hooks.PeriodicCheckpointer(checkpointer, period),
        ]
    )
    return trainer, checkpointer


def test_resume_is_exact(tmp_path):
    """A run that stops and resumes at trainer.iter + 1 gives the weights of one that does not.

    The schedule goes on from the iteration and the optimizer's ``initial_lr``.
    """
    whole, _ = _training(tmp_path / "whole")
    whole.train(0, 8)

    folder = tmp_path / "parts"
    first, _ = _training(folder)

    def stop(trainer):
        if trainer.iter == 5:
            raise KeyboardInterrupt

    first.register_hooks([Callback(before_step=stop)])
    with pytest.raises(KeyboardInterrupt):
        first.train(0, 8)
    assert (folder / "last_checkpoint").read_text() == "model_0000003.pth"

    second, checkpointer = _training(folder, start=4)
    extra = checkpointer.resume_or_load("", resume=True)
    assert (extra["iteration"], second.iter) == (3, 3)
    second.train(second.iter + 1, 8)
    assert_close(second.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    rates = [value for value, _ in whole.storage.history("lr").values()]
    assert [value for value, _ in second.storage.history("lr").values()] == rates[4:]


def test_checkpoint_files_of_a_run(tmp_path):
    """``model_{iter:07d}`` when ``(iter + 1) % period == 0``, ``model_final`` at the end."""
    trainer, _ = _training(tmp_path, max_iter=8, period=3)
    trainer.train(0, 8)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "last_checkpoint",
        "model_0000002.pth",
        "model_0000005.pth",
        "model_final.pth",
    ]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    content = torch.load(tmp_path / "model_0000002.pth", weights_only=True)
    assert sorted(content) == ["iteration", "model", "trainer"]
    assert content["iteration"] == content["trainer"]["iteration"] == 2
    # The checkpointer comes after the schedule's step.
    state = content["trainer"]["hooks"]["LRScheduler"]
    assert state == {"base_lrs": [0.05], "last_epoch": 3}


# ------------------------------------------------------------------ hooks


def test_iteration_timer_leaves_out_warm_up():
    """``time`` is recorded from iteration ``warmup_iter``, counted from 1."""
    trainer = _run(hooks.IterationTimer(warmup_iter=3), max_iter=5)
    assert [it for _, it in trainer.storage.history("time").values()] == [2, 3, 4]


def test_callback_hook_calls_with_the_trainer():
    calls = []
    _run(
        Callback(
            before_train=lambda trainer: calls.append(("before_train", trainer.iter)),
            before_step=lambda trainer: calls.append(("before_step", trainer.iter)),
            after_step=lambda trainer: calls.append(("after_step", trainer.iter)),
            after_train=lambda trainer: calls.append(("after_train", trainer.iter)),
        ),
        max_iter=1,
    )
    assert calls == [
        ("before_train", 0),
        ("before_step", 0),
        ("after_step", 0),
        ("after_train", 1),
    ]


class CountingWriter(EventWriter):
    def __init__(self):
        self.calls = []

    def write(self):
        self.calls.append(get_event_storage().iter)

    def close(self):
        self.calls.append("closed")


def test_periodic_writer():
    """Every ``period`` iterations, after the last one, and once more after training."""
    writer = CountingWriter()
    _run(hooks.PeriodicWriter([writer], period=4), max_iter=10)
    assert writer.calls == [3, 7, 9, 10, "closed"]


@pytest.mark.parametrize(
    ("sizes", "rates", "expected"),
    [((1, 3, 3), (0.1, 0.2, 0.3), 1), ((1, 1, 1), (0.1, 0.2, 0.2), 1)],
    ids=["largest", "most-common"],
)
def test_recorded_learning_rate(sizes, rates, expected):
    """That of the first largest group; of the most common rate where each has one parameter."""
    groups = [
        {"params": [nn.Parameter(torch.zeros(1)) for _ in range(size)], "lr": rate}
        for size, rate in zip(sizes, rates, strict=True)
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    assert hooks.LRScheduler.get_best_param_group_id(optimizer) == expected


def test_lr_hook_records_before_it_steps():
    """``lr`` is the rate that the step of its iteration used, without smoothing."""
    cosine = CosineParamScheduler(1.0, 0.0)
    trainer = _run(hooks.LRScheduler(scheduler=cosine), trainer=_trainer(), max_iter=4)
    rates = [value for value, _ in trainer.storage.history("lr").values()]
    assert rates == pytest.approx([0.05 * cosine(i / 4) for i in range(4)])
    assert trainer.storage.latest_with_smoothing_hint()["lr"] == trainer.storage.latest()["lr"]


def test_lr_hook_takes_torch_schedulers():
    """A torch scheduler is stepped as it is, and its state is kept."""
    trainer = _trainer()
    scheduler = torch.optim.lr_scheduler.StepLR(trainer.optimizer, step_size=1, gamma=0.5)
    _run(hooks.LRScheduler(trainer.optimizer, scheduler), trainer=trainer, max_iter=2)
    rates = [value for value, _ in trainer.storage.history("lr").values()]
    assert rates == pytest.approx([0.05, 0.025])
    assert trainer.state_dict()["hooks"]["LRScheduler"]["last_epoch"] == 2


# ------------------------------------------------------------------ defaults

ARGS = argparse.Namespace(config_file="", eval_only=False)


def test_metrics_file_of_a_run(tmp_path):
    """Lines every period and at the end; the last evaluation carries ``max_iter``."""
    writers = [JSONWriter(str(tmp_path / "metrics.json")), TensorboardXWriter(str(tmp_path))]

    def evaluated(trainer):
        trainer.storage.put_scalar("bbox/AP", 1.0, smoothing_hint=False)

    _run(
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=CosineParamScheduler(1.0, 0.0)),
        Callback(after_train=evaluated),
        hooks.PeriodicWriter(writers, period=4),
        trainer=_trainer(),
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [3, 7, 9, 10]
    expected = {"iteration", "total_loss", "loss_a", "loss_b", "lr", "time", "data_time"}
    assert expected <= set(lines[0])
    assert lines[-1] == {"bbox/AP": 1.0, "iteration": 10}
    assert list(tmp_path.glob("events.out.tfevents.*"))


@pytest.fixture()
def clean_loggers():
    """Without the handlers that a test's setup adds."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore")]
    before = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(level)
        logger.propagate = propagate


def test_default_setup(tmp_path, clean_loggers):
    """Log, config and seed: ``train.seed`` plus the rank."""
    cfg = OmegaConf.create({"train": {"output_dir": str(tmp_path / "out"), "seed": 7}})
    default_setup(cfg, ARGS)
    drawn = torch.rand(3)
    assert_close(drawn, torch.rand(3, generator=torch.Generator().manual_seed(7)), rtol=0, atol=0)
    assert LazyConfig.load(str(tmp_path / "out" / "config.yaml")) == cfg
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "World size: 1" in log and "Environment info" in log


@pytest.mark.lite_only
def test_log_names_the_active_detectron2(tmp_path, clean_loggers):
    """A log shows that the lite one ran, and a second setup does not write every line twice."""
    cfg = OmegaConf.create({"train": {"output_dir": str(tmp_path)}})
    for _ in range(2):
        default_setup(cfg, ARGS)
    assert "+lite" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "log.txt").read_text().count("World size: 1") == 2


def test_one_process_needs_no_wrapping():
    """One process: ``launch`` calls the function, DDP leaves the model as it is."""
    calls = []
    launch(calls.append, 1, args=(5,))
    launch(calls.append, 0, args=(6,))
    assert calls == [5, 6]
    model = Model()
    assert create_ddp_model(model, broadcast_buffers=False) is model
