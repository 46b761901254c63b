#!/usr/bin/env python
"""`hiera-det finetune`, for people in a checkout and for torchrun."""

import sys

from hiera_det.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
