#!/usr/bin/env python
"""`hiera-det analyze`, for people in a checkout."""

import sys

from hiera_det.cli import main

if __name__ == "__main__":
    sys.exit(main(["analyze", *sys.argv[1:]]))
