"""Imported by a fork server in tests: the server is ended before the import completes."""

import time

time.sleep(10)
