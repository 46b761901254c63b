"""`python -m hiera_det` is the command `hiera-det`."""

import sys

from hiera_det.cli import main

if __name__ == "__main__":
    sys.exit(main())
