#!/usr/bin/env python
"""`hiera-det train`, for people in a checkout and for torchrun."""

import sys

from hiera_det.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
