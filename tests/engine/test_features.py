"""What a run offers: accumulation, averaged weights, the best checkpoint, rates, writers, seeds."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.engine import HookBase
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from PIL import Image
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from torch.utils.data import DataLoader

import hiera_det.engine.run as run
from hiera_det.checkpoint import load_full
from hiera_det.config import load_config
from hiera_det.data import shapes
from hiera_det.data.loaders import build_train_loader
from hiera_det.engine import EMA, Evaluation, StopOnSignal, Stopped, Trainer, fit
from hiera_det.engine.hooks import AveragedWeights
from hiera_det.report.writers import ExperimentWriter
from hiera_det.solver import warmup_cosine
from pretrain.data import PretrainImages, build_pretrain_loader

SHAPES = "shapes/mask_rcnn_hiera_shapes"


class Line(torch.nn.Module):
    """A linear layer and a batch norm, whose buffers belong to the weights too."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(4, 2)
        self.norm = torch.nn.BatchNorm1d(2)

    def forward(self, batch):
        return {"loss_square": (self.norm(self.linear(batch)) - 1).square().mean()}


def parameters(model) -> list:
    return list(model.parameters())


def config(folder: Path, *overrides: str):
    """A config for `fit` and a Line."""
    cfg = OmegaConf.create(flags={"allow_objects": True})
    cfg.train = load_config(SHAPES).train
    cfg.train.update(output_dir=str(folder), device="cpu", log_period=1, max_iter=4, seed=5)
    cfg.train.checkpointer.update(period=2, max_to_keep=10)
    cfg.dataloader = {"train": {"total_batch_size": 4}}
    cfg.optimizer = L(torch.optim.AdamW)(params=L(parameters)(model=None), lr=0.01)
    cfg.lr_multiplier = L(warmup_cosine)(max_iter="${train.max_iter}", warmup_iters=1)
    cfg.train.merge_with(OmegaConf.from_dotlist(list(overrides)))
    folder.mkdir(parents=True, exist_ok=True)
    return cfg


def numbers(size: int = 12):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 4, generator=generator)


class Stream(torch.utils.data.Sampler):
    def __init__(self, size: int, start: int):
        self.size, self.start = size, start

    def __iter__(self):
        k = self.start
        while True:
            yield k % self.size
            k += 1


def loader(size: int = 12):
    """Batches of a fixed stream of numbers that begins at `start`."""

    def build(*, seed, start, batch_size):
        data = numbers(size)
        return DataLoader(data, batch_size, sampler=Stream(len(data), start))

    return build


def train(cfg, size: int = 12, **kwargs) -> tuple[torch.nn.Module, Line]:
    """`fit` of a Line: the model to look at, and the Line."""
    model = Line()
    kwargs = {"facts": {}, "load_init": None} | kwargs
    return fit(cfg, model, loader(size), **kwargs), model


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    monkeypatch.setattr(run, "plot_metrics", lambda metrics, path: None)


