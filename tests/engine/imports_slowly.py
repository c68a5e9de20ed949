"""Imported by a process that is copied in tests: it is not ready before whoever asked for it has ended."""

import time

time.sleep(10)
