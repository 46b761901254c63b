#!/usr/bin/env python
"""`hiera-det visualize-data`, for people in a checkout."""

import sys

from hiera_det.cli import main

if __name__ == "__main__":
    sys.exit(main(["visualize-data", *sys.argv[1:]]))
