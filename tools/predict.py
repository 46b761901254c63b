#!/usr/bin/env python
"""`hiera-det predict`, for people in a checkout."""

import sys

from hiera_det.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
