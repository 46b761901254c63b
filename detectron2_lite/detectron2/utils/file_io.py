"""The one path manager: local paths and ``https://``."""

from iopath.common.file_io import HTTPURLHandler
from iopath.common.file_io import PathManager as _PathManager

__all__ = ["PathManager"]


PathManager = _PathManager()
PathManager.register_handler(HTTPURLHandler())
