#!/usr/bin/env python
"""`hiera-det probe`, for people in a checkout."""

import sys

from hiera_det.cli import main

if __name__ == "__main__":
    sys.exit(main(["probe", *sys.argv[1:]]))
