"""`python -m text2video` is the command `text2video`."""

import sys

from .cli.main import run

if __name__ == "__main__":
    sys.exit(run())
