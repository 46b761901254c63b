"""Small detectors with random heads that find many things, and images of mixed sizes."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from hiera_det.config import load_config
from hiera_det.data.shapes_draw import draw_scene

SMALL = [
    "+model.backbone.bottom_up.trunk.embed_dim=8",
    "+model.backbone.bottom_up.trunk.stages=[1,1,2,1]",
    "model.backbone.bottom_up.trunk.window_size=[8,4,0,0]",
    "model.backbone.bottom_up.trunk.global_attn_blocks=[]",
    "model.backbone.bottom_up.trunk.drop_path_rate=0.0",
    "model.backbone.out_channels=16",
    "model.proposal_generator.head.in_channels=16",
    "model.proposal_generator.pre_nms_topk=[50,60]",
    "model.proposal_generator.post_nms_topk=[30,40]",
    "model.roi_heads.num_classes=6",
    "model.roi_heads.box_head.input_shape.channels=16",
    "model.roi_heads.box_head.conv_dims=[]",
    "model.roi_heads.box_head.fc_dims=[32]",
    "model.roi_heads.box_predictor.input_shape.channels=32",
    "+model.roi_heads.box_predictor.test_topk_per_image=20",
    "model.roi_heads.mask_head.input_shape.channels=16",
    "model.roi_heads.mask_head.conv_dims=[8,8]",
    "dataloader.image_size=96",
    "train.device=cpu",
]


def wake(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, seeded, for the layers that begin near 0: without ties, scores to 0.9."""
    generator = torch.Generator().manual_seed(seed)
    heads, rpn = model.roi_heads, model.proposal_generator.rpn_head
    predictors = heads.box_predictor
    predictors = predictors if isinstance(predictors, nn.ModuleList) else [predictors]
    layers = [(rpn.objectness_logits, 0.5), (rpn.anchor_deltas, 0.1)]
    layers += [(p.cls_score, 1.0) for p in predictors] + [(p.bbox_pred, 0.3) for p in predictors]
    if heads.mask_on:
        layers.append((heads.mask_head.predictor, 0.3))
    for layer, std in layers:
        with torch.no_grad():
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * std)
    return model


class Built:
    """What `export_model` needs of a Predictor, of a config and random weights."""

    def __init__(self, config: str, *overrides: str):
        self.cfg = load_config(config, overrides)
        torch.manual_seed(0)
        self.model = wake(instantiate(self.cfg.model)).eval()
        self.image_format = self.cfg.dataloader.test.mapper.image_format
        count = self.cfg.model.roi_heads.num_classes
        self.class_names = [f'class "{k}" <ü>' for k in range(count)]
        self.class_colors = [(k, 255 - k, 7) for k in range(count)]
        self.category_ids = [2 * k + 1 for k in range(count)]
        self.augmentation = instantiate(self.cfg.dataloader.test.mapper.augmentations[0])

    @torch.no_grad()
    def predict_images(self, images):
        from detectron2.data.transforms import AugInput, AugmentationList
        from PIL import Image

        results = []
        for image in images:
            height, width = image.shape[:2]
            if self.image_format == "L":
                image = np.array(Image.fromarray(image).convert("L"))[:, :, None]
            elif self.image_format == "BGR":
                image = image[:, :, ::-1]
            resized = AugInput(image)
            AugmentationList([self.augmentation])(resized)
            pixels = np.ascontiguousarray(
                resized.image.transpose(2, 0, 1)
            )  # (H, W, C) -> (C, H, W)
            inputs = {"image": torch.from_numpy(pixels), "height": height, "width": width}
            results.append(self.model([inputs])[0]["instances"])
        return results


@pytest.fixture(scope="session")
def build():
    """Makes a small `Built` of a config, of the shapes' or another; for that one SMALL's keys that
    begin with `drop`, of parts that it has not, are left out."""

    def build(*overrides: str, config="shapes/mask_rcnn_hiera_shapes", drop=()) -> Built:
        small = [s for s in SMALL if not any(f"roi_heads.{part}" in s for part in drop)]
        return Built(config, *small, *overrides)

    return build


@pytest.fixture(scope="session")
def images() -> list[tuple[str, np.ndarray]]:
    """Scenes of shapes: square, wide, tall, large, tiny; and one that is black."""
    sizes = [(96, 96), (61, 96), (96, 33), (150, 131), (17, 12)]
    scenes = []
    for k, (height, width) in enumerate(sizes):
        image, _ = draw_scene(np.random.default_rng(k), max(height, width, 64), num_objects=6)
        scenes.append((f"{height}x{width}", np.ascontiguousarray(image[:height, :width])))
    return [*scenes, ("black", np.zeros((96, 80, 3), np.uint8))]
