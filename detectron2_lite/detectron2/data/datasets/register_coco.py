from .coco import register_coco_instances

__all__ = ["register_coco_instances"]
