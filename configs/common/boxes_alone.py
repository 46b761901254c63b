"""Faster R-CNN from a Mask R-CNN config: no mask branch, boxes alone learnt and evaluated."""


def boxes_alone(model, dataloader):
    """Takes the masks out of the two parts of a config that know of them, in place."""
    for key in ("mask_in_features", "mask_pooler", "mask_head"):
        model.roi_heads.pop(key)
    # Boxes are cut at the crop, as Detectron2 does; only a mask could make them tight again.
    dataloader.train.mapper.update(use_instance_mask=False, recompute_boxes=False)
    dataloader.evaluator.tasks = ("bbox",)
