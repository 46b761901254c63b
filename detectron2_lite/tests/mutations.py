"""Mistakes in one line each of detectron2_lite. For every one of them some test has to fail.

``run_mutations.py`` makes them, one at a time, in a copy of the package.
"""

from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "detectron2"


class Mutation(NamedTuple):
    """A mistake, and who has to notice it.

    Attributes:
        file: below ``detectron2/``.
        mistake: what is wrong, in a few words.
        old, new: text that stands once in the file, and what it becomes.
        tests: names of test files without ``test_`` and ``.py``.
    """

    file: str
    mistake: str
    old: str
    new: str
    tests: list[str]

    def source(self) -> str:
        """The changed file. ValueError unless ``old`` stands in it exactly once."""
        text = (PACKAGE / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.file}: the text of {self.mistake!r} stands there {text.count(self.old)} "
                f"times, not once: {self.old!r}"
            )
        return text.replace(self.old, self.new)


# fmt: off
_BY_FILE = {
    # Under each file rows of mistake, old text, new text and tests.
    "layers/batch_norm.py": [
        ("eps of the channel LayerNorm is torch's",
         "eps: float = 1e-6", "eps: float = 1e-5", "layers"),
        ("unbiased variance in LayerNorm",
         "x.pow(2).mean(1, keepdim=True)",
         "x.pow(2).sum(1, keepdim=True) / (x.shape[1] - 1)", "layers"),
    ],
    "layers/blocks.py": [
        ("a convolution with a norm has a bias", "bias=not norm", "bias=True", "backbones"),
    ],
    "layers/mask_ops.py": [
        ("masks are sampled between corners",
         "align_corners=False", "align_corners=True", "structures"),
        ("masks are pasted at pixel corners",
         "(rows.start, rows.stop, device=masks.device, dtype=torch.float32) + 0.5",
         "(rows.start, rows.stop, device=masks.device, dtype=torch.float32)", "structures"),
        ("a mask value of 0.5 is outside",
         "values >= threshold if", "values > threshold if", "structures"),
    ],
    "layers/weight_init.py": [
        ("MSRA fill by fan_in", 'mode="fan_out"', 'mode="fan_in"', "roi_heads"),
    ],
    "structures/boxes.py": [
        ("IoU of two empty boxes is nan",
         "torch.where(intersection > 0, intersection / union, 0.0)",
         "intersection / union", "structures"),
        ("clip takes (width, height)",
         "height, width = box_size\n"
         "        x0, y0, x1, y1 = self.tensor.unbind(dim=1)\n        self",
         "width, height = box_size\n"
         "        x0, y0, x1, y1 = self.tensor.unbind(dim=1)\n        self", "structures"),
    ],
    "structures/image_list.py": [
        ("images are not padded to a multiple",
         "if divisor > 1:", "if divisor > 10**9:", "structures"),
    ],
    "structures/masks.py": [
        ("polygons are cut off to pixels",
         "* scale).reshape(-1) for",
         "* scale).astype(int).reshape(-1).astype(float) for", "structures"),
        ("bitmask targets above 0.5 only", "[:, 0] >= 0.5", "[:, 0] > 0.5", "structures"),
        ("the box of a bitmap ends at its last pixel",
         "x[-1] + 1, y[-1] + 1", "x[-1], y[-1]", "structures"),
    ],
    "modeling/anchor_generator.py": [
        ("anchors start half a stride in", "+ self.offset) * stride", "+ 0.5) * stride", "rpn"),
        ("anchors are rounded", "torch.tensor(anchors)", "torch.tensor(anchors).round()", "rpn"),
    ],
    "modeling/box_regression.py": [
        ("widths are not clamped on decoding",
         "(deltas[:, 2::4] / ww).clamp(max=self.scale_clamp)", "deltas[:, 2::4] / ww", "rpn"),
        ("decoding in half precision", "deltas = deltas.float()", "deltas = deltas", "rpn"),
    ],
    "modeling/matcher.py": [
        ("thresholds belong to the lower interval",
         "(best >= low) & (best < high)", "(best > low) & (best <= high)", "rpn"),
        ("only one prediction rescues a ground truth",
         "labels[(quality == best_of_gt).any(dim=0)] = 1",
         "labels[quality.argmax(dim=1)] = 1", "rpn"),
    ],
    "modeling/poolers.py": [
        ("RoIAlign is half a pixel off",
         'aligned=pooler_type == "ROIAlignV2"', "aligned=False", "roi_heads"),
        ("two samples per bin", "scale, sampling_ratio, aligned", "scale, 2, aligned", "roi_heads"),
        ("eps of the level is torchvision's",
         "log2(sizes / canonical_box_size + 1e-8)", "log2(sizes / canonical_box_size + 1e-6)",
         "roi_heads"),
    ],
    "modeling/postprocessing.py": [
        ("boxes are scaled by (height, width)",
         "boxes.scale(output_width / width, output_height / height)",
         "boxes.scale(output_height / height, output_width / width)", "roi_heads"),
    ],
    "modeling/sampling.py": [
        ("number of positives is rounded",
         "min(len(positive), int(num", "min(len(positive), round(num", "rpn"),
        ("positives take the first, not random ones",
         "torch.randperm(len(positive), device=positive.device)",
         "torch.arange(len(positive), device=positive.device)", "rpn"),
        ("negatives are drawn first",
         "    keep_positive =", "    torch.randperm(len(negative))\n    keep_positive =", "rpn"),
    ],
    "modeling/proposal_generator/rpn.py": [
        ("RPN losses by the number of samples",
         "normalizer = self.batch_size_per_image * num_images", "normalizer = num_sampled", "rpn"),
        ("RPN head starts ten times too large", "std=0.01", "std=0.1", "rpn"),
        ("test limits in training",
         "{True: pre_nms_topk[0], False: pre_nms_topk[1]}",
         "{True: pre_nms_topk[1], False: pre_nms_topk[0]}", "rpn"),
    ],
    "modeling/proposal_generator/proposal_utils.py": [
        ("NMS across levels",
         "batched_nms(boxes.tensor, logits, levels,",
         "batched_nms(boxes.tensor, logits, levels * 0,", "rpn"),
        ("proposals may lie in the padding",
         "boxes.clip(image_size)", "boxes.clip(image_sizes[0])", "rpn"),
        ("no limit after NMS", "[:post_nms_topk]", "", "rpn"),
        ("logit of appended ground truth", "1.0 - 1e-10", "1.0 - 1e-6", "roi_heads"),
    ],
    "modeling/roi_heads/fast_rcnn.py": [
        ("box loss by the number of foreground regions",
         "loss / max(gt_classes.numel(), 1)", "loss / max(fg.numel(), 1)", "roi_heads"),
        ("NMS across classes",
         "batched_nms(boxes, scores, classes, nms_thresh)",
         "batched_nms(boxes, scores, classes * 0, nms_thresh)", "roi_heads"),
        ("a score at the threshold counts",
         "scores > score_thresh", "scores >= score_thresh", "roi_heads"),
        ("deltas of the first class for all",
         "gt_classes[fg] if deltas.shape[1] > 1 else 0", "0", "roi_heads"),
    ],
    "modeling/roi_heads/roi_heads.py": [
        ("no ground truth among the proposals",
         "if self.proposal_append_gt:", "if not self.proposal_append_gt:", "roi_heads"),
        ("masks learn from background, too",
         "            instances, _ = select_foreground_proposals(instances, self.num_classes)\n",
         "", "models"),
    ],
    "modeling/roi_heads/cascade_rcnn.py": [
        ("the gradient of stages is not scaled",
         "_ScaleGradient.apply(pooled, 1.0 / self.num_cascade_stages)",
         "_ScaleGradient.apply(pooled, 1.0)", "roi_heads"),
        ("scores of the last stage alone",
         "[sum(stages) * weight for", "[stages[-1] for", "roi_heads"),
        ("boxes between stages carry gradients",
         "Boxes(tensor.detach())", "Boxes(tensor)", "models"),
        ("empty boxes reach the next stage",
         "if self.training:\n                image_boxes =",
         "if False:\n                image_boxes =", "roi_heads"),
    ],
    "modeling/roi_heads/mask_head.py": [
        ("mask loss is a sum",
         'target.to(torch.float32), reduction="mean"',
         'target.to(torch.float32), reduction="sum"', "roi_heads"),
    ],
    "modeling/backbone/fpn.py": [
        ("bilinear top-down path", 'mode="nearest"', 'mode="bilinear"', "backbones"),
        ("p6 is a 2x2 maximum", "kernel_size=1, stride=2", "kernel_size=2, stride=2", "backbones"),
    ],
    "modeling/backbone/vit.py": [
        ("the padding key is spelt right",
         '{"size_divisiblity": self', '{"size_divisibility": self', "backbones"),
    ],
    "data/transforms/augmentation_impl.py": [
        ("sides are cut off",
         "int(new_h + 0.5), int(new_w + 0.5)", "int(new_h), int(new_w)", "transforms"),
        ("halves are rounded up",
         "np.round(np.multiply((h, w), fit)).astype(int)",
         "(np.multiply((h, w), fit) + 0.5).astype(int)", "transforms"),
        ("each axis of the crop has its own draw",
         "np.random.uniform(0.0, 1.0))", "np.random.uniform(0.0, 1.0, 2))", "transforms"),
        ("the longest edge of a range is never drawn",
         "np.random.randint(low, high + 1)", "np.random.randint(low, high)", "transforms"),
        ("short edge lengths lose their type",
         "self.short_edge_length = short_edge_length",
         "self.short_edge_length = tuple(short_edge_length)", "config"),
    ],
    "data/transforms/transform.py": [
        ("images are resized to the nearest pixel",
         "pil.resize((self.new_w, self.new_h), interp)",
         "pil.resize((self.new_w, self.new_h), Image.NEAREST)", "transforms"),
        ("integer coordinates are not cut off",
         "(coords * scale).astype(coords.dtype, copy=False)", "coords * scale", "transforms"),
    ],
    "data/dataset_mapper.py": [
        ("boxes are not recomputed after the crop",
         "if self.recompute_boxes and len(instances):",
         "if not self.recompute_boxes and len(instances):", "datasets"),
        ("crowds become instances",
         ' if a.get("iscrowd", 0) == 0]', "]", "datasets"),
    ],
    "data/detection_utils.py": [
        ("EXIF orientation is ignored",
         "ImageOps.exif_transpose(Image.open(f))", "Image.open(f)", "datasets"),
        ("boxes are not clipped", "np.minimum(box, [w, h, w, h])", "box", "datasets"),
        ("slivers of boxes stay",
         "box_threshold: float = 1e-5", "box_threshold: float = 0.0", "datasets"),
    ],
    "data/build.py": [
        ("images with only crowds are trained on",
         'any(a.get("iscrowd", 0) == 0 for a in d["annotations"])', 'd["annotations"]', "datasets"),
    ],
    "data/common.py": [
        ("squares count as wide",
         'item["width"] > item["height"]', 'item["width"] >= item["height"]', "loaders"),
        ("workers split batches", "position // self.shard_chunk_size", "position", "loaders"),
    ],
    "data/samplers/distributed_sampler.py": [
        ("every rank sees the same images",
         "self._rank, None, self._world_size", "0, None, self._world_size", "loaders"),
    ],
    "data/datasets/coco.py": [
        ("classes in the order of the file",
         "enumerate(sorted(categories))", "enumerate(categories)", "datasets"),
    ],
    "evaluation/coco_evaluation.py": [
        ("masks have the area of their box",
         'for k, v in r.items() if k != "bbox"', "for k, v in r.items()", "evaluation"),
        ("results with contiguous category ids",
         'self._category_ids[r["category_id"]]', 'r["category_id"]', "evaluation"),
        ("what has no ground truth counts as -1",
         "values[values > -1]", "values[values >= -1]", "evaluation"),
    ],
    "solver/build.py": [
        ("the channel LayerNorm counts as a norm",
         "isinstance(module, _NORMS)",
         '(isinstance(module, _NORMS) or type(module).__name__ == "LayerNorm")', "solver"),
    ],
    "solver/lr_scheduler.py": [
        ("warm-up ends at the first value",
         "scheduler(0.0 if rescale_interval else warmup_length)", "scheduler(0.0)", "solver"),
        ("warm-up length is a fraction of the rest",
         "lengths=[warmup_length, 1 - warmup_length]",
         "lengths=[warmup_length / (1 + warmup_length), 1 / (1 + warmup_length)]", "solver"),
        ("the schedule is one iteration ahead",
         "self.last_epoch / self._max_iter", "(self.last_epoch + 1) / self._max_iter", "solver"),
    ],
    "engine/train_loop.py": [
        ("the last iteration is done again",
         'self.iter = state_dict["iteration"]',
         'self.iter = state_dict["iteration"] - 1', "engine"),
        ("gradients add up",
         "if not self.zero_grad_before_forward:\n"
         "            self.optimizer.zero_grad()\n        losses",
         "losses", "engine"),
        ("no after_train where training fails",
         "            finally:\n                self.after_train()",
         "            self.after_train()", "engine"),
    ],
    "engine/hooks.py": [
        ("the last iteration is not written",
         "done % self._period == 0 or done == self.trainer.max_iter",
         "done % self._period == 0", "engine"),
        ("the schedule starts over on resuming",
         "last_iter=self.trainer.iter - 1", "last_iter=-1", "engine"),
    ],
    "checkpoint/detection_checkpoint.py": [
        ("last_checkpoint is written before its file",
         '        with _replace(filename, "wb") as file:',
         '        self.tag_last_checkpoint(f"{name}.pth")\n'
         '        with _replace(filename, "wb") as file:', "checkpoint"),
        ("files are overwritten in place",
         '"checkpoint.tmp")', "os.path.basename(filename))", "checkpoint"),
        ("checkpoints may run code", "weights_only=True)\n", "weights_only=False)\n", "checkpoint"),
        ("the shortest suffix matches",
         "for start in range(len(parts))",
         "for start in reversed(range(len(parts)))", "checkpoint"),
    ],
    "utils/events.py": [
        ("metrics are means", ".median(self.count_samples", ".avg(self.count_samples", "events"),
        ("the window is one iteration longer",
         "iteration > last - window_size", "iteration >= last - window_size", "events"),
        ("JSON lines are written again",
         "            self._last_write = iteration\n", "", "events"),
    ],
    "utils/comm.py": [
        ("every process draws its own seed",
         "all_gather(np.random.randint(2**31))[0]", "np.random.randint(2**31)", "comm"),
    ],
}
# fmt: on

MUTATIONS = [
    Mutation(file, mistake, old, new, tests.split())
    for file, rows in _BY_FILE.items()
    for mistake, old, new, tests in rows
]
