"""Imported by a process that is copied in tests: it leaves a process that ends later, as a library might."""

import subprocess

LEFT = subprocess.Popen(["sleep", "0.5"])
