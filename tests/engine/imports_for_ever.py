"""Imported by a process that is to be copied in tests: it says so in the log, and is never ready."""

import signal

print("importing", flush=True)
signal.pause()
