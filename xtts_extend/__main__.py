"""Entry point of `python -m xtts_extend`, for use when the `xtts-extend` script is not on the PATH."""

import sys

from xtts_extend.cli import main

if __name__ == "__main__":
    sys.exit(main())
