"""Configs: finding, loading, overriding, checking and saving LazyConfigs.

Importing it registers the resolvers that configs use (`resolvers.py`); `load_config` also registers
the datasets that ship (`hiera_det.data`).
"""

from .find import config_root, config_roots, find_config
from .load import load_config
from .overrides import apply_overrides
from .resolvers import register_resolvers
from .safe import load_safe_config
from .save import config_text, resolved, save_config
from .values import check_values

__all__ = [
    "apply_overrides",
    "check_values",
    "config_root",
    "config_roots",
    "config_text",
    "find_config",
    "load_config",
    "load_safe_config",
    "resolved",
    "save_config",
]

register_resolvers()
