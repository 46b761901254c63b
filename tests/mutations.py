"""Mistakes in one line each of hiera_det and pretrain. For every one of them some test has to fail.

`run_mutations.py` makes them, one at a time, in a copy of both.
"""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutation(NamedTuple):
    """A mistake, and who has to notice it.

    Attributes:
        file: below the root of the repository.
        mistake: what is wrong, in a few words.
        old, new: text that stands once in the file, and what it becomes.
        tests: files below tests/, or tests in them, as pytest names them.
    """

    file: str
    mistake: str
    old: str
    new: str
    tests: list[str]

    def source(self) -> str:
        """The changed file. ValueError unless `old` stands in it exactly once."""
        text = (ROOT / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.file}: the text of {self.mistake!r} stands there {text.count(self.old)} "
                f"times, not once: {self.old!r}"
            )
        return text.replace(self.old, self.new)


_HIERA = "modeling/test_hiera.py"
_OFFICIAL = f"{_HIERA}::test_maps_and_logits_equal_official[hiera_t]"
_POSITIONS = "modeling/test_positions.py"
_GROUPS = "solver/test_param_groups.py"
_UNITS = "modeling/test_units.py"
_MASKS = "pretrain/test_masking.py"
_DOWNLOAD = "checkpoint/test_download.py"
_BIRDER = "checkpoint/test_convert_birder.py"