# ------------------------------------------------------------------------------- averaged weights
def test_ema_is_the_average_that_its_formula_says():
    model = Line()
    ema = EMA(model, decay=0.6)
    expected = None
    for k in range(8):
        with torch.no_grad():
            for p in (*model.parameters(), *model.buffers()):
                p.add_(1 + k) if p.is_floating_point() else p.add_(1)
        ema.after_step()
        now = {name: t.clone() for name, t in model.state_dict().items()}
        share = min(0.6, (1 + k) / (10 + k))
        expected = expected or now
        expected = {
            name: share * expected[name] + (1 - share) * t if t.is_floating_point() else t
            for name, t in now.items()
        }
    assert_close(dict(ema.model.state_dict()), expected)
    again = EMA(Line(), decay=0.6)
    AveragedWeights(again).load_state_dict(AveragedWeights(ema).state_dict())
    assert_close(again.averaged.state_dict(), ema.averaged.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("decay", [0, 1, 1.5])
def test_ema_refuses_what_is_no_share(decay):
    with pytest.raises(ValueError, match=f"train.ema.decay={decay}"):
        EMA(Line(), decay)


def test_averaged_weights_are_evaluated_kept_and_exported(tmp_path):
    """A run that is resumed in the middle has the same average as one that is not."""
    seen = []

    def evaluate(model):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"bbox": {"AP": float(len(seen))}}

    switches = ["ema.enabled=true", "ema.decay=0.9", "best_checkpoint=true", "eval_period=2"]
    shown, model = train(config(tmp_path / "a", *switches), evaluate=evaluate)
    exported = torch.load(tmp_path / "a/model_ema.pth", weights_only=True)
    assert_close(exported["model"], dict(shown.state_dict()), rtol=0, atol=0)
    assert_close(seen[-1], exported["model"], rtol=0, atol=0)
    assert not torch.equal(shown.linear.weight, model.linear.weight)
    best = torch.load(tmp_path / "a/model_best.pth", weights_only=True)
    assert_close(best["model"], exported["model"], rtol=0, atol=0)
    assert best["best"] == {"bbox/AP": 2.0}
    load_full(Line(), str(tmp_path / "a/model_ema.pth"))
    final = torch.load(tmp_path / "a/model_final.pth", weights_only=True)
    assert exported["hiera_det"] == final["hiera_det"]  # images_seen

    (tmp_path / "a/last_checkpoint").write_text("model_0000001.pth")
    resumed, _ = train(config(tmp_path / "a", *switches), evaluate=evaluate, resume_run=True)
    assert_close(resumed.state_dict(), shown.state_dict(), rtol=0, atol=0)


def test_average_that_begins_in_the_middle_begins_with_the_weights(tmp_path, caplog):
    """The last evaluation was cut short: it is made up for before the first step."""
    train(config(tmp_path, "eval_period=2"))
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    saved = torch.load(tmp_path / "model_0000001.pth", weights_only=True)["model"]
    seen = []

    def evaluate(model):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"top1": 1.0}

    cfg = config(tmp_path, "ema.enabled=true", "eval_period=2")
    train(cfg, evaluate=evaluate, resume_run=True)
    assert_close(seen[0], saved, rtol=0, atol=0)
    assert "has no averaged weights: the average begins with its weights" in caplog.text
    train(config(tmp_path, "max_iter=6"), resume_run=True)
    assert "has averaged weights; train.ema is off" in caplog.text


# ------------------------------------------------------------------------------- evaluation
def evaluated(*results, patience: int = 0) -> tuple[Evaluation, list[str]]:
    """An Evaluation after each iteration of a run of as many, and what it kept."""
    kept = []
    left = list(results)
    best = SimpleNamespace(save=lambda name, **kwargs: kept.append(kwargs["best"]))
    hook = Evaluation(1, lambda model: left.pop(0), None, best=best, patience=patience)
    hook.trainer = SimpleNamespace(start_iter=0, max_iter=len(results), iter=0)
    with EventStorage(0) as hook.trainer.storage:
        hook.before_train()
        while hook.trainer.iter < hook.trainer.max_iter:
            hook.after_step()
            hook.trainer.iter += 1
    return hook, kept


def test_best_is_by_mask_ap_and_by_box_ap_without_masks():
    both = [{"bbox": {"AP": b}, "segm": {"AP": s}} for b, s in [(9, 1), (8, 2), (10, 1.5)]]
    assert evaluated(*both)[1] == [{"segm/AP": 1.0}, {"segm/AP": 2.0}]
    boxes = [{"bbox": {"AP": 3.0}}, {"bbox": {"AP": 4.0}, "segm": {"AP": math.nan}}]
    assert evaluated(*boxes)[1] == [{"bbox/AP": 3.0}, {"bbox/AP": 4.0}]
    assert evaluated({"top1": 70.0})[1] == [{"top1": 70.0}]
    assert evaluated({}, {"other": 1.0}, patience=1)[0].trainer.iter == 2  # nothing to compare


def test_patience_counts_evaluations_without_a_better_one():
    results = [{"top1": v} for v in (5.0, 4.0, 6.0, 6.0, 5.0, 9.0)]
    assert evaluated(*results, patience=2)[0].trainer.iter == 5
    assert evaluated(*results, patience=3)[0].trainer.iter == 6


