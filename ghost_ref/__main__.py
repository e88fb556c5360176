"""`python -m ghost_ref` is the command `ghost`."""

import sys

from ghost_ref.cli import main

if __name__ == "__main__":
    sys.exit(main())
