"""``python -m fourshot``."""

import sys

from fourshot.cli.main import main

sys.exit(main())
