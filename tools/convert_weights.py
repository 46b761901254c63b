#!/usr/bin/env python
"""`hiera-det convert`, for people in a checkout."""

import sys

from hiera_det.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
