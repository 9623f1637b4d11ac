"""``python -m lit_ixc``: see :mod:`lit_ixc.cli`."""

import sys

from lit_ixc.cli import main

if __name__ == "__main__":
    sys.exit(main())
