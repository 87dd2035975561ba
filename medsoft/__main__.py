"""``python -m medsoft``."""

import sys

from medsoft.cli import main

sys.exit(main())
