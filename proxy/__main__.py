"""python -m proxy: the same as the `session-proxy` command."""

import sys

from proxy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