# fmt: off
_BY_FILE = {
    # Under each file rows of mistake, old text, new text and tests.
    "hiera_det/modeling/units.py": [
        ("Z-order with the column first",
         "(2 + k, 3 + bits + k)]", "(3 + bits + k, 2 + k)]", _UNITS),
        ("a map with rows and columns of a unit exchanged",
         "x.permute(0, 1, *rows, 2, *cols,", "x.permute(0, 1, *cols, 2, *rows,", _UNITS),
        ("pooling joins tokens that are far apart",
         "tokens // 4, 4, c).amax(dim=3)", "4, tokens // 4, c).amax(dim=2)", _UNITS),
        ("pooling takes the mean", ".amax(dim=3)", ".mean(dim=3)", _UNITS),
        ("windows are rows of units",
         "new, uw // new, new, n, c).transpose(2, 3)", "new, uw // new, new, n, c)", _UNITS),
        ("windows are not brought back to raster order",
         "x = x.transpose(2, 3)", "x = x.clone()", _UNITS),
        ("padding left and above",
         "(0, 0, 0, padded[1] - uw, 0, padded[0] - uh)",
         "(0, 0, padded[1] - uw, 0, padded[0] - uh, 0)", _UNITS),
        ("one row of windows too many", "math.ceil(grid[0] / size)", "(grid[0] // size + 1)",
         _UNITS),
        ("a window as large as the grid is grouped",
         "window == 0 or grid == (window, window)", "window == 0", _UNITS),
        ("groups of padded windows", "side = window if divides else 1", "side = window", _UNITS),
        ("one side has to divide",
         "grid[0] % window == 0 and grid", "grid[0] % window == 0 or grid", _UNITS),
        ("masked units are counted", "if num_visible is None else num_visible",
         "if num_visible is None else grid[0] * grid[1]", _UNITS),
        ("windows among visible units", "num_visible is not None and window > 1",
         "num_visible is not None and window > 9", _UNITS),
        ("an image may be masked altogether", "int(counts[0]) == 0", "int(counts[0]) < 0", _UNITS),
        ("rows of a mask may differ in number",
         "(counts == counts[0]).all()", "(counts == counts).all()", _UNITS),
    ],
    "hiera_det/modeling/hiera.py": [
        ("the skip starts before the norm", "self.proj(y) if", "self.proj(x) if", _OFFICIAL),
        ("eps of a norm is torch's",
         "self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)", "self.norm2 = nn.LayerNorm(dim_out)",
         _OFFICIAL),
        ("GELU by tanh", "F.gelu(self.fc1(x))", 'F.gelu(self.fc1(x), approximate="tanh")',
         _OFFICIAL),
        ("as many heads in every stage",
         "num_heads=num_heads * 2**stage", "num_heads=num_heads", _OFFICIAL),
        ("tokens come back in another order",
         "extent.join(y)", "extent.join(y.flip(2))", _OFFICIAL),
        ("windows do not lag", "else windows[lag]", "else windows[stage]",
         f"{_HIERA}::test_blocks_know_their_stage_and_lag_one_block_behind_in_windows"),
        ("drop path ends below its rate", "max(self.depth - 1, 1)", "max(self.depth, 1)",
         f"{_HIERA}::test_drop_path_rises_linearly_and_keeps_the_mean"),
        ("drop path does not rescale", "x * (mask / keep)", "x * mask",
         f"{_HIERA}::test_drop_path_rises_linearly_and_keeps_the_mean"),
        ("drop path of single numbers",
         "x.new_empty(x.shape[0], *[1] * (x.ndim - 1))", "x.new_empty(x.shape)",
         f"{_HIERA}::test_drop_path_rises_linearly_and_keeps_the_mean"),
        ("drop path in evaluation", "self.drop_prob == 0.0 or not self.training",
         "self.drop_prob == 0.0",
         f"{_HIERA}::test_stages_that_are_removed_leave_the_others_as_they_are"),
        ("a drop path of 1", "0 <= drop_path_rate < 1", "0 <= drop_path_rate <= 1",
         f"{_HIERA}::test_impossible_arguments_are_named"),
        ("the patch convolution's bias is 0.02",
         "isinstance(module, nn.Linear | nn.LayerNorm)",
         "isinstance(module, nn.Linear | nn.LayerNorm | nn.Conv2d)",
         f"{_HIERA}::test_initial_weights_are_distributed_as_the_official"),
        ("the first block of stage 3 is global", "self.stage_ends[1] + 2", "self.stage_ends[1] + 1",
         f"{_HIERA}::test_impossible_arguments_are_named"),
        ("a block of a removed stage is kept",
         "del self.blocks[self.depth :]", "del self.blocks[self.depth + 1 :]",
         f"{_HIERA}::test_stages_that_are_removed_leave_the_others_as_they_are"),
        ("masked pixels leak", "images = images * F.interp", "images = images + 0 * F.interp",
         f"{_HIERA}::test_masked_pixels_do_not_leak"),
        ("maps are cropped too far", ": math.ceil(height / s)", ": height // s",
         f"{_HIERA}::test_any_size_gives_maps_of_the_stride"),
        ("a warning at every image", "self._warned_resize = True", "self._warned_resize = False",
         f"{_HIERA}::test_resizing_absolute_warns_once_and_names_the_cure"),
        ("heads that do not divide", "num_heads < 1 or dim_out % num_heads", "num_heads < 1",
         f"{_HIERA}::test_impossible_arguments_are_named"),
    ],
    "hiera_det/modeling/positions.py": [
        ("bilinear positions", 'mode="bicubic"', 'mode="bilinear"', _POSITIONS),
        ("positions between corners", "align_corners=False", "align_corners=True", _POSITIONS),
        ("a window on its side",
         "units_order(window.permute(0, 2, 3, 1))", "units_order(window.permute(0, 3, 2, 1))",
         _POSITIONS),
        ("rows of a table are columns",
         "table.reshape(1, *size, -1)", "table.reshape(1, *size[::-1], -1)", _POSITIONS),
        ("the window of the first column of tiles alone",
         ".mean(dim=(2, 4))", ".mean(dim=2)[:, :, :, 0]", _POSITIONS),
        ("what repeats is in the background too",
         "return window, maps - window.tile(1, 1, tiles, tiles)", "return window, maps",
         _POSITIONS),
        ("tables of half precision", 'torch.promote_types(state["pos_embed"].dtype, torch.float32)',
         'state["pos_embed"].dtype', _POSITIONS),
        ("windows that do not tile",
         "if size[0] % UNIT_SIZE or size[1] % UNIT_SIZE:", "if size[1] % UNIT_SIZE:", _POSITIONS),
    ],
    "hiera_det/solver/param_groups.py": [
        ("norms decay", 'not isinstance(module, NORMS)', "True", _GROUPS),
        ("Detectron2's LayerNorm decays",
         '    ChannelLayerNorm,  # Detectron2\'s "LN", which is no nn.LayerNorm\n', "", _GROUPS),
        ("layers are off by one", 'int(name.split(".")[1]) + 1', 'int(name.split(".")[1])',
         _GROUPS),
        ("frozen parameters are in a group", "not parameter.requires_grad or id(parameter)",
         "id(parameter)", _GROUPS),
        ("shared parameters are in two", "            seen.add(id(parameter))\n", "", _GROUPS),
        ("position tables decay", "decays = decays and name not in no_decay", "pass", _GROUPS),
        ("vectors decay in pretraining", "parameter.ndim > 1", "parameter.ndim > 0", _GROUPS),
    ],
    "pretrain/masking.py": [
        ("the number of visible units is rounded",
         "count = int(num_units", "count = round(num_units", _MASKS),
        ("True where hidden",
         "torch.zeros_like(noise, dtype=torch.bool).scatter_(1, visible, True)",
         "torch.ones_like(noise, dtype=torch.bool).scatter_(1, visible, False)", _MASKS),
        ("one mask for all images",
         "torch.rand(batch_size, num_units, generator=generator, device=device)",
         "torch.rand(1, num_units, generator=generator, device=device).repeat(batch_size, 1)",
         _MASKS),
        ("the generator is not asked", "generator=generator, device=device)",
         "generator=None, device=device)", _MASKS),
        ("nothing visible", "or count == 0", "or count < 0", _MASKS),
    ],
    "hiera_det/checkpoint/download.py": [
        ("a broken download starts anew", 'f"bytes={have}-"', '"bytes=0-"', _DOWNLOAD),
        ("an answer of the whole file is appended", "response.status != 206", "not have",
         _DOWNLOAD),
        ("no hash is compared", "if found != job.sha256", "if False", _DOWNLOAD),
        ("no length is compared", "_length(job.part) != job.bytes", "False", _DOWNLOAD),
        ("a wrong file is kept", "    if wrong:\n        job.part.unlink()", "    if wrong:",
         _DOWNLOAD),
        ("a connection that ends early is the end of the file", "_length(job.part) < total",
         "False", _DOWNLOAD),
        ("nobody waits", "with file_lock(str(job.target)):", "if True:", _DOWNLOAD),
        ("what waited fetches again", "if not job.target.is_file():", "if True:", _DOWNLOAD),
        ("offline is not asked", "if is_offline():", "if False:", _DOWNLOAD),
        ("a full disk is met on the way", "total - have > free", "False", _DOWNLOAD),
    ],
    "hiera_det/checkpoint/sources.py": [
        ("birder's second linear layer first", '"body.stage{s}.{l}.mlp.0.{p}": "blocks.{i}.mlp.fc1',
         '"body.stage{s}.{l}.mlp.0.{p}": "blocks.{i}.mlp.fc2', _BIRDER),
        ("birder's background as it is", "left_out=(_BIRDER_HEAD,), antialias=True",
         "left_out=(_BIRDER_HEAD,)", _BIRDER),
        ("HieraDet's background as Hiera's", "        antialias=False,\n", "", _BIRDER),
    ],
}
# fmt: on

MUTATIONS = [
    Mutation(file, mistake, old, new, tests.split())
    for file, rows in _BY_FILE.items()
    for mistake, old, new, tests in rows
]
