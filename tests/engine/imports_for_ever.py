"""Imported by a fork server in tests: it prints to the log, and the import never ends."""

import signal

print("importing", flush=True)
signal.pause()
