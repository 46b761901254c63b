"""Data: image files, COCO-format annotations, the generated shapes, mappers and loaders.

Importing it registers `shapes_train` and `shapes_val`; they are made on first use.
"""

from .shapes import register_shapes

register_shapes()
