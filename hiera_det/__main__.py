"""`python -m hiera_det` is the command `hiera-det`."""

from hiera_det.cli import console

if __name__ == "__main__":
    console()