def test_best_is_kept_beside_max_to_keep_and_early_stop_ends_whole(tmp_path):
    values = iter([3.0, 9.0, 5.0, 4.0])
    switches = ["best_checkpoint=true", "early_stop.patience=2", "eval_period=1", "max_iter=12"]
    cfg = config(tmp_path, *switches)
    cfg.train.checkpointer.update(period=1, max_to_keep=1)
    train(cfg, evaluate=lambda model: {"segm": {"AP": next(values)}})
    names = sorted(p.name for p in tmp_path.glob("*.pth"))
    assert names == ["model_0000003.pth", "model_best.pth", "model_final.pth"]
    end = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert end["iteration"] == end["trainer"]["iteration"] == 3
    assert end["hiera_det"]["images_seen"] == 16
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    # resumed without patience it goes on; its best is still 9
    cfg = config(tmp_path, "best_checkpoint=true", "eval_period=1", "max_iter=6")
    train(cfg, evaluate=lambda model: {"segm": {"AP": 8.0}}, resume_run=True)
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 1
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 5


def test_best_of_a_killed_run_is_read_from_its_metrics(tmp_path):
    """Evaluations between two lines of the log count, and those without a number do not."""
    aps = iter([9.0, 3.0, 2.0])

    def evaluate(model):
        return {"segm": {"AP": math.nan}, "bbox": {"AP": next(aps)}}

    switches = ["best_checkpoint=true", "eval_period=1", "log_period=50"]
    cfg = config(tmp_path, *switches, "max_iter=3")
    cfg.train.checkpointer.period = 1
    train(cfg, evaluate=evaluate)
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    cfg = config(tmp_path, *switches)
    train(cfg, evaluate=lambda model: {"bbox": {"AP": 5.0}}, resume_run=True)
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert best["iteration"] == 0 and best["best"] == {"bbox/AP": 9.0}


