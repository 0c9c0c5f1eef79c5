"""``python -m mcpbridge``."""

import sys

from mcpbridge.cli import main

if __name__ == "__main__":
    sys.exit(main())
