#!/usr/bin/env python
"""`hiera-det check-data`, for people in a checkout."""

import sys

from hiera_det.cli import main

if __name__ == "__main__":
    sys.exit(main(["check-data", *sys.argv[1:]]))
