"""Datasets, loaders and checks. Importing it registers `shapes_train` and `shapes_val`."""

from . import shapes  # noqa: F401  registers them
