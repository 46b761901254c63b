"""Fine-tuning, evaluation and linear probe, on three classes that are told by colour."""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from PIL import Image
from timm.data import auto_augment
from torch.testing import assert_close

import pretrain
from hiera_det.cli import finetune
from hiera_det.config import load_config
from hiera_det.modeling.classifier import build_classifier
from hiera_det.modeling.variants import VARIANTS, build_hiera
from pretrain import classification
from pretrain.classify import ClassificationLoss, ClassImages, accuracy, build_test_loader
from pretrain.probe import fit_softmax, probe

ROOT = Path(pretrain.__file__).parents[1]
CONFIGS = sorted((ROOT / "pretrain/configs").glob("finetune_*.py"))
COLOURS = {"blue": (40, 60, 220), "green": (40, 220, 60), "red": (220, 60, 40)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                pixels = np.clip(rng.normal(colour, 30, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{k}.png")
    return root


def test_classes_are_the_sub_folders(folders):
    dataset = ClassImages(str(folders / "val"), (32, 32))
    assert dataset.classes == ["blue", "green", "red"]
    assert dataset.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    image, label = dataset[9]
    assert image.shape == (3, 32, 32) and label == 2 and image[0].float().mean() > 180


def test_training_sample_depends_on_its_seed_alone(folders):
    dataset = ClassImages(str(folders / "train"), (32, 32))
    first = dataset[(5, 2)]
    torch.rand(3)
    assert_close(dataset[(5, 2)], first)
    assert not torch.equal(dataset[(6, 2)][0], first[0])


def test_rand_augment_is_as_strong_as_timm(folders):
    augment = ClassImages(str(folders / "train"), rand_augment=9).augment
    space = augment._AUGMENTATION_SPACE
    ours = {
        name: float(space[name][0](augment.num_magnitude_bins, 224, 224)[augment.magnitude])
        for name in ("Rotate", "ShearX", "Brightness")
    }
    theirs = {
        "Rotate": auto_augment._rotate_level_to_arg,
        "ShearX": auto_augment._shear_level_to_arg,
        "Brightness": auto_augment._enhance_increasing_level_to_arg,
    }
    expected = {name: abs(level(9, {})[0]) for name, level in theirs.items()}
    expected["Brightness"] = abs(expected["Brightness"] - 1)  # theirs is a factor
    assert ours == pytest.approx(expected)


def test_images_outside_a_class_folder_raise(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "loose.png")
    with pytest.raises(ValueError, match="loose.png lies in no sub-folder"):
        ClassImages(str(tmp_path))


def test_loss_without_mixing_is_smoothed_cross_entropy():
    loss = ClassificationLoss(3, mixup=0, cutmix=0, label_smoothing=0.1)
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0])
    logits = torch.randn(4, 3)
    seen = []
    value = loss(lambda x: seen.append(x) or logits, (images, labels))
    target = 0.9 * F.one_hot(labels, 3) + 0.1 / 3
    assert_close(value, -(target * logits.log_softmax(1)).sum(1).mean())
    assert_close(seen[0][:, 0], (images[:, 0] - 123.675) / 58.395)


def test_mixed_labels_are_those_of_the_mixed_images():
    """With an image that is 1 for its class, the mean over pixels is the mixed target."""
    loss = ClassificationLoss(2, pixel_mean=[0, 0, 0], pixel_std=[1, 1, 1], label_smoothing=0)
    labels = torch.tensor([0, 1])
    images = labels.reshape(2, 1, 1, 1).expand(2, 3, 32, 32).to(torch.uint8)
    torch.manual_seed(0)
    for _ in range(8):
        share = []

        def model(x, share=share):
            share.append(x.mean(dim=(1, 2, 3)))
            return torch.stack([1 - share[0], share[0]], dim=1).log()

        value = loss(model, (images, labels))
        p = torch.stack([1 - share[0], share[0]], dim=1)
        assert_close(value, -(p * p.log().clamp(min=-100)).sum(1).mean(), atol=1e-4, rtol=0)


def test_accuracy_counts_top1_and_top5():
    class Model(torch.nn.Linear):
        def forward(self, x):
            order = torch.arange(8.0, 0, -1)  # class 0 best, then 1, 2, ...
            return order.expand(len(x), 8)

    images = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    data = torch.utils.data.TensorDataset(images, torch.tensor([0, 0, 1, 4, 5, 7]))
    result = accuracy(Model(1, 1), build_test_loader(data, 4, 0), ClassificationLoss(8))
    assert result == {"top1": pytest.approx(100 / 3), "top5": pytest.approx(400 / 6)}


def test_softmax_regression_separates_what_can_be_separated():
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 5.0], [5.0, 0.0], [-5.0, -5.0]])
    y = torch.arange(3).repeat_interleave(20)
    classify = fit_softmax(centres[y] + torch.randn(60, 2), y, 3)
    assert_close(classify(centres).argmax(dim=1), torch.arange(3))


