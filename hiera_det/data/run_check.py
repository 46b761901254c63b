"""Check of the datasets of a run: one by one, training against validation, both with the config."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from .coco_annotations import BOXES_ALONE, is_id, shorten
from .coco_check import check_coco_content, check_coco_json, check_split
from .coco_json import MAX_OBJECTS
from .findings import Findings, Report

__all__ = ["check_dataset", "check_run", "check_train_and_val", "needs_masks"]


def needs_masks(cfg: DictConfig) -> bool:
    """Whether the model has a mask branch, so that every object needs a mask.

    As in Detectron2's heads: `mask_in_features` is what turns the branch on.
    """
    return OmegaConf.select(cfg, "model.roi_heads.mask_in_features") is not None


def check_run(cfg: DictConfig, with_train: bool = True) -> Report | None:
    """Reads the datasets that a config names, and compares them with its model and evaluation.

    Args:
        cfg: with `dataloader.{train,test}.dataset.names`.
        with_train: False looks at the validation data alone.

    Returns:
        What was found; call its `raise_if_errors`. None where the config names no datasets.

    Raises:
        ValueError: an unknown name.
    """
    # An evaluation asks for nothing of the training data, which may be on another machine.
    train = dataset_names(cfg, "train") if with_train else []
    val = dataset_names(cfg, "test")
    if train is None or val is None:
        return None
    num_classes = OmegaConf.select(cfg, "model.roi_heads.num_classes")
    page = OmegaConf.select(cfg, "dataloader.page")
    report = check_train_and_val(train, val, num_classes, needs_masks(cfg), page)
    found = Findings("config")
    _check_tasks(cfg, with_train, found)
    _check_caps(cfg, report, val, found)
    report.merge(found.report())
    return report


def dataset_names(cfg: DictConfig, split: str) -> list[str] | None:
    """The registered datasets of `dataloader.train` or `dataloader.test`, if it names any."""
    names = OmegaConf.select(cfg, f"dataloader.{split}.dataset.names")
    return names if names is None else list(names) if isinstance(names, ListConfig) else [names]


def _check_tasks(cfg: DictConfig, with_train: bool, found: Findings) -> None:
    """Model, mapper and evaluation must agree on whether there are masks."""
    has_masks = needs_masks(cfg)
    what = "masks" if has_masks else "boxes alone"
    kind = "model, mapper and evaluation disagree on masks"
    tasks = OmegaConf.select(cfg, "dataloader.evaluator.tasks")
    mapper = OmegaConf.select(cfg, "dataloader.train.mapper") if with_train else None
    if tasks is not None and "segm" in tasks and not has_masks:
        example = f"the model finds {what}, dataloader.evaluator.tasks is {list(tasks)}"
        fix = f"{BOXES_ALONE}, or set dataloader.evaluator.tasks=[bbox]"
        found.error(kind, example, fix)
    if isinstance(mapper, DictConfig) and "use_instance_mask" in mapper:
        if has_masks and not mapper.use_instance_mask:
            example = f"the model learns {what}, dataloader.train.mapper.use_instance_mask is False"
            found.error(kind, example, f"set it to True, or {BOXES_ALONE}")
        elif not has_masks and mapper.use_instance_mask:
            example = f"the model learns {what}, dataloader.train.mapper.use_instance_mask is True"
            fix = (
                "set it and dataloader.train.mapper.recompute_boxes to False, unless the boxes are "
                "to follow the masks"
            )
            found.warning(kind, example, fix)


def _caps(cfg: DictConfig) -> dict[str, int]:
    """How many objects an image the model can find, by the key that says so."""
    caps = {}
    heads = OmegaConf.select(cfg, "model.roi_heads")
    predictors = {}
    if isinstance(heads, DictConfig):
        if isinstance(heads.get("box_predictors"), ListConfig):  # a cascade: the last one decides
            last = len(heads.box_predictors) - 1
            predictors[f"model.roi_heads.box_predictors.{last}"] = heads.box_predictors[last]
        elif isinstance(heads.get("box_predictor"), DictConfig):
            predictors["model.roi_heads.box_predictor"] = heads.box_predictor
    for key, node in predictors.items():
        caps[f"{key}.test_topk_per_image"] = node.get("test_topk_per_image", MAX_OBJECTS)
    topk = OmegaConf.select(cfg, "model.proposal_generator.post_nms_topk")
    if isinstance(topk, ListConfig) and len(topk) == 2:
        caps["model.proposal_generator.post_nms_topk.1"] = topk[1]
    return {key: cap for key, cap in caps.items() if isinstance(cap, int) and cap >= 0}


def _check_caps(cfg: DictConfig, report: Report, val_names: Sequence[str], found: Findings) -> None:
    """Images with more objects than the run can find or count."""
    most = max(report.max_objects.values(), default=0)
    too_low = {key: cap for key, cap in _caps(cfg).items() if cap < most}
    kind = "an image has more objects than the run can find"
    for key, cap in too_low.items():
        example = f"{most} objects, {key} is {cap}"
        fix = f"set each to {_hundreds(most)} (a key that the config has not: +key=value)"
        found.warning(kind, example, fix)
    val_files = {_json_file(name) or name for name in val_names}
    most = max((n for f, n in report.max_objects.items() if f in val_files), default=0)
    evaluator = OmegaConf.select(cfg, "dataloader.evaluator")
    target = evaluator.get("_target_") if isinstance(evaluator, DictConfig) else None
    if getattr(target, "__name__", str(target)).endswith("COCOEvaluator"):
        cap = evaluator.get("max_dets_per_image")
        cap = MAX_OBJECTS if cap is None else cap
        if isinstance(cap, int) and cap < most:
            example = f"{most} objects, dataloader.evaluator.max_dets_per_image is {cap}"
            fix = f"set +dataloader.evaluator.max_dets_per_image={_hundreds(most)}"
            found.warning("an image has more objects than its evaluation counts", example, fix)


def _hundreds(count: int) -> int:
    return -(-count // MAX_OBJECTS) * MAX_OBJECTS


def check_train_and_val(
    train_names: str | Sequence[str],
    val_names: str | Sequence[str],
    num_classes: int | None = None,
    need_masks: bool = True,
    page: int | None = None,
) -> Report:
    """Checks the registered datasets of a run, and that they agree on the classes.

    Detectron2 numbers classes by rising category id within each file. Where the files of a run
    differ in that, the loss looks healthy and the AP is that of other classes.

    Args:
        train_names, val_names: registered names, `dataloader.{train,test}.dataset.names`.
        num_classes: of the model, if they are to agree.
        need_masks: whether every object needs a mask.
        page: see `check_coco_json`.

    Returns:
        What was found; call its `raise_if_errors`.

    Raises:
        ValueError: an unknown name.
    """
    options: dict[str, Any] = dict(num_classes=num_classes, need_masks=need_masks, page=page)
    report = Report()
    for split, names in (("train", train_names), ("val", val_names)):
        for name in [names] if isinstance(names, str) else names:
            report.merge(check_dataset(name, split=split, **options))
    (first, expected), *others = report.class_names.items() or [("", [])]
    for name, names in others:
        if names != expected:
            found = Findings(name)
            fix = "give all files of the run the same categories, with ids in the same order"
            found.error(f"its classes are not those of {first}", _difference(expected, names), fix)
            report.merge(found.report())
    return report


def _difference(expected: Sequence[str], found: Sequence[str]) -> str:
    k = next((k for k, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), None)
    if k is None:
        return f"{len(expected)} and {len(found)} classes"
    return f"class {k} is {expected[k]!r} in the first and {found[k]!r} here"


def _as_coco(dicts: Sequence[dict], class_names: Sequence[str] | None) -> dict:
    """Detectron2's dataset dicts as the content of a COCO file, so that one checker serves both."""
    annotations = []
    for k, record in enumerate(dicts):
        for annotation in record.get("annotations", ()):
            box = annotation.get("bbox")
            if box is not None and "bbox_mode" in annotation:
                try:
                    box = BoxMode.convert(list(box), annotation["bbox_mode"], BoxMode.XYWH_ABS)
                except (AssertionError, NotImplementedError, TypeError, ValueError):
                    pass  # reported as it is
            # Evaluation makes these two itself for datasets without a JSON.
            annotations.append({"area": 1, "iscrowd": 0, **annotation, "bbox": box, "image_id": k})
    for k, annotation in enumerate(annotations, 1):
        annotation["id"] = k
    used = [a["category_id"] for a in annotations if is_id(a.get("category_id"))]
    names = class_names or [f"class {k}" for k in range(max(used, default=-1) + 1)]
    return {
        "images": [{**record, "id": k} for k, record in enumerate(dicts)],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
    }


