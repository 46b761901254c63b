"""Helpers that know nothing of detection: processes, metrics, logs, files, names."""

from detectron2 import absent_attributes

__getattr__ = absent_attributes(__name__)