def test_probe_of_a_random_trunk_tells_colours_apart(folders):
    torch.manual_seed(0)
    trunk = build_hiera("hiera_t", embed_dim=8, stages=(1, 1, 1, 1), pos_embed_size=(8, 8))
    sets = [ClassImages(str(folders / split), (32, 32)) for split in ("train", "val")]
    result = probe(trunk, *sets, ClassificationLoss(3).normalize)
    assert result == {"top1": 100.0, "top5": 100.0, "train_top1": 100.0}


# ------------------------------------------------------------------------------------- the script
def arguments(folders, output, *opts: str, eval_only: bool = False) -> argparse.Namespace:
    return argparse.Namespace(
        config_file=str(ROOT / "pretrain/configs/finetune_hiera_t.py"),
        resume=False,
        eval_only=eval_only,
        opts=[
            f"dataloader.train.dataset.root={folders / 'train'}",
            f"dataloader.test.dataset.root={folders / 'val'}",
            f"train.output_dir={output}",
            "dataloader.input_size=[32,32]",
            "dataloader.train.total_batch_size=6",
            "dataloader.train.num_workers=0",
            "dataloader.test.num_workers=0",
            "+model.embed_dim=8",
            "+model.stages=[1,1,1,1]",
            "+model.pos_embed_size=[8,8]",
            "train.amp.enabled=False",
            "train.log_period=1",
            *opts,
        ],
    )


def test_finetune_from_an_encoder_then_evaluate(folders, tmp_path, capsys):
    torch.manual_seed(0)
    trunk = build_hiera("hiera_t", embed_dim=8, stages=(1, 1, 1, 1), pos_embed_size=(8, 8))
    torch.save({"model": trunk.state_dict()}, tmp_path / "encoder.pth")
    run = tmp_path / "run"
    finetune.main(
        arguments(
            folders, run, f"train.init_checkpoint={tmp_path / 'encoder.pth'}", "train.max_iter=4"
        )
    )
    log = (run / "log.txt").read_text()
    total = len(trunk.state_dict())
    assert f"backbone {total}/{total + 4} tensors" in log and "top-1" in log
    metrics = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    assert "top1" in metrics[-1]
    assert load_config(str(run / "config.yaml")).model.num_classes == 3
    capsys.readouterr()
    weights = f"train.init_checkpoint={run / 'model_final.pth'}"
    finetune.main(arguments(folders, run, weights, eval_only=True))
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["top1"] == pytest.approx(metrics[-1]["top1"])


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_evaluation_has_the_precision_of_the_config(folders, tmp_path, monkeypatch, precision):
    model = build_classifier("hiera_t", 3, embed_dim=8, stages=(1, 1, 1, 1), pos_embed_size=(8, 8))
    torch.save({"model": model.state_dict()}, tmp_path / "a.pth")
    seen = []

    def accuracy(*args):
        seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return {"top1": 0.0}

    monkeypatch.setattr(classification, "accuracy", accuracy)
    weights = f"train.init_checkpoint={tmp_path / 'a.pth'}"
    precise = f"train.eval_precision={precision or 'null'}"
    finetune.main(arguments(folders, tmp_path, weights, precise, eval_only=True))
    assert seen == [torch.bfloat16 if precision else None]


def test_evaluation_with_another_number_of_classes_raises(folders, tmp_path):
    model = build_classifier("hiera_t", 5, embed_dim=8, stages=(1, 1, 1, 1))
    torch.save({"model": model.state_dict()}, tmp_path / "a.pth")
    weights = f"train.init_checkpoint={tmp_path / 'a.pth'}"
    with pytest.raises(ValueError, match="a.pth tells 5 classes apart, .* has 3 sub-folders"):
        finetune.main(arguments(folders, tmp_path, weights, eval_only=True))


@pytest.mark.slow
def test_official_classifier_loads_whole(tmp_path):
    from hiera_det.checkpoint import load_full

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports of timm are deprecated
        import hiera
    theirs = hiera.hiera_tiny_224().eval()
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "hiera_tiny_224.pth")
    ours = build_classifier("hiera_t").eval()
    load_full(ours, str(tmp_path / "hiera_tiny_224.pth"))
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        # theirs ends in a softmax outside training
        assert_close(ours(images).softmax(dim=1), theirs(images), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_finetune_config_builds(path):
    cfg = load_config(str(path))
    assert sorted(cfg) == ["dataloader", "lr_multiplier", "model", "optimizer", "train"]
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert model.depth == sum(VARIANTS[cfg.model.variant]["stages"])
    assert cfg.optimizer.lr == (
        2e-3 if cfg.model.variant in ("hiera_t", "hiera_s", "hiera_b") else 1e-3
    )
