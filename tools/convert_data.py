#!/usr/bin/env python
"""`hiera-det convert-data`, for people in a checkout."""

import sys

from hiera_det.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert-data", *sys.argv[1:]]))
