"""``python -m medsoft``."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the current folder, whose files are data: a secrets.py there must not pass for Python's own

from medsoft.cli.main import main

sys.exit(main())
