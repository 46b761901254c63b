#!/usr/bin/env python
"""`hiera-det export`, for people in a checkout."""

import sys

from hiera_det.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
