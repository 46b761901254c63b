#!/usr/bin/env python
"""`hiera-det pretrain`, for people in a checkout and for torchrun."""

import sys

from hiera_det.cli import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