def check_dataset(
    name_or_dicts: str | Sequence[dict],
    *,
    num_classes: int | None = None,
    need_masks: bool = True,
    split: str | None = None,
    page: int | None = None,
) -> Report:
    """Checks a registered dataset, or a list of Detectron2's dataset dicts.

    A dataset that was registered with a JSON is checked by that file: Detectron2's own loader drops
    bad entries before anyone sees them. One that makes its files on first use makes them now.

    For the arguments and the result see `check_coco_json`. An image of a list of dicts is named by
    its index.

    Raises:
        ValueError: an unknown name or `split`.
    """
    check_split(split)
    options: dict[str, Any] = dict(
        num_classes=num_classes, need_masks=need_masks, split=split, page=page
    )
    if not isinstance(name_or_dicts, str):
        content = _as_coco(name_or_dicts, None)
        return check_coco_content(content, "dataset dicts", "", **options)
    name = name_or_dicts
    json_file = _json_file(name)
    if json_file is None:
        content = _as_coco(DatasetCatalog.get(name), MetadataCatalog.get(name).get("thing_classes"))
        return check_coco_content(content, name, "", **options)
    image_root = MetadataCatalog.get(name).get("image_root", "")
    return check_coco_json(json_file, image_root, **options)


def _json_file(name: str) -> str | None:
    """The annotation file of a registered dataset, or None where it has none."""
    if name not in DatasetCatalog:
        known = shorten(sorted(DatasetCatalog.list()), 30)
        raise ValueError(f"no dataset {name!r} is registered; there are {known}")
    json_file = MetadataCatalog.get(name).get("json_file")
    if json_file is not None and not Path(json_file).is_file():
        try:
            DatasetCatalog.get(name)  # may make it
        except FileNotFoundError:
            pass  # reported with the path by the check
    return json_file
