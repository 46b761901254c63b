"""Weights: reading files, converting every public Hiera to this trunk, loading with a verdict.

sources    one key table per source          convert    state dict -> official names, size, kind
files      reading and writing, safely       load       a file into a model: everything fits, or
zoo        published files by name                      an error that names the fix
download   fetching them, into a cache
Position tables are fitted by `modeling.positions`.
"""

from .convert import Converted, check_trunk, convert_state
from .convert_file import convert_file
from .download import DownloadError
from .files import CheckpointFile, newest_checkpoint, read_checkpoint, read_state, write_checkpoint
from .load import load_full, load_init_checkpoint
from .zoo import PUBLISHED, PublishedFile

__all__ = [
    "PUBLISHED",
    "CheckpointFile",
    "Converted",
    "DownloadError",
    "PublishedFile",
    "check_trunk",
    "convert_file",
    "convert_state",
    "load_full",
    "load_init_checkpoint",
    "newest_checkpoint",
    "read_checkpoint",
    "read_state",
    "write_checkpoint",
]