# ------------------------------------------------------------------------------- the step
def test_parts_of_a_batch_give_the_whole_batch_losses_in_detection(small):
    """Two like images, all anchors and proposals sampled: the losses are means over images."""
    all_of_them = [
        "model.proposal_generator.batch_size_per_image=4096",
        "model.roi_heads.batch_size_per_image=512",
    ]
    cfg = load_config(SHAPES, [*small, *all_of_them])
    generator = torch.Generator().manual_seed(0)
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 8.0, 40.0, 50.0], [30.0, 2.0, 62.0, 30.0]]))
    instances.gt_classes = torch.tensor([1, 4])
    instances.gt_masks = BitMasks(torch.rand(2, 64, 64, generator=generator) > 0.3)
    image = torch.randint(256, (3, 64, 64), generator=generator, dtype=torch.uint8)
    records = [{"image": image, "instances": instances, "height": 64, "width": 64}] * 4
    results = []
    for num_steps in (1, 2, 4):
        torch.manual_seed(0)
        model = instantiate(cfg.model)
        batches = [records[: 4 // num_steps]] * num_steps
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        trainer = Trainer(model, batches, optimizer, num_steps=num_steps)
        trainer.train(0, 1)
        metrics = {k: v[0] for k, v in trainer.storage.latest().items() if "loss" in k}
        results.append((metrics, model.state_dict()))
    for metrics, state in results[1:]:
        assert set(metrics) == set(results[0][0]) and len(metrics) == 6
        assert metrics == pytest.approx(results[0][0], rel=1e-4)
        assert_close(state, results[0][1], rtol=1e-4, atol=1e-5)


def test_images_per_process_divides_the_batch(tmp_path, caplog):
    """The model has a batch norm, so that parts see other statistics: counted, not compared."""
    sizes = []

    def loss(model, batch):
        sizes.append(len(batch))
        return model(batch)

    with caplog.at_level("INFO", "hiera_det.engine.run"):
        train(config(tmp_path, "images_per_process=3", "max_iter=1"), loss=loss)
    assert sizes == [2, 2]
    assert "batch of 4 images = 1 processes x 2 images x 2 steps" in caplog.text


def test_bucket_views_do_not_change_gradients(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        states = []
        for views in (False, True):
            cfg = config(tmp_path)
            cfg.train.ddp.gradient_as_bucket_view = views
            options = run.ddp_options(cfg)
            assert options["gradient_as_bucket_view"] is views and options["device_ids"] is None
            options.pop("fp16_compression")
            model = DistributedDataParallel(Line(), **options)
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
            Trainer(model, numbers().split(2), optimizer, num_steps=2).train(0, 3)
            states.append(model.module.state_dict())
        assert_close(states[0], states[1], rtol=0, atol=0)
    finally:
        dist.destroy_process_group()


def test_fp16_gradients_of_bf16_are_refused(tmp_path):
    cfg = config(tmp_path)
    cfg.train.ddp.fp16_compression = True
    assert run.ddp_options(cfg)["fp16_compression"]
    cfg.train.amp.update(enabled=True, precision="bf16")
    with pytest.raises(ValueError, match="fp16_compression=True with train.amp.precision=bf16"):
        run.ddp_options(cfg)


def test_optimizer_is_fused_on_a_gpu_alone(tmp_path, monkeypatch):
    """The CPU has the fused AdamW too, so the logic can be told that it is a GPU."""

    def fused(**options):
        cfg = config(tmp_path)
        cfg.optimizer.update(options)
        return run.build_optimizer(cfg, Line()).defaults.get("fused")

    assert not fused()
    monkeypatch.setattr(run, "model_device", lambda model: torch.device("cuda"))
    assert fused() is True
    assert fused(fused=False) is False
    assert fused(_target_=torch.optim.Rprop) is None  # has no such option


def test_fused_optimizer_goes_on_from_one_that_is_not(tmp_path):
    """And the options of the config stand: a checkpoint of version 0.2 has none that are fused."""
    _, expected = train(config(tmp_path / "a"))
    cfg = config(tmp_path / "b", "max_iter=4")
    cfg.optimizer.fused = True
    (tmp_path / "b/model_0000001.pth").write_bytes((tmp_path / "a/model_0000001.pth").read_bytes())
    _, model = train(cfg, resume_run=True)
    assert_close(model.state_dict(), expected.state_dict())
    end = torch.load(tmp_path / "b/model_final.pth", weights_only=True)
    assert end["trainer"]["optimizer"]["param_groups"][0]["fused"] is True


def test_resume_with_another_optimizer_says_so(tmp_path):
    train(config(tmp_path, "max_iter=2"))
    cfg = config(tmp_path)
    cfg.optimizer = L(torch.optim.SGD)(params=L(parameters)(model=None), lr=0.01, momentum=0.9)
    with pytest.raises(ValueError, match="another optimizer, which had no momentum"):
        train(cfg, resume_run=True)


@pytest.mark.parametrize("rule, lr", [("linear", 0.0025), ("sqrt", 0.005), ("none", 0.01)])
def test_learning_rate_follows_the_batch(tmp_path, caplog, rule, lr):
    cfg = config(tmp_path, f"lr_scaling.rule={rule}", "lr_scaling.base_batch_size=16")
    with caplog.at_level("INFO", "hiera_det.engine.run"):
        for _ in range(2):  # once and for all: config.yaml holds the result
            run._scale_learning_rate(cfg)
    assert cfg.optimizer.lr == pytest.approx(lr)
    told = f"the {rule} rule from a batch of 16 to 4" in caplog.text
    assert told == (rule != "none")


def test_unknown_rule_of_the_learning_rate(tmp_path):
    cfg = config(tmp_path, "lr_scaling.rule=cubic", "lr_scaling.base_batch_size=16")
    with pytest.raises(ValueError, match="'cubic' is none of none, linear, sqrt"):
        run._scale_learning_rate(cfg)


# ------------------------------------------------------------------------------- facts and seeds
def test_run_does_not_go_on_with_other_images(tmp_path):
    train(config(tmp_path, "max_iter=2"), size=12)
    with pytest.raises(ValueError, match="another run: num_images was 12 and is 13"):
        train(config(tmp_path), size=13, resume_run=True)


def test_images_of_a_detection_loader_are_counted(mixed_shapes, small):
    shapes.register_shapes(mixed_shapes)
    try:
        cfg = load_config(SHAPES, small)
        batches = build_train_loader(cfg, seed=0, start=0, batch_size=2)
        assert run._num_images(batches) == {"num_images": 12}
        assert run._num_images(iter([])) == {}
    finally:
        shapes.register_shapes()


def test_resumed_run_keeps_its_seed_and_says_it(tmp_path):
    train(config(tmp_path, "max_iter=2"))
    cfg = config(tmp_path, "seed=8")
    train(cfg, resume_run=True)
    assert cfg.train.seed == 5
    assert OmegaConf.load(tmp_path / "config.yaml").train.seed == 5


@pytest.mark.slow
def test_recorded_seed_repeats_the_run(start, tmp_path, rows):
    """Weights included: they were drawn from another seed than the one that was written."""
    args = ["train.max_iter=2", "train.eval_period=0"]
    assert start("train", "first", *args, "train.seed=-1").wait() == 0
    seed = load_config(str(tmp_path / "first/config.yaml")).train.seed
    assert seed >= 0
    state = torch.load(tmp_path / "first/model_final.pth", weights_only=True)
    assert state["trainer"]["hooks"]["IterationSeed"]["seed"] == seed
    assert start("train", "second", *args, f"train.seed={seed}").wait() == 0
    first, second = ([r["total_loss"] for r in rows(name) if "total_loss" in r] for name in
                     ("first", "second"))  # fmt: skip
    assert first == second and len(first) == 2


# ------------------------------------------------------------------------------- precision
@pytest.mark.slow
def test_precision_of_products_and_of_evaluation(start, tmp_path):
    """As the run sets them, on either Detectron2."""

    def prepare() -> None:
        import hiera_det.engine.detection as detection

        evaluate = detection.inference_on_dataset

        def told(*args):
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
            print(f"evaluates with {dtype}, {torch.get_float32_matmul_precision()}", flush=True)
            return evaluate(*args)

        detection.inference_on_dataset = told

    switches = ["+train.float32_precision=high", "+train.eval_precision=bf16"]
    switches.append("+train.lr_scaling={rule:sqrt,base_batch_size:8}")
    job = start("train", "run", "train.max_iter=1", *switches, prepare=prepare)
    assert job.wait() == 0, job.text()[-3000:]
    assert "evaluates with torch.bfloat16, high" in job.text()
    assert "optimizer.lr is 0.0005: scaled by 0.5, the sqrt rule" in job.text()
    assert load_config(str(tmp_path / "run/config.yaml")).optimizer.lr == pytest.approx(5e-4)


@pytest.mark.slow
def test_compiled_trunk_and_neck_give_the_same_losses(start, tmp_path, rows):
    """Traced as torch.compile does, but not made into C++, which takes minutes."""

    def prepare() -> None:
        def compile_module(module):
            print(f"compiles {type(module).__name__}", flush=True)
            module._compiled_call_impl = torch.compile(module._call_impl, backend="aot_eager")

        torch.nn.Module.compile = compile_module

    args = ["train.max_iter=2", "train.eval_period=0", "dataloader.train.total_batch_size=1"]
    args.append("model.backbone.square_pad=64")
    losses = []
    for name, switches in (("plain", []), ("compiled", ["+train.compile=True"])):
        job = start("train", name, *args, *switches, prepare=prepare)
        assert job.wait() == 0, job.text()[-3000:]
        assert ("compiles HieraBackbone" in job.text() or "compiles FPN" in job.text()) == bool(
            switches
        )
        losses.append([r["total_loss"] for r in rows(name) if "total_loss" in r])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


# ------------------------------------------------------------------------------- writers
@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_experiment_writer(name, tmp_path, monkeypatch):
    calls = []

    def init(project, name, config):
        calls.append((project, name, config["train"]["seed"]))

    def init_in(project, name, config, dir):  # noqa: A002  wandb's name
        calls.append((project, name, config["train"]["seed"], dir))

    tracker = SimpleNamespace(
        init=init_in if name == "wandb" else init,
        log=lambda values, step: calls.append((step, values)),
        finish=lambda: calls.append("finish"),
    )
    monkeypatch.setitem(sys.modules, name, tracker)
    (tmp_path / "config.yaml").write_text("train: {seed: 3}")
    writer = ExperimentWriter(name, config(tmp_path))
    with EventStorage(0) as storage:
        for k in range(3):
            storage.iter = k
            storage.put_scalar("total_loss", 3.0 - k)
            storage.put_scalar("lr", 0.1 * k, smoothing_hint=False)
        writer.write()
        writer.write()  # nothing new
        storage.iter = 3
        storage.put_scalar("segm/AP", 7.0, smoothing_hint=False)
        storage.put_scalar("bbox/AP", math.nan, smoothing_hint=False)
        writer.write()
    writer.close()
    begin = ("hiera_det", tmp_path.name, 3) + ((str(tmp_path),) if name == "wandb" else ())
    assert calls == [begin, (2, {"total_loss": 2.0, "lr": 0.2}), (3, {"segm/AP": 7.0}), "finish"]


def test_missing_tracker_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        ExperimentWriter("wandb", config(tmp_path))
    with pytest.raises(ValueError, match="'mlflow' is none of wandb, trackio"):
        ExperimentWriter("mlflow", config(tmp_path))


# ------------------------------------------------------------------------------- signals
def test_second_ctrl_c_ends_at_once_but_not_one_that_is_passed_on(monkeypatch):
    stop = StopOnSignal()
    stop.trainer = SimpleNamespace(stop_wish=0)
    stop._handle(2, None)
    stop._handle(2, None)  # from torchrun, at nearly the same time
    assert stop.trainer.stop_wish == 130
    monkeypatch.setattr("hiera_det.engine.hooks.time.monotonic", lambda: stop._asked_at + 10)
    with pytest.raises(KeyboardInterrupt):
        stop._handle(2, None)


@pytest.mark.parametrize("error", [RuntimeError, ConnectionResetError, EOFError])
def test_loader_that_a_signal_ended_stops_the_run(error):
    """What it raises without a signal is an error of its own."""

    def batches():
        yield numbers()
        raise error("worker")

    for wish, expected in ((0, error), (143, Stopped)):
        model = Line()
        trainer = Trainer(model, batches(), torch.optim.SGD(model.parameters(), lr=0.1))
        trainer.register_hooks([Wish(wish)])
        with pytest.raises(expected):
            trainer.train(0, 3)
        assert trainer.iter == 1 and not trainer.step_done


class Wish(HookBase):
    """Stands for a signal before the second step."""

    def __init__(self, wish: int):
        self.wish = wish

    def before_step(self) -> None:
        self.trainer.stop_wish = self.wish if self.trainer.iter else 0


# ------------------------------------------------------------------------------- names
def test_images_of_a_pretraining_batch_are_named(tmp_path):
    """Batches are tensors; the loader knows the files from the place in its stream."""
    for k in range(6):
        Image.new("RGB", (40, 40), (40 * k, 0, 0)).save(tmp_path / f"{k}.png")
    dataset = PretrainImages(str(tmp_path), (32, 64), mask_ratio=0.5)
    batches = build_pretrain_loader(dataset, 2, num_workers=0, batch_size=2, seed=3, start=4)
    for k, (images, _) in zip(range(8), batches, strict=False):
        colours = (images[:, 0, 0, 0].float() / 40).round().int().tolist()
        assert batches.names(2 * k, 2) == [str(tmp_path / f"{c}.png") for c in colours]
    trainer = SimpleNamespace(
        batch_names=[], data_loader=batches, images_per_iteration=4, iter=7, start_iter=5
    )
    assert run._names(trainer) == " of " + ", ".join(batches.names(8, 4))
    trainer.batch_names = [f"{k}.jpg" for k in range(20)]
    assert run._names(trainer).endswith("15.jpg and 4 more")
