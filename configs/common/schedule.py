"""Step schedule of ViTDet, which the Hiera paper follows, over whatever train.max_iter is."""

from detectron2.config import LazyCall as L

from hiera_det.solver import warmup_multistep

lr_multiplier = L(warmup_multistep)(
    max_iter="${train.max_iter}",
    milestones=[8 / 9, 26 / 27],
    gamma=0.1,
    warmup_iters=250,
    warmup_factor=0.001,
)
